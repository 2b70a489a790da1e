"""Collecting experience: whole masked episodes, or packed streams. Both return a `Batch`.

Neither ever puts a reset inside a transition: the instant after an action is always the true one.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ..ops.action_box import uniform
from ..types import Algorithm, Batch, Carry, Env, EnvSpec, EnvState, Learner, Outcome, TimeStep

Act = Callable[[Any, TimeStep, jax.Array], tuple[Any, jax.Array]]  # carry, step, key


def observer(env: Env, snapshots: bool) -> Callable[[EnvState], tuple[Any, TimeStep]]:
    """state [B] -> (what a batch keeps of it: the observation, or a snapshot; the observation)."""

    def observe(state):
        snapshot = jax.vmap(env.compress)(state)
        now = jax.vmap(env.expand)(snapshot)
        return (snapshot if snapshots else now), now

    return observe


def collect_episodes(
    env: Env, first_carry: Carry, act: Act, key: jax.Array, episodes: int,
    shaping: jax.Array | float = 0.0, snapshots: bool = False,
):  # fmt: skip
    """One episode in each of B parallel environments, padded to the horizon.

    After its end an environment stands still and its transitions get mask 0, so the instant after
    the last real transition is the true final one. `shaping` weighs the shaped part of the reward.
    Returns (Batch [horizon, episodes], stats {name: [episodes]}).
    """
    reset_key, scan_key = jax.random.split(key)
    observe = observer(env, snapshots)
    state = jax.vmap(env.reset)(jax.random.split(reset_key, episodes))
    stats = {name: jnp.zeros((episodes,)) for name in env.spec.stats}

    def step(loop, step_key):
        state, carry, running, stats = loop
        act_key, env_key = jax.random.split(step_key)
        kept, now = observe(state)
        carry, action = act(carry, now, act_key)
        after, outcome = jax.vmap(env.step)(jax.random.split(env_key, episodes), state, action)
        state = where_rows(running, after, state)
        stats = where_rows(running, {k: outcome.stats[k].astype(float) for k in stats}, stats)
        mask = running.astype(jnp.float32)
        reward = shaped_reward(outcome, shaping) * mask
        transition = (action, reward, 1.0 - outcome.terminal, mask)
        running &= ~(outcome.terminal | outcome.truncated)
        return (state, carry, running, stats), (kept, transition)

    loop = (state, first_carry, jnp.ones((episodes,), bool), stats)
    keys = jax.random.split(scan_key, env.spec.horizon)
    (state, _, _, stats), (steps, transitions) = jax.lax.scan(step, loop, keys)
    first = jnp.zeros((env.spec.horizon + 1, episodes), bool).at[0].set(True)
    return make_batch(steps, observe(state)[0], first, transitions), stats


class _Stream(NamedTuple):
    state: Any
    carry: Any
    begins: jax.Array  # [B] bool: this instant is the first of an episode
    bridge: jax.Array  # [B] bool: this instant is the last of a truncated episode
    resets: jax.Array  # [B] int: fresh starts used


def collect_stream(
    env: Env, first_carry: Carry, act: Act, key: jax.Array, envs: int, length: int, fresh_starts: int,
    shaping: jax.Array | float = 0.0, snapshots: bool = False,
):  # fmt: skip
    """B packed sequences of `length` transitions; each starts with a fresh episode and goes on with
    the next one as soon as one ends, so no step is spent on padding.

    After a terminal step the next instant is the next episode's first. After a truncated step it is
    the true final instant, which carries one transition of mask 0 to the next episode.
    Start states are drawn `fresh_starts` at a time, not at every step; an environment that needs
    more reuses them. `shaping` weighs the shaped part of the reward. Returns Batch [length, envs].
    """
    reset_key, scan_key = jax.random.split(key)
    observe = observer(env, snapshots)
    keys = jax.random.split(reset_key, (fresh_starts, envs))
    starts = jax.vmap(jax.vmap(env.reset))(keys)

    def step(loop: _Stream, step_key):
        act_key, env_key = jax.random.split(step_key)
        slot = loop.resets % fresh_starts
        fresh = jax.tree.map(lambda x: x[slot, jnp.arange(envs)], starts)
        state = where_rows(loop.begins, fresh, loop.state)
        carry = where_rows(loop.begins, first_carry, loop.carry)
        kept, now = observe(state)
        carry, action = act(carry, now, act_key)
        after, outcome = jax.vmap(env.step)(jax.random.split(env_key, envs), state, action)
        mask = 1.0 - loop.bridge
        reward = shaped_reward(outcome, shaping) * mask
        transition = (action, reward, 1.0 - outcome.terminal, mask)
        ended = outcome.terminal | loop.bridge
        following = _Stream(
            state=after,
            carry=carry,
            begins=ended,
            bridge=outcome.truncated & ~ended,
            resets=loop.resets + loop.begins,
        )
        return following, (kept, loop.begins, transition)

    begin = _Stream(
        state=jax.tree.map(lambda x: x[0], starts),
        carry=first_carry,
        begins=jnp.ones((envs,), bool),
        bridge=jnp.zeros((envs,), bool),
        resets=jnp.zeros((envs,), int),
    )
    end, (steps, first, transitions) = jax.lax.scan(step, begin, jax.random.split(scan_key, length))
    # The final instant belongs to the last transition, whatever comes after it.
    first = jnp.concatenate([first, jnp.zeros((1, envs), bool)])
    return make_batch(steps, observe(end.state)[0], first, transitions)


def explorer(algo: Algorithm, learner: Learner, env_steps: jax.Array, hypers) -> Act:
    """`algo.act` with everything but the observation closed over."""
    return lambda carry, step, key: algo.act(learner, carry, step, key, env_steps, hypers)


def greedy_actor(algo: Algorithm, learner: Learner) -> Act:
    """`algo.greedy`, which needs no key."""
    return lambda carry, step, key: algo.greedy(learner, carry, step)


def random_actor(spec: EnvSpec) -> Act:
    """Uniform over the available actions, or over the box of continuous ones."""

    def act(carry, step: TimeStep, key: jax.Array):
        if spec.continuous:
            return carry, uniform(key, step.alive.shape, spec)
        noise = jax.random.uniform(key, step.avail.shape)
        return carry, jnp.argmax(jnp.where(step.avail, noise, -1.0), axis=-1)

    return act


def shaped_reward(outcome: Outcome, shaping: jax.Array | float) -> jax.Array:
    """The reward that is learned from, [B]."""
    return outcome.reward if outcome.shaping is None else outcome.reward + shaping * outcome.shaping


def make_batch(steps: Any, final: Any, first: jax.Array, transitions) -> Batch:
    """Put T instants and the final one together with what happened between them."""
    steps = jax.tree.map(lambda xs, x: jnp.concatenate([xs, x[None]]), steps, final)
    action, reward, discount, mask = transitions
    return Batch(steps, first, action, reward, discount, mask)


def where_rows(rows: jax.Array, new: Any, old: Any) -> Any:
    """`new` where rows [B] is set, else `old`, over pytrees of arrays [B, ...] (keys too)."""

    def pick(a, b):
        return jnp.where(rows.reshape(rows.shape + (1,) * (a.ndim - rows.ndim)), a, b)

    return jax.tree.map(pick, new, old)
