"""Which units fight in each smax/* scenario, and what they can do: tables.

The scenarios of JaxMARL use its six unit types. The races of SMACv2 and four more SMAC maps need three
types that SMAX lacks; their numbers (Legacy of the Void, game speed "faster") stand below. What such a type
can do beyond moving and shooting reaches the battle as `simulator.Specials`.
"""

import math
from typing import NamedTuple

JAXMARL_SCENARIOS = (
    "3m", "8m", "25m", "2s3z", "3s5z", "5m_vs_6m", "10m_vs_11m", "27m_vs_30m", "3s5z_vs_3s6z",
    "3s_vs_5z", "6h_vs_8z", "smacv2_5_units", "smacv2_10_units", "smacv2_20_units",
)  # fmt: skip


class Unit(NamedTuple):
    """One unit type. Distances in map units (the map is 32 x 32), times in seconds.

    cooldown      between two shots; of a healer, how long the energy it is born with takes to come back
    splash        every opponent this near to the target is hit too,
    splash_depth  when it is no further before or behind the target, along the line of fire
    heals         health per second
    """

    speed: float
    damage: float
    range: float
    sight: float
    radius: float
    health: float
    cooldown: float
    splash: float = 0.0
    splash_depth: float = math.inf
    dies_of_attack: bool = False
    heals: float = 0.0
    flies: bool = False
    hits_air: bool = True


# The first six have the numbers of JaxMARL. New is that a marauder or a melee unit cannot hit the air.
UNITS = {
    "marine": Unit(speed=3.15, damage=9, range=5, sight=9, radius=0.375, health=45, cooldown=0.61),
    "marauder": Unit(
        speed=2.25, damage=10, range=6, sight=10, radius=0.5625, health=125, cooldown=1.07, hits_air=False
    ),
    "stalker": Unit(speed=4.13, damage=13, range=6, sight=10, radius=0.625, health=160, cooldown=1.87),
    "zealot": Unit(
        speed=3.15, damage=8, range=2, sight=9, radius=0.5, health=150, cooldown=0.86, hits_air=False
    ),
    "zergling": Unit(
        speed=4.13, damage=5, range=2, sight=8, radius=0.375, health=35, cooldown=0.5, hits_air=False
    ),
    "hydralisk": Unit(speed=3.15, damage=12, range=5, sight=9, radius=0.625, health=80, cooldown=0.59),
    # 2 x 10 damage on a line 2.8 wide across the line of fire. The line is 0.5 deep to each side, because a
    # unit reaches beyond its centre.
    "colossus": Unit(
        speed=3.15,
        damage=20,
        range=7,
        sight=10,
        radius=1.0,
        health=350,
        cooldown=1.07,
        splash=1.4,
        splash_depth=0.5,
        hits_air=False,
    ),
    # 16 + 19 damage against light units, which both other zerg types are. In SMACv2, melee units attack
    # from 2 away.
    "baneling": Unit(
        speed=3.5,
        damage=35,
        range=2,
        sight=8,
        radius=0.375,
        health=30,
        cooldown=1.0,
        splash=2.2,
        dies_of_attack=True,
        hits_air=False,
    ),
    "medivac": Unit(
        speed=3.5,
        damage=0,
        range=4,
        sight=11,
        radius=0.75,
        health=150,
        cooldown=50 / 0.7875,
        heals=12.6,
        flies=True,
        hits_air=False,
    ),
}

# Medivac: 50 energy at birth, 200 at most, +0.7875 per second, -1 for 3 health. Its cooldown counts the
# seconds until the energy is back at 50, so restoring one health costs 1 / (3 x 0.7875) seconds of it.
SECONDS_PER_HEALTH = 1 / (3 * 0.7875)
SPARE_ENERGY = (200 - 50) / 0.7875  # seconds


class Scenario(NamedTuple):
    """A battle between listed units, or between teams that are sampled anew for each battle."""

    types: tuple[str, ...]  # the types that occur; their order is the order of the one-hot code
    n_allies: int
    n_enemies: int
    max_steps: int
    units: tuple[str, ...] = ()  # allies, then enemies; empty when they are sampled


_MMM = ("medivac", *("marauder",) * 2, *("marine",) * 7)
_MMM_TYPES = ("medivac", "marauder", "marine")
# The step limits are those of SMAC.
MAPS = {
    "2c_vs_64zg": Scenario(
        types=("colossus", "zergling"),
        n_allies=2,
        n_enemies=64,
        max_steps=400,
        units=("colossus",) * 2 + ("zergling",) * 64,
    ),
    "3s_vs_3z": Scenario(
        types=("stalker", "zealot"),
        n_allies=3,
        n_enemies=3,
        max_steps=150,
        units=("stalker",) * 3 + ("zealot",) * 3,
    ),
    "MMM": Scenario(types=_MMM_TYPES, n_allies=10, n_enemies=10, max_steps=150, units=_MMM * 2),
    "MMM2": Scenario(
        types=_MMM_TYPES,
        n_allies=10,
        n_enemies=12,
        max_steps=180,
        units=(*_MMM, *_MMM, "marauder", "marine"),
    ),
}

# SMACv2: the first two types have the weight .45 each, the last has .10 (smacv2.py).
RACES = {
    "protoss": ("stalker", "zealot", "colossus"),
    "terran": ("marine", "marauder", "medivac"),
    "zerg": ("zergling", "hydralisk", "baneling"),
}
SMACV2 = {
    f"{race}_{n}_vs_{m}": Scenario(types=types, n_allies=n, n_enemies=m, max_steps=200)
    for race, types in RACES.items()
    for n, m in ((5, 5), (10, 10), (10, 11), (20, 20), (20, 23))
}

OWN_SCENARIOS = MAPS | SMACV2


def scenario_names() -> list[str]:
    """All scenarios. Those of JaxMARL are written out: importing it takes seconds. A test compares them."""
    return [*JAXMARL_SCENARIOS, *OWN_SCENARIOS]
