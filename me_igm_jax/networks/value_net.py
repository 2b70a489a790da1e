"""State values read by the agents' network: of the team from the central state, or of each agent."""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax

from ..types import Batch, EnvSpec, Params
from .agents import make_agent_net


class ValueNet(NamedTuple):
    """V as functions of its parameters: of the team (M = 1), or of each agent (M = N)."""

    init: Callable[[jax.Array], Params]
    value: Callable[[Params, Batch], jax.Array]  # params, batch -> [T or T + 1, B, M]


def make_value_net(net: Any, spec: EnvSpec, reads: Literal["state", "observation"]) -> ValueNet:
    """The network that `net` (config.net) describes with one output.

    observation  for each agent, from what it sees and remembers
    state        for the team, from the central state; net.torso, last_action, agent_id, shared do not apply

    A small net.output_scale is meant for policies, so the output weights of a value keep the scale 1.
    """
    net = dataclasses.replace(net, output_scale=1.0)
    if reads == "observation":
        agents = make_agent_net(net, spec, outputs=1)
        return ValueNet(agents.init, lambda params, batch: agents.unroll(params, batch)[..., 0])
    net = dataclasses.replace(net, torso="mlp", last_action=False, agent_id=False, shared=True)
    team = make_agent_net(net, spec._replace(n_agents=1, obs_shape=(spec.state_dim,)), outputs=1)

    def value(params: Params, batch: Batch) -> jax.Array:
        seen = {"obs": batch.steps.state[..., None, :], "alive": batch.steps.alive[..., :1]}
        of_team = batch._replace(steps=batch.steps._replace(**seen), action=batch.action[..., :1])
        return team.unroll(params, of_team)[..., 0]

    return ValueNet(team.init, value)
