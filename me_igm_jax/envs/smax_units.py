"""Which units fight in each smax/* scenario, and what they can do.

JaxMARL's scenarios use its own six unit types. SMACv2's races and four more SMAC maps need three types
that SMAX lacks; their numbers (Legacy of the Void, "faster" game speed) are below. What such a type does
beyond moving and shooting is in `Specials`, which `smax_battle.fight` reads.
"""

import math
from functools import cache
from typing import NamedTuple

import jax
import jax.numpy as jnp

from .smax_starts import EqualTeams
from .upstream import quiet

JAXMARL_SCENARIOS = (
    "3m", "8m", "25m", "2s3z", "3s5z", "5m_vs_6m", "10m_vs_11m", "27m_vs_30m", "3s5z_vs_3s6z",
    "3s_vs_5z", "6h_vs_8z", "smacv2_5_units", "smacv2_10_units", "smacv2_20_units",
)  # fmt: skip


class Unit(NamedTuple):
    """One unit type. Distances in map units (the map is 32 x 32), times in seconds."""

    speed: float
    damage: float
    range: float
    sight: float
    radius: float
    health: float
    cooldown: float  # between two shots; of a healer, how long its first energy takes to come back
    splash: float = 0.0  # every opponent this near to the target is hit too ...
    splash_depth: float = math.inf  # ... and no further before or behind it, as the attacker sees it
    dies_of_attack: bool = False
    heals: float = 0.0  # health per second
    flies: bool = False
    hits_air: bool = True


# The first six are JaxMARL's, ranges and all; but a marauder or melee unit cannot reach the air.
UNITS = {
    "marine": Unit(3.15, 9, 5, 9, 0.375, 45, 0.61),
    "marauder": Unit(2.25, 10, 6, 10, 0.5625, 125, 1.07, hits_air=False),
    "stalker": Unit(4.13, 13, 6, 10, 0.625, 160, 1.87),
    "zealot": Unit(3.15, 8, 2, 9, 0.5, 150, 0.86, hits_air=False),
    "zergling": Unit(4.13, 5, 2, 8, 0.375, 35, 0.5, hits_air=False),
    "hydralisk": Unit(3.15, 12, 5, 9, 0.625, 80, 0.59),
    # 2 x 10 damage on a line 2.8 wide across the line of fire; 0.5, as units reach beyond their centres
    "colossus": Unit(3.15, 20, 7, 10, 1.0, 350, 1.07, splash=1.4, splash_depth=0.5, hits_air=False),
    # 16 + 19 against light units, as both other zerg are; SMACv2 lets melee units attack from 2 away
    "baneling": Unit(3.5, 35, 2, 8, 0.375, 30, 1.0, splash=2.2, dies_of_attack=True, hits_air=False),
    "medivac": Unit(3.5, 0, 4, 11, 0.75, 150, 50 / 0.7875, heals=12.6, flies=True, hits_air=False),
}

# Medivac: 50 energy at birth, 200 at most, +0.7875 per second, -1 for 3 health. Its cooldown counts the
# seconds until the energy is back at 50, so restoring one health costs 1 / (3 x 0.7875) seconds of it.
SECONDS_PER_HEALTH = 1 / (3 * 0.7875)
SPARE_ENERGY = (200 - 50) / 0.7875  # seconds


class Specials(NamedTuple):
    """Per unit type K, what SMAX has no words for."""

    splash: jax.Array  # [K]
    splash_depth: jax.Array  # [K]
    dies_of_attack: jax.Array  # [K] bool
    heals: jax.Array  # [K]
    can_hit: jax.Array  # [K, K] bool, attacker and target


class Scenario(NamedTuple):
    """A battle between listed units, or (races) teams drawn anew for each."""

    types: tuple[str, ...]  # the types that occur; their order is the one-hot code's
    n_allies: int
    n_enemies: int
    max_steps: int
    units: tuple[str, ...] = ()  # allies, then enemies; empty where they are drawn


