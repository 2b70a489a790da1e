"""The pieces of the training loop: a collection, an update, an iteration, an epoch. All pure and traced."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ..config import Config
from ..config.schedule import Schedule
from ..ops.gradient_share import ALONE, GradientShare
from ..ops.members import highest, lowest
from ..ops.schedules import linear_schedule
from ..types import Algorithm, Batch, Env, Learner, Metrics
from .diagnostics import diagnose
from .evaluate import evaluate
from .replay import Replay
from .rollout import collect_episodes, collect_stream, explorer

DIAGNOSIS, EVALUATION = 2**30, 2**31
"""Offsets of fold_in for keys beside the training's: far from what `split` makes of the same key."""


class RunState(NamedTuple):
    """All of one seed's training state. Saving it is enough to continue exactly."""

    learner: Learner
    ring: Batch  # the replay buffer
    key: jax.Array
    env_steps: jax.Array  # [] float: real transitions collected
    episodes: jax.Array  # [] float: episodes finished
    iteration: jax.Array  # [] int: collections made, the same for all seeds of a program


def first_state(algo: Algorithm, replay: Replay, key: jax.Array, hypers: Any) -> RunState:
    """Networks before their first update, and an empty buffer."""
    learner_key, key = jax.random.split(key)
    return RunState(
        learner=algo.init(learner_key, hypers),
        ring=replay.init(),
        key=key,
        env_steps=jnp.zeros(()),
        episodes=jnp.zeros(()),
        iteration=jnp.zeros((), jnp.int32),
    )


def collect(
    config: Config, env: Env, algo: Algorithm, store: str,
    learner: Learner, key: jax.Array, env_steps: jax.Array, hypers: Any,
) -> Batch:  # fmt: skip
    """What the exploring policy meets in one collection."""
    settings = config.collect
    carry, act = algo.carry(settings.envs), explorer(algo, learner, env_steps, hypers)
    how = {
        "shaping": linear_schedule(hypers.shaping, 0.0, hypers.shaping_steps, env_steps),
        "snapshots": store == "states",
    }
    if settings.mode == "episodes":
        batch = collect_episodes(env, carry, act, key, settings.envs, **how)[0]
    else:
        sizes = (settings.envs, settings.length, settings.fresh_starts)
        batch = collect_stream(env, carry, act, key, *sizes, **how)
    return batch._replace(reward=hypers.reward_scale * batch.reward)


def learning_data(
    data: str, replay: Replay, ring: Batch, i: jax.Array, key: jax.Array, size: int,
    share: GradientShare = ALONE,
) -> Batch:  # fmt: skip
    """What the algorithm learns from after collection i; the fresh sequences come first."""
    parts = []
    if data != "replay":
        parts.append(replay.latest(ring, i))
    if data != "fresh":
        parts.append(replay.sample(ring, i, key, size, share))
    return jax.tree.map(lambda *xs: jnp.concatenate(xs, axis=1), *parts)


def update(
    config: Config, algo: Algorithm, sizes: Schedule, replay: Replay, share: GradientShare,
    state: RunState, i: jax.Array, hypers: Any,
) -> tuple[RunState, Metrics]:  # fmt: skip
    """One gradient step after collection i."""
    key, sample_key, update_key = jax.random.split(state.key, 3)
    batch = learning_data(algo.data, replay, state.ring, i, sample_key, sizes.batch, share)
    learner, metrics = algo.update(state.learner, batch, update_key, state.env_steps, hypers)
    return state._replace(learner=learner, key=key), metrics


def gather(
    config: Config, algo: Algorithm, replay: Replay, collector: Callable[..., Batch],
    state: RunState, i: jax.Array, hypers: Any,
) -> RunState:  # fmt: skip
    """Make collection i and store it; refresh the target networks each time enough episodes ended."""
    key, collect_key = jax.random.split(state.key)
    batch = collector(state.learner, collect_key, state.env_steps, hypers)
    ended = config.collect.envs if config.collect.mode == "episodes" else finished_episodes(batch)
    episodes, learner = state.episodes + ended, state.learner
    if algo.refresh_target is not None and algo.target_interval is not None:
        due = episodes // algo.target_interval > state.episodes // algo.target_interval
        learner = algo.refresh_target(learner, due, hypers)
    return RunState(
        learner=learner,
        ring=replay.add(state.ring, batch, i),
        key=key,
        env_steps=state.env_steps + batch.mask.sum(),
        episodes=episodes,
        iteration=state.iteration + 1,
    )


