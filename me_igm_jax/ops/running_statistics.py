"""Running mean and deviation of numbers that come in batches (MAPPO's ValueNorm)."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from .means import masked_mean


class Statistics(NamedTuple):
    """Exponential averages of numbers x, which start at zero.

    `weight` is the average of the constant 1: division by it corrects the bias of that start.
    """

    mean: jax.Array  # [] of x
    square: jax.Array  # [] of x^2
    weight: jax.Array  # [] of 1


def no_statistics() -> Statistics:
    """Before the first batch."""
    return Statistics(*(jnp.zeros(()) for _ in Statistics._fields))


def tracked(statistics: Statistics, x: jax.Array, mask: jax.Array, keep: float = 0.99999) -> Statistics:
    """`statistics` after one more batch of numbers, whatever its size; x and mask [...]."""
    new = masked_mean(x, mask), masked_mean(jnp.square(x), mask), 1.0
    return Statistics(
        *(keep * old + (1 - keep) * value for old, value in zip(statistics, new, strict=True))
    )


def moments(statistics: Statistics) -> tuple[jax.Array, jax.Array]:
    """(mean, deviation), []; the deviation is at least 0.1."""
    weight = jnp.maximum(statistics.weight, 1e-5)
    mean = statistics.mean / weight
    return mean, jnp.sqrt(jnp.maximum(statistics.square / weight - jnp.square(mean), 1e-2))
