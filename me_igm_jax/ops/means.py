"""Means over what is real."""

import jax
import jax.numpy as jnp


def masked_mean(x: jax.Array, mask: jax.Array) -> jax.Array:
    """sum(m x) / sum(m) over all axes of `mask` m; zero when nothing is real.

    Shapes: mask [...]; x broadcasts to it -> [].
    """
    x = jnp.broadcast_to(x, mask.shape)
    return (x * mask).sum() / jnp.maximum(mask.sum(), 1.0)
