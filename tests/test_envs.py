"""What every environment promises: shapes, availability, ends, and snapshots that lose nothing."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import as_users_compile

from me_igm_jax import replay, rollout
from me_igm_jax.envs import make
from me_igm_jax.presets import load
from me_igm_jax.train import make_train

ENVS = [
    "matrix/qtran",
    "smax/3m",
    "smax/smacv2_5_units",
    "smax/terran_10_vs_11",
    "mpe/spread_hard",
    "probe/clock",
    "jaxmarl/switch_riddle",
    "overcooked/counter_circuit",
]


@cache
def player(env, episodes, snapshots):
    """key -> a batch of whole episodes under uniformly random available actions."""
    act = rollout.random_actor(env.spec)
    return jax.jit(
        lambda k: rollout.collect_episodes(env, (), act, k, episodes, snapshots=snapshots),
        compiler_options=as_users_compile(),
    )


def random_play(env, key, episodes=3, snapshots=False):
    return player(env, episodes, snapshots)(key)


@pytest.fixture(scope="module", params=ENVS)
def env(request):
    return make(load("qmix", env=request.param))


def test_shapes_and_availability(env):
    spec = env.spec
    batch, stats = random_play(env, jax.random.key(0))
    steps, (T, B, N) = batch.steps, (spec.horizon, 3, spec.n_agents)
    assert steps.obs.shape == (T + 1, B, N, *spec.obs_shape)
    assert steps.state.shape == (T + 1, B, spec.state_dim)
    assert steps.avail.shape == (T + 1, B, N, spec.n_actions) and steps.avail.dtype == bool
    assert steps.alive.shape == (T + 1, B, N) and steps.alive.dtype == bool
    assert steps.avail.any(-1).all()
    for x in (steps.obs, steps.state, batch.reward):
        assert jnp.isfinite(x).all()
    assert set(stats) == set(spec.stats)
    assert spec.n_actions <= 255  # actions are stored as bytes


def test_every_episode_ends_within_the_horizon_and_not_both_ways(env):
    batch, _ = random_play(env, jax.random.key(1))
    length = batch.mask.sum(0)
    assert (length >= 1).all() and (length <= env.spec.horizon).all()
    assert (jnp.diff(batch.mask, axis=0) <= 0).all()  # nothing real after the end
    if env.spec.limit_is_terminal:
        last = np.asarray(length, int) - 1
        assert not batch.discount[last, np.arange(3)].any()


def test_snapshots_give_back_exactly_what_was_seen(env):
    """Bit for bit, dead units and the steps after an end included."""
    seen, _ = random_play(env, jax.random.key(2))
    kept, _ = random_play(env, jax.random.key(2), snapshots=True)
    expand = jax.jit(jax.vmap(jax.vmap(env.expand)), compiler_options=as_users_compile())
    again = expand(replay.unpack(replay.pack(kept, "float32")).steps)
    for name, a, b in zip(seen.steps._fields, seen.steps, again, strict=True):
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b), err_msg=name)
    np.testing.assert_array_equal(seen.action, kept.action)


@pytest.mark.parametrize(
    "name, share",
    [("smax/smacv2_5_units", 1 / 8), ("mpe/spread", 1 / 4), ("overcooked/cramped_room", 1 / 200)],
)
def test_snapshots_are_a_fraction_of_the_size(name, share):
    env = make(load("qmix", env=name))

    def size(snapshots):
        batch, _ = player(env, 1, snapshots).eval_shape(jax.random.key(0))
        return replay.nbytes(replay.init(batch, 1))

    assert size(True) < share * size(False)


@pytest.mark.parametrize("mode", [pytest.param("episodes", marks=pytest.mark.slow), "stream"])
def test_training_on_snapshots_is_training_on_observations(mode):
    """The same updates, from a smaller buffer; recomputed observations may differ by rounding."""

    def trained(store):
        config = load("me_qmix", env="smax/3m", **{
            "collect.mode": mode, "collect.envs": 4, "collect.length": 24, "smax.max_steps": 12,
            "collect.transitions_per_update": 48, "collect.episodes_per_update": 2, "replay.capacity": 16,
            "replay.batch": 4, "net.hidden": 8, "run.total_steps": 600, "run.evals": 1,
            "run.eval_episodes": 2, "replay.store": store,
        })  # fmt: skip
        state, metrics = jax.jit(make_train(config))(jax.random.key(0), config.hypers)
        return replay.nbytes(state.ring), jax.tree.leaves(state.learner.params), metrics["updates"][-1]

    size, params, updates = trained("states")
    larger, expected, _ = trained("observations")
    assert size < 0.5 * larger and updates > 5
    for a, b in zip(params, expected, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)
