"""SMAX's battle and its heuristic enemy, step for step JaxMARL's, written without scatters.

Why not call JaxMARL's: its world step draws three layers of keys for one number per unit, scatters
damage unit by unit, and its enemy reads 2N full observations that it takes apart again. The same
arithmetic as whole-array operations takes half the time on a CPU. `tests/test_smax.py` compares the
two, state by state, on the same random numbers.

Shapes: U = N allies + M enemies, allies first. `sim` holds the constants (JaxMARL's SMAX object).
"""

import contextlib
import io
import sys
from functools import cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

Units = Any  # jaxmarl.environments.smax.smax_env.State


class EnemyMemory(NamedTuple):
    default_target: jax.Array  # [M, 2] where to go while no ally is in sight
    last_attacked: jax.Array  # [M] int, index into the allies in reverse order; -1 for none


def simulator(scenario: str, **options):
    """JaxMARL's SMAX without the observations that its `reset` computes and we never read."""
    simulator_class, scenarios = _jaxmarl()
    return simulator_class(scenario=scenarios[scenario], **options)


@cache
def _jaxmarl():
    with _quiet():
        from jaxmarl.environments.smax.smax_env import MAP_NAME_TO_SCENARIO, SMAX

    class Simulator(SMAX):
        def get_obs(self, state):
            return {}

        def get_world_state(self, state):
            return jnp.zeros(())

    return Simulator, MAP_NAME_TO_SCENARIO


@contextlib.contextmanager
def _quiet():
    """JaxMARL prints while it is imported, and puts sys.stdout back to the terminal behind it."""
    names = ("stdout", "stderr", "__stdout__", "__stderr__")
    saved = {name: getattr(sys, name) for name in names}
    sys.stdout = sys.__stdout__ = io.StringIO()
    try:
        yield
    finally:
        for name, stream in saved.items():
            setattr(sys, name, stream)


def norm(x: jax.Array) -> jax.Array:
    """Length of 2-vectors, [..., 2] -> [...]."""
    return jnp.sqrt(x[..., 0] ** 2 + x[..., 1] ** 2)


def first_memory(sim, s: Units) -> EnemyMemory:
    """Each enemy heads for the point opposite to where it starts."""
    centre = jnp.array([sim.map_width / 2, sim.map_height / 2])
    target = centre - (s.unit_positions[sim.num_allies :] - centre)
    return EnemyMemory(target, jnp.full((sim.num_enemies,), -1))


def enemy_policy(sim, s: Units, memory: EnemyMemory, u: jax.Array):
    """JaxMARL's heuristic ("closest"): keep shooting the same ally, else shoot the closest in range,
    else walk towards a random visible ally, else towards the default target.

    u [M] uniform in [0, 1) picks the ally to walk to. Returns (action [M] int, memory).
    """
    n, moves = sim.num_allies, sim.num_movement_actions
    allies, alive = s.unit_positions[:n][::-1], s.unit_alive[:n][::-1]
    own, own_alive, types = s.unit_positions[n:], s.unit_alive[n:], s.unit_types[n:]
    sight = sim.unit_type_sight_ranges[types][:, None]
    reach = sim.unit_type_attack_ranges[types][:, None]

    offset = allies[None] - own[:, None]  # [M, N, 2]
    visible = (norm(offset) < sight) & alive[None] & own_alive[:, None]
    offset = offset / sight[..., None] * sight[..., None]  # as it comes out of the observation
    distance = norm(offset)
    shootable = (distance < reach) & visible

    farthest = jnp.hypot(sim.map_width, sim.map_height)
    closest = jnp.argmin(jnp.where(shootable, distance, farthest), axis=-1)
    last = jax.nn.one_hot(memory.last_attacked, n, dtype=bool)  # all False for -1
    attacked = jnp.where((last & shootable).any(-1), memory.last_attacked, closest)
    can_shoot = shootable.any(-1)
    memory = memory._replace(last_attacked=jnp.where(can_shoot, attacked, -1))

    count = jnp.maximum(visible.sum(-1, keepdims=True), 1)
    cumulative = jnp.cumsum(visible / count, axis=-1)
    draw = cumulative[:, -1:] * (1 - u[:, None])
    picked = jax.nn.one_hot((cumulative < draw).sum(-1), n)
    chased = (picked[..., None] * jnp.where(visible[..., None], offset, 0.0)).sum(1)
    to_target = jnp.where(visible.any(-1, keepdims=True), chased, memory.default_target - own)
    # north, east, south, west
    x, y = to_target[:, 0], to_target[:, 1]
    move = jnp.argmax(jnp.stack([y, x, -y, -x], axis=-1), axis=-1)
    return jnp.where(can_shoot, attacked + moves, move), memory


