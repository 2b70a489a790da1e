"""The battle of SMAX, step by step the one of JaxMARL, without scatters; plus splash, suicide and healing.

Why JaxMARL is not called: its world step splits random keys three times to get one number per unit, and it
scatters damage unit by unit. The same arithmetic as operations on whole arrays takes half the time on a
CPU. `tests/test_smax.py` compares the two, step by step, on the same random numbers. The rules that
`sim.specials` adds (units.py) are not part of the program when `sim.specials` is None.

Shapes: N allies and M enemies are U = N + M units, allies first. Distances are in map units, times in
seconds. An environment step is W world steps of `sim.time_per_step` seconds.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from .simulator import Simulator, Units
from .units import SECONDS_PER_HEALTH, SPARE_ENERGY


class Body(NamedTuple):
    """What changes in a world step."""

    position: jax.Array  # [U, 2]
    alive: jax.Array  # [U] bool
    health: jax.Array  # [U]
    cooldown: jax.Array  # [U] seconds until the unit can fire; of a healer, see units.py


class Orders(NamedTuple):
    """What each unit does during one environment step."""

    move: jax.Array  # [U, 2] direction, zero for none
    attacks: jax.Array  # [U] bool: it has a target
    target: jax.Array  # [U, U] float, one-hot over the targets; the unit itself when it has none


class Stats(NamedTuple):
    """What each unit is, by its type."""

    speed: jax.Array  # [U]
    reach: jax.Array  # [U] attack range
    damage: jax.Array  # [U]
    full_cooldown: jax.Array  # [U]
    full_health: jax.Array  # [U]
    touching: jax.Array  # [U, U] distance below which units i and j overlap


class SpecialStats(NamedTuple):
    """What each unit can do beyond the rules of SMAX, by its type."""

    can_hit: jax.Array  # [U, U] bool: unit i can hit a unit of the type of j
    can_splash: jax.Array  # [U, U] bool: and j is an opponent of i
    splash: jax.Array  # [U] radius around the target
    splash_depth: jax.Array  # [U] how far before and behind the target, along the line of fire
    dies_of_attack: jax.Array  # [U] bool
    heals: jax.Array  # [U] health per second


class Shots(NamedTuple):
    """Who acts on whom in one world step."""

    acts: jax.Array  # [U] bool: alive, with a living target in range
    fires: jax.Array  # [U] bool: and the weapon is ready
    hit: jax.Array  # [U, U] float: unit i hits unit j when i fires


def norm(x: jax.Array) -> jax.Array:
    """Length of 2-vectors, [..., 2] -> [...]."""
    return jnp.sqrt(x[..., 0] ** 2 + x[..., 1] ** 2)


def fight(sim: Simulator, s: Units, action: jax.Array, jitter: jax.Array) -> Units:
    """One environment step: the joint action [U], held for W world steps.

    jitter [W, U], in seconds, is added to the weapon cooldown of a unit that fires in that world step.
    """
    stats = _stats(sim, s.unit_types)
    special = None if sim.specials is None else _special_stats(sim, s.unit_types)
    move, target = decode(sim, action, None if special is None else special.heals)
    orders = Orders(
        move=move,
        attacks=target != jnp.arange(sim.num_agents),
        target=jax.nn.one_hot(target, sim.num_agents),
    )

    def world_step(body: Body, jitter: jax.Array):
        return _world_step(sim, stats, special, orders, body, jitter), None

    body = Body(
        position=s.unit_positions,
        alive=s.unit_alive,
        health=s.unit_health,
        cooldown=s.unit_weapon_cooldowns,
    )
    body, _ = jax.lax.scan(world_step, body, jitter)
    return s.replace(
        unit_positions=body.position,
        unit_alive=body.alive,
        unit_health=body.health,
        unit_weapon_cooldowns=body.cooldown,
        prev_movement_actions=move,
        prev_attack_actions=jnp.where(action >= sim.num_movement_actions, action, 0),
        step=s.step + 1,
    )


def decode(
    sim: Simulator, action: jax.Array, heals: jax.Array | None = None
) -> tuple[jax.Array, jax.Array]:
    """Action [U] -> direction [U, 2] and target [U], which is the unit itself when it does not attack.

    Moves are north, east, south, west. Enemies count their targets from the last ally down. Units that heal
    (heals [U] > 0) count their own team.
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


def _stats(sim: Simulator, types: jax.Array) -> Stats:
    radius = sim.unit_type_radiuses[types]
    return Stats(
        speed=sim.unit_type_velocities[types],
        reach=sim.unit_type_attack_ranges[types],
        damage=sim.unit_type_attacks[types],
        full_cooldown=sim.unit_type_weapon_cooldowns[types],
        full_health=sim.unit_type_health[types],
        touching=radius[:, None] + radius[None, :],
    )


def _special_stats(sim: Simulator, types: jax.Array) -> SpecialStats:
    given = sim.specials
    assert given is not None
    enemy = jnp.arange(sim.num_agents) >= sim.num_allies
    can_hit = given.can_hit[types[:, None], types[None]]
    return SpecialStats(
        can_hit=can_hit,
        can_splash=can_hit & (enemy[:, None] != enemy[None]),
        splash=given.splash[types],
        splash_depth=given.splash_depth[types],
        dies_of_attack=given.dies_of_attack[types],
        heals=given.heals[types],
    )


