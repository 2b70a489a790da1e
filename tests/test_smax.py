"""SMAX against JaxMARL's own: same states, same observations, on the same random numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxmarl.environments.smax import HeuristicEnemySMAX
from jaxmarl.environments.smax.distributions import SurroundAndReflectPositionDistribution
from jaxmarl.environments.smax.smax_env import MAP_NAME_TO_SCENARIO

from me_igm_jax.envs import smax
from me_igm_jax.envs.smax import SmaxOptions, battle, heuristic, units, views
from me_igm_jax.envs.smax.simulator import constructor_arguments, make_simulator
from me_igm_jax.envs.smax.starts import EqualTeams


def pair(name):
    """JaxMARL's game and our simulator, our additions switched off."""
    sim = make_simulator(name)
    sim.specials = None
    return HeuristicEnemySMAX(**constructor_arguments(name)), sim


def jaxmarl_numbers(sim, key):
    """The random numbers that HeuristicEnemySMAX.step_env draws from `key`."""
    key, action_key = jax.random.split(key)

    def chase(k):  # heuristic policy: split for the attack, then choice(p=...) with the rest
        return jax.random.uniform(jax.random.split(k)[0])

    u = jax.vmap(chase)(jax.random.split(action_key, sim.num_enemies))
    jitter, dt = [], sim.time_per_step
    for _ in range(sim.world_steps_per_env_step):
        key, world_key = jax.random.split(key)
        unit_keys = jax.random.split(world_key, sim.num_agents)
        jitter.append(jax.vmap(lambda k: jax.random.uniform(k, minval=-dt, maxval=2 * dt))(unit_keys))
    return u, jnp.stack(jitter)


@pytest.mark.parametrize("name", ["3m", "smacv2_5_units", "3s_vs_5z", "MMM2"])
def test_battle_equals_jaxmarl(name):
    game, sim = pair(name)
    n = sim.num_allies

    @jax.jit
    def compare(key):
        reset_key, key = jax.random.split(key)
        _, theirs = game.reset(reset_key)
        state, memory = theirs.state, heuristic.first_memory(sim, heuristic.teams(sim, theirs.state)[1])

        def step(carry, key):
            theirs, state, memory = carry
            act_key, key = jax.random.split(key)
            avail = views.team_avail(sim, state)
            action = jax.random.categorical(act_key, jnp.where(avail, 0.0, -1e9))
            named = {a: action[i] for i, a in enumerate(game.agents)}
            obs, theirs, reward, _, _ = game.step_env(key, theirs, named)
            u, jitter = jaxmarl_numbers(sim, key)
            enemy_action, memory = heuristic.enemy_policy(sim, state, memory, u)
            after = battle.fight(sim, state, jnp.concatenate([action, enemy_action]), jitter)
            gain = battle.damage_share(sim, state, after)
            won = after.unit_alive[:n].any() & ~after.unit_alive[n:].any()
            over = ~after.unit_alive[:n].any() | ~after.unit_alive[n:].any()
            their_avail = jnp.stack([game.get_avail_actions(theirs)[a] for a in game.agents])
            prev, moves = theirs.state, after.prev_movement_actions
            alive = state.unit_alive  # what the dead intend differs, and nobody can see it
            # Who stands exactly at the limit of a range may be either side of it, by rounding.
            offset = after.unit_positions[n:] - after.unit_positions[:n, None]
            reach = sim.unit_type_attack_ranges[after.unit_types[:n]][:, None]
            border = jnp.abs(battle.norm(offset) - reach) < 1e-4
            at_the_limit = jnp.pad(border, ((0, 0), (sim.num_movement_actions, 0)))
            differences = {
                "position": jnp.abs(theirs.state.unit_positions - after.unit_positions).max(),
                "health": jnp.abs(theirs.state.unit_health - after.unit_health).max(),
                "cooldown": jnp.abs(theirs.state.unit_weapon_cooldowns - after.unit_weapon_cooldowns).max(),
                "move": (alive[:, None] * jnp.abs(prev.prev_movement_actions - moves)).max(),
                "target": (alive * jnp.abs(prev.prev_attack_actions - after.prev_attack_actions)).max(),
                "reward": jnp.abs(reward[game.agents[0]] - gain - won),
                "obs": jnp.abs(jnp.stack([obs[a] for a in game.agents]) - views.team_obs(sim, after)).max(),
                "avail": ((their_avail != views.team_avail(sim, after)) & ~at_the_limit)
                .astype(float)
                .max(),
            }
            # Each step starts from JaxMARL's state: crowds amplify rounding until decisions differ.
            return (theirs, theirs.state, memory), (differences, over)

        return jax.lax.scan(step, (theirs, state, memory), jax.random.split(key, 60))[1]

    differences, over = jax.vmap(compare)(jax.random.split(jax.random.key(0), 20))
    running = np.cumsum(np.asarray(over), axis=1) == 0
    assert running.sum() > 300
    for what, value in differences.items():
        assert np.asarray(value)[running].max() < 1e-4, what


