"""Critics of joint actions from a box: Q_tot(s, u) of continuous actions u, for deterministic policies."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ..types import Batch, EnvSpec, Params
from .agents import example_inputs, make_agent_net
from .critics import ActionValue, PositiveSum
from .layers import MLP, apply, concat
from .mixers import QMIX


class JointCritic(NamedTuple):
    """Q_tot(s, u) as functions of its parameters, actions in [-1, 1].

    What does not depend on the action is encoded once; leading axes broadcast.
    """

    init: Callable[[jax.Array], Params]
    encode: Callable[[Params, Batch], Any]  # -> arrays [T or T + 1, B, ...]
    q_tot: Callable[[Params, Any, jax.Array], jax.Array]  # params, encoded, u [..., N, d] -> [...]


def undivided_critic(spec: EnvSpec, hidden: int, operands: str = "float32") -> JointCritic:
    """Q(s, u_1, ..., u_N), an MLP with two hidden layers: it knows of no agents."""
    module = MLP((hidden, hidden, 1), operands)

    def init(key: jax.Array) -> Params:
        return module.init(key, jnp.zeros(spec.state_dim + spec.n_agents * spec.action_dim))

    def encode(params: Params, batch: Batch) -> jax.Array:
        return batch.steps.state

    def q_tot(params: Params, state: jax.Array, action: jax.Array) -> jax.Array:
        return apply(module, params, concat(state, action.reshape(*action.shape[:-2], -1)))[..., 0]

    return JointCritic(init=init, encode=encode, q_tot=q_tot)


def factored_critic(net: Any, spec: EnvSpec, hidden: int, mixer: QMIX | PositiveSum) -> JointCritic:
    """Q_i(tau_i, u_i) under QMIX's mixer, or sum_i k_i(s) Q_i + b(s) under DOP's positive sum.

    Args:
      net: config.net, which says what Q_i reads its memory with.
      hidden: the width of that memory, and of the layer on the memory and the action.
    """
    net = dataclasses.replace(net, output_scale=1.0)  # a small scale is meant for policies
    agent, value = make_agent_net(net, spec, outputs=hidden), ActionValue(hidden, net.operands)
    linear = isinstance(mixer, PositiveSum)

    def init(key: jax.Array) -> Params:
        keys, state = jax.random.split(key, 3), example_inputs(spec).state
        mixed = (state,) if linear else (jnp.zeros((1, spec.n_agents)), state)
        return {
            "agent": agent.init(keys[0]),
            "value": value.init(keys[1], jnp.zeros(hidden), jnp.zeros(spec.action_dim)),
            "mixer": mixer.init(keys[2], *mixed),
        }

    def encode(params: Params, batch: Batch) -> tuple[jax.Array, jax.Array]:
        return agent.unroll(params["agent"], batch), batch.steps.state

    def q_tot(params: Params, encoded: tuple[jax.Array, jax.Array], action: jax.Array) -> jax.Array:
        h, state = encoded
        q = apply(value, params["value"], h, action)
        if not linear:
            return apply(mixer, params["mixer"], q, state)
        k, b = apply(mixer, params["mixer"], state)
        return (k * q).sum(-1) + b

    return JointCritic(init=init, encode=encode, q_tot=q_tot)
