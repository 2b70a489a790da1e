"""The training loop: the file to read first. Everything here is pure and traced.

    iteration = collect with the exploring policy -> write to replay -> a few gradient steps
    epoch     = scan of iterations -> evaluation of full greedy episodes -> diagnostics
    train     = warm-up -> scan of epochs                     (one XLA program)

Seeds and hyperparameters are axes added from outside:

    train = make_train(config)
    jax.jit(jax.vmap(train, (0, None)))(keys, config.hypers)                      # S seeds
    jax.jit(jax.vmap(jax.vmap(train, (0, None)), (None, 0)))(keys, sweep(...))    # P x S

No `lax.cond` stands around collection, replay or evaluation: under vmap it would run both branches
and copy the buffer. The structure decides instead: a warm-up of fixed length, then epochs. The
iteration index `i` is shared by all seeds, so the replay position never becomes a batched index.
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
from .types import Algorithm, Batch, Env, Learner, Metrics


class RunState(NamedTuple):
    """All of one seed's training state. Saving it is enough to continue exactly."""

    learner: Learner
    ring: Batch  # the replay buffer
    key: jax.Array
    env_steps: jax.Array  # [] float: real transitions collected
    episodes: jax.Array  # [] float: episodes finished


class Program(NamedTuple):
    """The pieces of one experiment's program; all pure, all to be vmapped over seeds."""

    env: Env
    algo: Algorithm
    init: Callable[[jax.Array, Hypers], RunState]  # key, hypers: networks and an empty buffer
    warm_up: Callable[[RunState, Hypers], RunState]  # fills the buffer until learning may start
    draw: Callable[..., Batch]  # ring, collection, key, size -> what is learned from after it
    epoch: Callable[..., tuple[RunState, Metrics]]  # state, index (shared by all seeds), hypers
    final: Callable[[RunState], dict[str, jax.Array]]  # per-episode arrays of the last evaluation
    epochs: int
    iterations: int  # of one epoch


def make_program(config: Config) -> Program:
    """Compose environment, algorithm, replay and evaluation as `config` says."""
    env = make(config)
    algo = make_algorithm(config, env.spec)
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

    def draw(ring: Batch, i: jax.Array, key: jax.Array, size: int) -> Batch:
        """What the algorithm learns from after collection i, snapshots expanded to what was seen.

        Fresh data are read back from replay, so that they are rounded as older data are.
        """
        parts = []
        if algo.data != "replay":
            parts.append(replay.latest(ring, (i % slots) * cfg.envs, cfg.envs))
        if algo.data != "fresh":
            filled = jnp.minimum(i + 1, slots) * cfg.envs
            parts.append(replay.sample(ring, key, filled, size))
        batch = jax.tree.map(lambda *xs: jnp.concatenate(xs, axis=1), *parts)
        return batch._replace(steps=jax.vmap(jax.vmap(env.expand))(batch.steps)) if snapshots else batch

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

    def iteration(state: RunState, i: jax.Array, hypers: Hypers):
        """One collection and its gradient steps."""
        state = gather(state, i, hypers)
        keys = jax.random.split(state.key, 1 + config.updates_per_iteration)

        def step(learner: Learner, step_key):
            sample_key, update_key = jax.random.split(step_key)
            batch = draw(state.ring, i, sample_key, config.replay.batch)
            return algo.update(learner, batch, update_key, state.env_steps, hypers)

        learner, metrics = jax.lax.scan(step, state.learner, keys[1:])
        return state._replace(learner=learner, key=keys[0]), metrics

    def warm_up(state: RunState, hypers: Hypers) -> RunState:
        def step(state, i):
            return gather(state, i, hypers), None

        return jax.lax.scan(step, state, jnp.arange(warmup))[0]

    def epoch(state: RunState, index: jax.Array, hypers: Hypers):
        start = warmup + index * iterations
        state, metrics = jax.lax.scan(
            lambda s, i: iteration(s, i, hypers), state, start + jnp.arange(iterations)
        )
        key, eval_key, sample_key = jax.random.split(state.key, 3)
        state = state._replace(key=key)
        batch = draw(state.ring, start + iterations - 1, sample_key, min(config.replay.batch, 32))
        metrics = (
            summarise(metrics)
            | summarise(evaluate(env, algo, state.learner, eval_key, run.eval_episodes))
            | diagnose(algo, state.learner, batch)
            | {
                "env_steps": state.env_steps,
                "episodes": state.episodes,
                "updates": state.learner.updates,
            }
        )
        return state, metrics

    def final(state: RunState) -> dict[str, jax.Array]:
        key = jax.random.fold_in(state.key, 1)
        return evaluate(env, algo, state.learner, key, run.final_eval_episodes)

    return Program(env, algo, init, warm_up, draw, epoch, final, epochs, iterations)


def make_train(config: Config) -> Callable[[jax.Array, Hypers], tuple[RunState, Metrics]]:
    """train(key, hypers) -> (RunState, metrics [evals]): a whole run as one traceable function."""
    program = make_program(config)

    def train(key: jax.Array, hypers: Hypers) -> tuple[RunState, Metrics]:
        state = program.warm_up(program.init(key, hypers), hypers)
        return jax.lax.scan(lambda s, i: program.epoch(s, i, hypers), state, jnp.arange(program.epochs))

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