class Loop(NamedTuple):
    """What the iterations of an epoch carry."""

    i: jax.Array  # [] int: the iteration, shared by all members
    state: RunState
    sums: Metrics  # of the updates' metrics
    updates: jax.Array  # [] float: calls of the learner's update


def iterate(
    config: Config, algo: Algorithm, sizes: Schedule, replay: Replay, collector: Callable[..., Batch],
    step: Callable, equal_steps: bool, hypers: Any, loop: Loop,
) -> Loop:  # fmt: skip
    """One collection and, after the warm-up, its gradient steps, whose metrics are summed.

    With `equal_steps` all members have their steps at the same time, so nobody waits for the others.
    """

    def once(_, carried):
        state, metrics = step(carried[0], loop.i, hypers)
        return state, jax.tree.map(jnp.add, carried[1], metrics)

    count = jnp.where(loop.i < sizes.warmup, 0, sizes.updates)
    gathered = gather(config, algo, replay, collector, loop.state, loop.i, hypers)
    state, sums = jax.lax.fori_loop(0, count, once, (gathered, loop.sums))
    if equal_steps:
        return Loop(i=loop.i + 1, state=state, sums=sums, updates=loop.updates + count)
    # A member that has all of its steps waits: it learns and counts no more. (Its ring is read no more.)
    active = loop.state.env_steps < config.run.total_steps
    state, sums, updates = jax.tree.map(
        partial(chosen_by, active),
        (state._replace(ring=()), sums, loop.updates + count),
        (loop.state._replace(ring=()), loop.sums, loop.updates),
    )
    state = state._replace(ring=gathered.ring, iteration=gathered.iteration)
    return Loop(i=loop.i + 1, state=state, sums=sums, updates=updates)


def chosen_by(active: jax.Array, new: jax.Array, old: jax.Array) -> jax.Array:
    """`new` when `active` [] is set, else `old`; random keys too.

    A member that waits keeps a key that was used for what is thrown away. So keys are chosen as plain
    numbers, which the checker of key reuse does not follow.
    """
    if not jnp.issubdtype(new.dtype, jax.dtypes.prng_key):
        return jnp.where(active, new, old)
    data = jnp.where(active, jax.random.key_data(new), jax.random.key_data(old))
    return jax.random.wrap_key_data(data, impl=jax.random.key_impl(new))


def epoch(
    config: Config, algo: Algorithm, sizes: Schedule, replay: Replay, step: Callable, each: Callable,
    state: RunState, index: jax.Array, hypers: Any,
) -> tuple[RunState, Metrics]:  # fmt: skip
    """Iterations until every member has its share of run.total_steps; the mean metrics of the updates.

    Metrics are not a number (NaN) when the epoch had no update, as in a long warm-up.
    """
    goal = config.run.total_steps * (index + 1) / config.run.evals
    shapes = jax.eval_shape(step, state, index, hypers)[1]
    # Zeros that depend on the seed: when all of a loop's carry is batched, vmap reads the loop once.
    zero = 0 * state.env_steps
    loop = Loop(
        i=highest(state.iteration),
        state=state,
        sums=jax.tree.map(lambda x: jnp.full(x.shape, zero, x.dtype), shapes),
        updates=zero,
    )
    loop = jax.lax.while_loop(lambda loop: lowest(loop.state.env_steps) < goal, partial(each, hypers), loop)
    state = loop.state
    key = jax.random.fold_in(state.key, DIAGNOSIS)
    batch = learning_data(algo.data, replay, state.ring, loop.i - 1, key, min(sizes.batch, 32))
    metrics = jax.tree.map(lambda x: x / loop.updates, loop.sums)
    counts = {"env_steps": state.env_steps, "episodes": state.episodes}
    counts |= {"updates": state.learner.updates}
    return state, metrics | diagnose(algo, state.learner, batch) | counts


def evaluate_at(
    config: Config, env: Env, algo: Algorithm, learner: Learner, key: jax.Array, index: jax.Array | int
) -> dict[str, jax.Array]:
    """run.eval_episodes greedy episodes; another index gives other episodes."""
    key = jax.random.fold_in(key, jnp.uint32(EVALUATION) + jnp.asarray(index, jnp.uint32))
    return evaluate(env, algo, learner, key, config.run.eval_episodes)


def finished_episodes(batch: Batch) -> jax.Array:
    """Episodes that ended inside a packed batch: by a terminal step, or cut off before a masked one."""
    terminal = batch.mask * (1 - batch.discount)
    cut = batch.mask[:-1] * batch.discount[:-1] * (1 - batch.mask[1:])
    return terminal.sum() + cut.sum()
