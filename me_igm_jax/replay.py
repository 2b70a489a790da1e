"""Replay of sequences, [T, C, ...] arrays in one ring of C slots.

The write position is the caller's (a function of the training iteration), not part of the state:
it is the same for every seed, so under vmap a write stays one in-place slice update and the number
of filled slots stays a scalar.
"""

from functools import partial

import chex
import jax
import jax.numpy as jnp

from .split import ALONE, Split
from .types import Batch, TimeStep


def init(example: Batch, capacity: int, dtype: str = "float32") -> Batch:
    """An empty ring for `capacity` sequences like those of `example`, arrays or shapes [T, B, ...].

    Observations and states are kept as `dtype`, discrete actions as bytes, the rest as they are.
    """
    packed = jax.eval_shape(partial(pack, dtype=dtype), example)
    return jax.tree.map(lambda x: jnp.zeros((len(x), capacity, *x.shape[2:]), x.dtype), packed)


def add(ring: Batch, batch: Batch, position: jax.Array | int, dtype: str = "float32") -> Batch:
    """Write B sequences at slots [position, position + B); B must divide the capacity."""
    packed = pack(batch, dtype)
    chex.assert_trees_all_equal_dtypes(ring, packed)
    if capacity_of(ring) % capacity_of(packed):
        raise ValueError(f"{capacity_of(packed)} sequences do not divide {capacity_of(ring)} slots")
    return jax.tree.map(
        lambda r, x: jax.lax.dynamic_update_slice_in_dim(r, x, position, axis=1), ring, packed
    )


def sample(ring: Batch, key: jax.Array, filled: jax.Array | int, batch: int, split: Split = ALONE) -> Batch:
    """`batch` sequences drawn uniformly, with replacement, from the `filled` slots; or a part of them."""
    slots = split.own(jax.random.randint(key, (batch,), 0, filled))
    return unpack(jax.tree.map(lambda r: jnp.take(r, slots, axis=1, mode="clip"), ring))


def latest(ring: Batch, position: jax.Array | int, count: int) -> Batch:
    """The `count` sequences that were written at `position`."""
    return unpack(jax.tree.map(lambda r: jax.lax.dynamic_slice_in_dim(r, position, count, axis=1), ring))


def pack(batch: Batch, dtype: str) -> Batch:
    """`batch` in the types it is stored in; snapshots come in theirs."""
    return batch._replace(
        steps=_with_dtype(batch.steps, dtype),
        action=_integers_as(jnp.uint8, batch.action),
        discount=batch.discount.astype(bool),
        mask=batch.mask.astype(bool),
    )


def unpack(batch: Batch) -> Batch:
    """The inverse of `pack`, up to the rounding of `dtype`."""
    return batch._replace(
        steps=_with_dtype(batch.steps, "float32"),
        action=_integers_as(jnp.int32, batch.action),
        discount=batch.discount.astype(jnp.float32),
        mask=batch.mask.astype(jnp.float32),
    )


def _integers_as(dtype, action: jax.Array) -> jax.Array:
    return action.astype(dtype) if jnp.issubdtype(action.dtype, jnp.integer) else action


def _with_dtype(steps, dtype: str):
    if not isinstance(steps, TimeStep):
        return steps
    return steps._replace(obs=steps.obs.astype(dtype), state=steps.state.astype(dtype))


def capacity_of(ring: Batch) -> int:
    """Number of slots."""
    return ring.reward.shape[1]


def nbytes(ring: Batch) -> int:
    """Bytes of one seed's ring; takes arrays or shapes."""
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(ring))