def test_starts_are_jaxmarls():
    """Surrounded allies, surrounded enemies and mirrored teams."""
    n, width, height = 3, 32.0, 24.0
    keys = jax.random.split(jax.random.key(5), 64)
    theirs, ours = (
        jax.jit(jax.vmap(starts(n, *size).generate))(keys)
        for starts, size in (
            (SurroundAndReflectPositionDistribution, (n, width, height)),
            (EqualTeams, (width, height)),
        )
    )
    np.testing.assert_allclose(ours, theirs, rtol=1e-6)
    near = (np.abs(ours - np.array([width / 2, height / 2])) <= 2).all(-1)
    allies_inside, enemies_inside = near[:, :n].all(1), near[:, n:].all(1)
    mirrored = np.isclose(ours[:, :n, 0] + ours[:, n:, 0], width, atol=1e-4).all(1)
    assert min(kind.sum() for kind in (allies_inside, enemies_inside, mirrored)) >= 8
    assert (allies_inside | enemies_inside | mirrored).all()


def test_scenario_names_are_jaxmarls():
    assert set(units.JAXMARL_SCENARIOS) == set(MAP_NAME_TO_SCENARIO)
    assert set(units.JAXMARL_SCENARIOS) < set(smax.names())


def test_unit_numbers_are_jaxmarls():
    """All but the three types that JaxMARL lacks."""
    theirs = HeuristicEnemySMAX()
    columns = {
        "speed": "velocities", "damage": "attacks", "range": "attack_ranges", "sight": "sight_ranges",
        "radius": "radiuses", "health": "health", "cooldown": "weapon_cooldowns",
    }  # fmt: skip
    assert set(units.UNITS) - set(theirs.unit_type_names) == {"colossus", "baneling", "medivac"}
    for ours, name in columns.items():
        values = [getattr(units.UNITS[unit], ours) for unit in theirs.unit_type_names]
        np.testing.assert_allclose(values, getattr(theirs, f"unit_type_{name}"), rtol=1e-6)


def test_time_limit_is_exact_and_terminal():
    env = smax.make("3m", SmaxOptions(max_steps=7, walls_cause_death=False))

    def step(state, key):
        state, outcome = env.step(key, state, jnp.full((3,), 4))  # nobody moves
        return state, outcome

    state = env.reset(jax.random.key(0))
    _, outcome = jax.lax.scan(step, state, jax.random.split(jax.random.key(1), 7))
    assert outcome.terminal.tolist() == [False] * 6 + [True]
    assert not outcome.truncated.any()


def test_state_is_normalised_and_dead_units_vanish():
    env = smax.make("smacv2_5_units", SmaxOptions())
    state = env.reset(jax.random.key(3))
    step = env.observe(state)
    assert step.state.shape == (env.spec.state_dim,) and step.obs.shape[1:] == env.spec.obs_shape
    assert jnp.abs(step.state).max() <= 1.0
    dead = state.units.replace(unit_alive=state.units.unit_alive.at[0].set(False))
    seen = env.observe(state._replace(units=dead))
    assert not seen.alive[0] and jnp.all(seen.obs[0] == 0)
    assert seen.avail[0].tolist() == [False] * 4 + [True] + [False] * 5
    assert jnp.all(seen.state[: 5 + 6] == 0)
