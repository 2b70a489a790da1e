"""Kitchens against those of JaxMARL, soups made by hand, and networks that read the grid."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxmarl.environments.overcooked.layouts import overcooked_layouts
from jaxmarl.environments.overcooked.overcooked import Overcooked

from me_igm_jax import ConfigError, load, make_env, make_train
from me_igm_jax.algos import make_algorithm
from me_igm_jax.envs import overcooked
from me_igm_jax.envs.overcooked.env import OvercookedState, converters
from me_igm_jax.networks.agents import Agent
from me_igm_jax.networks.layers import Conv
from me_igm_jax.training import rollout

NORTH, SOUTH, EAST, WEST, STAY, INTERACT = range(6)
EMPTY, DISH = 1, 9  # JaxMARL's object indices
READY = 21  # the layer of soups that can be served

# Cramped room. The left cook, at (1, 1), puts three onions into the pot at (2, 0), fetches a plate from
# (1, 3), tries a step too early to take the soup, takes it, and delivers it at (3, 3).
ONION = [WEST, INTERACT, EAST, NORTH, INTERACT]
PLATE = [SOUTH, WEST, SOUTH, INTERACT, NORTH, EAST, NORTH]
WAIT = [STAY] * 11 + [INTERACT]
SERVE = [INTERACT, SOUTH, EAST, SOUTH, INTERACT]
SOUP = [*ONION, *ONION, *ONION, *PLATE, *WAIT, *SERVE]


@cache
def kitchen(layout="cramped_room", horizon=400):
    return overcooked.make(layout, overcooked.OvercookedOptions(horizon=horizon))


def both(layout):
    """(key, actions [T, 2]) -> differences from JaxMARL's game, our states and our outcomes, each [T]."""
    env, game = kitchen(layout), Overcooked(overcooked_layouts[layout])

    def step(carry, action):
        theirs, ours = carry
        named = {cook: action[i] for i, cook in enumerate(game.agents)}
        views, theirs, reward, done, info = game.step_env(jax.random.key(0), theirs, named)
        ours, outcome = env.step(jax.random.key(0), ours, action)
        seen, shaped = env.observe(ours), info["shaped_reward"]
        views = jnp.stack([views[cook] for cook in game.agents])
        differences = {
            "obs": seen.obs - views,
            "state": seen.state - views.reshape(-1),
            "position": ours.kitchen.position - theirs.agent_pos,
            "reward": outcome.reward - reward["agent_0"],
            "shaping": outcome.shaping - shaped["agent_0"] - shaped["agent_1"],
            "end": outcome.terminal ^ done["__all__"],
        }
        return (theirs, ours), ({k: jnp.abs(v).sum() for k, v in differences.items()}, ours, outcome)

    extract, _ = converters(game, game.reset(jax.random.key(0))[1])

    def play(key, actions):
        theirs = game.reset(key)[1]
        ours = OvercookedState(extract(theirs), jnp.zeros((), jnp.int32))
        return jax.lax.scan(step, (theirs, ours), actions)[1]

    return play


def test_names_are_jaxmarls():
    assert set(overcooked.names()) == set(overcooked_layouts)


@pytest.mark.parametrize("layout", ["asymm_advantages", "counter_circuit"])
def test_trajectories_equal_jaxmarls(layout):
    """Eight episodes of cooks that interact half of the time."""
    keys = jax.random.split(jax.random.key(0), 8)
    actions = jnp.minimum(jax.random.randint(keys[0], (8, 400, 2), 0, 10), INTERACT)
    differences, states, outcomes = jax.jit(jax.vmap(both(layout)))(keys, actions)
    assert {k: float(v.sum()) for k, v in differences.items()} == dict.fromkeys(differences, 0.0)
    assert len(np.unique(states.kitchen.counters)) >= 3  # bare, or with an onion or a plate
    assert outcomes.terminal[:, -1].all() and not outcomes.terminal[:, :-1].any()


def test_a_soup_by_hand_equals_jaxmarls():
    actions = jnp.array([[mine, STAY] for mine in SOUP])
    differences, states, outcomes = jax.jit(both("cramped_room"))(jax.random.key(0), actions)
    assert {k: float(v.sum()) for k, v in differences.items()} == dict.fromkeys(differences, 0.0)
    # Three onions, a plate while the pot cooks, the soup.
    steps = np.flatnonzero(outcomes.shaping)
    assert steps.tolist() == [4, 9, 14, 18, 34] and outcomes.shaping[steps].tolist() == [3, 3, 3, 3, 5]
    assert outcomes.reward.tolist() == [0.0] * 38 + [20.0]
    assert outcomes.stats["deliveries"].tolist() == [0] * 38 + [1]
    pot = states.kitchen.pots[:, 0].tolist()
    assert pot[13:16] == [21, 19, 18] and pot[32:35] == [1, 0, 23]
    assert states.kitchen.holding[34:, 0].tolist() == [DISH] * 4 + [EMPTY]


def test_each_cook_sees_itself_first():
    env = kitchen()
    start = env.reset(jax.random.key(0)).kitchen
    mine, other = np.asarray(env.expand(start._replace(holding=jnp.array([DISH, EMPTY], jnp.uint8))).obs)
    assert np.argwhere(mine[..., 0]).tolist() == np.argwhere(mine[..., READY]).tolist() == [[1, 1]]
    assert np.argwhere(other[..., 0]).tolist() == [[1, 3]]
    swapped = [1, 0, 6, 7, 8, 9, 2, 3, 4, 5, *range(10, 26)]
    np.testing.assert_array_equal(mine, other[..., swapped])


