"""The ring: wrap-around, only written slots, packing, independence of seeds."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import random_batch

from me_igm_jax import replay


def numbered(value, B=2):
    batch = random_batch(jax.random.key(0), B=4)
    batch = jax.tree.map(lambda x: x[:, :B], batch)
    return batch._replace(reward=jnp.full_like(batch.reward, value))


@pytest.mark.parametrize("capacity", [2, 4, 6])
@pytest.mark.parametrize("writes", [1, 2, 3, 5])
def test_wraps_and_never_returns_unwritten_slots(capacity, writes):
    slots = capacity // 2
    ring = replay.init(numbered(0), capacity)
    for i in range(writes):
        ring = replay.add(ring, numbered(1.0 + i), (i % slots) * 2)
    filled = min(writes, slots) * 2
    drawn = replay.sample(ring, jax.random.key(1), filled, 400).reward[0]
    assert set(np.unique(drawn)) == {1.0 + i for i in range(max(0, writes - slots), writes)}


def test_sampling_is_uniform_and_keeps_sequences_whole():
    ring = replay.init(numbered(0), 8)
    for i in range(4):
        ring = replay.add(ring, numbered(float(i)), 2 * i)
    batch = replay.sample(ring, jax.random.key(0), 8, 8000)
    counts = np.bincount(np.asarray(batch.reward[0], int), minlength=4)
    assert np.abs(counts / 8000 - 0.25).max() < 0.02
    assert jnp.all(batch.reward == batch.reward[:1])


@pytest.mark.parametrize("dtype, tolerance", [("float32", 0), ("bfloat16", 1e-2), ("float16", 1e-3)])
def test_packing_round_trip(dtype, tolerance, batch):
    back = replay.unpack(replay.pack(batch, dtype))
    for a, b in zip(jax.tree.leaves(batch), jax.tree.leaves(back), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_allclose(np.asarray(a, float), np.asarray(b, float), rtol=tolerance)


def test_capacity_must_be_a_multiple():
    ring = replay.init(numbered(0), 3)
    with pytest.raises(ValueError, match="do not divide"):
        replay.add(ring, numbered(1), 0)


def test_seeds_are_independent_under_vmap():
    ring = jax.vmap(lambda v: replay.add(replay.init(numbered(0), 4), numbered(v), 0))(jnp.arange(3.0))
    keys = jax.random.split(jax.random.key(0), 3)
    rewards = jax.vmap(lambda r, k: replay.sample(r, k, 2, 5).reward)(ring, keys)
    assert jnp.all(rewards == jnp.arange(3.0)[:, None, None])


def test_writes_under_vmap_are_in_place():
    """A position that differed between seeds, or a branch around the write, would copy the ring."""
    seeds, capacity = 3, 64
    rings = jax.vmap(lambda _: replay.init(numbered(0), capacity))(jnp.arange(seeds))
    batches = jax.vmap(numbered)(jnp.arange(float(seeds)))

    def fill(rings, batches):
        def step(rings, i):
            position = (i % (capacity // 2)) * 2
            return jax.vmap(replay.add, in_axes=(0, 0, None))(rings, batches, position), None

        return jax.lax.scan(step, rings, jnp.arange(100))[0]

    size = seeds * replay.nbytes(jax.tree.map(lambda x: x[0], rings))
    compiled = jax.jit(fill, donate_argnums=0).lower(rings, batches).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < 0.3 * size
