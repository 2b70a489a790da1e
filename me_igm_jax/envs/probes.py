"""probe/*: the smallest environments with known values; a learner that fails one shows which part is wrong.

After Andy Jones, "Debugging RL, Without the Agonizing Pain". Two agents, two actions, gamma = 0.99:
  constant   one step, reward 1 whatever is done                     Q = 1
  observe    one step, reward +-1 told by the observation            Q = the observation
  delay      two steps, reward 1 at the end                          Q(0) = gamma, Q(1) = 1
  action     one step, reward 1 if all choose action 1, else 0       greedy joint action (1, 1)
  match      one step, reward 1 if all choose the observed action    greedy follows the observation
  clock      obs = t, reward 10 + t, ends at random by action or limit: pins every alignment
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from ..config import Config
from ..types import Env, EnvSpec, Outcome, TimeStep

N_AGENTS, N_ACTIONS = 2, 2


class ProbeState(NamedTuple):
    step: jax.Array  # [] int
    sign: jax.Array  # [] float, +-1, drawn at reset


def names() -> Sequence[str]:
    return [*_PROBES]


def make(name: str, config: Config) -> Env:
    return _PROBES[name]()


def _probe(name: str, horizon: int, reward, observation) -> Env:
    """reward(state, action [N]) and observation(state) -> []; the last step is terminal."""
    spec = EnvSpec(f"probe/{name}", N_AGENTS, N_ACTIONS, (1,), 1, horizon, True)

    def reset(key: jax.Array) -> ProbeState:
        sign = jnp.where(jax.random.bernoulli(key), 1.0, -1.0)
        return ProbeState(jnp.zeros((), jnp.int32), sign)

    def step(key: jax.Array, state: ProbeState, action: jax.Array):
        after = state._replace(step=state.step + 1)
        end = after.step >= horizon
        value = jnp.asarray(reward(state, action), jnp.float32)
        return after, Outcome(value, end, jnp.zeros_like(end), {})

    return Env(spec, reset, step, _observer(observation))


def _observer(observation):
    def observe(state: ProbeState) -> TimeStep:
        value = jnp.asarray(observation(state), jnp.float32)
        return TimeStep(
            obs=jnp.broadcast_to(value, (N_AGENTS, 1)),
            state=value[None],
            avail=jnp.ones((N_AGENTS, N_ACTIONS), bool),
            alive=jnp.ones((N_AGENTS,), bool),
        )

    return observe


def clock(horizon: int = 6, limit_is_terminal: bool = False) -> Env:
    """obs = t and reward 10 + t; ends (terminal) when every agent picks action 1, or at the limit."""
    spec = EnvSpec("probe/clock", N_AGENTS, N_ACTIONS, (1,), 1, horizon, limit_is_terminal, ("last",))

    def reset(key: jax.Array) -> ProbeState:
        return ProbeState(jnp.zeros((), jnp.int32), jnp.ones(()))

    def step(key: jax.Array, state: ProbeState, action: jax.Array):
        after = state._replace(step=state.step + 1)
        limit = after.step >= horizon
        terminal = jnp.all(action == 1) | (limit & limit_is_terminal)
        outcome = Outcome(10.0 + state.step, terminal, limit & ~terminal, {"last": state.step})
        return after, outcome

    return Env(spec, reset, step, _observer(lambda s: s.step))


_PROBES = {
    "constant": lambda: _probe("constant", 1, lambda s, a: 1.0, lambda s: 0.0),
    "observe": lambda: _probe("observe", 1, lambda s, a: s.sign, lambda s: s.sign),
    "delay": lambda: _probe("delay", 2, lambda s, a: s.step == 1, lambda s: s.step),
    "action": lambda: _probe("action", 1, lambda s, a: jnp.all(a == 1), lambda s: 0.0),
    "match": lambda: _probe("match", 1, lambda s, a: jnp.all(a == (s.sign > 0)), lambda s: s.sign),
    "clock": clock,
}
