"""Gradient steps shared by several devices: each device takes a part of the batch.

All these devices hold the same state and use the same random keys. They do everything else alike.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp


class GradientShare(NamedTuple):
    """How the gradient steps of a seed are shared.

    axis   the axis of the device mesh along which devices share them; None: one device does it all
    parts  the number of these devices
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
        """Uniform random numbers for a part [T, B, ...] of the batch.

        They are the numbers that one device would use for this part if it had the whole batch.
        """
        if self.axis is None:
            return jax.random.uniform(key, shape)
        time, batch, *rest = shape
        return self.own(jax.random.uniform(key, (time, self.parts * batch, *rest)), axis=1)

    def merged(self, means: Any, mask: jax.Array) -> Any:
        """Means over the whole batch, from the means over each part.

        Args:
          means: a pytree of means over this part's real transitions.
          mask: this part's mask, 1 for a real transition.
        """
        if self.axis is None:
            return means
        real = mask.sum()
        weight = real / jnp.maximum(jax.lax.psum(real, self.axis), 1.0)
        return jax.lax.psum(jax.tree.map(lambda x: weight * x, means), self.axis)


ALONE = GradientShare()
