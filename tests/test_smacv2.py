"""SMACv2's rules on SMAX: who fights, from where, and what colossus, baneling and medivac do."""

import itertools
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from me_igm_jax.envs import smax
from me_igm_jax.envs.smax import SmaxOptions, battle, heuristic, smacv2, views
from me_igm_jax.envs.smax import units as tables
from me_igm_jax.envs.smax.simulator import make_simulator

WEIGHTS = np.array(smacv2.WEIGHTS)
STOP, NORTH, FIRE = 4, 0, 5


@cache
def simulator(name):
    return make_simulator(name, see_enemy_actions=False, walls_cause_death=False)


def make(name, **options):
    return smax.make(name, SmaxOptions(**options))


def starts(name, count):
    """Start states of `count` battles."""
    env = make(name)
    return jax.jit(jax.vmap(env.reset))(jax.random.split(jax.random.key(0), count)).units


def place(sim, units):
    """A state with these units {index: (type name, (x, y))}; all others dead in a corner."""
    _, s = sim.reset(jax.random.key(0))
    types = jnp.zeros_like(s.unit_types)
    positions, alive = jnp.zeros_like(s.unit_positions), jnp.zeros_like(s.unit_alive)
    for i, (name, where) in units.items():
        types = types.at[i].set(sim.unit_type_names.index(name))
        positions, alive = positions.at[i].set(jnp.array(where)), alive.at[i].set(True)
    health = jnp.where(alive, sim.unit_type_health[types], 0.0)
    return s.replace(
        unit_types=types, unit_positions=positions, unit_alive=alive, unit_health=health,
        unit_weapon_cooldowns=jnp.zeros(len(alive)),
    )  # fmt: skip


def fight(sim, s, orders, steps=1):
    """Hold `orders` {unit: action} for some steps, everybody else stands."""
    action = jnp.full(sim.num_agents, STOP)
    for i, order in orders.items():
        action = action.at[i].set(order)
    return holder(sim, steps)(s, action)


@cache
def holder(sim, steps):
    @jax.jit
    def hold(s, action):
        jitter = jnp.zeros((sim.world_steps_per_env_step, sim.num_agents))
        return jax.lax.scan(lambda s, _: (battle.fight(sim, s, action, jitter), None), s, length=steps)[0]

    return hold


# -- teams ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("race", tables.RACES)
def test_teams_follow_the_weights(race):
    types = np.asarray(starts(f"{race}_5_vs_5", 4000).unit_types)
    counts = np.bincount(types[:, :5].reshape(-1), minlength=3)
    assert scipy.stats.chisquare(counts, WEIGHTS * counts.sum()).pvalue > 0.01
    # The enemy team is a copy.
    np.testing.assert_array_equal(np.sort(types[:, :5]), np.sort(types[:, 5:]))


@pytest.mark.parametrize("race", tables.RACES)
def test_a_single_surplus_enemy_is_never_the_exception(race):
    """JaxMARL's surplus enemies are always of type 0; SMACv2's follow the race's rule."""
    units = starts(f"{race}_10_vs_11", 4000)
    counts = np.bincount(np.asarray(units.unit_types[:, 20]), minlength=3)
    if race == "protoss":
        expected = WEIGHTS
    else:
        assert counts[2] == 0
        expected, counts = np.array([0.5, 0.5]), counts[:2]
    assert scipy.stats.chisquare(counts, expected * counts.sum()).pvalue > 0.01


def test_three_surplus_enemies_may_hold_the_exception_but_not_three_of_it():
    """Draws of three, again while all three are medivacs: by enumeration of the 27 teams."""
    units = starts("terran_20_vs_23", 4000)
    teams = np.asarray(units.unit_types[:, 40:], int)
    index = teams @ np.array([9, 3, 1])
    weight = np.array([np.prod(WEIGHTS[list(t)]) for t in itertools.product(range(3), repeat=3)])
    weight[-1] = 0.0
    counts = np.bincount(index, minlength=27)
    assert counts[-1] == 0
    expected = weight / weight.sum() * counts.sum()
    assert scipy.stats.chisquare(counts[:-1], expected[:-1]).pvalue > 0.01


def test_allies_are_sorted_by_type_and_place():
    sample = jax.jit(jax.vmap(lambda k: smacv2.sample_battle(k, tables.RACES["zerg"], 10, 10)))
    types, positions = map(np.asarray, sample(jax.random.split(jax.random.key(0), 200)))
    kinds = np.array([2, 1, 0])[types[:, :10]]  # zergling, hydralisk, baneling by their names
    assert (np.diff(kinds, axis=1) >= 0).all()
    ascends = np.diff(positions[:, :10, 0], axis=1) >= 0
    assert ascends[np.diff(kinds, axis=1) == 0].all()


# -- start positions ------------------------------------------------------------------------------


