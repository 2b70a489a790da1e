"""A gradient step shared by several devices: each takes a part of the batch, all else they do alike."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp


class Split(NamedTuple):
    """The mesh's axis of devices that share the gradient steps of a seed; by default it has one to itself.

    Inside, every one of them holds the same state, and draws the same random numbers.
    """

    axis: str | None = None
    parts: int = 1

    def own(self, x: jax.Array, axis: int = 0) -> jax.Array:
        """This device's part of `x`, whose axis `axis` is the batch."""
        if self.axis is None:
            return x
        size = x.shape[axis] // self.parts
        return jax.lax.dynamic_slice_in_dim(x, jax.lax.axis_index(self.axis) * size, size, axis)

    def uniform(self, key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
        """Random numbers for a part [T, B, ...] of the batch: what a device alone would draw for it."""
        if self.axis is None:
            return jax.random.uniform(key, shape)
        time, batch, *rest = shape
        return self.own(jax.random.uniform(key, (time, self.parts * batch, *rest)), axis=1)

    def merged(self, means: Any, mask: jax.Array) -> Any:
        """Means over the whole batch, from those over each part's transitions that `mask` calls real."""
        if self.axis is None:
            return means
        real = mask.sum()
        weight = real / jnp.maximum(jax.lax.psum(real, self.axis), 1.0)
        return jax.lax.psum(jax.tree.map(lambda x: weight * x, means), self.axis)


ALONE = Split()
