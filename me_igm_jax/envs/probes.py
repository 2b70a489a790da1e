"""probe/*: the smallest environments with known values. A learner that fails one shows which part is wrong.

After Andy Jones, "Debugging RL, Without the Agonizing Pain". Two agents with two actions, gamma = 0.99:
  constant   one step, reward 1 for any action                       Q = 1
  observe    one step, reward +-1, which the observation tells       Q = the observation
  delay      two steps, reward 1 at the end                          Q(0) = gamma, Q(1) = 1
  action     one step, reward 1 if all choose action 1, else 0       greedy joint action (1, 1)
  match      one step, reward 1 if all choose the observed action    greedy action follows the observation
  clock      obs = t, reward 10 + t, ends at random by action or limit: pins every alignment
In all but `clock` the last step is terminal. In `clock` the time limit is a truncation, and the episode is
terminal when both agents choose action 1.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ..config import register_env
from ..types import Env, EnvSpec, Outcome, TimeStep

N_AGENTS, N_ACTIONS = 2, 2


class ProbeState(NamedTuple):
    step: jax.Array  # [] int
    sign: jax.Array  # [] float, +1 or -1, sampled at reset


Reward = Callable[[ProbeState, jax.Array], Any]  # state, action [N] -> []
Observation = Callable[[ProbeState], Any]  # state -> []


def names() -> Sequence[str]:
    """All probes."""
    return [*_PROBES]


@register_env("probe", names=names)
def make(name: str, options: Any = None) -> Env:
    """The probe `name`. Probes have no options."""
    return _PROBES[name]()


def clock(horizon: int = 6, limit_is_terminal: bool = False) -> Env:
    """obs = t and reward 10 + t. It ends, terminal, when every agent chooses action 1, or at the limit."""

    def step(key: jax.Array, state: ProbeState, action: jax.Array):
        after = state._replace(step=state.step + 1)
        limit = after.step >= horizon
        terminal = jnp.all(action == 1) | (limit & limit_is_terminal)
        outcome = Outcome(
            reward=10.0 + state.step,
            terminal=terminal,
            truncated=limit & ~terminal,
            stats={"last": state.step},
        )
        return after, outcome

    return Env(
        spec=_spec("clock", horizon, limit_is_terminal, stats=("last",)),
        reset=lambda key: ProbeState(jnp.zeros((), jnp.int32), jnp.ones(())),
        step=step,
        expand=partial(_expand, lambda state: state.step),
    )


def _probe(name: str, horizon: int, reward: Reward, observation: Observation) -> Env:
    def reset(key: jax.Array) -> ProbeState:
        sign = jnp.where(jax.random.bernoulli(key), 1.0, -1.0)
        return ProbeState(jnp.zeros((), jnp.int32), sign)

    def step(key: jax.Array, state: ProbeState, action: jax.Array):
        after = state._replace(step=state.step + 1)
        end = after.step >= horizon
        outcome = Outcome(
            reward=jnp.asarray(reward(state, action), jnp.float32),
            terminal=end,
            truncated=jnp.zeros_like(end),
            stats={},
        )
        return after, outcome

    return Env(
        spec=_spec(name, horizon, limit_is_terminal=True),
        reset=reset,
        step=step,
        expand=partial(_expand, observation),
    )


def _spec(name: str, horizon: int, limit_is_terminal: bool, stats: tuple[str, ...] = ()) -> EnvSpec:
    return EnvSpec(
        name=f"probe/{name}",
        n_agents=N_AGENTS,
        n_actions=N_ACTIONS,
        obs_shape=(1,),
        state_dim=1,
        horizon=horizon,
        limit_is_terminal=limit_is_terminal,
        stats=stats,
    )


def _expand(observation: Observation, state: ProbeState) -> TimeStep:
    value = jnp.asarray(observation(state), jnp.float32)
    return TimeStep(
        obs=jnp.broadcast_to(value, (N_AGENTS, 1)),
        state=value[None],
        avail=jnp.ones((N_AGENTS, N_ACTIONS), bool),
        alive=jnp.ones((N_AGENTS,), bool),
    )


_PROBES = {
    "constant": lambda: _probe("constant", 1, lambda s, a: 1.0, lambda s: 0.0),
    "observe": lambda: _probe("observe", 1, lambda s, a: s.sign, lambda s: s.sign),
    "delay": lambda: _probe("delay", 2, lambda s, a: s.step == 1, lambda s: s.step),
    "action": lambda: _probe("action", 1, lambda s, a: jnp.all(a == 1), lambda s: 0.0),
    "match": lambda: _probe("match", 1, lambda s, a: jnp.all(a == (s.sign > 0)), lambda s: s.sign),
    "clock": clock,
}
