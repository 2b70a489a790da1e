"""The training loop: the file to read first. Everything here is pure and traced.

    iteration = collect with the exploring policy -> write to replay -> a few gradient steps
    epoch     = loop of iterations -> diagnostics
    train     = init -> scan of (epoch -> evaluation of full greedy episodes)         (one XLA program)

Seeds and hyperparameters are axes added from outside:

    train = make_train(config)
    jax.jit(jax.vmap(train, (0, None)))(keys, config.hypers)                      # S seeds
    jax.jit(jax.vmap(jax.vmap(train, (0, None)), (None, 0)))(keys, sweep(...))    # P x S

No `lax.cond` stands around collection, replay or evaluation: under vmap it would run both branches
and copy the buffer. Loop bounds decide instead: the first epoch begins with the iterations of the
warm-up, which have no gradient steps. The iteration index `i` is shared by all seeds, so neither a
bound nor the replay position ever becomes batched. Collection stands in the program once, which is
what most of its compile time goes to.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from . import replay
from .algos import make_algorithm
from .config import Config, Hypers
from .diagnostics import diagnose
from .envs import make
from .evaluate import evaluate, summarise
from .policies import linear_schedule
from .rollout import collect_episodes, collect_stream, explorer
from .split import ALONE, Split
from .types import Algorithm, Batch, Env, Learner, Metrics


class RunState(NamedTuple):
    """All of one seed's training state. Saving it is enough to continue exactly."""

    learner: Learner
    ring: Batch  # the replay buffer
    key: jax.Array
    env_steps: jax.Array  # [] float: real transitions collected
    episodes: jax.Array  # [] float: episodes finished


traced_once = partial(jax.jit, inline=True)  # and then reused: Python's share of compilation is seconds


class Program(NamedTuple):
    """The pieces of one experiment's program; all pure, all to be vmapped over seeds."""

    env: Env
    algo: Algorithm
    init: Callable[[jax.Array, Hypers], RunState]  # key, hypers: networks and an empty buffer
    collect: Callable[..., Batch]  # learner, key, env_steps, hypers -> what the exploring policy meets
    draw: Callable[..., Batch]  # ring, collection, key, size -> what is learned from after it
    epoch: Callable[..., tuple[RunState, Metrics]]  # state, index (shared by all seeds), hypers
    evaluate: Callable[..., dict[str, jax.Array]]  # learner, the state's key, index -> per-episode arrays
    epochs: int
    iterations: int  # of one epoch


