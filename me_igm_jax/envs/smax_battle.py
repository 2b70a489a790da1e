"""SMAX's battle, step for step JaxMARL's, written without scatters; plus splash, suicide and healing.

Why not call JaxMARL's: its world step draws three layers of keys for one number per unit and scatters
damage unit by unit. The same arithmetic as whole-array operations takes half the time on a CPU.
`tests/test_smax.py` compares the two, step by step, on the same random numbers. What a scenario's
`sim.specials` adds (smax_units.py) is left out of the program where it is None.

Shapes: U = N allies + M enemies, allies first. `sim` holds the constants (JaxMARL's SMAX object).
"""

from typing import Any

import jax
import jax.numpy as jnp

from .smax_units import SECONDS_PER_HEALTH, SPARE_ENERGY

Units = Any  # jaxmarl.environments.smax.smax_env.State


def norm(x: jax.Array) -> jax.Array:
    """Length of 2-vectors, [..., 2] -> [...]."""
    return jnp.sqrt(x[..., 0] ** 2 + x[..., 1] ** 2)


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

    special = sim.specials
    heals = None if special is None else special.heals[types]
    move, target = decode(sim, action, heals)
    attacks = target != jnp.arange(units)
    at = jax.nn.one_hot(target, units)  # [U, U]
    if special is not None:
        enemy = jnp.arange(units) >= sim.num_allies
        opposing = enemy[:, None] != enemy[None]
        can_hit = special.can_hit[types[:, None], types[None]]
        splash, depth = special.splash[types], special.splash_depth[types]
        full_health = sim.unit_type_health[types]

    def world_step(carry, jitter):
        position, alive, health, cooldown = carry
        target_position = (at[..., None] * position[None]).sum(1)
        aim = target_position - position
        distance = norm(aim)
        in_range = distance < reach
        target_alive = (at * alive[None]).sum(1) > 0
        acts = attacks & in_range & alive & target_alive
        fires = acts & (cooldown <= 0.0)
        if special is not None:
            fires &= (at * can_hit).sum(1) > 0
            line = aim / jnp.maximum(distance, 1e-6)[:, None]
            offset = position[None] - target_position[:, None]  # [attacker, hit, 2]
            along = jnp.abs((offset * line[:, None]).sum(-1))
            around = (norm(offset) < splash[:, None]) & (along <= depth[:, None])
            hit = jnp.maximum(at, around & opposing & alive[None] & can_hit)
        else:
            hit = at
        damage = (jnp.where(fires, attack, 0.0)[:, None] * hit).sum(0)
        health = jnp.maximum(health - damage, 0.0)
        cooldown = cooldown + jnp.where(fires, full_cooldown + jitter - cooldown, -dt)
        if special is not None:
            health = jnp.where(fires & special.dies_of_attack[types], 0.0, health)
            # A healer's cooldown is its spent energy in seconds (smax_units.py).
            wounded = (at * (health < full_health)[None]).sum(1) > 0
            mends = acts & wounded & (cooldown < full_cooldown)
            given = jnp.where(mends, special.heals[types] * dt, 0.0)
            restored = jnp.minimum(health + (given[:, None] * at).sum(0), full_health)
            health = jnp.where(health > 0, restored, health)
            cooldown = jnp.maximum(cooldown + given * SECONDS_PER_HEALTH, -SPARE_ENERGY)
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


def decode(sim, action: jax.Array, heals: jax.Array | None = None) -> tuple[jax.Array, jax.Array]:
    """Action [U] -> direction [U, 2] and target unit [U] (itself when it does not attack).

    Moves are north, east, south, west; enemies count their targets from the last ally down, and units
    that heal (heals [U] > 0) count their own team.
    """
    n, first = sim.num_allies, sim.num_movement_actions
    directions = jnp.array([[0, 1], [1, 0], [0, -1], [-1, 0], [0, 0]], jnp.float32)
    which = jnp.minimum(action, first - 1)
    move = (jax.nn.one_hot(which, first)[..., None] * directions).sum(-2)
    index = jnp.arange(sim.num_agents)
    target = jnp.where(index < n, action - first + n, n - 1 - (action - first))
    if heals is not None:
        target = jnp.where(heals > 0, action - first + jnp.where(index < n, 0, n), target)
    return move, jnp.where(action < first, index, target)


def damage_share(sim, before: Units, after: Units) -> jax.Array:
    """Mean over the enemies of the share of full health lost in this step; healing is not charged, []."""
    enemies = slice(sim.num_allies, None)
    lost = (before.unit_health - after.unit_health) / sim.unit_type_health[before.unit_types]
    return jnp.maximum(lost[enemies].sum(), 0.0) / sim.num_enemies


def smacv2_reward(sim, before: Units, after: Units, won: jax.Array) -> jax.Array:
    """SMACv2's: health taken, 10 per kill and 200 for the win, scaled so that the best return is 20.

    SMACv2 scales by the first episode's enemy team for ever; here each episode's own team counts.
    """
    enemies = slice(sim.num_allies, None)
    taken = (before.unit_health - after.unit_health)[enemies].sum()
    kills = (before.unit_alive & ~after.unit_alive)[enemies].sum()
    full = sim.unit_type_health[before.unit_types][enemies].sum()
    gained = jnp.maximum(taken + 10.0 * kills, 0.0) + 200.0 * won
    return 20.0 * gained / (full + 10.0 * sim.num_enemies + 200.0)
