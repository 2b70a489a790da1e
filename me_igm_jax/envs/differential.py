"""differential/mtq: Max of Two Quadratics, a game of one step for two agents with continuous actions.

    f1 = 0.8 [ -((u1 + 5) / 3)^2 - ((u2 + 5) / 3)^2 ]
    f2 = -(u1 - 5)^2 - (u2 - 5)^2 + 10
    r(u1, u2) = max(f1, f2)

Source: FOP (Zhang et al. 2021), section 5.1, after Panait et al. 2007 and Wei et al. 2018. The wide hill
has its top, 0, at (-5, -5). The narrow hill has its top, 10, at (5, 5): this is the optimum. FOP bounds the
actions but does not say where; [-10, 10] is usual. The reward is r times `reward_scale`, 0.1 as in FOP.
Nothing is observed: a constant 1. The one step is terminal. The statistic `optimal` is 1 when both actions
are within 0.5 of 5.
"""

import dataclasses
from collections.abc import Sequence
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ..config import option, register_env
from ..types import Env, EnvSpec, Frame, Outcome, TimeStep

N_AGENTS, BOUND = 2, 10.0


@dataclasses.dataclass(frozen=True)
class DifferentialOptions:
    """Options of the differential/* environments."""

    reward_scale: float = option(
        0.1, "Multiplies the reward. With 0.1, as in FOP, the best return is 1.", above=0
    )


class DifferentialState(NamedTuple):
    step: jax.Array  # [] int: 0 before acting, 1 after


def names() -> Sequence[str]:
    """The only game."""
    return ["mtq"]


@register_env("differential", options=DifferentialOptions, names=names)
def make(name: str, options: DifferentialOptions) -> Env:
    """The game with rewards multiplied by `options.reward_scale`."""
    spec = EnvSpec(
        name=f"differential/{name}",
        n_agents=N_AGENTS,
        n_actions=0,
        obs_shape=(1,),
        state_dim=1,
        horizon=1,
        limit_is_terminal=True,
        stats=("optimal", "u1", "u2"),
        max_return=10.0 * options.reward_scale,
        one_start=True,
        action_dim=1,
        action_bounds=(-BOUND, BOUND),
    )
    return Env(
        spec=spec,
        reset=lambda key: DifferentialState(jnp.zeros((), jnp.int32)),
        step=partial(_step, options.reward_scale),
        expand=_expand,
        draw=draw,
    )


def surface(u: jax.Array) -> jax.Array:
    """r(u), not scaled, [...], for actions u [..., 2]."""
    wide = -0.8 * (((u + 5.0) / 3.0) ** 2).sum(-1)
    narrow = 10.0 - ((u - 5.0) ** 2).sum(-1)
    return jnp.maximum(wide, narrow)


def _step(
    scale: float, key: jax.Array, state: DifferentialState, action: jax.Array
) -> tuple[DifferentialState, Outcome]:
    u = jnp.clip(action[:, 0], -BOUND, BOUND)
    outcome = Outcome(
        reward=scale * surface(u),
        terminal=jnp.ones((), bool),
        truncated=jnp.zeros((), bool),
        stats={"optimal": (jnp.abs(u - 5.0) <= 0.5).all(), "u1": u[0], "u2": u[1]},
    )
    return DifferentialState(state.step + 1), outcome


def _expand(state: DifferentialState) -> TimeStep:
    return TimeStep(
        obs=jnp.ones((N_AGENTS, 1)),
        state=jnp.ones((1,)),
        avail=jnp.ones((N_AGENTS, 1), bool),
        alive=jnp.ones((N_AGENTS,), bool),
    )


# -- picture --------------------------------------------------------------------------------------


def draw(axes: Any, frame: Frame) -> None:
    """The reward, not scaled, over both actions, and the joint action on it."""
    grid, reward = _picture()
    axes.contourf(grid, grid, reward, levels=30, cmap="viridis")
    if frame.action is not None:
        axes.plot(*frame.action[:, 0], "o", color="white", markeredgecolor="black", markersize=9)
    axes.set(xlabel="action of agent 0", ylabel="action of agent 1", aspect="equal")


@cache
def _picture() -> tuple[np.ndarray, np.ndarray]:
    """(actions [101], rewards [101, 101] with u2 down the rows), cut off at -60."""
    grid = np.linspace(-BOUND, BOUND, 101)
    u = np.stack(np.meshgrid(grid, grid, indexing="ij"), axis=-1)
    return grid, np.maximum(np.asarray(surface(jnp.asarray(u))), -60.0).T
