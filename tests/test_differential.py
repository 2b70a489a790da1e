"""Max of Two Quadratics: its surface, its one step, its actions through replay, who can play it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from me_igm_jax import ConfigError, load, make_env, run
from me_igm_jax.algos import make_algorithm
from me_igm_jax.envs import differential
from me_igm_jax.envs.differential import DifferentialOptions
from me_igm_jax.training import rollout
from me_igm_jax.training.replay import make_replay

PLAYERS = {"me_qmix", "fop", "maac", "maddpg", "dop"}


def mtq(**options):
    return differential.make("mtq", DifferentialOptions(**options))


@pytest.mark.parametrize("u, value", [
    ((5, 5), 10.0), ((-5, -5), 0.0),  # FOP, section 5.1: the optimum and the local one
    ((0, 0), -40 / 9), ((5, 4), 9.0), ((4, 6), 8.0), ((-2, -5), -0.8), ((10, 10), -40.0),
    ((-10, -10), -40 / 9),
])  # fmt: skip
def test_values(u, value):
    assert differential.surface(jnp.array(u, float)) == pytest.approx(value, rel=1e-6)


def test_the_surface_has_two_maxima():
    """On a grid, the points that no neighbour exceeds."""
    axis = jnp.linspace(-10, 10, 81)
    value = np.asarray(differential.surface(jnp.stack(jnp.meshgrid(axis, axis, indexing="ij"), -1)))
    padded = np.pad(value, 1, constant_values=-np.inf)
    near = [padded[1 + i : 82 + i, 1 + j : 82 + j] for i in (-1, 0, 1) for j in (-1, 0, 1)]
    tops = {(float(axis[i]), float(axis[j])): value[i, j] for i, j in np.argwhere(value >= np.max(near, 0))}
    assert tops == pytest.approx({(5.0, 5.0): 10.0, (-5.0, -5.0): 0.0})
    wide = (value.reshape(-1) == value.max()).sum()
    assert wide == 1


@pytest.mark.parametrize("scale", [0.1, 1.0])
def test_one_terminal_step(scale):
    env = mtq(reward_scale=scale)
    spec = env.spec
    assert spec.one_shot and spec.continuous and spec.n_actions == 0
    assert spec.stats == ("optimal", "u1", "u2")
    assert (spec.action_dim, spec.action_bounds, spec.max_return) == (1, (-10.0, 10.0), 10 * scale)
    state = env.reset(jax.random.key(0))
    for action, value in (([[5.0], [5.0]], 10.0), ([[0.0], [0.0]], -40 / 9), ([[99.0], [10.0]], -40.0)):
        after, outcome = env.step(jax.random.key(1), state, jnp.array(action))
        assert outcome.reward == pytest.approx(scale * value, rel=1e-5)
        assert outcome.terminal and not outcome.truncated
        assert bool(outcome.stats["optimal"]) == (value == 10)
        for seen in (env.observe(state), env.observe(after)):
            assert seen.obs.tolist() == [[1.0], [1.0]] and seen.state.tolist() == [1.0]
            assert seen.avail.tolist() == [[True], [True]] and seen.alive.tolist() == [True, True]


def test_replay_keeps_continuous_actions():
    def act(carry, step, key):
        return carry, jax.random.uniform(key, (*step.alive.shape, 1), minval=-10.0, maxval=10.0)

    env = mtq()
    batch, _ = rollout.collect_episodes(env, (), act, jax.random.key(0), 6)
    assert batch.action.shape == (1, 6, 2, 1)
    replay = make_replay(batch, 6, env.spec)
    ring = replay.add(replay.init(), batch, 0)
    np.testing.assert_array_equal(replay.latest(ring, 0).action, batch.action)
    np.testing.assert_allclose(
        batch.reward[0], 0.1 * differential.surface(batch.action[0, ..., 0]), rtol=1e-5
    )


def algorithm(preset, env):
    config = load(preset, env=env)
    return make_algorithm(config, make_env(config).spec)


@pytest.mark.parametrize("preset", ["hasac", "mappo", "ippo"])
def test_learners_of_discrete_actions_refuse(preset):
    with pytest.raises(ConfigError, match=r"actions.*continuous"):
        algorithm(preset, "differential/mtq")


@pytest.mark.parametrize("preset", ["maddpg", "facmaddpg", "maac"])
def test_learners_of_continuous_actions_refuse(preset):
    with pytest.raises(ConfigError, match=r"actions.*discrete"):
        algorithm(preset, "matrix/qtran")


@pytest.mark.parametrize("preset", sorted(PLAYERS))
def test_players_play(preset, tmp_path):
    """The whole program, seeds in batches and on two devices, from the command's own entry point."""
    options = {"total_steps": 80, "evals": 1, "seeds": 4, "seeds_per_batch": 2, "progress": False}
    small = {"replay.capacity": 80, "replay.batch": 8, "net.hidden": 8, "run.dir": str(tmp_path / "run")}
    result = run(
        load(preset, env="differential/mtq", **small, **{f"run.{k}": v for k, v in options.items()})
    )
    point = result.summary["points"][0]
    u = np.asarray([point["u1"]["per_seed"], point["u2"]["per_seed"]])
    assert u.shape == (2, 4) and (np.abs(u) <= 10).all() and 0 <= point["optimal"]["mean"] <= 1
