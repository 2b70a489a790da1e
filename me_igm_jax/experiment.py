"""The host driver: it compiles the program, runs it epoch by epoch and keeps what comes out.

Nothing here is traced. One run directory holds config.yaml, manifest.json, metrics.jsonl,
summary.json, marl_eval.json and checkpoints/.
"""

import math
import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from . import checkpoint, devices, records, tuning
from .config import Config, ConfigError, Hypers
from .diagnostics import game_table
from .envs import parse_name
from .memory import fit_replay
from .presets import sweep as hyper_grid
from .sinks import open_sinks
from .train import Program, RunState

Compiled = Any  # a jax.stages.Compiled


class Result(NamedTuple):
    """What a run leaves behind in memory; everything in it is also in the run directory."""

    directory: Path
    summary: dict  # empty in all but the first process of a distributed run
    state: RunState  # leaves [members, ...]; member = point * seeds + seed
    interrupted: bool


class Members(NamedTuple):
    """The axis that is vmapped: P hyper-points x S seeds, flattened, seeds varying fastest."""

    points: list[dict[str, float]]  # what each point sets
    hypers: Hypers  # leaves [P * S]
    keys: jax.Array  # [P * S]; a seed has the same key at every point

    @property
    def size(self) -> int:
        return len(self.keys)


def make_members(config: Config, grid: dict[str, list[float]]) -> Members:
    """Keys and hyperparameters of every member of the sweep; an empty grid is one point."""
    hypers, seeds = hyper_grid(config.hypers, **grid), config.run.seeds
    count = len(jax.tree.leaves(hypers)[0])
    points = [{k: float(getattr(hypers, k)[p]) for k in grid} for p in range(count)]
    numbers = config.run.first_seed + jnp.arange(seeds)
    keys = jax.vmap(partial(jax.random.fold_in, jax.random.key(config.run.seed)))(numbers)
    return Members(points, jax.tree.map(lambda x: jnp.repeat(x, seeds), hypers), jnp.tile(keys, count))


def run(
    config: Config,
    grid: dict[str, list[float]] | None = None,
    resume: bool = False,
    on_epoch: Callable[[int, dict[str, np.ndarray]], None] | None = None,
) -> Result:
    """Train all seeds (and all points of `grid`) in one program and write the run directory.

    With `resume`, config.run.dir is an interrupted run, which continues exactly. `on_epoch` is
    called on the host with the epoch's number and its metrics, arrays [members].
    Raises ConfigError before anything is written if the settings cannot work.
    """
    started = time.perf_counter()
    parse_name(config.env)
    config = config if config.run.dir else records.default_directory(config)
    directory = Path(str(config.run.dir))
    if not resume and directory.exists() and any(directory.iterdir()):
        raise ConfigError(f"run.dir={directory}: is not empty; give another or --resume it")
    grid = grid or {}
    devices.join(config.run)
    count = config.run.seeds * math.prod(map(len, grid.values()))
    devices.prepare(config, count)
    members, mesh = make_members(config, grid), devices.member_mesh(config, count)
    if config.collect.tune:
        config = tuning.fit_environments(config, members.keys, members.hypers, mesh)
    config, program, memory = fit_replay(config, members.keys, members.hypers, mesh)
    lead = devices.is_lead()
    if lead:
        print(memory["text"])
    keys, hypers = devices.put((members.keys, members.hypers), mesh)
    members = members._replace(keys=keys, hypers=hypers)

    steps = compile_program(program, members, mesh, devices.seeds_at_a_time(config.run))
    directory.mkdir(parents=True, exist_ok=True)
    if lead and not resume:
        records.write_config(directory, config, grid)
    if lead:
        records.write_manifest(directory, config, mesh)
    if resume:
        shape = jax.eval_shape(steps.init.raw, members.keys, members.hypers)
        like = checkpoint.abstract(shape, devices.member_sharding(mesh))
        state, epoch = checkpoint.restore_state(directory, like), checkpoint.latest(directory) or 0
    else:
        state, epoch = steps.init(members.keys, members.hypers), 0
    jax.block_until_ready(state)

    loop = _loop(config, members, steps, state, epoch, directory, on_epoch)
    state, interrupted = loop.state, loop.interrupted
    if interrupted:
        checkpoint.save(directory, loop.epoch, state, resumable=True)
        if lead:
            print(f"interrupted; continue with: me-igm train --resume {directory}")
        return Result(directory, {}, state, True)
    final = steps.play(state, config.run.final_eval_episodes, first=1)
    timing = {
        "env_steps_per_second": loop.env_steps / max(loop.seconds, 1e-9),
        "updates_per_second": loop.updates / max(loop.seconds, 1e-9),
        "compile_seconds": steps.seconds,
        "wall_seconds": time.perf_counter() - started,
        "peak_memory_bytes": devices.peak_memory(),
        "replay_bytes_per_seed": memory["replay_bytes_per_seed"],
    }
    table = None
    if config.env.startswith("matrix/"):
        table = jax.jit(jax.vmap(partial(game_table, program.algo, program.env)))(state.learner)
        table = devices.fetch(table)
    checkpoint.save(directory, loop.epoch, state, resumable=False)
    if not lead:
        return Result(directory, {}, state, False)
    summary = records.write_summary(directory, config, members.points, final, timing, program, table)
    return Result(directory, summary, state, False)


