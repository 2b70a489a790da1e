"""The host driver: it compiles the program, runs it epoch by epoch and keeps what comes out.

One run directory holds config.yaml, manifest.json, metrics.jsonl, summary.json, marl_eval.json and
checkpoints/.
"""

import time
from pathlib import Path
from typing import NamedTuple

import jax

from ..config import Config, ConfigError
from ..training.pieces import RunState
from ..types import Algorithm, Env
from . import checkpoint, devices, records
from .compiled import Steps, compile_program
from .loop import Interrupt, Loop, OnEpoch, progress_of, train
from .members import as_grid
from .plan import Plan, make_plan, prepare
from .summary import make_ending, write_summary


class Result(NamedTuple):
    """What a run leaves behind in memory; everything in it is also in the run directory."""

    directory: Path
    summary: dict  # empty when interrupted, and in all but the first process of a distributed run
    state: RunState  # leaves [members, ...]; member = point * seeds + seed
    interrupted: bool

    def __repr__(self) -> str:
        return f"Result({str(self.directory)!r}, {'interrupted' if self.interrupted else 'finished'})"


def run(
    config: Config,
    grid: dict[str, list[float]] | None = None,
    resume: bool = False,
    on_epoch: OnEpoch | None = None,
    *,
    env: Env | None = None,
    algo: Algorithm | None = None,
) -> Result:
    """Train all seeds (and all points of `grid`) in one program and write the run directory.

    grid      values of swept hyperparameters, e.g. {"lr": [1e-4, 1e-3]}
    resume    config.run.dir is an interrupted run, which continues exactly
    on_epoch  is called on the host with the number of epochs done and their metrics, arrays [members]
    env, algo objects to use in place of those that `config` names
    Raises ConfigError before anything is written when the settings cannot work.
    """
    started = time.perf_counter()
    config = prepare(config, resume, env, algo)
    plan = make_plan(config, as_grid(grid), env, algo)
    if devices.is_lead():
        print(plan.memory.text, flush=True)
    steps = compile_program(plan.program, plan.members, plan.mesh, devices.seeds_at_a_time(config.run))
    open_directory(plan, resume)
    with Interrupt() as interrupt:
        state, epoch = start(plan, steps, resume)
        loop = train(plan, steps, state, epoch, interrupt, on_epoch)
        if loop.epoch < plan.config.run.evals:
            return leave(plan, loop)
        return finish(plan, steps, loop, started)


# -- before the first epoch -----------------------------------------------------------------------


def open_directory(plan: Plan, resume: bool) -> None:
    """Make the run directory, with config.yaml and manifest.json."""
    try:
        plan.directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"run.dir={plan.directory}: {error.strerror}") from None
    if not devices.is_lead():
        return
    if not resume:
        records.write_config(plan.directory, plan.config, plan.grid, plan.objects)
    records.write_manifest(plan.directory, plan.program, plan.mesh, plan.objects)


def start(plan: Plan, steps: Steps, resume: bool) -> tuple[RunState, int]:
    """The state to go on from, and how many epochs are done: none, or as the newest checkpoint says."""
    keys, hypers = plan.members.keys, plan.members.hypers
    if not resume:
        return jax.block_until_ready(steps.init(keys, hypers)), 0
    shapes = jax.eval_shape(steps.init.traced, keys, hypers)
    like = checkpoint.abstract(shapes, devices.member_sharding(plan.mesh))
    return checkpoint.restore_state(plan.directory, like)


# -- after the last epoch -------------------------------------------------------------------------


def leave(plan: Plan, loop: Loop) -> Result:
    """Save all that an interrupted run needs to continue."""
    checkpoint.save(plan.directory, loop.epoch, loop.state)
    if devices.is_lead():
        print(f"interrupted; continue with: me-igm train --resume {plan.directory}", flush=True)
    return Result(plan.directory, {}, loop.state, True)


def finish(plan: Plan, steps: Steps, loop: Loop, started: float) -> Result:
    """Play the final episodes, save what was learned and write the summary."""
    final = steps.greedy_episodes(loop.state, plan.config.run.final_eval_episodes, first=1)
    scores = {name: values.mean(-1) for name, values in final.items()}
    ending = make_ending(plan.program, loop.state.learner, scores, *progress_of(loop.state))
    checkpoint.save_learner(plan.directory, loop.epoch, loop.state.learner)
    if not devices.is_lead():
        return Result(plan.directory, {}, loop.state, False)
    timing = {
        "env_steps_per_second": loop.env_steps / max(loop.seconds, 1e-9),
        "updates_per_second": loop.updates / max(loop.seconds, 1e-9),
        "compile_seconds": steps.seconds,
        "wall_seconds": time.perf_counter() - started,
        "peak_memory_bytes": devices.peak_memory(),
        "replay_bytes_per_seed": plan.memory.replay_bytes_per_seed,
    }
    points = plan.members.points
    summary = write_summary(plan.directory, plan.program, plan.objects, points, ending, timing)
    checkpoint.tidy(plan.directory)
    return Result(plan.directory, summary, loop.state, False)