def make_program(config: Config, split: Split = ALONE) -> Program:
    """Compose environment, algorithm, replay and evaluation as `config` says.

    Devices that `split` gradient steps run it together, each with the same state.
    """
    env = make(config)
    algo = make_algorithm(config, env.spec, split)
    cfg, run = config.collect, config.run
    snapshots = config.replay.store == "states"
    slots = config.replay.capacity // cfg.envs
    warmup, (epochs, iterations) = config.warmup_iterations, schedule(config, env.spec.horizon)

    def collect(learner: Learner, key, env_steps, hypers: Hypers) -> Batch:
        carry = algo.carry(cfg.envs)
        act = explorer(algo, learner, env_steps, hypers)
        shaping = linear_schedule(hypers.shaping, 0.0, hypers.shaping_steps, env_steps)
        how = {"shaping": shaping, "snapshots": snapshots}
        if cfg.mode == "episodes":
            batch = collect_episodes(env, carry, act, key, cfg.envs, **how)[0]
        else:
            batch = collect_stream(env, carry, act, key, cfg.envs, cfg.length, cfg.fresh_starts, **how)
        return batch._replace(reward=hypers.reward_scale * batch.reward)

    def draw(ring: Batch, i: jax.Array, key: jax.Array, size: int, split: Split = ALONE) -> Batch:
        """What the algorithm learns from after collection i, snapshots expanded to what was seen.

        Fresh data are read back from replay, so that they are rounded as older data are.
        """
        parts = []
        if algo.data != "replay":
            parts.append(replay.latest(ring, (i % slots) * cfg.envs, cfg.envs))
        if algo.data != "fresh":
            filled = jnp.minimum(i + 1, slots) * cfg.envs
            parts.append(replay.sample(ring, key, filled, size, split))
        batch = jax.tree.map(lambda *xs: jnp.concatenate(xs, axis=1), *parts)
        return batch._replace(steps=jax.vmap(jax.vmap(env.expand))(batch.steps)) if snapshots else batch

    @traced_once
    def init(key: jax.Array, hypers: Hypers) -> RunState:
        learner_key, key = jax.random.split(key)
        learner, zero = algo.init(learner_key, hypers), jnp.zeros(())
        example = jax.eval_shape(partial(collect, hypers=hypers), learner, key, zero)
        ring = replay.init(example, config.replay.capacity, config.replay.dtype)
        return RunState(learner, ring, key, zero, zero)

    def gather(state: RunState, i: jax.Array, hypers: Hypers) -> RunState:
        """Collect once and write to slot i; refresh the target each time enough episodes ended."""
        key, collect_key = jax.random.split(state.key)
        batch = collect(state.learner, collect_key, state.env_steps, hypers)
        ring = replay.add(state.ring, batch, (i % slots) * cfg.envs, config.replay.dtype)
        finished = cfg.envs if cfg.mode == "episodes" else finished_episodes(batch)
        episodes = state.episodes + finished
        interval = config.algo.target_interval
        due = episodes // interval > state.episodes // interval
        learner = algo.refresh_target(state.learner, due, hypers)
        return RunState(learner, ring, key, state.env_steps + batch.mask.sum(), episodes)

    @traced_once
    def update(state: RunState, i: jax.Array, hypers: Hypers) -> tuple[RunState, Metrics]:
        """One gradient step after collection i."""
        key, sample_key, update_key = jax.random.split(state.key, 3)
        batch = draw(state.ring, i, sample_key, config.replay.batch, split)
        learner, metrics = algo.update(state.learner, batch, update_key, state.env_steps, hypers)
        return state._replace(learner=learner, key=key), metrics

    def iteration(i: jax.Array, loop: tuple[RunState, Metrics], hypers: Hypers):
        """One collection and, after the warm-up, its gradient steps, whose metrics are summed."""

        def step(_, loop):
            state, metrics = update(loop[0], i, hypers)
            return state, jax.tree.map(jnp.add, loop[1], metrics)

        steps = jnp.where(i < warmup, 0, config.updates_per_iteration)
        return jax.lax.fori_loop(0, steps, step, (gather(loop[0], i, hypers), loop[1]))

    def epoch(state: RunState, index: jax.Array, hypers: Hypers):
        start = jnp.where(index == 0, 0, warmup + index * iterations)
        stop = warmup + (index + 1) * iterations
        metrics = jax.eval_shape(update, state, index, hypers)[1]
        # Zeros that depend on the seed: where all of a loop's carry is batched, vmap reads the loop once.
        zeros = jax.tree.map(lambda x: jnp.full(x.shape, 0 * state.env_steps, x.dtype), metrics)
        loop = (state, zeros)
        state, sums = jax.lax.fori_loop(start, stop, lambda i, loop: iteration(i, loop, hypers), loop)
        key, sample_key = jax.random.split(state.key)
        state = state._replace(key=key)
        batch = draw(state.ring, stop - 1, sample_key, min(config.replay.batch, 32))
        updates = iterations * config.updates_per_iteration
        metrics = jax.tree.map(lambda x: x / updates, sums)
        counts = {"env_steps": state.env_steps, "episodes": state.episodes}
        counts |= {"updates": state.learner.updates}
        return state, metrics | diagnose(algo, state.learner, batch) | counts

    def play(learner: Learner, key: jax.Array, index: jax.Array) -> dict[str, jax.Array]:
        return evaluate(env, algo, learner, jax.random.fold_in(key, index), run.eval_episodes)

    return Program(env, algo, init, collect, draw, epoch, play, epochs, iterations)


def make_train(config: Config) -> Callable[[jax.Array, Hypers], tuple[RunState, Metrics]]:
    """train(key, hypers) -> (RunState, metrics [evals]): a whole run as one traceable function."""
    program = make_program(config)

    def train(key: jax.Array, hypers: Hypers) -> tuple[RunState, Metrics]:
        def step(state: RunState, i: jax.Array):
            state, metrics = program.epoch(state, i, hypers)
            return state, summarise(program.evaluate(state.learner, state.key, 0)) | metrics

        return jax.lax.scan(step, program.init(key, hypers), jnp.arange(program.epochs))

    return train


def schedule(config: Config, horizon: int) -> tuple[int, int]:
    """(epochs, iterations per epoch) that spend run.total_steps, warm-up included.

    Whole episodes may end before the horizon, so there a run counts its real steps and goes on for
    more epochs until it has them (`experiment.py`); `make_train` runs the number given here.
    """
    length = horizon if config.collect.mode == "episodes" else config.collect.length
    total = config.run.total_steps / (config.collect.envs * length)
    learning = max(1, round(total) - config.warmup_iterations)
    epochs = min(config.run.evals, learning)
    return epochs, -(-learning // epochs)


def finished_episodes(batch: Batch) -> jax.Array:
    """Episodes that ended inside a packed batch: by a terminal step, or cut off before a masked one."""
    terminal = batch.mask * (1 - batch.discount)
    cut = batch.mask[:-1] * batch.discount[:-1] * (1 - batch.mask[1:])
    return terminal.sum() + cut.sum()
