"""matrix/*: cooperative games that a payoff tensor defines, for any number of players.

One joint action has one payoff, which is the reward of the whole team. The unit of the reward is the unit
of the payoff. A game is played `steps` times in an episode, once by default. The last step is terminal.

Observation and state are the number of the step, one-hot, as in the reference code: in a game that is
played once they are [1, 0] before acting and [0, 1] at the end.
"""

import dataclasses
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ..config import ConfigError, option, register_env
from ..types import Env, EnvSpec, Frame, Outcome, TimeStep

PAYOFFS = {
    # Son et al. 2019 (QTRAN); FOP, Table 1; ME-IGM, Table 1: penalties surround the optimum.
    "qtran": ((8, -12, -12), (-12, 0, 0), (-12, 0, 0)),
    # Claus & Boutilier 1998
    "climbing": ((11, -30, 0), (-30, 7, 6), (0, 0, 5)),
    "penalty": ((-100, 0, 10), (0, 2, 0), (10, 0, -100)),
}


def _is_custom(config: Any) -> bool:
    return config.env == "matrix/custom"


@dataclasses.dataclass(frozen=True)
class MatrixOptions:
    """Options of the matrix/* environments."""

    payoff: tuple | None = option(
        None,
        "Payoff tensor of matrix/custom: nested lists, one level per player, as many entries on each level "
        'as there are actions. For two players with two actions: "[[1, 2], [3, 4]]".',
        when=_is_custom,
    )
    steps: int = option(1, "How often the game is played in an episode.", low=1)

    def check(self, config: Any) -> None:
        """Raise ConfigError when matrix/custom has no proper payoff tensor."""
        if _is_custom(config):
            custom_payoff(self.payoff)


class MatrixState(NamedTuple):
    step: jax.Array  # [] int: how often the game was played


def names() -> Sequence[str]:
    """The games with a name, and "custom"."""
    return [*PAYOFFS, "custom"]


@register_env("matrix", options=MatrixOptions, names=names)
def make(name: str, options: MatrixOptions) -> Env:
    """The named game, or matrix/custom with the tensor in `options.payoff`."""
    custom = name == "custom"
    payoff = custom_payoff(options.payoff) if custom else np.asarray(PAYOFFS[name], np.float32)
    return matrix_game(f"matrix/{name}", payoff, options.steps)


def custom_payoff(given: Any) -> np.ndarray:
    """`given` as a tensor [A, ..., A] with an axis per player; ConfigError when it is none."""
    key = "env_options.payoff"
    if given is None:
        raise ConfigError(f"{key}=None: matrix/custom needs a payoff tensor, such as [[1, 2], [3, 4]]")
    try:
        payoff = np.asarray(given, np.float32)
    except (ValueError, TypeError):
        raise ConfigError(f"{key}: must be numbers in a regular tensor") from None
    if payoff.ndim < 1 or len(set(payoff.shape)) != 1 or payoff.size == 0:
        raise ConfigError(f"{key}: shape {payoff.shape}; needs one axis per player, all of the same length")
    if not np.isfinite(payoff).all():
        raise ConfigError(f"{key}: must be finite numbers")
    return payoff


def matrix_game(name: str, payoff: np.ndarray, steps: int = 1) -> Env:
    """The game with reward = payoff[action], played `steps` times.

    payoff [A, ..., A] has one axis for each of the N players.
    """
    spec = EnvSpec(
        name=name,
        n_agents=payoff.ndim,
        n_actions=payoff.shape[0],
        obs_shape=(steps + 1,),
        state_dim=steps + 1,
        horizon=steps,
        limit_is_terminal=True,
        one_start=True,
        max_return=steps * float(payoff.max()),
    )
    return Env(
        spec=spec,
        reset=lambda key: MatrixState(jnp.zeros((), jnp.int32)),
        step=partial(_step, jnp.asarray(payoff), steps),
        expand=partial(_expand, spec),
        draw=partial(draw, payoff),
    )


def _step(
    payoff: jax.Array, steps: int, key: jax.Array, state: MatrixState, action: jax.Array
) -> tuple[MatrixState, Outcome]:
    after = MatrixState(state.step + 1)
    end = after.step >= steps
    outcome = Outcome(reward=_entry(payoff, action), terminal=end, truncated=jnp.zeros_like(end), stats={})
    return after, outcome


def _entry(payoff: jax.Array, action: jax.Array) -> jax.Array:
    """payoff[action] for action [N], []. One-hot products: a gather is a loop on some backends."""
    n_actions = payoff.shape[0]
    for i in range(payoff.ndim):
        payoff = jax.nn.one_hot(action[i], n_actions) @ payoff.reshape(n_actions, -1)
    return payoff[0]


def _expand(spec: EnvSpec, state: MatrixState) -> TimeStep:
    onehot = jax.nn.one_hot(state.step, spec.state_dim)
    return TimeStep(
        obs=jnp.broadcast_to(onehot, (spec.n_agents, spec.state_dim)),
        state=onehot,
        avail=jnp.ones((spec.n_agents, spec.n_actions), bool),
        alive=jnp.ones((spec.n_agents,), bool),
    )


# -- picture --------------------------------------------------------------------------------------


def draw(payoff: np.ndarray, axes: Any, frame: Frame) -> None:
    """The payoffs of agents 0 and 1, and a box around the joint action.

    When there are more than two players, the picture is the slice that the actions of the others select.
    """
    from matplotlib.patches import Rectangle

    action = np.zeros(payoff.ndim, int) if frame.action is None else np.asarray(frame.action)
    rest = tuple(action[2:])
    shown = payoff[(slice(None), slice(None), *rest)] if payoff.ndim > 1 else payoff[:, None]
    most = 1.8 * max(float(np.abs(payoff).max()), 1e-6)  # pale colours, so that the numbers can be read
    axes.imshow(shown, cmap="RdBu", vmin=-most, vmax=most)
    for y, x in np.ndindex(shown.shape):
        axes.text(x, y, f"{shown[y, x]:g}", ha="center", va="center")
    if frame.action is not None:
        column = action[1] if payoff.ndim > 1 else 0
        axes.add_patch(Rectangle((column - 0.5, action[0] - 0.5), 1, 1, fill=False, lw=3))
    axes.set(xticks=range(shown.shape[1]), yticks=range(shown.shape[0]), ylabel="action of agent 0")
    the_others = f"  (other agents: {', '.join(map(str, rest))})" if rest else ""
    axes.set_xlabel(f"action of agent 1{the_others}" if payoff.ndim > 1 else "")