def _world_step(
    sim: Simulator,
    stats: Stats,
    special: SpecialStats | None,
    orders: Orders,
    body: Body,
    jitter: jax.Array,
) -> Body:
    """All units shoot, then move, then push each other apart."""
    dt = sim.time_per_step
    shots = _shots(stats, special, orders, body)
    damage = (jnp.where(shots.fires, stats.damage, 0.0)[:, None] * shots.hit).sum(0)
    health = jnp.maximum(body.health - damage, 0.0)
    reload = jnp.where(shots.fires, stats.full_cooldown + jitter - body.cooldown, -dt)
    cooldown = body.cooldown + reload
    if special is not None:
        health = jnp.where(shots.fires & special.dies_of_attack, 0.0, health)
        health, cooldown = _healed(stats, special, orders, shots, health, cooldown, dt)
    size = jnp.array([sim.map_width, sim.map_height], jnp.float32)
    moved = jnp.clip(body.position + orders.move * stats.speed[:, None] * dt, 0.0, size)
    position = jnp.where(body.alive[:, None], moved, body.position)
    if sim.walls_cause_death:
        outside = ((position <= 0.0) | (position >= size)).any(-1)
        health = jnp.where(outside, 0.0, health)
    alive = health > 0
    position = _pushed_apart(position, alive, stats.touching)
    return Body(position=position, alive=alive, health=health, cooldown=cooldown)


def _shots(stats: Stats, special: SpecialStats | None, orders: Orders, body: Body) -> Shots:
    target_position = (orders.target[..., None] * body.position[None]).sum(1)
    aim = target_position - body.position
    distance = norm(aim)
    target_alive = (orders.target * body.alive[None]).sum(1) > 0
    acts = orders.attacks & (distance < stats.reach) & body.alive & target_alive
    fires = acts & (body.cooldown <= 0.0)
    if special is None:
        return Shots(acts=acts, fires=fires, hit=orders.target)
    fires &= (orders.target * special.can_hit).sum(1) > 0
    line = aim / jnp.maximum(distance, 1e-6)[:, None]
    offset = body.position[None] - target_position[:, None]  # [attacker, hit, 2]
    along = jnp.abs((offset * line[:, None]).sum(-1))
    around = (norm(offset) < special.splash[:, None]) & (along <= special.splash_depth[:, None])
    hit = jnp.maximum(orders.target, around & special.can_splash & body.alive[None])
    return Shots(acts=acts, fires=fires, hit=hit)


def _healed(
    stats: Stats,
    special: SpecialStats,
    orders: Orders,
    shots: Shots,
    health: jax.Array,
    cooldown: jax.Array,
    dt: float,
) -> tuple[jax.Array, jax.Array]:
    """Health [U] and cooldown [U] after healers acted; a healer's cooldown is the energy that it spent."""
    wounded = (orders.target * (health < stats.full_health)[None]).sum(1) > 0
    mends = shots.acts & wounded & (cooldown < stats.full_cooldown)
    given = jnp.where(mends, special.heals * dt, 0.0)
    restored = jnp.minimum(health + (given[:, None] * orders.target).sum(0), stats.full_health)
    health = jnp.where(health > 0, restored, health)
    return health, jnp.maximum(cooldown + given * SECONDS_PER_HEALTH, -SPARE_ENERGY)


def _pushed_apart(position: jax.Array, alive: jax.Array, touching: jax.Array) -> jax.Array:
    """Positions [U, 2] after living units that overlap pushed each other apart."""
    delta = position[:, None] - position[None]
    distance = norm(delta) + jnp.identity(len(position)) + 1e-6
    overlap = jax.nn.relu(touching / distance - 1.0)
    overlap = jnp.where(alive[:, None] & alive[None, :], overlap, 0.0)
    pushed = position + (delta * overlap[..., None]).sum(1) / 2
    return jnp.where(alive[:, None], pushed, position)


def damage_share(sim: Simulator, before: Units, after: Units) -> jax.Array:
    """Mean over the enemies of the share of full health that each lost, []. Healing counts as nothing."""
    enemies = slice(sim.num_allies, None)
    lost = (before.unit_health - after.unit_health) / sim.unit_type_health[before.unit_types]
    return jnp.maximum(lost[enemies].sum(), 0.0) / sim.num_enemies


def smacv2_reward(sim: Simulator, before: Units, after: Units, won: jax.Array) -> jax.Array:
    """The reward of SMACv2, []: health taken, 10 per kill, 200 for the win, scaled to a best return of 20.

        20 (max(health taken + 10 kills, 0) + 200 won) / (full health + 10 M + 200)

    SMACv2 scales by the enemy team of the first episode for ever; here each episode's enemy team counts.
    """
    enemies = slice(sim.num_allies, None)
    taken = (before.unit_health - after.unit_health)[enemies].sum()
    kills = (before.unit_alive & ~after.unit_alive)[enemies].sum()
    full = sim.unit_type_health[before.unit_types][enemies].sum()
    gained = jnp.maximum(taken + 10.0 * kills, 0.0) + 200.0 * won
    return 20.0 * gained / (full + 10.0 * sim.num_enemies + 200.0)
