"""differential/mtq: Max of Two Quadratics, a one-step game of two agents with continuous actions.

    f1 = 0.8 [ -((u1 + 5) / 3)^2 - ((u2 + 5) / 3)^2 ]
    f2 = -(u1 - 5)^2 - (u2 - 5)^2 + 10
    r(u1, u2) = max(f1, f2)

FOP (Zhang et al. 2021), section 5.1, after Panait et al. 2007 and Wei et al. 2018. The wide hill's top is
0, at (-5, -5); the narrow one's is 10, at (5, 5), the optimum. FOP bounds the actions without saying
where; [-10, 10] is usual. Rewards are multiplied by `differential.reward_scale`, 0.1 as in FOP. Nothing
is observed: a constant 1. The statistic `optimal` says whether both actions are within 0.5 of 5.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from ..config import Config
from ..types import Env, EnvSpec, Outcome, TimeStep

N, BOUND = 2, 10.0


class GameState(NamedTuple):
    step: jax.Array  # [] int: 0 before acting, 1 after


def names() -> Sequence[str]:
    return ["mtq"]


def make(name: str, config: Config) -> Env:
    """The game with the scale in config.differential."""
    scale = config.differential.reward_scale
    spec = EnvSpec(
        name=f"differential/{name}",
        n_agents=N,
        n_actions=0,
        obs_shape=(1,),
        state_dim=1,
        horizon=1,
        limit_is_terminal=True,
        stats=("optimal", "u1", "u2"),
        max_return=10.0 * scale,
        one_start=True,
        action_dim=1,
        action_bounds=(-BOUND, BOUND),
    )

    def reset(key: jax.Array) -> GameState:
        return GameState(jnp.zeros((), jnp.int32))

    def step(key: jax.Array, state: GameState, action: jax.Array):
        u = jnp.clip(action[:, 0], -BOUND, BOUND)
        true = jnp.ones((), bool)
        stats = {"optimal": (jnp.abs(u - 5.0) <= 0.5).all(), "u1": u[0], "u2": u[1]}
        return GameState(state.step + 1), Outcome(scale * surface(u), true, ~true, stats)

    def expand(state: GameState) -> TimeStep:
        return TimeStep(jnp.ones((N, 1)), jnp.ones((1,)), jnp.ones((N, 1), bool), jnp.ones((N,), bool))

    return Env(spec, reset, step, expand)


def surface(u: jax.Array) -> jax.Array:
    """r(u), unscaled, for actions u [..., 2]."""
    wide = -0.8 * (((u + 5.0) / 3.0) ** 2).sum(-1)
    narrow = 10.0 - ((u - 5.0) ** 2).sum(-1)
    return jnp.maximum(wide, narrow)
