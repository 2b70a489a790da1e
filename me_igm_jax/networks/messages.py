"""Agents that exchange messages while they learn (PAC). Messages serve critics alone: acting needs none."""

import dataclasses
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ..types import Batch, EnvSpec, Params
from .agents import AgentNet, make_agent_net


class MessageNets(NamedTuple):
    """The networks that send and read messages, named as their parameters are."""

    agent: AgentNet  # utilities; reads messages
    encoder: AgentNet  # means of what each agent tells all agents (itself included), [..., N, N d]
    predictor: AgentNet  # logits over actions; reads messages


def make_message_nets(net: Any, spec: EnvSpec, numbers: int) -> MessageNets:
    """Networks of agents that tell each agent d = `numbers` numbers.

    The utilities' network is the one that `net` (config.net) describes; the others have two layers and no
    memory.
    """
    told = spec.n_agents * numbers
    hearing_spec = spec._replace(obs_shape=(math.prod(spec.obs_shape) + told,))
    memoryless = dataclasses.replace(net, recurrent=False, layers=2)
    return MessageNets(
        agent=make_agent_net(net, hearing_spec),
        encoder=make_agent_net(memoryless, spec, outputs=told),
        predictor=make_agent_net(dataclasses.replace(memoryless, hidden=4 * told), hearing_spec),
    )


def unroll_messages(
    nets: MessageNets, params: Params, batch: Batch, noise: jax.Array | float
) -> dict[str, jax.Array]:
    """Outputs of the networks over time, by name, [T or T + 1, B, N, ...].

    `noise` [T or T + 1, B, N, N d] is added to the means that the encoder gives.
    """
    mean = nets.encoder.unroll(params["encoder"], batch)
    heard = hearing(batch, exchanged(mean + noise))
    return {
        "agent": nets.agent.unroll(params["agent"], heard),
        "encoder": mean,
        "predictor": nets.predictor.unroll(params["predictor"], heard),
    }


def exchanged(sent: jax.Array) -> jax.Array:
    """What each agent is told by all agents, from what each tells all: [..., N, N d] both."""
    *leading, n, width = sent.shape
    return sent.reshape(*leading, n, n, width // n).swapaxes(-2, -3).reshape(sent.shape)


def hearing(batch: Batch, messages: jax.Array) -> Batch:
    """`batch` with observations, one vector each, that end with `messages` [T or T + 1, B, N, M]."""
    leading, steps = messages.shape[:3], batch.steps
    obs = steps.obs.reshape(*steps.obs.shape[:3], -1)
    obs = jnp.concatenate([jnp.broadcast_to(obs, (*leading, obs.shape[-1])), messages], axis=-1)
    steps = steps._replace(obs=obs, alive=jnp.broadcast_to(steps.alive, leading))
    return batch._replace(steps=steps, first=jnp.broadcast_to(batch.first, leading[:2]))
