"""smax/*: battles of SMAX against its heuristic enemy.

Scenarios: JaxMARL's own; four more SMAC maps (2c_vs_64zg, 3s_vs_3z, MMM, MMM2); and SMACv2's fifteen,
{protoss, terran, zerg}_{5_vs_5, 10_vs_10, 10_vs_11, 20_vs_20, 20_vs_23}, with SMACv2's teams and start
positions (smacv2.py), 200 steps, harmless walls, enemy actions hidden, and their own units: the
colossus's splash, banelings that die of their attack, and medivacs that heal (smax_units.py). A medivac's
attack slots mean its own team; it heals no other medivac.

What differs from using JaxMARL directly, and why:
  * no reset inside a step: the final instant of an episode is the true one;
  * the win comes from who is alive, not from a reward threshold;
  * the step limit is exact (JaxMARL tests the limit before it counts, so its episodes are one longer);
    a time-out is terminal, as in SMACv2;
  * the state is normalised and holds the last actions; JaxMARL's mixes raw positions and type ids.
The battle is `smax_battle.py`, the enemy `smax_heuristic.py`. Observations equal JaxMARL's.
Units of the reward: 20 for a perfect battle. `smax.reward: smax` is JaxMARL's (share of the enemy's
health taken, plus 1 for a win) times `smax.reward_scale`, `smacv2` is SMACv2's (health, kills, win).
StarCraft's own AI plays differently: win rates do not compare with SMACv2's, orderings may.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from ..config import Config, Smax
from ..types import Env, EnvSpec, Outcome, TimeStep
from . import smacv2, smax_heuristic, smax_units
from . import smax_battle as battle
from .pairs import others

NEVER = 255  # no action yet


class SmaxState(NamedTuple):
    units: battle.Units  # JaxMARL's own State
    enemy: smax_heuristic.Memory
    last_action: jax.Array  # [U] int, NEVER before the first step
    step: jax.Array  # [] int


class Snapshot(NamedTuple):
    """19 bytes per unit, from which everything seen is recomputed."""

    position: jax.Array  # [U, 2] float
    health: jax.Array  # [U] float
    cooldown: jax.Array  # [U] float
    type: jax.Array  # [U] uint8
    alive: jax.Array  # [U] bool
    action: jax.Array  # [U] uint8, NEVER before the first step


class Seen(NamedTuple):
    """The part of JaxMARL's State, by its names, that observations are made of."""

    unit_positions: jax.Array
    unit_alive: jax.Array
    unit_health: jax.Array
    unit_weapon_cooldowns: jax.Array
    unit_types: jax.Array
    prev_movement_actions: jax.Array
    prev_attack_actions: jax.Array


def names() -> Sequence[str]:
    return smax_units.scenario_names()


def make(name: str, config: Config) -> Env:
    """The scenario `name` with the options in config.smax."""
    given, options = smax_units.OWN_SCENARIOS.get(name), config.smax
    jaxmarls = given is None

    def default(value, otherwise):
        return otherwise if value is None else value

    sim = smax_units.simulator(
        name,
        see_enemy_actions=default(options.see_enemy_actions, jaxmarls),
        walls_cause_death=default(options.walls_cause_death, jaxmarls),
    )
    max_steps = default(options.max_steps, 100 if given is None else given.max_steps)
    return smax_env(f"smax/{name}", sim, options, max_steps, drawn=name in smax_units.SMACV2)


def smax_env(name: str, sim, options: Smax, max_steps: int, drawn: bool = False) -> Env:
    """The battle that `sim` (a JaxMARL SMAX) describes, fought against the heuristic enemy; `drawn`:
    with teams and start positions drawn by SMACv2's rules."""
    n, units = sim.num_allies, sim.num_agents
    spec = EnvSpec(
        name=name,
        n_agents=n,
        n_actions=sim.num_ally_actions,
        obs_shape=(sim.obs_size,),
        state_dim=units * (5 + sim.unit_type_bits) + n * sim.num_ally_actions,
        horizon=max_steps,
        limit_is_terminal=True,
        stats=("won",),
        max_return=20.0 if options.reward == "smacv2" else 2.0 * options.reward_scale,
    )

    blank = sim.reset(jax.random.key(0))[1] if drawn else None

    def reset(key: jax.Array) -> SmaxState:
        start = smacv2.muster(sim, blank, key) if drawn else sim.reset(key)[1]
        memory = smax_heuristic.first_memory(sim, smax_heuristic.teams(sim, start)[1])
        return SmaxState(start, memory, jnp.full((units,), NEVER), jnp.zeros((), jnp.int32))

    def step(key: jax.Array, state: SmaxState, action: jax.Array):
        enemy_key, battle_key = jax.random.split(key)
        u = jax.random.uniform(enemy_key, (sim.num_enemies,))
        enemy_action, memory = smax_heuristic.enemy_policy(sim, state.units, state.enemy, u)
        shape = (sim.world_steps_per_env_step, units)
        jitter = jax.random.uniform(battle_key, shape, minval=-1.0, maxval=2.0) * sim.time_per_step
        actions = jnp.concatenate([action, enemy_action])
        after = battle.fight(sim, state.units, actions, jitter)
        now = state.step + 1
        ally, enemy = after.unit_alive[:n].any(), after.unit_alive[n:].any()
        won = ally & ~enemy
        terminal = ~ally | ~enemy | (now >= max_steps)
        if options.reward == "smacv2":
            reward = battle.smacv2_reward(sim, state.units, after, won)
        else:
            reward = options.reward_scale * (battle.damage_share(sim, state.units, after) + won)
        outcome = Outcome(reward, terminal, jnp.zeros_like(terminal), {"won": won.astype(float)})
        return SmaxState(after, memory, actions, now), outcome

    def compress(state: SmaxState) -> Snapshot:
        s = state.units
        return Snapshot(
            position=s.unit_positions,
            health=s.unit_health,
            cooldown=s.unit_weapon_cooldowns,
            type=s.unit_types.astype(jnp.uint8),
            alive=s.unit_alive,
            action=state.last_action.astype(jnp.uint8),
        )

    def expand(snapshot: Snapshot) -> TimeStep:
        seen = recall(sim, snapshot)
        return TimeStep(
            obs=team_obs(sim, seen),
            state=world_state(sim, seen, snapshot.action[:n]),
            avail=team_avail(sim, seen),
            alive=snapshot.alive[:n],
        )

    return Env(spec, reset, step, expand, compress)


