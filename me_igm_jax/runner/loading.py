"""Using a run: load what it learned, let it play, or go on with it."""

from functools import partial
from pathlib import Path

import jax
import numpy as np

from ..config import Config, ConfigError
from ..training.evaluate import evaluate
from ..training.train import Program, make_program
from ..types import Algorithm, Env, Learner
from . import checkpoint, devices, statistics
from .files import finite, write_json
from .members import Grid, make_members
from .records import check_objects, handed_in, read_config


def load_run(
    directory: str | Path, *, env: Env | None = None, algo: Algorithm | None = None
) -> tuple[Program, Learner]:
    """The program of a run and its learners, leaves [members, ...] (member = point * seeds + seed).

    program.algo.greedy(one learner, carry, step) is then the decentralised policy. A run that was made
    with an Env or Algorithm object needs that object again.
    """
    directory = Path(directory)
    check_objects(directory, "load_run", handed_in(env=env, algo=algo))
    config, grid = read_config(directory)
    if not checkpoint.epochs(directory):
        hint = "; its jobs do: me-igm merge it first" if (directory / "jobs").is_dir() else ""
        raise ConfigError(f"{directory}: holds no checkpoint{hint}")
    devices.prepare(config, 1)
    members, program = make_members(config, grid), make_program(config, env=env, algo=algo)
    shape = jax.eval_shape(jax.vmap(program.algo.init), members.keys, members.hypers)
    sharding = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    return program, checkpoint.restore_learner(directory, checkpoint.abstract(shape, sharding))


def evaluate_run(
    directory: str | Path,
    episodes: int,
    seed: int = 1,
    *,
    env: Env | None = None,
    algo: Algorithm | None = None,
) -> dict:
    """Play `episodes` fresh greedy episodes with every seed's policy; writes and returns eval.json."""
    directory = Path(directory)
    program, learners = load_run(directory, env=env, algo=algo)
    config, grid = read_config(directory)
    members = make_members(config, grid)
    keys = jax.vmap(partial(jax.random.fold_in, jax.random.key(seed)))(np.arange(members.size))
    play = jax.vmap(lambda learner, key: evaluate(program.env, program.algo, learner, key, episodes))
    scores = {k: np.asarray(v).mean(-1) for k, v in jax.jit(play)(learners, keys).items()}
    seeds = config.run.seeds
    points = [
        {"point": point} | {k: statistics.describe(v[p * seeds :][:seeds]) for k, v in scores.items()}
        for p, point in enumerate(members.points)
    ]
    found = finite({"episodes": episodes, "seed": seed, "points": points})
    write_json(directory / "eval.json", found)
    return found


def resumable(directory: str | Path) -> tuple[Config, Grid]:
    """The configuration and grid of an interrupted run; ConfigError when it cannot be resumed."""
    directory = Path(directory)
    config, grid = read_config(directory)
    if (directory / "summary.json").exists():
        raise ConfigError(f"{directory}: is finished; there is nothing to resume")
    if not checkpoint.is_resumable(directory):
        raise ConfigError(f"{directory}: holds no checkpoint that can be resumed")
    return config, grid
