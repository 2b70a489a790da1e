"""matrix/*: cooperative games given by a payoff tensor, for any number of players.

A game is played `matrix.steps` times, once by default. Observation and state are the one-hot step, as
in the reference code: in a one-shot game [1, 0] before acting and [0, 1] at the end. The last transition
is terminal. Units of the reward: the payoff's.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ..config import Config, ConfigError
from ..types import Env, EnvSpec, Outcome, TimeStep

PAYOFFS = {
    # Son et al. 2019; FOP Table 1, ME-IGM Table 1: the optimum is surrounded by penalties.
    "qtran": ((8, -12, -12), (-12, 0, 0), (-12, 0, 0)),
    # Claus & Boutilier 1998
    "climbing": ((11, -30, 0), (-30, 7, 6), (0, 0, 5)),
    "penalty": ((-100, 0, 10), (0, 2, 0), (10, 0, -100)),
}


class MatrixState(NamedTuple):
    step: jax.Array  # [] int: games played


def names() -> Sequence[str]:
    return [*PAYOFFS, "custom"]


def make(name: str, config: Config) -> Env:
    """The named game, or `matrix/custom` with the tensor in config.matrix.payoff."""
    return matrix_game(f"matrix/{name}", payoff_of(name, config), config.matrix.steps)


def payoff_of(name: str, config: Config) -> np.ndarray:
    given = config.matrix.payoff
    if name != "custom":
        return np.asarray(PAYOFFS[name], np.float32)
    if given is None:
        raise ConfigError("matrix.payoff=None: matrix/custom needs a payoff tensor (nested lists)")
    try:
        payoff = np.asarray(given, np.float32)
    except (ValueError, TypeError):
        raise ConfigError("matrix.payoff: must be numbers in a regular tensor") from None
    if payoff.ndim < 1 or len(set(payoff.shape)) != 1:
        raise ConfigError(
            f"matrix.payoff: shape {payoff.shape}; needs one axis per player, all of one length"
        )
    if not np.isfinite(payoff).all():
        raise ConfigError("matrix.payoff: must be finite numbers")
    return payoff


def matrix_game(name: str, payoff: np.ndarray, steps: int = 1) -> Env:
    """payoff [A, ..., A] with one axis per player; reward = payoff[action], `steps` times."""
    n_agents, n_actions = payoff.ndim, payoff.shape[0]
    table = jnp.asarray(payoff)
    spec = EnvSpec(
        name=name,
        n_agents=n_agents,
        n_actions=n_actions,
        obs_shape=(steps + 1,),
        state_dim=steps + 1,
        horizon=steps,
        limit_is_terminal=True,
        one_start=True,
        max_return=steps * float(payoff.max()),
    )

    def reset(key: jax.Array) -> MatrixState:
        return MatrixState(jnp.zeros((), jnp.int32))

    def step(key: jax.Array, state: MatrixState, action: jax.Array):
        # A one-hot contraction per player: a gather would be a loop on some backends.
        reward = table
        for i in range(n_agents):
            reward = jax.nn.one_hot(action[i], n_actions) @ reward.reshape(n_actions, -1)
        after = MatrixState(state.step + 1)
        end = after.step >= steps
        return after, Outcome(reward[0], end, jnp.zeros_like(end), {})

    def expand(state: MatrixState) -> TimeStep:
        onehot = jax.nn.one_hot(state.step, steps + 1)
        return TimeStep(
            obs=jnp.broadcast_to(onehot, (n_agents, steps + 1)),
            state=onehot,
            avail=jnp.ones((n_agents, n_actions), bool),
            alive=jnp.ones((n_agents,), bool),
        )

    return Env(spec, reset, step, expand)
