"""The heuristic player of SMAX ("closest"), step by step the one of JaxMARL, for either team; and healers.

JaxMARL computes 2N full observations and takes them apart again; this player reads positions.
`tests/test_smax.py` compares the two. The rule for healers is new.

Shapes: a team has K players and F foes; U = N + M units, allies first.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from .battle import norm
from .simulator import Simulator, Units


class Memory(NamedTuple):
    """What a team of K players remembers."""

    default_target: jax.Array  # [K, 2] where to go while no foe is in sight
    last_attacked: jax.Array  # [K] int, index into the foes in the order of the actions; -1 for none


class Team(NamedTuple):
    """The units of one side, in the order in which actions count them."""

    position: jax.Array  # [K, 2]
    alive: jax.Array  # [K] bool
    health: jax.Array  # [K]
    type: jax.Array  # [K] int


def teams(sim: Simulator, s: Units) -> tuple[Team, Team]:
    """Allies and enemies."""
    everyone = Team(position=s.unit_positions, alive=s.unit_alive, health=s.unit_health, type=s.unit_types)
    n = sim.num_allies
    return jax.tree.map(lambda x: x[:n], everyone), jax.tree.map(lambda x: x[n:], everyone)


def first_memory(sim: Simulator, own: Team) -> Memory:
    """Each unit walks to the point opposite to the one where it starts."""
    centre = jnp.array([sim.map_width / 2, sim.map_height / 2])
    return Memory(centre - (own.position - centre), jnp.full(own.alive.shape, -1))


def enemy_policy(sim: Simulator, s: Units, memory: Memory, u: jax.Array) -> tuple[jax.Array, Memory]:
    """The actions [M] of the enemies and their memory; u [M] as for `policy`."""
    allies, enemies = teams(sim, s)
    # Enemies count their targets from the last ally down.
    return policy(sim, enemies, jax.tree.map(lambda x: x[::-1], allies), memory, u)


def ally_policy(sim: Simulator, s: Units, memory: Memory, u: jax.Array) -> tuple[jax.Array, Memory]:
    """The actions [N] of the allies when they play by the same rule, for comparison."""
    allies, enemies = teams(sim, s)
    return policy(sim, allies, enemies, memory, u)


def policy(sim: Simulator, own: Team, foes: Team, memory: Memory, u: jax.Array) -> tuple[jax.Array, Memory]:
    """Keep shooting the same foe; else shoot the closest one in range; else walk towards a random visible
    foe; else walk to the default target.

    u [K], uniform in [0, 1), picks the foe to walk to. Returns (action [K] int, memory).
    """
    sight = sim.unit_type_sight_ranges[own.type][:, None]
    offset = foes.position[None] - own.position[:, None]  # [K, F, 2]
    visible = (norm(offset) < sight) & foes.alive[None] & own.alive[:, None]
    offset = offset / sight[..., None] * sight[..., None]  # rounded as in the observation of JaxMARL

    target, can_shoot = _target(sim, own, foes, memory, offset, visible)
    memory = memory._replace(last_attacked=jnp.where(can_shoot, target, -1))
    way = jnp.where(
        visible.any(-1, keepdims=True), _chased(offset, visible, u), memory.default_target - own.position
    )
    action = jnp.where(can_shoot, target + sim.num_movement_actions, towards(way))
    if sim.specials is not None:
        heals = sim.specials.heals[own.type] > 0
        action = jnp.where(heals, healing(sim, own, memory), action)
    return action, memory


def _target(
    sim: Simulator, own: Team, foes: Team, memory: Memory, offset: jax.Array, visible: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """The foe [K] to shoot at, and whether there is one [K] bool."""
    reach = sim.unit_type_attack_ranges[own.type][:, None]
    distance = norm(offset)
    shootable = (distance < reach) & visible
    if sim.specials is not None:
        shootable &= sim.specials.can_hit[own.type[:, None], foes.type[None]]
    farthest = jnp.hypot(sim.map_width, sim.map_height)
    closest = jnp.argmin(jnp.where(shootable, distance, farthest), axis=-1)
    last = jax.nn.one_hot(memory.last_attacked, len(foes.alive), dtype=bool)  # all False for -1
    same = (last & shootable).any(-1)
    return jnp.where(same, memory.last_attacked, closest), shootable.any(-1)


def _chased(offset: jax.Array, visible: jax.Array, u: jax.Array) -> jax.Array:
    """The way [K, 2] to one of the visible foes, each with the same probability; u [K] picks it."""
    total = jnp.maximum(visible.sum(-1, keepdims=True), 1)
    cumulative = jnp.cumsum(visible / total, axis=-1)
    threshold = cumulative[:, -1:] * (1 - u[:, None])
    picked = jax.nn.one_hot((cumulative < threshold).sum(-1), visible.shape[-1])
    return (picked[..., None] * jnp.where(visible[..., None], offset, 0.0)).sum(1)


def healing(sim: Simulator, own: Team, memory: Memory) -> jax.Array:
    """The actions [K] of healers.

    Heal the closest wounded team-mate in range; else go to the closest wounded one; else stay near the
    closest team-mate that is no healer. A healer that is alone walks to the default target.
    """
    assert sim.specials is not None
    patient = own.alive & (sim.specials.heals[own.type] == 0)
    wounded = patient & (own.health < sim.unit_type_health[own.type])
    reach = sim.unit_type_attack_ranges[own.type]
    offset = own.position[None] - own.position[:, None]  # [K, K, 2]
    candidates = jnp.where(wounded.any(), wounded, patient)
    distance = jnp.where(candidates[None], norm(offset), jnp.inf)
    nearest = jnp.argmin(distance, axis=-1)
    how_far = distance.min(-1)
    way = jnp.take_along_axis(offset, nearest[:, None, None], axis=1)[:, 0]
    way = jnp.where(patient.any(), way, memory.default_target - own.position)
    stop = sim.num_movement_actions - 1
    near = jnp.where(wounded.any(), stop + 1 + nearest, stop)
    return jnp.where(how_far < jnp.where(wounded.any(), reach, reach / 2), near, towards(way))


def towards(way: jax.Array) -> jax.Array:
    """The move (north, east, south, west) that leads best along `way` [K, 2]."""
    x, y = way[:, 0], way[:, 1]
    return jnp.argmax(jnp.stack([y, x, -y, -x], axis=-1), axis=-1)
