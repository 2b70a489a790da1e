"""Pairs of units, as the observations of several families need them."""

import jax
import jax.numpy as jnp


def others(x: jax.Array) -> jax.Array:
    """x [N, U, D] of units i and j, N <= U, without j = i: [N, (U - 1) D], the others in their order."""
    n, units = x.shape[:2]
    # Column j is unit j before i, j + 1 after.
    before = jnp.arange(units - 1)[None, :] < jnp.arange(n)[:, None]
    return jnp.where(before[..., None], x[:, :-1], x[:, 1:]).reshape(n, -1)
