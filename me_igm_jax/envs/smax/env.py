"""The Env of smax/*: a battle as a state, a step, and a snapshot of 19 bytes per unit."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from ...types import Env, EnvSpec, Outcome, TimeStep
from . import battle, heuristic, smacv2
from .draw import draw
from .simulator import Simulator, Units
from .views import NEVER, Snapshot, recall, state_size, team_avail, team_obs, world_state

Reward = Callable[[Units, Units, jax.Array], jax.Array]  # units before and after, won [] -> []


class SmaxState(NamedTuple):
    units: Units  # the State of JaxMARL
    enemy: heuristic.Memory
    last_action: jax.Array  # [U] int, NEVER before the first step
    step: jax.Array  # [] int


def smax_env(
    name: str,
    sim: Simulator,
    *,
    max_steps: int,
    reward: str = "smax",
    reward_scale: float = 10.0,
    smacv2_starts: bool = False,
) -> Env:
    """The battle that `sim` describes, fought against the heuristic enemy.

    reward         "smax" or "smacv2", see `team_reward`
    smacv2_starts  teams and start positions are sampled by the rules of SMACv2
    """
    spec = EnvSpec(
        name=name,
        n_agents=sim.num_allies,
        n_actions=sim.num_ally_actions,
        obs_shape=(sim.obs_size,),
        state_dim=state_size(sim),
        horizon=max_steps,
        limit_is_terminal=True,
        stats=("won",),
        max_return=20.0 if reward == "smacv2" else 2.0 * reward_scale,
    )
    start = partial(_jaxmarl_start, sim)
    if smacv2_starts:
        start = partial(smacv2.sample_start, sim, _jaxmarl_start(sim, jax.random.key(0)))
    return Env(
        spec=spec,
        reset=partial(_reset, sim, start),
        step=partial(_step, sim, team_reward(sim, reward, reward_scale), max_steps),
        expand=partial(_expand, sim),
        compress=_compress,
        draw=partial(draw, sim),
    )


def team_reward(sim: Simulator, rule: str, scale: float) -> Reward:
    """The reward of the allies: the rule of SMACv2, or scale * (share of health taken + won)."""
    if rule == "smacv2":
        return partial(battle.smacv2_reward, sim)
    return lambda before, after, won: scale * (battle.damage_share(sim, before, after) + won)


def _jaxmarl_start(sim: Simulator, key: jax.Array) -> Units:
    return sim.reset(key)[1]


def _reset(sim: Simulator, start: Callable[[jax.Array], Units], key: jax.Array) -> SmaxState:
    units = start(key)
    return SmaxState(
        units=units,
        enemy=heuristic.first_memory(sim, heuristic.teams(sim, units)[1]),
        last_action=jnp.full((sim.num_agents,), NEVER),
        step=jnp.zeros((), jnp.int32),
    )


def _step(
    sim: Simulator, reward: Reward, max_steps: int, key: jax.Array, state: SmaxState, action: jax.Array
) -> tuple[SmaxState, Outcome]:
    enemy_key, battle_key = jax.random.split(key)
    u = jax.random.uniform(enemy_key, (sim.num_enemies,))
    enemy_action, memory = heuristic.enemy_policy(sim, state.units, state.enemy, u)
    shape = (sim.world_steps_per_env_step, sim.num_agents)
    jitter = jax.random.uniform(battle_key, shape, minval=-1.0, maxval=2.0) * sim.time_per_step
    actions = jnp.concatenate([action, enemy_action])
    after = battle.fight(sim, state.units, actions, jitter)

    n, now = sim.num_allies, state.step + 1
    allies_live, enemies_live = after.unit_alive[:n].any(), after.unit_alive[n:].any()
    won = allies_live & ~enemies_live
    terminal = ~allies_live | ~enemies_live | (now >= max_steps)
    outcome = Outcome(
        reward=reward(state.units, after, won),
        terminal=terminal,
        truncated=jnp.zeros_like(terminal),
        stats={"won": won.astype(float)},
    )
    return SmaxState(units=after, enemy=memory, last_action=actions, step=now), outcome


def _compress(state: SmaxState) -> Snapshot:
    s = state.units
    return Snapshot(
        position=s.unit_positions,
        health=s.unit_health,
        cooldown=s.unit_weapon_cooldowns,
        type=s.unit_types.astype(jnp.uint8),
        alive=s.unit_alive,
        action=state.last_action.astype(jnp.uint8),
    )


def _expand(sim: Simulator, snapshot: Snapshot) -> TimeStep:
    n, visible = sim.num_allies, recall(sim, snapshot)
    return TimeStep(
        obs=team_obs(sim, visible),
        state=world_state(sim, visible, snapshot.action[:n]),
        avail=team_avail(sim, visible),
        alive=snapshot.alive[:n],
    )
