"""What agents see and remember, around one network: to act step by step, and to unroll over a batch."""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from ..config import Net
from ..nets import Linear, agent_inputs, encode_action, last_actions, make_agent, no_action
from ..types import Batch, Carry, EnvSpec, Inspection, Params, TimeStep


class AgentNet(NamedTuple):
    """A network of the agents as functions of its parameters."""

    init: Callable[[jax.Array], Params]  # key -> params
    carry: Callable[[int], Carry]  # B -> what is remembered before an episode
    step: Callable[[Params, Carry, TimeStep], tuple[jax.Array, jax.Array]]
    # params, carry, TimeStep [B] -> hidden [B, N, H], outputs [B, N, K]
    unroll: Callable[[Params, Batch], jax.Array]  # params, batch -> outputs [T(+1), B, N, K]


def apply(module: nn.Module, params: Params, *args) -> Any:
    """`module.apply`; flax declares a tuple that only mutable collections would give."""
    return module.apply(params, *args)


def make_agent_net(net: Net, spec: EnvSpec, outputs: int | None = None) -> AgentNet:
    """The network that `net` describes, reading observations, last actions and agent indices.

    The carry of an acting agent is (hidden [B, N, H], last action [B, N] or [B, N, d]).
    """
    module = make_agent(net, spec, outputs)

    def hidden(B: int) -> jax.Array:
        return jnp.zeros((B, spec.n_agents, net.hidden))

    def carry(B: int) -> Carry:
        return hidden(B), no_action((B,), spec)

    def inputs(step: TimeStep, last_action: jax.Array) -> jax.Array:
        last = encode_action(last_action, spec) if net.last_action else None
        return agent_inputs(step, last, net.agent_id)

    def init(key: jax.Array) -> Params:
        h, last_action = carry(1)
        x = inputs(empty_step(spec), last_action)[None]
        return module.init(key, h, x, jnp.zeros((1, 1), bool))

    def step(params: Params, carry: Carry, step: TimeStep):
        x = inputs(step, carry[1])[None]
        h, out = apply(module, params, carry[0], x, jnp.zeros((1, x.shape[1]), bool))
        return h, out[0]

    def unroll(params: Params, batch: Batch) -> jax.Array:
        x = inputs(batch.steps, last_actions(batch.first, batch.action, spec))
        return apply(module, params, hidden(batch.first.shape[1]), x, batch.first)[1]

    return AgentNet(init, carry, step, unroll)


def bounded(agent: AgentNet, low: float, high: float) -> AgentNet:
    """`agent` with its outputs kept between `low` and `high`."""

    def step(params: Params, carry: Carry, step: TimeStep):
        h, out = agent.step(params, carry, step)
        return h, jnp.clip(out, low, high)

    def unroll(params: Params, batch: Batch) -> jax.Array:
        return jnp.clip(agent.unroll(params, batch), low, high)

    return agent._replace(step=step, unroll=unroll)


def empty_step(spec: EnvSpec) -> TimeStep:
    """One instant of zeros, B = 1: what modules are initialised with."""
    q = jnp.zeros((1, spec.n_agents, spec.n_actions))
    obs = jnp.zeros((1, spec.n_agents, *spec.obs_shape))
    return TimeStep(obs, jnp.zeros((1, spec.state_dim)), q, jnp.zeros((1, spec.n_agents)))


class ActionValue(nn.Module):
    """Q(h, u) for continuous u: what an agent remembers, h [..., H], and an action [..., d] -> [...].

    A hidden layer between; the leading axes broadcast, so that many actions share one h.
    """

    hidden: int

    @nn.compact
    def __call__(self, h: jax.Array, action: jax.Array) -> jax.Array:
        x = nn.relu(Linear(self.hidden)(nn.relu(h)) + Linear(self.hidden)(action))
        return Linear(1)(x)[..., 0]


def trim(batch: Batch, spec: EnvSpec) -> Batch:
    """Keep the instants that networks must see: no final one where nothing is bootstrapped, and
    one for all sequences where all look the same. Outcomes stay [T, B], instants broadcast.
    """
    instants, B = len(batch.first) - spec.one_step, 1 if spec.one_shot else batch.first.shape[1]
    steps, first = jax.tree.map(lambda x: x[:instants, :B], (batch.steps, batch.first))
    return batch._replace(steps=steps, first=first)


def each_sample(view: Inspection, batch: Batch) -> Inspection:
    """One row for every sample, where those of a trimmed batch share their instant."""
    lead = batch.reward.shape
    return jax.tree.map(lambda x: jnp.broadcast_to(x, (*lead, *x.shape[2:])), view)


def chosen(values: jax.Array, action: jax.Array) -> jax.Array:
    """The entries of values [..., A] at action [...], the leading axes broadcast."""
    return (values * jax.nn.one_hot(action, values.shape[-1])).sum(-1)
