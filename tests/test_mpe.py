"""Spread against JaxMARL's world, and the rules in which the papers' code differs from it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxmarl.environments.mpe.simple_spread import SimpleSpreadMPE

from me_igm_jax.envs import mpe


def make(name="spread"):
    return mpe.make(name)


def test_trajectories_equal_jaxmarls_with_its_order_of_updates():
    game = SimpleSpreadMPE()

    def compare(key):
        reset_key, key = jax.random.split(key)
        _, theirs = game.reset(reset_key)
        # Agents crowded together, so that contacts happen.
        theirs = theirs.replace(p_pos=theirs.p_pos * 0.4)
        ours = mpe.World(theirs.p_pos[:3], theirs.p_vel[:3], theirs.p_pos[3:], theirs.step)

        def step(carry, key):
            theirs, ours = carry
            action = jax.random.randint(key, (3,), 0, 5)
            named = {a: action[i] for i, a in enumerate(game.agents)}
            obs, theirs, reward, _, _ = game.step_env(key, theirs, named)
            ours = mpe.move(ours, action, position_first=True)
            collisions = 2 * mpe.touching_pairs(ours)
            total = sum(reward[a] for a in game.agents)
            return (theirs, ours), {
                "position": jnp.abs(theirs.p_pos[:3] - ours.position).max(),
                "velocity": jnp.abs(theirs.p_vel[:3] - ours.velocity).max(),
                "obs": jnp.abs(jnp.stack([obs[a] for a in game.agents]) - mpe.team_obs(ours)).max(),
                "reward": jnp.abs(total - (1.5 * mpe.coverage(ours) - 0.5 * collisions)),
                "contacts": collisions,
            }

        return jax.lax.scan(step, (theirs, ours), jax.random.split(key, 25))[1]

    found = jax.jit(jax.vmap(compare))(jax.random.split(jax.random.key(0), 20))
    assert found.pop("contacts").sum() > 50
    for what, difference in found.items():
        assert np.asarray(difference).max() < 1e-4, what


def test_velocity_is_updated_before_the_position():
    world = mpe.World(
        jnp.array([[0.0, 0.0], [5, 5], [9, 9]]), jnp.zeros((3, 2)), jnp.ones((3, 2)), jnp.int32(0)
    )
    after = mpe.move(world, jnp.array([2, 0, 0]))  # right: F = 5, v = 0.5, x = 0.05
    np.testing.assert_allclose(after.velocity[0], [0.5, 0.0], atol=1e-6)
    np.testing.assert_allclose(after.position[0], [0.05, 0.0], atol=1e-6)


def test_reward_by_hand():
    """Every agent on its landmark: only the constant; two that run into each other: 2 more."""
    env = make()
    spots = jnp.array([[0.0, 0.0], [2.0, 0.0], [0.0, 2.0]])
    world = mpe.World(spots, jnp.zeros((3, 2)), spots, jnp.int32(0))
    _, outcome = env.step(jax.random.key(0), world, jnp.zeros(3, int))
    assert outcome.reward == pytest.approx(-3.0, abs=1e-4)
    near = world._replace(position=spots.at[1].set(jnp.array([0.35, 0.0])))
    after, outcome = env.step(jax.random.key(0), near, jnp.array([2, 1, 0]))
    bare = jnp.linalg.norm(after.landmark[:, None] - after.position[None], axis=-1).min(1).sum()
    assert outcome.reward == pytest.approx(float(-3.0 - 2.0 - 3 * bare), rel=1e-5)


@pytest.mark.parametrize("name, scale", mpe.SCALES.items())
def test_start_positions_fill_the_scaled_square(name, scale):
    worlds = jax.vmap(make(name).reset)(jax.random.split(jax.random.key(0), 2000))
    for array, bound in ((worlds.position, scale), (worlds.landmark, 0.8 * scale)):
        assert bound * 0.99 < jnp.abs(array).max() <= bound
        assert jnp.abs(array.mean((0, 1))).max() < 0.05 * bound


def test_episode_is_exactly_25_steps_and_terminal():
    env = make()

    def step(world, key):
        return env.step(key, world, jnp.zeros(3, int))

    world = env.reset(jax.random.key(0))
    assert env.observe(world).state.shape == (54,) and env.observe(world).obs.shape == (3, 18)
    _, outcome = jax.lax.scan(step, world, jax.random.split(jax.random.key(1), 25))
    assert outcome.terminal.tolist() == [False] * 24 + [True] and not outcome.truncated.any()