def recall(sim, snapshot: Snapshot) -> Seen:
    """What the units show, the marks of their last actions included."""
    action = snapshot.action.astype(jnp.int32)
    action = jnp.where(action == NEVER, sim.num_movement_actions - 1, action)  # as if they had stopped
    return Seen(
        unit_positions=snapshot.position,
        unit_alive=snapshot.alive,
        unit_health=snapshot.health,
        unit_weapon_cooldowns=snapshot.cooldown,
        unit_types=snapshot.type,
        prev_movement_actions=battle.decode(sim, action)[0],
        prev_attack_actions=jnp.where(action >= sim.num_movement_actions, action, 0),
    )


def _relative(sim, s):
    """Ally i against every unit j: offset [N, U, 2], distance [N, U], both alive [N, U]."""
    n = sim.num_allies
    offset = s.unit_positions[None, :] - s.unit_positions[:n, None]
    both = s.unit_alive[:n, None] & s.unit_alive[None, :]
    return offset, battle.norm(offset), both


def team_obs(sim, s: Seen | battle.Units) -> jax.Array:
    """The allies' observations, equal to JaxMARL's `get_obs_unit_list`, [N, D].

    Per other unit (allies first): health, offset / sight, last move, last target, cooldown, type;
    zero where unseen or dead. Then the own unit: health, position / map, cooldown, type.
    """
    n, units = sim.num_allies, sim.num_agents
    offset, distance, both = _relative(sim, s)
    sight = sim.unit_type_sight_ranges[s.unit_types[:n]][:, None]
    health = s.unit_health / sim.unit_type_health[s.unit_types]
    full_cooldown = sim.unit_type_weapon_cooldowns[s.unit_types]
    cooldown = jnp.clip(s.unit_weapon_cooldowns / full_cooldown, 0.0, 1.0)
    types = jax.nn.one_hot(s.unit_types, sim.unit_type_bits)

    enemy = jnp.arange(units) >= n
    shown = ~enemy | sim.see_enemy_actions
    most = jnp.where(enemy, sim.num_enemy_actions - 1, sim.num_ally_actions - 1)
    move = jnp.where(shown[:, None], s.prev_movement_actions, 0.0)
    target = jnp.where(shown, s.prev_attack_actions / most, 0.0)

    shared = jnp.concatenate([move, target[:, None], cooldown[:, None], types], axis=-1)
    seen = jnp.concatenate(
        [
            jnp.broadcast_to(health[:, None], (n, units, 1)),
            offset / sight[..., None],
            jnp.broadcast_to(shared, (n, *shared.shape)),
        ],
        axis=-1,
    )
    seen = jnp.where(((distance < sight) & both)[..., None], seen, 0.0)

    size = jnp.array([sim.map_width, sim.map_height])
    own = jnp.concatenate([health[:, None], s.unit_positions / size, cooldown[:, None], types], axis=-1)[:n]
    return jnp.concatenate([others(seen), jnp.where(s.unit_alive[:n, None], own, 0.0)], axis=-1)


def team_avail(sim, s: battle.Units) -> jax.Array:
    """The allies' available actions: 4 moves (alive), stop (always), attack j (alive and in range);
    for healers, heal ally j instead."""
    n = sim.num_allies
    types = s.unit_types
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


def world_state(sim, s: battle.Units, last_action: jax.Array) -> jax.Array:
    """The central state, [G], every entry of order one.

    Per unit health, (position - centre) / map, cooldown share, alive and type, zero for the dead;
    then the team's last actions, one-hot.
    """
    size = jnp.array([sim.map_width, sim.map_height])
    types = s.unit_types
    full_cooldown = sim.unit_type_weapon_cooldowns[types]
    columns = [
        (s.unit_health / sim.unit_type_health[types])[:, None],
        s.unit_positions / size - 0.5,
        jnp.clip(s.unit_weapon_cooldowns / full_cooldown, 0.0, 1.0)[:, None],
        jnp.ones((len(types), 1)),
        jax.nn.one_hot(types, sim.unit_type_bits),
    ]
    per_unit = jnp.where(s.unit_alive[:, None], jnp.concatenate(columns, axis=-1), 0.0)
    last = jax.nn.one_hot(last_action, sim.num_ally_actions)
    return jnp.concatenate([per_unit.reshape(-1), last.reshape(-1)])
