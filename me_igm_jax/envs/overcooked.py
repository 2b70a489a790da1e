"""overcooked/*: JaxMARL's Overcooked, two cooks that deliver onion soups, in its five layouts.

Onions go into a pot, three of them cook for 20 steps, and the soup is carried on a plate to the counter
where it is delivered. Dynamics and observations are JaxMARL's own code. What is decided here:
  * no reset inside a step: an episode is exactly `overcooked.horizon` steps, and that end is terminal, as
    in JaxMARL; an observation tells when fewer than 40 steps are left;
  * the reward is the team's, counted once: 20 for a delivery. `shaping` is the sum of both cooks' shaped
    rewards: 3 for an onion put into a pot, 3 for a plate taken for a pot in use, 5 for a soup taken out;
  * the cooks start at fixed places but face random ways (JaxMARL without `random_reset`), and nothing else
    is random: deterministic policies play at most 16 different episodes;
  * the central state is both observations, flattened; every action is always available: north, south,
    east, west, stay, interact.
An observation is the grid [H, W, 26] with the own layers first; JaxMARL's declared shape swaps H and W.
"""

from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ..config import Config
from ..types import Env, EnvSpec, Outcome, TimeStep
from .upstream import quiet

_LAYOUTS = ("cramped_room", "asymm_advantages", "coord_ring", "forced_coord", "counter_circuit")
COOKS, ACTIONS = 2, 6
DELIVERY = 20.0  # reward


class Kitchen(NamedTuple):
    """All that changes in a kitchen of K counters and P pots, in K + P + 10 bytes."""

    position: jax.Array  # [2, 2] uint8: x, y
    facing: jax.Array  # [2] uint8: north, south, east, west
    holding: jax.Array  # [2] uint8: JaxMARL's object index
    counters: jax.Array  # [K] uint8: the same of what lies there
    pots: jax.Array  # [P] uint8: 23 - onions, or the 19 to 0 steps until the soup is ready
    step: jax.Array  # [] the smallest type that counts to the horizon


class Shift(NamedTuple):
    kitchen: Kitchen
    deliveries: jax.Array  # [] int


def names() -> Sequence[str]:
    return _LAYOUTS  # spelled out: importing JaxMARL costs seconds; a test compares them


def make(name: str, config: Config) -> Env:
    """The layout `name` with the options in config.overcooked."""
    game, layouts = _jaxmarl()
    return overcooked_env(f"overcooked/{name}", game(layouts[name], max_steps=config.overcooked.horizon))


@cache
def _jaxmarl():
    with quiet():
        from jaxmarl.environments.overcooked.layouts import overcooked_layouts
        from jaxmarl.environments.overcooked.overcooked import Overcooked
    return Overcooked, overcooked_layouts


def overcooked_env(name: str, sim) -> Env:
    """The kitchen that `sim`, a JaxMARL Overcooked, describes."""
    shape = (sim.height, sim.width, 26)
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
    extract, restore = converters(sim, start)
    opening = extract(start)

    def reset(key: jax.Array) -> Shift:
        facing = jax.random.randint(key, (COOKS,), 0, 4).astype(jnp.uint8)
        return Shift(opening._replace(facing=facing), jnp.zeros((), jnp.int32))

    def step(key: jax.Array, shift: Shift, action: jax.Array):
        before = restore(shift.kitchen)
        after, reward, shaped = sim.step_agents(key, before, action)
        after = after.replace(step=before.step + 1)
        end = after.step >= sim.max_steps
        deliveries = shift.deliveries + (reward / DELIVERY).astype(jnp.int32)
        stats = {"deliveries": deliveries.astype(float)}
        outcome = Outcome(reward, end, jnp.zeros_like(end), stats, shaping=sum(shaped))
        return Shift(extract(after), deliveries), outcome

    def expand(kitchen: Kitchen) -> TimeStep:
        views = sim.get_obs(restore(kitchen))
        obs = jnp.stack([views[cook] for cook in sim.agents]).astype(jnp.float32)
        return TimeStep(obs, obs.reshape(-1), jnp.ones((COOKS, ACTIONS), bool), jnp.ones((COOKS,), bool))

    return Env(spec, reset, step, expand, compress=lambda shift: shift.kitchen)


def converters(sim, start):
    """(extract: JaxMARL's State -> Kitchen, restore: its inverse); what never changes is as in `start`."""
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

    def extract(state) -> Kitchen:
        return Kitchen(
            position=state.agent_pos.astype(jnp.uint8),
            facing=state.agent_dir_idx.astype(jnp.uint8),
            holding=state.agent_inv.astype(jnp.uint8),
            counters=state.maze_map[..., 0][counters],
            pots=state.maze_map[..., 2][pots],
            step=state.step.astype(np.min_scalar_type(sim.max_steps)),
        )

    def restore(kitchen: Kitchen):
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

    return extract, restore
