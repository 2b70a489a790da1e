"""The Env of overcooked/*: the rules of JaxMARL around a state of K + P + 10 bytes."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ...types import Env, EnvSpec, Outcome, TimeStep
from ..common import quiet
from .draw import draw

COOKS, ACTIONS, LAYERS = 2, 6, 26
DELIVERY = 20.0  # reward of one delivered soup

Simulator = Any  # jaxmarl's Overcooked: the layout and the rules; it holds no state
SimulatorState = Any  # the State of that Overcooked: a map of all objects, and where the cooks are


class KitchenSnapshot(NamedTuple):
    """All that changes in a kitchen with K counters and P pots."""

    position: jax.Array  # [2, 2] uint8: x, y of each cook
    facing: jax.Array  # [2] uint8: north, south, east, west
    holding: jax.Array  # [2] uint8: JaxMARL's number of the object
    counters: jax.Array  # [K] uint8: JaxMARL's number of the object that lies on each counter
    pots: jax.Array  # [P] uint8: 23 - onions, or from 19 down to 0 the steps until the soup is ready
    step: jax.Array  # [] the smallest unsigned type that can count to the horizon


class OvercookedState(NamedTuple):
    kitchen: KitchenSnapshot
    deliveries: jax.Array  # [] int, soups delivered in this episode


class Converters(NamedTuple):
    """From JaxMARL's state to what changes in it, and back."""

    extract: Callable[[SimulatorState], KitchenSnapshot]
    restore: Callable[[KitchenSnapshot], SimulatorState]


def overcooked_env(name: str, sim: Simulator) -> Env:
    """The kitchen that `sim`, an Overcooked object of JaxMARL, describes."""
    shape = (sim.height, sim.width, LAYERS)
    spec = EnvSpec(
        name=name,
        n_agents=COOKS,
        n_actions=ACTIONS,
        obs_shape=shape,
        state_dim=COOKS * int(np.prod(shape)),
        horizon=sim.max_steps,
        limit_is_terminal=True,
        stats=("deliveries",),
    )
    start = jax.jit(lambda key: sim.reset(key)[1])(jax.random.key(0))
    convert = converters(sim, start)
    return Env(
        spec=spec,
        reset=partial(_reset, convert.extract(start)),
        step=partial(_step, sim, convert),
        expand=partial(_expand, sim, convert),
        compress=lambda state: state.kitchen,
        draw=draw,
    )


def _reset(opening: KitchenSnapshot, key: jax.Array) -> OvercookedState:
    facing = jax.random.randint(key, (COOKS,), 0, 4).astype(jnp.uint8)
    return OvercookedState(opening._replace(facing=facing), jnp.zeros((), jnp.int32))


def _step(
    sim: Simulator, convert: Converters, key: jax.Array, state: OvercookedState, action: jax.Array
) -> tuple[OvercookedState, Outcome]:
    before = convert.restore(state.kitchen)
    after, reward, shaped = sim.step_agents(key, before, action)
    after = after.replace(step=before.step + 1)
    end = after.step >= sim.max_steps
    deliveries = state.deliveries + (reward / DELIVERY).astype(jnp.int32)
    outcome = Outcome(
        reward=reward,
        terminal=end,
        truncated=jnp.zeros_like(end),
        stats={"deliveries": deliveries.astype(float)},
        shaping=shaped[0] + shaped[1],
    )
    return OvercookedState(convert.extract(after), deliveries), outcome


def _expand(sim: Simulator, convert: Converters, kitchen: KitchenSnapshot) -> TimeStep:
    views = sim.get_obs(convert.restore(kitchen))
    obs = jnp.stack([views[cook] for cook in sim.agents]).astype(jnp.float32)
    return TimeStep(
        obs=obs,
        state=obs.reshape(-1),
        avail=jnp.ones((COOKS, ACTIONS), bool),
        alive=jnp.ones((COOKS,), bool),
    )


def converters(sim: Simulator, start: SimulatorState) -> Converters:
    """The two directions of conversion; what never changes is taken from `start`."""
    with quiet():
        from jaxmarl.environments.overcooked.common import DIR_TO_VEC, OBJECT_INDEX_TO_VEC, OBJECT_TO_INDEX

    bare, border = np.array(start.maze_map), sim.agent_view_size - 1
    # Places in the map, which has a border around it: (rows, columns).
    inside = np.pad(np.ones((sim.height, sim.width), bool), border)
    counters = np.nonzero(inside & (bare[..., 0] == OBJECT_TO_INDEX["wall"]))
    pots = np.nonzero(bare[..., 0] == OBJECT_TO_INDEX["pot"])
    cooks = tuple(border + np.asarray(start.agent_pos).T[::-1])
    body = bare[cooks][:, :2]  # object and colour of each cook
    bare[cooks] = OBJECT_INDEX_TO_VEC[OBJECT_TO_INDEX["empty"]]

    def extract(state: SimulatorState) -> KitchenSnapshot:
        return KitchenSnapshot(
            position=state.agent_pos.astype(jnp.uint8),
            facing=state.agent_dir_idx.astype(jnp.uint8),
            holding=state.agent_inv.astype(jnp.uint8),
            counters=state.maze_map[..., 0][counters],
            pots=state.maze_map[..., 2][pots],
            step=state.step.astype(np.min_scalar_type(sim.max_steps)),
        )

    def restore(kitchen: KitchenSnapshot) -> SimulatorState:
        x, y = kitchen.position.astype(jnp.uint32).T
        cooks = jnp.concatenate([body, kitchen.facing[:, None]], axis=-1)
        grid = jnp.asarray(bare).at[counters].set(OBJECT_INDEX_TO_VEC[kitchen.counters])
        grid = grid.at[(*pots, 2)].set(kitchen.pots).at[y + border, x + border].set(cooks)
        facing = kitchen.facing.astype(jnp.int32)
        return start.replace(
            agent_pos=kitchen.position.astype(jnp.uint32),
            agent_dir=DIR_TO_VEC[facing],
            agent_dir_idx=facing,
            agent_inv=kitchen.holding.astype(jnp.int32),
            maze_map=grid,
            step=kitchen.step.astype(jnp.int32),
        )

    return Converters(extract=extract, restore=restore)
