"""Continuous actions: boxes, and distributions inside them.

An agent's action is d numbers within the bounds of `EnvSpec.action_bounds`; networks see it scaled to
[-1, 1]. Densities are of actions in the box's own units.
"""

import math

import distrax
import jax
import jax.numpy as jnp

from .types import EnvSpec

LOG_STD = (-5.0, 2.0)  # SAC's bounds of a policy's log standard deviation before it is squashed


def half_width(spec: EnvSpec) -> float:
    """Half the length of the box's sides."""
    low, high = _bounds(spec)
    return (high - low) / 2


def log_volume(spec: EnvSpec) -> float:
    """Of the box; minus a uniform policy's log density, so its entropy in nats."""
    return spec.action_dim * math.log(2 * half_width(spec))


def to_unit(action: jax.Array, spec: EnvSpec) -> jax.Array:
    """From the box to [-1, 1]."""
    low, high = _bounds(spec)
    return (action - (low + high) / 2) / half_width(spec)


def to_box(x: jax.Array, spec: EnvSpec) -> jax.Array:
    """From [-1, 1] to the box; what lies outside goes to its border."""
    low, high = _bounds(spec)
    return (low + high) / 2 + half_width(spec) * jnp.clip(x, -1.0, 1.0)


def uniform(key: jax.Array, lead: tuple[int, ...], spec: EnvSpec) -> jax.Array:
    """Uniform over the box, [*lead, d]."""
    low, high = _bounds(spec)
    return jax.random.uniform(key, (*lead, spec.action_dim), minval=low, maxval=high)


def squashed_gaussian(outputs: jax.Array, spec: EnvSpec) -> distrax.Distribution:
    """tanh of a Gaussian, scaled to the box: outputs [..., 2d], means and log deviations -> [..., d].

    Its sample_and_log_prob(seed=key) gives an action and its log density; the latter never passes
    through the inverse of tanh, which has none at the border.
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