_MARINES, _MARAUDERS = ("marine",) * 7, ("marauder",) * 2
_MMM = ("medivac", *_MARAUDERS, *_MARINES)
# SMAC's step limits.
MAPS = {
    "2c_vs_64zg": Scenario(
        ("colossus", "zergling"), 2, 64, 400, ("colossus",) * 2 + ("zergling",) * 64
    ),
    "3s_vs_3z": Scenario(("stalker", "zealot"), 3, 3, 150, ("stalker",) * 3 + ("zealot",) * 3),
    "MMM": Scenario(("medivac", "marauder", "marine"), 10, 10, 150, _MMM * 2),
    "MMM2": Scenario(
        ("medivac", "marauder", "marine"), 10, 12, 180, (*_MMM, *_MMM, "marauder", "marine")
    ),
}  # fmt: skip

# SMACv2: the first two types have weight .45 each, the last .10.
RACES = {
    "protoss": ("stalker", "zealot", "colossus"),
    "terran": ("marine", "marauder", "medivac"),
    "zerg": ("zergling", "hydralisk", "baneling"),
}
SMACV2 = {
    f"{race}_{n}_vs_{m}": Scenario(types, n, m, 200)
    for race, types in RACES.items()
    for n, m in ((5, 5), (10, 10), (10, 11), (20, 20), (20, 23))
}

OWN_SCENARIOS = MAPS | SMACV2


def scenario_names() -> list[str]:
    """All scenarios; JaxMARL's are spelled out because importing it costs seconds (a test compares)."""
    return [*JAXMARL_SCENARIOS, *OWN_SCENARIOS]


def simulator(name: str, **options):
    """JaxMARL's SMAX set up for a scenario, without the observations that its `reset` computes.

    Its attribute `specials` is a `Specials`, or None where JaxMARL's own rules say it all.
    """
    sim = _jaxmarl()[0](**constructor_arguments(name), **options)
    if sim.num_allies == sim.num_enemies:
        starts = EqualTeams(sim.num_allies, sim.map_width, sim.map_height)
        sim.position_generator = starts  # pyright: ignore[reportAttributeAccessIssue]
    if name in OWN_SCENARIOS:
        units = [UNITS[t] for t in OWN_SCENARIOS[name].types]
        if any(u.splash or u.dies_of_attack or u.heals or u.flies for u in units):
            sim.specials = specials(units)
    return sim


def constructor_arguments(name: str) -> dict:
    """What JaxMARL's SMAX is constructed with for a scenario."""
    _, scenario_class, scenarios = _jaxmarl()
    if name in JAXMARL_SCENARIOS:
        return {"scenario": scenarios[name]}
    given = OWN_SCENARIOS[name]
    index = [given.types.index(u) for u in given.units] or [0] * (given.n_allies + given.n_enemies)
    listed = jnp.array(index, jnp.uint8)

    def column(field: str) -> jax.Array:
        return jnp.array([getattr(UNITS[t], field) for t in given.types], jnp.float32)

    return {
        "scenario": scenario_class(listed, given.n_allies, given.n_enemies, False, False),
        "unit_type_names": list(given.types),
        "unit_type_shorthands": [t[:2] for t in given.types],
        "unit_type_velocities": column("speed"),
        "unit_type_attacks": column("damage"),
        "unit_type_attack_ranges": column("range"),
        "unit_type_sight_ranges": column("sight"),
        "unit_type_radiuses": column("radius"),
        "unit_type_health": column("health"),
        "unit_type_weapon_cooldowns": column("cooldown"),
    }


def specials(units: list[Unit]) -> Specials:
    """The special rules among these types; a healer hits nobody."""
    can_hit = [[not a.heals and (a.hits_air or not t.flies) for t in units] for a in units]
    return Specials(
        splash=jnp.array([u.splash for u in units]),
        splash_depth=jnp.array([u.splash_depth for u in units]),
        dies_of_attack=jnp.array([u.dies_of_attack for u in units]),
        heals=jnp.array([u.heals for u in units]),
        can_hit=jnp.array(can_hit),
    )


@cache
def _jaxmarl():
    with quiet():
        from jaxmarl.environments.smax.smax_env import MAP_NAME_TO_SCENARIO, SMAX, Scenario

    class Simulator(SMAX):
        specials: Specials | None = None

        def get_obs(self, state):
            return {}

        def get_world_state(self, state):
            return jnp.zeros(())

    return Simulator, Scenario, MAP_NAME_TO_SCENARIO
