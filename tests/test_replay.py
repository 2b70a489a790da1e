"""Replay: wrap-around, only written slots, packing, large actions, independence of seeds."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from conftest import SPEC, random_batch
from me_igm_jax import load
from me_igm_jax.training import storage
from me_igm_jax.training.replay import action_dtype, make_replay, pack, unpack
from me_igm_jax.training.train import make_program


def numbered(value, B=2):
    batch = random_batch(jax.random.key(0), B=4)
    batch = jax.tree.map(lambda x: x[:, :B], batch)
    return batch._replace(reward=jnp.full_like(batch.reward, value))


def filled(replay, writes):
    ring = replay.init()
    for i in range(writes):
        ring = replay.add(ring, numbered(1.0 + i), i)
    return ring


@pytest.mark.parametrize("capacity", [2, 4, 6])
@pytest.mark.parametrize("writes", [1, 2, 3, 5])
def test_wraps_and_never_returns_unwritten_slots(capacity, writes):
    replay, slots = make_replay(numbered(0), capacity, SPEC), capacity // 2
    ring = filled(replay, writes)
    seen = replay.sample(ring, writes - 1, jax.random.key(1), 400).reward[0]
    assert set(np.unique(seen)) == {1.0 + i for i in range(max(0, writes - slots), writes)}
    assert set(np.unique(replay.latest(ring, writes - 1).reward)) == {float(writes)}


def test_sampling_is_uniform_and_keeps_sequences_whole():
    replay = make_replay(numbered(0), 8, SPEC)
    batch = replay.sample(filled(replay, 4), 3, jax.random.key(0), 8000)
    counts = np.bincount(np.asarray(batch.reward[0], int) - 1, minlength=4)
    assert np.abs(counts / 8000 - 0.25).max() < 0.02
    assert jnp.all(batch.reward == batch.reward[:1])


@pytest.mark.parametrize("dtype, tolerance", [("float32", 0), ("bfloat16", 1e-2), ("float16", 1e-3)])
def test_packing_round_trip(dtype, tolerance, batch):
    back = unpack(pack(batch, SPEC, dtype))
    for a, b in zip(jax.tree.leaves(batch), jax.tree.leaves(back), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_allclose(np.asarray(a, float), np.asarray(b, float), rtol=tolerance)


@pytest.mark.parametrize(
    "n_actions, dtype", [(2, "uint8"), (256, "uint8"), (257, "uint16"), (70_000, "uint32")]
)
def test_actions_are_stored_in_a_type_that_holds_them(n_actions, dtype, batch):
    """A byte would turn action 300 into 44 without a word."""
    spec = SPEC._replace(n_actions=n_actions)
    assert action_dtype(spec) == dtype
    largest = batch._replace(action=jnp.full_like(batch.action, n_actions - 1))
    assert (unpack(pack(largest, spec, "float32")).action == n_actions - 1).all()


def test_a_game_of_three_hundred_actions_is_learned_from_as_it_was_played():
    payoff = np.arange(300.0 * 300).reshape(300, 300).tolist()
    small = {"replay.capacity": 64, "replay.batch": 8, "run.total_steps": 80, "run.evals": 1}
    config = load("vdn", env="matrix/custom", **small, **{"env_options.payoff": payoff})
    program = make_program(config)
    state = jax.jit(program.init)(jax.random.key(0), config.hypers)
    batch = jax.jit(program.collect)(state.learner, jax.random.key(1), jnp.zeros(()), config.hypers)
    back = program.replay.latest(program.replay.add(state.ring, batch, 0), 0)
    np.testing.assert_array_equal(back.action, batch.action)
    np.testing.assert_array_equal(back.reward[0], 300 * back.action[0, :, 0] + back.action[0, :, 1])
    assert back.action.max() > 255


def test_capacity_must_be_a_multiple():
    with pytest.raises(ValueError, match="do not divide"):
        make_replay(numbered(0), 3, SPEC)


def test_seeds_are_independent_under_vmap():
    replay = make_replay(numbered(0), 4, SPEC)
    ring = jax.vmap(lambda v: replay.add(replay.init(), numbered(v), 0))(jnp.arange(3.0))
    keys = jax.random.split(jax.random.key(0), 3)
    rewards = jax.vmap(lambda r, k: replay.sample(r, 0, k, 5).reward)(ring, keys)
    assert jnp.all(rewards == jnp.arange(3.0)[:, None, None])


def test_writes_under_vmap_are_in_place():
    """A position that differed between seeds, or a branch around the write, would copy the ring."""
    seeds, capacity = 3, 64
    replay = make_replay(numbered(0), capacity, SPEC)
    rings = jax.vmap(lambda _: replay.init())(jnp.arange(seeds))
    batches = jax.vmap(numbered)(jnp.arange(float(seeds)))

    def fill(rings, batches):
        def step(rings, i):
            return jax.vmap(replay.add, in_axes=(0, 0, None))(rings, batches, i), None

        return jax.lax.scan(step, rings, jnp.arange(100))[0]

    compiled = jax.jit(fill, donate_argnums=0).lower(rings, batches).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < 0.3 * seeds * replay.nbytes


def test_auto_stores_states_when_observations_do_not_fit(monkeypatch):
    config = load("me_qmix", env="overcooked/cramped_room", **{"replay.store": "auto"})
    seen = {}
    for limit in (None, 2**40, 2**28):
        monkeypatch.setattr(storage, "memory_limit", lambda limit=limit: limit)
        seen[limit] = make_program(config).config.replay.store
    assert seen == {None: "observations", 2**40: "observations", 2**28: "states"}
