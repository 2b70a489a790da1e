"""Replay of sequences: [T, C, ...] arrays in one ring, as an object of pure functions.

The write position follows from the training iteration, which all seeds share. It is not part of the
state, so under vmap a write stays one in-place slice update.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, Protocol

import chex
import jax
import jax.numpy as jnp
import numpy as np

from ..ops.gradient_share import ALONE, GradientShare
from ..types import Batch, EnvSpec, Snapshot, TimeStep


class Sample(Protocol):
    """`size` sequences drawn uniformly, with replacement, after collection i; or this device's share."""

    def __call__(
        self, ring: Batch, i: jax.Array | int, key: jax.Array, size: int, share: GradientShare = ALONE
    ) -> Batch: ...


class Replay(NamedTuple):
    """A replay buffer. Collection i, [T, envs, ...], fills the slots of its turn.

    init    () -> an empty ring
    add     ring, collection, i -> ring
    sample  see `Sample`
    latest  ring, i -> collection i, read back, so that it is rounded as older data are
    nbytes  of one ring
    """

    init: Callable[[], Batch]
    add: Callable[[Batch, Batch, jax.Array | int], Batch]
    sample: Sample
    latest: Callable[[Batch, jax.Array | int], Batch]
    nbytes: int


def make_replay(
    example: Batch,
    capacity: int,
    spec: EnvSpec,
    dtype: str = "float32",
    expand: Callable[[Snapshot], TimeStep] | None = None,
) -> Replay:
    """A replay for `capacity` sequences like those of `example`, a collection (arrays or shapes).

    Observations and central states are kept as `dtype`, discrete actions in the smallest type that
    holds all of them, the rest as it is. With `expand`, `example.steps` are snapshots, kept in the
    types that they come in, and what was seen is computed again from those that are read.
    Raises ValueError when the collections do not divide the capacity.
    """
    envs = example.reward.shape[1]
    if capacity % envs:
        raise ValueError(f"collections of {envs} sequences do not divide {capacity} slots")
    slots = capacity // envs
    packed = jax.eval_shape(partial(pack, spec=spec, dtype=dtype), example)
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct((len(x), capacity, *x.shape[2:]), x.dtype), packed)

    def init() -> Batch:
        return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)

    def add(ring: Batch, batch: Batch, i: jax.Array | int) -> Batch:
        new, at = pack(batch, spec, dtype), (i % slots) * envs
        chex.assert_trees_all_equal_dtypes(ring, new)
        return jax.tree.map(
            lambda old, x: jax.lax.dynamic_update_slice_in_dim(old, x, at, axis=1), ring, new
        )

    def sample(ring: Batch, i, key: jax.Array, size: int, share: GradientShare = ALONE) -> Batch:
        filled = jnp.minimum(i + 1, slots) * envs
        chosen = share.own(jax.random.randint(key, (size,), 0, filled))
        return read(jax.tree.map(lambda x: jnp.take(x, chosen, axis=1, mode="clip"), ring))

    def latest(ring: Batch, i) -> Batch:
        at = (i % slots) * envs
        return read(jax.tree.map(lambda x: jax.lax.dynamic_slice_in_dim(x, at, envs, axis=1), ring))

    def read(stored: Batch) -> Batch:
        batch = unpack(stored)
        return batch if expand is None else batch._replace(steps=jax.vmap(jax.vmap(expand))(batch.steps))

    nbytes = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(shapes))
    return Replay(init=init, add=add, sample=sample, latest=latest, nbytes=nbytes)


def action_dtype(spec: EnvSpec) -> Any:
    """The smallest integer type that holds every discrete action."""
    return np.min_scalar_type(max(spec.n_actions - 1, 0))


def pack(batch: Batch, spec: EnvSpec, dtype: str) -> Batch:
    """`batch` in the types that it is stored in."""
    action = batch.action if spec.continuous else batch.action.astype(action_dtype(spec))
    return batch._replace(
        steps=_rounded(batch.steps, dtype),
        action=action,
        discount=batch.discount.astype(bool),
        mask=batch.mask.astype(bool),
    )


def unpack(batch: Batch) -> Batch:
    """The inverse of `pack`, up to the rounding of its `dtype`."""
    action = batch.action
    return batch._replace(
        steps=_rounded(batch.steps, "float32"),
        action=action.astype(jnp.int32) if jnp.issubdtype(action.dtype, jnp.integer) else action,
        discount=batch.discount.astype(jnp.float32),
        mask=batch.mask.astype(jnp.float32),
    )


def _rounded(steps: Any, dtype: str) -> Any:
    if not isinstance(steps, TimeStep):
        return steps  # snapshots
    return steps._replace(obs=steps.obs.astype(dtype), state=steps.state.astype(dtype))
