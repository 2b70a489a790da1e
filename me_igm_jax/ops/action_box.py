"""Continuous actions: the box that they lie in, and distributions over it.

An agent's action is d numbers within the bounds of `EnvSpec.action_bounds`. Networks see it scaled to
[-1, 1]. Densities are of actions in the units of the box.
"""

import math

import distrax
import jax
import jax.numpy as jnp

from ..types import EnvSpec

LOG_STD = (-5.0, 2.0)  # SAC's bounds of a policy's log standard deviation before it is squashed
SquashedGaussian = distrax.Transformed  # the type, for annotations


def half_width(spec: EnvSpec) -> float:
    """Half the length of a side of the box."""
    low, high = _bounds(spec)
    return (high - low) / 2


def log_volume(spec: EnvSpec) -> float:
    """Log volume of the box: the entropy of a uniform policy, in nats."""
    return spec.action_dim * math.log(2 * half_width(spec))


def to_unit(action: jax.Array, spec: EnvSpec) -> jax.Array:
    """From the box to [-1, 1], [..., d]."""
    low, high = _bounds(spec)
    return (action - (low + high) / 2) / half_width(spec)


def to_box(x: jax.Array, spec: EnvSpec) -> jax.Array:
    """From [-1, 1] to the box, [..., d]; what lies outside goes to the border."""
    low, high = _bounds(spec)
    return (low + high) / 2 + half_width(spec) * jnp.clip(x, -1.0, 1.0)


def uniform(key: jax.Array, leading: tuple[int, ...], spec: EnvSpec) -> jax.Array:
    """Actions uniform over the box, [*leading, d]."""
    low, high = _bounds(spec)
    return jax.random.uniform(key, (*leading, spec.action_dim), minval=low, maxval=high)


def squashed_gaussian(outputs: jax.Array, spec: EnvSpec) -> SquashedGaussian:
    """tanh of a Gaussian, scaled to the box.

    Its sample_and_log_prob(seed=key) gives an action and its log density. That log density never passes
    through the inverse of tanh, which is infinite at the border.

    Args:
      outputs: means and log standard deviations side by side, [..., 2 d].

    Returns: a distribution over actions [..., d].
    """
    mean, log_std = jnp.split(outputs, 2, axis=-1)
    low, high = _bounds(spec)
    inner = distrax.MultivariateNormalDiag(mean, jnp.exp(jnp.clip(log_std, *LOG_STD)))
    squash = distrax.Chain([distrax.ScalarAffine((low + high) / 2, half_width(spec)), distrax.Tanh()])
    return distrax.Transformed(inner, distrax.Block(squash, ndims=1))


def _bounds(spec: EnvSpec) -> tuple[float, float]:
    if spec.action_bounds is None:
        raise ValueError(f"{spec.name}: its actions are not continuous")
    return spec.action_bounds
