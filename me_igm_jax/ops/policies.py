"""Policies over discrete actions, some of which may be unavailable.

What is unavailable is masked here, inside a max or a softmax. Values and logits that the rest of the
library keeps or learns from are never masked.
"""

import distrax
import jax
import jax.numpy as jnp

from .gradient_share import ALONE, GradientShare

Categorical = distrax.Categorical  # the type, for annotations

UNAVAILABLE = -1e9  # finite, so that a row without available actions gives numbers and not NaN


def masked(values: jax.Array, avail: jax.Array) -> jax.Array:
    """`values` when available, else a number that no max or softmax picks, [..., A]."""
    return jnp.where(avail, values, UNAVAILABLE)


def categorical(logits: jax.Array) -> Categorical:
    """The distribution softmax(logits), [..., A]."""
    return distrax.Categorical(logits=logits)


def softmax_policy(logits: jax.Array, avail: jax.Array) -> Categorical:
    """softmax over the available actions, probability zero elsewhere, [..., A]."""
    return categorical(masked(logits, avail))


def floored(policy: Categorical, avail: jax.Array, eps: jax.Array | float) -> Categorical:
    """(1 - eps) pi + eps / |available|."""
    logits = jnp.asarray(policy.logits)
    uniform = jnp.asarray(softmax_policy(jnp.zeros_like(logits), avail).logits)
    return categorical(jnp.logaddexp(jnp.log1p(-eps) + logits, jnp.log(eps) + uniform))


def sample(key: jax.Array, policy: Categorical, share: GradientShare = ALONE) -> jax.Array:
    """One action per distribution, by the inverse of the cumulative distribution, [...].

    It needs one uniform number per action taken. The Gumbel trick needs one per action that could be
    taken, which cost a tenth of an update on a CPU. `share` says which part of the batch this is.
    """
    cumulative = jnp.cumsum(policy.probs, axis=-1)
    u = share.uniform(key, cumulative.shape[:-1])
    # The threshold lies in (0, total], so that an action of probability zero is never taken.
    threshold = cumulative[..., -1] * (1 - u)
    return (cumulative < threshold[..., None]).sum(-1)


def greedy_action(q: jax.Array, avail: jax.Array) -> jax.Array:
    """argmax over the available actions, [..., A] -> [...]."""
    return jnp.argmax(masked(q, avail), axis=-1)


def epsilon_greedy(key: jax.Array, q: jax.Array, avail: jax.Array, eps: jax.Array | float) -> jax.Array:
    """For each agent independently: with probability eps a uniform available action, else the greedy one.

    Shapes: q, avail [..., A] -> [...].
    """
    explore_key, action_key = jax.random.split(key)
    random = sample(action_key, softmax_policy(jnp.zeros_like(q), avail))
    explore = jax.random.uniform(explore_key, q.shape[:-1]) < eps
    return jnp.where(explore, random, greedy_action(q, avail))


def chosen(values: jax.Array, action: jax.Array) -> jax.Array:
    """The entries of values [..., A] at action [...]; the leading axes broadcast."""
    return (values * jax.nn.one_hot(action, values.shape[-1])).sum(-1)
