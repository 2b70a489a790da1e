"""What every environment promises: shapes, availability, ends, snapshots that lose nothing, pictures."""

import dataclasses
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from conftest import as_users_compile
from me_igm_jax import load, make_env, make_train
from me_igm_jax.config.registry import ENVS, family_of
from me_igm_jax.envs import env_names
from me_igm_jax.training import replay, rollout
from me_igm_jax.types import Frame

NAMES = [
    "matrix/qtran",
    "smax/3m",
    "smax/smacv2_5_units",
    "smax/terran_10_vs_11",
    "mpe/spread_hard",
    "probe/clock",
    "jaxmarl/switch_riddle",
    "overcooked/counter_circuit",
]
ONE_OF_EACH = [
    "matrix/qtran", "differential/mtq", "smax/3m", "mpe/spread", "overcooked/cramped_room", "probe/clock",
    "jaxmarl/switch_riddle",
]  # fmt: skip
TRIO = (((0, 1), (1, 2)), ((1, 2), (2, 3)))
DRAWN = [
    ("matrix/qtran", {}),
    ("matrix/custom", {"env_options.payoff": TRIO}),
    ("matrix/custom", {"env_options.payoff": (1, 2, 3)}),
    ("differential/mtq", {}),
    ("mpe/spread", {}),
    ("overcooked/cramped_room", {}),
    ("smax/3m", {}),
    ("smax/terran_5_vs_5", {}),
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


@pytest.fixture(scope="module", params=NAMES)
def env(request):
    return make_env(load("qmix", env=request.param))


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
    again = expand(replay.unpack(replay.pack(kept, env.spec, "float32")).steps)
    for name, a, b in zip(seen.steps._fields, seen.steps, again, strict=True):
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b), err_msg=name)
    np.testing.assert_array_equal(seen.action, kept.action)


@pytest.mark.parametrize(
    "name, share",
    [("smax/smacv2_5_units", 1 / 8), ("mpe/spread", 1 / 4), ("overcooked/cramped_room", 1 / 200)],
)
def test_snapshots_are_a_fraction_of_the_size(name, share):
    env = make_env(load("qmix", env=name))

    def size(snapshots):
        batch, _ = player(env, 1, snapshots).eval_shape(jax.random.key(0))
        return replay.make_replay(batch, 1, env.spec).nbytes

    assert size(True) < share * size(False)


PACE = {
    "stream": {"collect.length": 24, "collect.transitions_per_update": 48},
    "episodes": {"collect.episodes_per_update": 2},
}


@pytest.mark.parametrize("mode", [pytest.param("episodes", marks=pytest.mark.slow), "stream"])
def test_training_on_snapshots_is_training_on_observations(mode):
    """The same updates, from a smaller buffer; recomputed observations may differ by rounding."""

    def trained(store):
        config = load("me_qmix", env="smax/3m", **PACE[mode], **{
            "collect.mode": mode, "collect.envs": 4, "env_options.max_steps": 12, "replay.capacity": 16,
            "replay.batch": 4, "net.hidden": 8, "run.total_steps": 600, "run.evals": 1,
            "run.eval_episodes": 2, "replay.store": store,
        })  # fmt: skip
        state, metrics = jax.jit(make_train(config))(jax.random.key(0), config.hypers)
        size = sum(x.nbytes for x in jax.tree.leaves(state.ring))
        return size, jax.tree.leaves(state.learner.params), metrics["updates"][-1]

    size, params, updates = trained("states")
    larger, expected, _ = trained("observations")
    assert size < 0.5 * larger and updates > 5
    for a, b in zip(params, expected, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


# -- families -------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ENVS.names())
def test_every_option_has_a_help_text(family):
    for field in dataclasses.fields(ENVS.get(family).options):
        assert field.metadata["help"].strip().endswith("."), field.name


@pytest.mark.parametrize("name", [*ONE_OF_EACH, "jaxmarl/overcooked"])
def test_a_family_says_whether_its_reward_is_shaped(name):
    """Nobody makes the environment to learn whether hypers.shaping is read."""
    family, short = family_of(name)
    env = family.make(short, family.options())
    state = jax.eval_shape(env.reset, jax.random.key(0))
    action = jnp.zeros((env.spec.n_agents, *[1] * env.spec.continuous))
    _, outcome = jax.eval_shape(env.step, jax.random.key(0), state, action.astype(action_type(env)))
    assert (outcome.shaping is not None) == family.shaped(short)


def action_type(env):
    return float if env.spec.continuous else int


def frames(env, steps=2):
    """The first instants of an episode, and one without an action, as at its end."""
    reset, step, observe = (jax.jit(f) for f in (env.reset, env.step, env.observe))
    key, state, total, found = jax.random.key(0), reset(jax.random.key(0)), 0.0, []
    for t in range(steps):
        seen = observe(state)
        key, act_key, step_key = jax.random.split(key, 3)
        act = rollout.random_actor(env.spec)
        action = act((), jax.tree.map(lambda x: x[None], seen), act_key)[1][0]
        kept = jax.tree.map(np.asarray, (env.compress(state), seen, action))
        found.append(Frame(snapshot=kept[0], seen=kept[1], action=kept[2], step=t, total=total))
        state, outcome = step(step_key, state, action)
        total += float(outcome.reward)
    kept = jax.tree.map(np.asarray, (env.compress(state), observe(state)))
    return [*found, Frame(snapshot=kept[0], seen=kept[1], action=None, step=steps, total=total)]


@pytest.mark.parametrize("name, options", DRAWN)
def test_every_drawer_draws(name, options):
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    env = make_env(load("me_qmix", env=name, **options))
    assert env.draw is not None
    pictures = []
    for frame in frames(env, steps=min(env.spec.horizon, 2)):
        figure, axes = plt.subplots(figsize=(3.0, 3.0))
        env.draw(axes, frame)
        figure.canvas.draw()
        pictures.append(np.asarray(figure.canvas.buffer_rgba()).copy())
        plt.close(figure)
    assert (pictures[0] != pictures[-1]).any()


def test_the_names_are_those_of_all_families():
    names = env_names()
    assert len(set(names)) == len(names) and {name.split("/")[0] for name in names} == set(ENVS.names())