def fight(sim, s: Units, action: jax.Array, jitter: jax.Array) -> Units:
    """One environment step: the joint action [U] held for W world steps.

    jitter [W, U] (seconds) is added to the weapon cooldown of a unit that fires in that world step.
    """
    units, dt = sim.num_agents, sim.time_per_step
    types = s.unit_types
    speed, reach = sim.unit_type_velocities[types], sim.unit_type_attack_ranges[types]
    attack, full_cooldown = sim.unit_type_attacks[types], sim.unit_type_weapon_cooldowns[types]
    radius = sim.unit_type_radiuses[types]
    touching = radius[:, None] + radius[None, :]
    size = jnp.array([sim.map_width, sim.map_height], jnp.float32)

    move, target = decode(sim, action)
    attacks = target != jnp.arange(units)
    at = jax.nn.one_hot(target, units)  # [U, U]

    def world_step(carry, jitter):
        position, alive, health, cooldown = carry
        target_position = (at[..., None] * position[None]).sum(1)
        in_range = norm(position - target_position) < reach
        target_alive = (at * alive[None]).sum(1) > 0
        fires = attacks & in_range & alive & target_alive & (cooldown <= 0.0)
        damage = (jnp.where(fires, attack, 0.0)[:, None] * at).sum(0)
        health = jnp.maximum(health - damage, 0.0)
        cooldown = cooldown + jnp.where(fires, full_cooldown + jitter - cooldown, -dt)
        moved = jnp.clip(position + move * speed[:, None] * dt, 0.0, size)
        position = jnp.where(alive[:, None], moved, position)
        if sim.walls_cause_death:
            outside = ((position <= 0.0) | (position >= size)).any(-1)
            health = jnp.where(outside, 0.0, health)
        alive = health > 0
        # Overlapping living units push each other apart.
        delta = position[:, None] - position[None]
        distance = norm(delta) + jnp.identity(units) + 1e-6
        overlap = jax.nn.relu(touching / distance - 1.0)
        overlap = jnp.where(alive[:, None] & alive[None, :], overlap, 0.0)
        pushed = position + (delta * overlap[..., None]).sum(1) / 2
        return (jnp.where(alive[:, None], pushed, position), alive, health, cooldown), None

    carry = (s.unit_positions, s.unit_alive, s.unit_health, s.unit_weapon_cooldowns)
    (position, alive, health, cooldown), _ = jax.lax.scan(world_step, carry, jitter)
    return s.replace(
        unit_positions=position,
        unit_alive=alive,
        unit_health=health,
        unit_weapon_cooldowns=cooldown,
        prev_movement_actions=move,
        prev_attack_actions=jnp.where(action >= sim.num_movement_actions, action, 0),
        step=s.step + 1,
    )


def decode(sim, action: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Action [U] -> direction [U, 2] and target unit [U] (itself when it does not attack).

    Moves are north, east, south, west; enemies count their targets from the last ally down.
    """
    n, first = sim.num_allies, sim.num_movement_actions
    directions = jnp.array([[0, 1], [1, 0], [0, -1], [-1, 0], [0, 0]], jnp.float32)
    which = jnp.minimum(action, first - 1)
    move = (jax.nn.one_hot(which, first)[..., None] * directions).sum(-2)
    index = jnp.arange(sim.num_agents)
    target = jnp.where(index < n, action - first + n, n - 1 - (action - first))
    return move, jnp.where(action < first, index, target)


def damage_share(sim, before: Units, after: Units) -> jax.Array:
    """Mean over the enemies of the share of full health lost in this step, []."""
    enemies = slice(sim.num_allies, None)
    lost = (before.unit_health - after.unit_health) / sim.unit_type_health[before.unit_types]
    return jnp.abs(lost[enemies].sum()) / sim.num_enemies
