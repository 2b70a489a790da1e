"""Policies over discrete actions of which some are unavailable.

Availability enters only inside a max or a softmax; no large negative number is ever stored.
"""

import distrax
import jax
import jax.numpy as jnp

from .split import ALONE, Split

_NEVER = -1e9  # finite, so that an all-unavailable row gives numbers and not NaN


def masked(values: jax.Array, avail: jax.Array) -> jax.Array:
    """`values` where available, else a number that no max or softmax picks."""
    return jnp.where(avail, values, _NEVER)


def softmax_policy(logits: jax.Array, avail: jax.Array) -> distrax.Categorical:
    """Categorical over the available actions, probability zero elsewhere."""
    return distrax.Categorical(logits=masked(logits, avail))


def floored(policy: distrax.Categorical, avail: jax.Array, eps: jax.Array | float) -> distrax.Categorical:
    """(1 - eps) pi + eps / |available|."""
    logits = jnp.asarray(policy.logits)
    uniform = jnp.asarray(softmax_policy(jnp.zeros_like(logits), avail).logits)
    return distrax.Categorical(logits=jnp.logaddexp(jnp.log1p(-eps) + logits, jnp.log(eps) + uniform))


def sample(key: jax.Array, policy: distrax.Categorical, split: Split = ALONE) -> jax.Array:
    """One action per distribution, by the inverse of the cumulative distribution.

    One uniform number each, where the Gumbel trick needs one per action: a tenth of an update on a
    CPU. Compared with (0, total], the draw can never land on an action of probability zero.
    """
    cumulative = jnp.cumsum(policy.probs, axis=-1)
    u = split.uniform(key, cumulative.shape[:-1])
    draw = cumulative[..., -1] * (1 - u)
    return (cumulative < draw[..., None]).sum(-1)


def greedy_action(q: jax.Array, avail: jax.Array) -> jax.Array:
    """argmax over the available actions, [..., A] -> [...]."""
    return jnp.argmax(masked(q, avail), axis=-1)


def epsilon_greedy(key: jax.Array, q: jax.Array, avail: jax.Array, eps: jax.Array) -> jax.Array:
    """Each agent on its own: with probability eps a uniform available action, else the greedy one."""
    explore_key, action_key = jax.random.split(key)
    random = sample(action_key, softmax_policy(jnp.zeros_like(q), avail))
    explore = jax.random.uniform(explore_key, q.shape[:-1]) < eps
    return jnp.where(explore, random, greedy_action(q, avail))


def linear_schedule(start, end, steps, now) -> jax.Array:
    """From start to end over `steps` environment steps, then constant."""
    return start + (end - start) * jnp.clip(now / steps, 0.0, 1.0)


def geometric_schedule(start, end, steps, now) -> jax.Array:
    """As `linear_schedule`, but falling by a constant factor per step; both ends positive."""
    return start * (end / start) ** jnp.clip(now / steps, 0.0, 1.0)