def test_reflected_starts():
    sample = jax.jit(jax.vmap(lambda k: smacv2.reflect(k, 5, 7)))
    place = np.asarray(sample(jax.random.split(jax.random.key(0), 4000)))
    x, y = place[:, :5, 0], place[:, :5, 1]
    assert scipy.stats.kstest(x[:, 0] / 15, "uniform").pvalue > 0.01
    assert scipy.stats.kstest(y[:, 0] / 32, "uniform").pvalue > 0.01
    np.testing.assert_allclose(place[:, 5:10, 0], 32 - x, atol=1e-5)
    np.testing.assert_allclose(place[:, 5:10, 1], y, atol=1e-5)
    assert scipy.stats.kstest((place[:, 10, 0] - 16) / 16, "uniform").pvalue > 0.01


def test_surrounded_starts():
    """Allies within the jitter of the centre; 1 to 4 groups of enemies on diagonals of their own."""
    m = 40  # so many that all groups have members
    sample = jax.jit(jax.vmap(lambda k: smacv2.surround(k, 5, m)))
    place = np.asarray(sample(jax.random.split(jax.random.key(0), 4000)))
    assert np.abs(place[:, :5] - 16).max() <= smacv2.JITTER + 1e-5
    enemies = place[:, 5:]
    # Up to the jitter every enemy stands on a diagonal: |x - 16| = |y - 16|, 2 to 16 from the centre.
    offset = enemies - 16
    assert np.abs(np.abs(offset[..., 0]) - np.abs(offset[..., 1])).max() <= 2 * smacv2.JITTER + 1e-5
    corner = (offset[..., 0] > 0) * 2 + (offset[..., 1] > 0)
    used = np.array([len(np.unique(c)) for c in corner])
    counts = np.bincount(used, minlength=5)[1:]
    assert scipy.stats.chisquare(counts, np.full(4, 1000)).pvalue > 0.01
    # Share of the way from the corner to the centre, uniform per group; take one enemy per battle.
    t = (16 - np.abs(offset[:, 0]).mean(-1)) / 14
    assert scipy.stats.kstest(np.clip(t, 0, 1), "uniform").pvalue > 0.001


def test_half_of_the_battles_are_surrounded():
    sample = jax.jit(jax.vmap(lambda k: smacv2.sample_positions(k, 5, 5)))
    place = sample(jax.random.split(jax.random.key(1), 2000))
    surrounded = (jnp.abs(place[:, :5] - 16).max((1, 2)) <= smacv2.JITTER + 1e-5).mean()
    assert abs(surrounded - 0.5) < 0.03


@pytest.mark.parametrize("name", ["protoss_5_vs_5", "zerg_20_vs_23", "terran_10_vs_11"])
def test_no_unit_dies_from_where_it_was_born(name):
    """JaxMARL's starts reach over its lethal wall."""
    sim, units = simulator(name), starts(name, 300)
    after = jax.jit(jax.vmap(lambda s: fight(sim, s, {})))(units)
    assert after.unit_alive.all()
    distance = jnp.linalg.norm(units.unit_positions[:, :, None] - units.unit_positions[:, None], axis=-1)
    assert (distance + 100 * jnp.eye(sim.num_agents)).min() > 0  # nobody exactly on top of another


@pytest.mark.parametrize("name", ["protoss_10_vs_11", "MMM"])
def test_the_state_is_of_order_one(name):
    """JaxMARL's holds raw positions, cooldowns and type numbers."""
    env = make(name)
    look = jax.jit(jax.vmap(lambda key: env.observe(env.reset(key)).state))
    state = look(jax.random.split(jax.random.key(0), 50))
    assert jnp.abs(state).max() <= 1.0


def test_defaults_are_smacv2s():
    env = make("protoss_20_vs_23")
    assert env.spec.horizon == 200 and env.spec.n_agents == 20 and env.spec.n_actions == 28
    assert make("3m").spec.horizon == 100
    assert make("MMM2").spec.horizon == 180


# -- units ----------------------------------------------------------------------------------------


def test_colossus_hits_a_line_across_its_fire():
    sim = simulator("protoss_5_vs_5")
    s = place(sim, {
        0: ("colossus", (10, 10)), 1: ("zealot", (15.6, 10)), 5: ("zealot", (16, 10)),
        6: ("zealot", (16.2, 11.2)), 7: ("zealot", (16, 12)), 8: ("zealot", (17.2, 10)),
    })  # fmt: skip
    after = fight(sim, s, {0: FIRE})
    lost = s.unit_health - after.unit_health
    assert lost[5] == 20 and lost[6] == 20  # the target, and 1.2 to its side
    assert lost[7] == 0 and lost[8] == 0 and lost[1] == 0  # 2 to its side; 1.2 behind it; a team-mate


def test_baneling_dies_of_its_attack_and_takes_its_surroundings_along():
    sim = simulator("zerg_5_vs_5")
    s = place(sim, {
        0: ("baneling", (10, 10)), 1: ("zergling", (10, 11)), 5: ("zergling", (11.5, 10)),
        6: ("hydralisk", (13.5, 10)), 7: ("zergling", (14, 10)),
    })  # fmt: skip
    after = fight(sim, s, {0: FIRE})
    assert not after.unit_alive[0] and not after.unit_alive[5]
    assert after.unit_health[6] == 80 - 35
    assert after.unit_alive[1] and after.unit_health[7] == 35
    again = fight(sim, after, {0: FIRE + 1})
    assert again.unit_health[6] == after.unit_health[6]  # the dead do nothing


