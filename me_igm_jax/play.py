"""Using a finished run: load what it learned and let it play."""

import json
from functools import partial
from pathlib import Path

import jax
import numpy as np

from . import checkpoint, devices, stats
from .config import ConfigError
from .evaluate import evaluate
from .experiment import make_members
from .records import read_config
from .sinks import write_atomic
from .train import Program, make_program
from .types import Learner


def load_run(directory: str | Path) -> tuple[Program, Learner]:
    """The program of a run and its learners, leaves [members, ...] (member = point * seeds + seed).

    program.algo.greedy(one learner, carry, step) is then the decentralised policy.
    """
    directory = Path(directory)
    config, grid = read_config(directory)
    if checkpoint.latest(directory) is None:
        hint = "; its jobs do: me-igm merge it first" if (directory / "jobs").is_dir() else ""
        raise ConfigError(f"{directory}: holds no checkpoint{hint}")
    devices.prepare(config, 1)
    members, program = make_members(config, grid), make_program(config)
    shape = jax.eval_shape(jax.vmap(program.algo.init), members.keys, members.hypers)
    sharding = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    return program, checkpoint.restore_learner(directory, checkpoint.abstract(shape, sharding))


def evaluate_run(directory: str | Path, episodes: int, seed: int = 1) -> dict:
    """Play `episodes` fresh greedy episodes with every seed's policy; writes and returns eval.json."""
    program, learners = load_run(directory)
    config, grid = read_config(Path(directory))
    members = make_members(config, grid)
    keys = jax.vmap(partial(jax.random.fold_in, jax.random.key(seed)))(np.arange(members.size))
    play = jax.vmap(lambda learner, key: evaluate(program.env, program.algo, learner, key, episodes))
    result = {k: np.asarray(v).mean(-1) for k, v in jax.jit(play)(learners, keys).items()}
    seeds = config.run.seeds
    points = [
        {"point": point} | {k: stats.describe(v[p * seeds :][:seeds]) for k, v in result.items()}
        for p, point in enumerate(members.points)
    ]
    summary = {"episodes": episodes, "seed": seed, "points": points}
    write_atomic(Path(directory) / "eval.json", json.dumps(summary, indent=2) + "\n")
    return summary
