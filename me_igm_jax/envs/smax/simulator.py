"""The constants of a battle: the SMAX object of JaxMARL for a scenario, and what it cannot express."""

from functools import cache
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp

from ..common import quiet
from .starts import EqualTeams
from .units import JAXMARL_SCENARIOS, OWN_SCENARIOS, UNITS, Unit

Units = Any  # the State of JaxMARL's smax_env: arrays over U units, allies first


class Specials(NamedTuple):
    """What each of K unit types can do that SMAX does not know."""

    splash: jax.Array  # [K]
    splash_depth: jax.Array  # [K]
    dies_of_attack: jax.Array  # [K] bool
    heals: jax.Array  # [K] health per second
    can_hit: jax.Array  # [K, K] bool, attacker and target


class Simulator(Protocol):
    """The constants of a battle: the SMAX object of JaxMARL, with `specials` beside them.

    U = num_agents units, num_allies allies first; K unit types; A actions of an ally.
    """

    num_allies: int
    num_enemies: int
    num_agents: int
    num_movement_actions: int  # four moves and stop
    num_ally_actions: int
    num_enemy_actions: int
    map_width: float
    map_height: float
    time_per_step: float  # seconds of one world step
    world_steps_per_env_step: int
    see_enemy_actions: bool
    walls_cause_death: bool
    obs_size: int
    unit_type_names: list[str]
    unit_type_bits: int  # K
    unit_type_velocities: jax.Array  # [K], like all below; units as in `Unit`
    unit_type_attacks: jax.Array
    unit_type_attack_ranges: jax.Array
    unit_type_sight_ranges: jax.Array
    unit_type_radiuses: jax.Array
    unit_type_health: jax.Array
    unit_type_weapon_cooldowns: jax.Array
    specials: Specials | None  # None when the rules of JaxMARL say it all

    def reset(self, key: jax.Array) -> tuple[Any, Units]:
        """(nothing of use, the units at the start of a battle)."""
        ...

    def push_units_away(self, units: Units) -> Units:
        """The units after those that overlap pushed each other apart."""
        ...


def make_simulator(name: str, **options: Any) -> Simulator:
    """The SMAX object of JaxMARL for a scenario, with `specials`. `options` go to its constructor."""
    units = [UNITS[t] for t in OWN_SCENARIOS[name].types] if name in OWN_SCENARIOS else []
    special = any(u.splash or u.dies_of_attack or u.heals or u.flies for u in units)
    given = specials(units) if special else None
    return _jaxmarl().simulator(specials=given, **constructor_arguments(name), **options)


def constructor_arguments(name: str) -> dict[str, Any]:
    """What the SMAX object of JaxMARL is constructed with for a scenario."""
    if name in JAXMARL_SCENARIOS:
        return {"scenario": _jaxmarl().scenarios[name]}
    given = OWN_SCENARIOS[name]
    index = [given.types.index(u) for u in given.units] or [0] * (given.n_allies + given.n_enemies)
    listed = jnp.array(index, jnp.uint8)

    def column(field: str) -> jax.Array:
        return jnp.array([getattr(UNITS[t], field) for t in given.types], jnp.float32)

    return {
        "scenario": _jaxmarl().scenario(
            unit_types=listed,
            num_allies=given.n_allies,
            num_enemies=given.n_enemies,
            smacv2_position_generation=False,
            smacv2_unit_type_generation=False,
        ),
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
    """The special rules among these types. A healer hits nobody."""
    can_hit = [[not a.heals and (a.hits_air or not t.flies) for t in units] for a in units]
    return Specials(
        splash=jnp.array([u.splash for u in units]),
        splash_depth=jnp.array([u.splash_depth for u in units]),
        dies_of_attack=jnp.array([u.dies_of_attack for u in units]),
        heals=jnp.array([u.heals for u in units]),
        can_hit=jnp.array(can_hit),
    )


class _Jaxmarl(NamedTuple):
    simulator: Any  # the class below
    scenario: Any  # class
    scenarios: dict[str, Any]  # name -> scenario


@cache
def _jaxmarl() -> _Jaxmarl:
    """What this file needs of JaxMARL."""
    with quiet():
        from jaxmarl.environments.smax.smax_env import MAP_NAME_TO_SCENARIO, SMAX, Scenario

    class SmaxSimulator(SMAX):
        """SMAX with `specials`, and without the observations that its `reset` computes."""

        def __init__(self, specials: Specials | None = None, **arguments: Any):
            super().__init__(**arguments)
            self.specials = specials
            if self.num_allies == self.num_enemies:
                starts = EqualTeams(self.num_allies, self.map_width, self.map_height)
                self.position_generator = starts  # pyright: ignore[reportAttributeAccessIssue]

        def get_obs(self, state):
            return {}

        def get_world_state(self, state):
            return jnp.zeros(())

        def push_units_away(self, units):
            return self._push_units_away(units)

    return _Jaxmarl(simulator=SmaxSimulator, scenario=Scenario, scenarios=MAP_NAME_TO_SCENARIO)
