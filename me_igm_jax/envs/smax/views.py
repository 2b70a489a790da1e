"""What a smax/* team sees of a battle: observations, available actions, the central state, the snapshot.

Shapes: N allies and M enemies are U = N + M units, allies first.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from ..common import others
from . import battle
from .simulator import Simulator, Units

NEVER = 255  # the action of a unit that has not acted yet


class Snapshot(NamedTuple):
    """19 bytes per unit, from which everything that is seen is computed again."""

    position: jax.Array  # [U, 2] float
    health: jax.Array  # [U] float
    cooldown: jax.Array  # [U] float
    type: jax.Array  # [U] uint8
    alive: jax.Array  # [U] bool
    action: jax.Array  # [U] uint8, NEVER before the first step


class Visible(NamedTuple):
    """The part of JaxMARL's State, under JaxMARL's names, that observations are made of."""

    unit_positions: jax.Array
    unit_alive: jax.Array
    unit_health: jax.Array
    unit_weapon_cooldowns: jax.Array
    unit_types: jax.Array
    prev_movement_actions: jax.Array
    prev_attack_actions: jax.Array


def recall(sim: Simulator, snapshot: Snapshot) -> Visible:
    """What the units show, the marks of their last actions included."""
    action = snapshot.action.astype(jnp.int32)
    action = jnp.where(action == NEVER, sim.num_movement_actions - 1, action)  # as if they had stopped
    return Visible(
        unit_positions=snapshot.position,
        unit_alive=snapshot.alive,
        unit_health=snapshot.health,
        unit_weapon_cooldowns=snapshot.cooldown,
        unit_types=snapshot.type,
        prev_movement_actions=battle.decode(sim, action)[0],
        prev_attack_actions=jnp.where(action >= sim.num_movement_actions, action, 0),
    )


def team_obs(sim: Simulator, s: Visible | Units) -> jax.Array:
    """The observations of the allies, [N, D], equal to JaxMARL's `get_obs_unit_list`.

    First, for each other unit (allies first): health, offset / sight, last move, last target, cooldown,
    type; zero when it is not seen or dead. Then, for the observing unit: health, position / map, cooldown,
    type; zero when it is dead. Health and cooldown are shares of their full values.
    """
    n, units = sim.num_allies, sim.num_agents
    offset, distance, both = _relative(sim, s)
    sight = sim.unit_type_sight_ranges[s.unit_types[:n]][:, None]
    health, cooldown, types = _shares(sim, s)

    enemy = jnp.arange(units) >= n
    shown = ~enemy | sim.see_enemy_actions
    most = jnp.where(enemy, sim.num_enemy_actions - 1, sim.num_ally_actions - 1)
    move = jnp.where(shown[:, None], s.prev_movement_actions, 0.0)
    target = jnp.where(shown, s.prev_attack_actions / most, 0.0)

    shared = jnp.concatenate([move, target[:, None], cooldown[:, None], types], axis=-1)
    columns = [
        jnp.broadcast_to(health[:, None], (n, units, 1)),
        offset / sight[..., None],
        jnp.broadcast_to(shared, (n, *shared.shape)),
    ]
    seen = jnp.where(((distance < sight) & both)[..., None], jnp.concatenate(columns, axis=-1), 0.0)

    size = jnp.array([sim.map_width, sim.map_height])
    own = jnp.concatenate([health[:, None], s.unit_positions / size, cooldown[:, None], types], axis=-1)[:n]
    return jnp.concatenate([others(seen), jnp.where(s.unit_alive[:n, None], own, 0.0)], axis=-1)


def team_avail(sim: Simulator, s: Visible | Units) -> jax.Array:
    """The available actions of the allies, [N, A].

    4 moves (when alive), stop (always), attack enemy j (when both live and j is in range). A healer heals
    ally j instead.
    """
    n, types = sim.num_allies, s.unit_types
    _, distance, both = _relative(sim, s)
    reach = sim.unit_type_attack_ranges[types[:n]][:, None]
    in_range = (distance < reach) & both
    attack = in_range[:, n:]
    if sim.specials is not None:
        heals = sim.specials.heals[types] > 0
        attack &= sim.specials.can_hit[types[:n, None], types[None, n:]]
        heal = jnp.pad(in_range[:, :n] & ~heals[:n], ((0, 0), (0, sim.num_enemies - n)))
        attack = jnp.where(heals[:n, None], heal, attack)
    move = jnp.broadcast_to(s.unit_alive[:n, None], (n, sim.num_movement_actions - 1))
    return jnp.concatenate([move, jnp.ones((n, 1), bool), attack], axis=-1)


def world_state(sim: Simulator, s: Visible | Units, last_action: jax.Array) -> jax.Array:
    """The central state, [G]; every entry is of order one.

    For each unit: health, (position - centre) / map, cooldown, alive, type; all zero for the dead. Then the
    last actions [N] of the team, one-hot.
    """
    size = jnp.array([sim.map_width, sim.map_height])
    health, cooldown, types = _shares(sim, s)
    columns = [
        health[:, None],
        s.unit_positions / size - 0.5,
        cooldown[:, None],
        jnp.ones((len(s.unit_types), 1)),
        types,
    ]
    per_unit = jnp.where(s.unit_alive[:, None], jnp.concatenate(columns, axis=-1), 0.0)
    last = jax.nn.one_hot(last_action, sim.num_ally_actions)
    return jnp.concatenate([per_unit.reshape(-1), last.reshape(-1)])


def state_size(sim: Simulator) -> int:
    """G, the length of `world_state`."""
    return sim.num_agents * (5 + sim.unit_type_bits) + sim.num_allies * sim.num_ally_actions


def _relative(sim: Simulator, s: Visible | Units) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Ally i against each unit j: offset [N, U, 2], distance [N, U], both alive [N, U]."""
    n = sim.num_allies
    offset = s.unit_positions[None, :] - s.unit_positions[:n, None]
    both = s.unit_alive[:n, None] & s.unit_alive[None, :]
    return offset, battle.norm(offset), both


def _shares(sim: Simulator, s: Visible | Units) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Health [U] and weapon cooldown [U] as shares of their full values, and the type [U, K], one-hot."""
    health = s.unit_health / sim.unit_type_health[s.unit_types]
    full_cooldown = sim.unit_type_weapon_cooldowns[s.unit_types]
    cooldown = jnp.clip(s.unit_weapon_cooldowns / full_cooldown, 0.0, 1.0)
    return health, cooldown, jax.nn.one_hot(s.unit_types, sim.unit_type_bits)