def test_two_deliveries_at_once_count_twice():
    env = kitchen("asymm_advantages")
    state = env.reset(jax.random.key(0))
    places = {"position": [[3, 2], [7, 1]], "facing": [NORTH, EAST], "holding": [DISH, DISH]}
    served = state.kitchen._replace(**{k: jnp.array(v, jnp.uint8) for k, v in places.items()})
    state = state._replace(kitchen=served)
    after, outcome = jax.jit(env.step)(jax.random.key(0), state, jnp.full(2, INTERACT))
    assert outcome.reward == 40 and outcome.stats["deliveries"] == after.deliveries == 2


def test_statistics_and_shaping_of_an_episode_that_ends_with_a_delivery():
    env, script = kitchen(horizon=len(SOUP)), jnp.array(SOUP)

    def act(t, step, key):
        return t + 1, jnp.stack([script[t], jnp.full_like(t, STAY)], axis=-1)

    clock = jnp.zeros((2,), int)
    play = jax.jit(lambda key: rollout.collect_episodes(env, clock, act, key, 2, shaping=0.5))
    batch, stats = play(jax.random.key(0))
    assert stats["deliveries"].tolist() == [1, 1] and batch.reward.sum(0).tolist() == [28.5, 28.5]
    assert not batch.discount[-1].any() and batch.discount[:-1].all() and batch.mask.all()


def test_only_the_cooks_directions_are_random_at_the_start():
    starts = jax.vmap(kitchen("coord_ring").reset)(jax.random.split(jax.random.key(0), 400))
    assert len(np.unique(starts.kitchen.facing, axis=0)) == 16
    same = starts._replace(kitchen=starts.kitchen._replace(facing=starts.deliveries))
    assert all((x == x[:1]).all() for x in jax.tree.leaves(same))


# -- networks -------------------------------------------------------------------------------------


def test_conv_is_a_convolution():
    x = jax.random.normal(jax.random.key(0), (2, 3, 4, 5, 6))
    params = Conv(7, 3).init(jax.random.key(1), x)
    dense = params["params"]["Linear_0"]["Dense_0"]
    kernel = dense["kernel"].reshape(3, 3, 6, 7)
    dimensions = ("NHWC", "HWIO", "NHWC")
    flat = x.reshape(6, 4, 5, 6)
    expected = jax.lax.conv_general_dilated(flat, kernel, (1, 1), "SAME", dimension_numbers=dimensions)
    found = jnp.asarray(Conv(7, 3).apply(params, x))
    np.testing.assert_allclose(found.reshape(6, 4, 5, 7), expected + dense["bias"], atol=1e-5)
    assert jnp.abs(kernel).max() <= (3 * 3 * 6) ** -0.5  # PyTorch's bound


@pytest.mark.parametrize("recurrent", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_every_weight_of_the_cnn_is_reached(recurrent):
    T, B, N, shape = 3, 4, 2, (4, 5, 6)
    agent = Agent(outputs=5, hidden=16, layers=1, recurrent=recurrent, grid=shape)
    x = jax.random.normal(jax.random.key(0), (T, B, N, 4 * 5 * 6 + N))  # the grid, and an index
    hidden, first = jnp.zeros((B, N, 16)), jnp.zeros((T, B), bool).at[0].set(True)
    params = jax.jit(agent.init)(jax.random.key(1), hidden, x, first)

    def loss(params, x):
        return jnp.square(agent.apply(params, hidden, x, first)[1]).sum()

    by_params, by_input = jax.jit(jax.grad(loss, argnums=(0, 1)))(params, x)
    for path, gradient in jax.tree.leaves_with_path(by_params):
        assert jnp.abs(gradient).max() > 0, path
    assert (jnp.abs(by_input).max((0, 1, 2)) > 0).all()  # the inputs beside the grid too


def test_a_cnn_needs_a_grid():
    config = load("qmix", env="probe/clock", **{"net.torso": "cnn"})
    with pytest.raises(ConfigError, match=r"^net.torso=cnn: .* use net.torso=mlp$"):
        make_algorithm(config, make_env(config).spec)


@pytest.mark.parametrize(
    "preset, torso", [("me_qmix", "mlp"), pytest.param("me_ow_qmix", "cnn", marks=pytest.mark.slow)]
)
def test_training_runs(preset, torso):
    """A few updates; of the central agent, too, where there is one."""
    config = load(preset, env="overcooked/cramped_room", **{
        "net.torso": torso, "net.layers": 1, "net.hidden": 8, "algo.hyper_embed": 8,
        "env_options.horizon": 12, "collect.length": 12, "collect.envs": 2,
        "collect.transitions_per_update": 12, "replay.capacity": 8, "replay.batch": 2,
        "run.total_steps": 96, "run.evals": 1, "run.eval_episodes": 2,
    })  # fmt: skip
    state, metrics = jax.jit(make_train(config))(jax.random.key(0), config.hypers)
    params = state.learner.params
    assert metrics["updates"][-1] >= 4 and metrics["deliveries"].shape == (1,)
    assert all(jnp.isfinite(x).all() for x in jax.tree.leaves(params))
    for name in {"agent", "central_agent"} & set(params):
        assert ("CNN_0" in params[name]["params"]) == (torso == "cnn")
