"""SMAX's heuristic player ("closest"), step for step JaxMARL's, for either team; plus a rule for healers.

JaxMARL's reads 2N full observations that it takes apart again; this one reads positions.
`tests/test_smax.py` compares the two.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from .smax_battle import Units, norm


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


def teams(sim, s: Units) -> tuple[Team, Team]:
    """Allies and enemies."""
    everyone = Team(s.unit_positions, s.unit_alive, s.unit_health, s.unit_types)
    n = sim.num_allies
    return jax.tree.map(lambda x: x[:n], everyone), jax.tree.map(lambda x: x[n:], everyone)


def first_memory(sim, own: Team) -> Memory:
    """Each unit heads for the point opposite to where it starts."""
    centre = jnp.array([sim.map_width / 2, sim.map_height / 2])
    return Memory(centre - (own.position - centre), jnp.full(own.alive.shape, -1))


def enemy_policy(sim, s: Units, memory: Memory, u: jax.Array):
    """The enemies' actions [M] and their memory; u [M] as for `policy`."""
    allies, enemies = teams(sim, s)
    # Enemies count their targets from the last ally down.
    return policy(sim, enemies, jax.tree.map(lambda x: x[::-1], allies), memory, u)


def ally_policy(sim, s: Units, memory: Memory, u: jax.Array):
    """The allies' actions [N] when they play by the same rule, for comparison."""
    allies, enemies = teams(sim, s)
    return policy(sim, allies, enemies, memory, u)


def policy(sim, own: Team, foes: Team, memory: Memory, u: jax.Array):
    """Keep shooting the same foe, else shoot the closest in range, else walk towards a random visible
    foe, else towards the default target.

    u [K] uniform in [0, 1) picks the foe to walk to. Returns (action [K] int, memory).
    """
    moves, count = sim.num_movement_actions, len(foes.alive)
    sight = sim.unit_type_sight_ranges[own.type][:, None]
    reach = sim.unit_type_attack_ranges[own.type][:, None]

    offset = foes.position[None] - own.position[:, None]  # [K, F, 2]
    visible = (norm(offset) < sight) & foes.alive[None] & own.alive[:, None]
    offset = offset / sight[..., None] * sight[..., None]  # as it comes out of the observation
    distance = norm(offset)
    shootable = (distance < reach) & visible
    if sim.specials is not None:
        shootable &= sim.specials.can_hit[own.type[:, None], foes.type[None]]

    farthest = jnp.hypot(sim.map_width, sim.map_height)
    closest = jnp.argmin(jnp.where(shootable, distance, farthest), axis=-1)
    last = jax.nn.one_hot(memory.last_attacked, count, dtype=bool)  # all False for -1
    attacked = jnp.where((last & shootable).any(-1), memory.last_attacked, closest)
    can_shoot = shootable.any(-1)
    memory = memory._replace(last_attacked=jnp.where(can_shoot, attacked, -1))

    total = jnp.maximum(visible.sum(-1, keepdims=True), 1)
    cumulative = jnp.cumsum(visible / total, axis=-1)
    draw = cumulative[:, -1:] * (1 - u[:, None])
    picked = jax.nn.one_hot((cumulative < draw).sum(-1), count)
    chased = (picked[..., None] * jnp.where(visible[..., None], offset, 0.0)).sum(1)
    to_target = jnp.where(visible.any(-1, keepdims=True), chased, memory.default_target - own.position)
    action = jnp.where(can_shoot, attacked + moves, towards(to_target))
    if sim.specials is not None:
        heals = sim.specials.heals[own.type] > 0
        action = jnp.where(heals, healing(sim, own, memory), action)
    return action, memory


def healing(sim, own: Team, memory: Memory) -> jax.Array:
    """What healers do: heal the closest wounded team-mate in range, else go to the closest wounded one,
    else stay near the closest team-mate that is no healer; alone, walk to the default target.
    """
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