# -- the program ----------------------------------------------------------------------------------


class Step(NamedTuple):
    """One of the program's functions over all members: as traced, and compiled."""

    raw: Callable
    compiled: Compiled

    def __call__(self, *args):
        return self.compiled(*args)


class Steps(NamedTuple):
    init: Step  # keys, hypers -> state
    epoch: Step  # state, index, hypers -> state, metrics
    evaluate: Step  # learners, keys, index -> per-episode arrays
    seconds: float  # spent compiling

    def play(self, state: RunState, episodes: int, first: int = 0) -> dict[str, np.ndarray]:
        """So many greedy episodes of each member, as arrays [members, episodes].

        The compiled evaluation plays a fixed number of them and is called until there are enough;
        its calls take the indices first, first + 1, ..., which stand for different episodes.
        """
        parts: list[dict[str, np.ndarray]] = []
        while sum(p["return"].shape[1] for p in parts) < episodes:
            index = jnp.asarray(first + len(parts), jnp.int32)
            parts.append(devices.fetch(self.evaluate(state.learner, state.key, index)))
        return {k: np.concatenate([p[k] for p in parts], axis=1)[:, :episodes] for k in parts[0]}


def compile_program(program: Program, members: Members, mesh, at_a_time: int | None = None) -> Steps:
    """Compile the three functions ahead of time, at the same time (XLA compiles outside the GIL).

    Tracing is Python and takes turns: the largest comes last, while the others compile.
    """
    begin = time.perf_counter()
    put = partial(checkpoint.abstract, sharding=devices.member_sharding(mesh))
    keys, hypers, index = put(members.keys), put(members.hypers), jnp.zeros((), jnp.int32)
    init = devices.over_members(program.init, mesh)
    epoch = devices.over_members(program.epoch, mesh, (1,), at_a_time)
    evaluate = devices.over_members(program.evaluate, mesh, (2,))
    state = put(jax.eval_shape(init, keys, hypers))
    options = devices.compiler_options()
    with ThreadPoolExecutor(3) as pool:
        small = [
            pool.submit(lowered.compile, options)
            for lowered in (
                jax.jit(init).lower(keys, hypers),
                jax.jit(evaluate).lower(state.learner, state.key, index),
            )
        ]
        c_epoch = jax.jit(epoch, donate_argnums=0).lower(state, index, hypers).compile(options)
        c_init, c_evaluate = (x.result() for x in small)
    seconds = time.perf_counter() - begin
    return Steps(Step(init, c_init), Step(epoch, c_epoch), Step(evaluate, c_evaluate), seconds)


# -- the loop -------------------------------------------------------------------------------------


class Loop(NamedTuple):
    state: RunState
    epoch: int
    interrupted: bool
    env_steps: float  # of all members, in this process
    updates: float
    seconds: float


def _loop(config, members, steps: Steps, state, epoch, directory, on_epoch) -> Loop:
    """Epochs until every member has its environment steps, or until a signal asks to stop."""
    run_, lead = config.run, devices.is_lead()
    sinks = open_sinks(directory, config, epoch) if lead else []
    done = first = devices.fetch(state.env_steps)
    first_updates = devices.fetch(state.learner.updates)
    bar = tqdm(
        total=run_.total_steps, unit="step", unit_scale=True, disable=not (run_.progress and lead),
        desc=f"{config.preset} {config.env}", initial=min(int(done.min()), run_.total_steps),
    )  # fmt: skip
    begin, last_metrics = time.perf_counter(), None
    with _Interrupt() as interrupt, bar:
        while done.min() < run_.total_steps and not devices.anywhere(interrupt.asked):
            state, metrics = steps.epoch(state, jnp.asarray(epoch, jnp.int32), members.hypers)
            played = steps.play(state, run_.eval_episodes)
            metrics = {k: v.mean(1) for k, v in played.items()} | devices.fetch(metrics)
            last_metrics, epoch, done = metrics, epoch + 1, metrics["env_steps"]
            for sink in sinks:
                sink.write(records.rows(epoch - 1, metrics, run_.seeds, members.points, run_.first_seed))
            bar.set_postfix_str(records.headline(metrics), refresh=False)
            bar.update(min(int(done.min()), run_.total_steps) - bar.n)
            if on_epoch:
                on_epoch(epoch, metrics)
            if run_.checkpoint_every and epoch % run_.checkpoint_every == 0:
                checkpoint.save(directory, epoch, state, resumable=True)
        interrupted = done.min() < run_.total_steps
    seconds = time.perf_counter() - begin
    for sink in sinks:
        sink.close()
    updates = 0.0 if last_metrics is None else float((last_metrics["updates"] - first_updates).sum())
    return Loop(state, epoch, interrupted, float((done - first).sum()), updates, seconds)


class _Interrupt:
    """Turns the first Ctrl-C or termination signal into a request to stop after the epoch."""

    def __enter__(self):
        self.asked = False
        self._old = {}
        try:
            for number in (signal.SIGINT, signal.SIGTERM):
                self._old[number] = signal.signal(number, self._ask)
        except ValueError:
            pass  # not the main thread: leave the signals alone
        return self

    def _ask(self, number, frame):
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True
        print("\nstopping after this epoch (again to stop at once)", flush=True)

    def __exit__(self, *exc):
        for number, handler in self._old.items():
            signal.signal(number, handler)