def test_medivac_heals_until_its_energy_is_spent():
    sim = simulator("terran_5_vs_5")
    s = place(sim, {0: ("medivac", (10, 10)), 1: ("marauder", (12, 10)), 5: ("marine", (30, 30))})
    s = s.replace(unit_health=s.unit_health.at[1].set(20.0))
    after = fight(sim, s, {0: FIRE + 1})
    assert after.unit_health[1] == pytest.approx(20 + 12.6 * 0.5, abs=1e-3)
    assert fight(sim, s, {0: FIRE + 1}, steps=17).unit_health[1] == pytest.approx(125, abs=1e-3)
    # 50 energy restore 150 health, and a little more comes back meanwhile.
    deep = s.replace(unit_health=s.unit_health.at[1].set(1.0))
    sim = simulator.__wrapped__("terran_5_vs_5")
    sim.unit_type_health = sim.unit_type_health.at[1].set(1000.0)
    healed = fight(sim, deep, {0: FIRE + 1}, steps=100).unit_health[1]
    seconds = 50.0
    assert healed - 1 == pytest.approx(150 + 3 * 0.7875 * seconds, rel=0.02)


def test_medivac_heals_neither_itself_nor_medivacs_nor_the_dead_nor_beyond_full_health():
    sim = simulator("terran_5_vs_5")
    s = place(sim, {0: ("medivac", (10, 10)), 1: ("medivac", (11, 10)), 2: ("marine", (10, 11))})
    avail = views.team_avail(sim, s)
    assert avail[0, FIRE:].tolist() == [False, False, True, False, False]
    assert fight(sim, s, {0: FIRE + 2}).unit_health[2] == 45
    far = place(sim, {0: ("medivac", (10, 10)), 2: ("marine", (20, 11))})
    assert not views.team_avail(sim, far)[0, FIRE:].any()


def test_who_can_shoot_at_the_air():
    sim = simulator("terran_5_vs_5")
    s = place(sim, {
        0: ("marine", (10, 10)), 1: ("marauder", (10, 11)), 5: ("medivac", (12, 10)),
        6: ("marine", (12, 11)),
    })  # fmt: skip
    avail = views.team_avail(sim, s)[:, FIRE:]
    assert avail[0, :2].tolist() == [True, True] and avail[1, :2].tolist() == [False, True]
    assert fight(sim, s, {1: FIRE}).unit_health[5] == 150


def test_enemy_healer_goes_to_the_closest_wounded_and_heals_it():
    sim = simulator("terran_5_vs_5")
    s = place(sim, {
        0: ("marine", (1, 1)), 5: ("medivac", (20, 10)), 6: ("marine", (20, 18)), 7: ("marine", (20, 5)),
    })  # fmt: skip
    memory = heuristic.first_memory(sim, heuristic.teams(sim, s)[1])

    def order(s):
        return int(heuristic.enemy_policy(sim, s, memory, jnp.zeros(5))[0][0])

    assert order(s) == 2  # south, towards the closest team-mate
    wounded = s.replace(unit_health=s.unit_health.at[6].set(10.0))
    assert order(wounded) == NORTH
    near = wounded.replace(unit_positions=wounded.unit_positions.at[5].set(jnp.array([20.0, 15.0])))
    assert order(near) == FIRE + 1
    assert fight(sim, near, {5: order(near)}).unit_health[6] == pytest.approx(16.3, abs=1e-3)


# -- rewards --------------------------------------------------------------------------------------


@pytest.mark.parametrize("reward", ["smax", "smacv2"])
def test_a_perfect_battle_returns_twenty(reward):
    """All enemies killed one after the other by allies that nobody shoots at."""
    env = make("protoss_5_vs_5", reward=reward)
    sim = simulator("protoss_5_vs_5")
    state = jax.jit(env.reset)(jax.random.key(0))
    before, total = state.units, 0.0
    for unit in range(5, 10):
        after = before.replace(
            unit_alive=before.unit_alive.at[unit].set(False),
            unit_health=before.unit_health.at[unit].set(0.0),
        )
        won = jnp.asarray(unit == 9)
        if reward == "smacv2":
            total += battle.smacv2_reward(sim, before, after, won)
        else:
            total += 10 * (battle.damage_share(sim, before, after) + won)
        before = after
    assert total == pytest.approx(env.spec.max_return, rel=1e-5) and env.spec.max_return == 20
    healed = before.replace(unit_health=before.unit_health.at[5].add(10.0))
    assert battle.damage_share(sim, before, healed) == 0  # an enemy's healing costs nothing
    assert battle.smacv2_reward(sim, before, healed, jnp.asarray(False)) == 0
