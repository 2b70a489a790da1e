"""Agent networks: what agents read and remember, to act step by step and to unroll over a batch.

The contract of an agent network, a flax module class (`register_agent`):

  outputs                        a field: the number of outputs for each agent; it is always given
  __call__(carry, x, first)      carry: arrays [B, N, ...], x [T, B, N, D], first [T, B] bool
                                 -> (carry after the last instant, outputs [T, B, N, outputs])
  initial_carry(batch, agents)   the carry before an episode: any pytree of arrays [B, N, ...]

The network sets its carry to the initial one before each instant at which `first` is set. It reads no
parameters in `initial_carry`. It never mixes agents, because each of them acts by itself. Its other fields
are filled by name from `config.net`; a field `grid` gets the shape of the observations when net.torso=cnn.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from ..config import ConfigError, register_agent
from ..config.registry import AGENTS, build
from ..ops.action_box import to_box, to_unit
from ..types import Batch, Carry, EnvSpec, Params, TimeStep
from .gru import GRU
from .layers import CNN, Linear, apply


@register_agent("standard")
class Agent(nn.Module):
    """CNN (optional) - (Linear - ReLU) x layers - GRU (optional) - Linear, the same for all agents."""

    outputs: int
    hidden: int = 64
    layers: int = 1
    recurrent: bool = True
    grid: tuple[int, ...] | None = None  # shape of the observations, for a CNN
    layer_norm: bool = False
    output_scale: float = 1.0
    operands: str = "float32"

    @nn.compact
    def __call__(self, carry: jax.Array, x: jax.Array, first: jax.Array):
        def normalise(h):
            return nn.LayerNorm(epsilon=1e-5)(h) if self.layer_norm else h  # PyTorch's epsilon

        h = normalise(CNN(self.grid, self.hidden, self.operands)(x) if self.grid else x)
        for _ in range(self.layers):
            h = normalise(nn.relu(Linear(self.hidden, operands=self.operands)(h)))
        if self.recurrent:
            carry, h = GRU(self.hidden, self.operands)(carry, h, first)
        return carry, Linear(self.outputs, self.output_scale, self.operands)(h)

    @nn.nowrap
    def initial_carry(self, batch: int, agents: int) -> jax.Array:
        """[B, N, H]."""
        return jnp.zeros((batch, agents, self.hidden))


class Agents(nn.Module):
    """Any agent network with separate weights for every agent: its parameters get a leading axis N."""

    agent: Any  # an agent network

    @nn.compact
    def __call__(self, carry: Carry, x: jax.Array, first: jax.Array):
        each = nn.vmap(
            lambda agent, *inputs: agent(*inputs),
            in_axes=(1, 2, None), out_axes=(1, 2),  # pyright: ignore[reportArgumentType]
            axis_size=x.shape[2], variable_axes={"params": 0}, split_rngs={"params": True},
        )  # fmt: skip
        alone = jax.tree.map(lambda c: c[:, :, None], carry)
        carry, out = each(self.agent, alone, x[:, :, :, None], first)
        return jax.tree.map(lambda c: c[:, :, 0], carry), out[:, :, :, 0]

    @nn.nowrap
    def initial_carry(self, batch: int, agents: int) -> Carry:
        """As the agent network's own."""
        return self.agent.initial_carry(batch, agents)


def make_agent(net: Any, spec: EnvSpec, outputs: int | None = None) -> Any:
    """The agent network that `net` (config.net) describes, with an output per action by default.

    Raises ConfigError when it cannot read the observations of `spec`.
    """
    if net.torso == "cnn" and len(spec.obs_shape) != 3:
        raise ConfigError(
            f"net.torso=cnn: {spec.name} has observations that are no grid; use net.torso=mlp"
        )
    agent = build(
        AGENTS.get(net.agent),
        **vars(net)
        | {
            "outputs": spec.n_actions if outputs is None else outputs,
            "grid": spec.obs_shape if net.torso == "cnn" else None,
        },
    )
    return agent if net.shared else Agents(agent)


class AgentNet(NamedTuple):
    """An agent network as functions of its parameters, which feed it what agents know."""

    init: Callable[[jax.Array], Params]  # key -> params
    carry: Callable[[int], Carry]  # B -> what acting agents remember before an episode
    step: Callable[[Params, Carry, TimeStep], tuple[Carry, jax.Array]]
    # params, carry, TimeStep [B] -> the network's carry, outputs [B, N, K]
    unroll: Callable[[Params, Batch], jax.Array]  # params, batch -> outputs [T or T + 1, B, N, K]


def make_agent_net(net: Any, spec: EnvSpec, outputs: int | None = None) -> AgentNet:
    """The network that `net` describes, which reads observations, last actions and agent indices.

    The carry of acting agents is (the network's carry, last action [B, N] or [B, N, d]). `step` returns
    the first half of it: the caller adds the action.
    """
    module = make_agent(net, spec, outputs)

    def carry(B: int) -> Carry:
        return module.initial_carry(B, spec.n_agents), no_action((B,), spec)

    def inputs(step: TimeStep, last_action: jax.Array) -> jax.Array:
        last = encode_action(last_action, spec) if net.last_action else None
        return agent_inputs(step, last, net.agent_id)

    def init(key: jax.Array) -> Params:
        memory, last_action = carry(1)
        x = inputs(example_inputs(spec), last_action)[None]
        return module.init(key, memory, x, jnp.zeros((1, 1), bool))

    def step(params: Params, carry: Carry, step: TimeStep) -> tuple[Carry, jax.Array]:
        memory, last_action = carry
        x = inputs(step, last_action)[None]
        memory, out = apply(module, params, memory, x, jnp.zeros((1, x.shape[1]), bool))
        return memory, out[0]

    def unroll(params: Params, batch: Batch) -> jax.Array:
        x = inputs(batch.steps, last_actions(batch.first, batch.action, spec))
        memory = module.initial_carry(batch.first.shape[1], spec.n_agents)
        return apply(module, params, memory, x, batch.first)[1]

    return AgentNet(init=init, carry=carry, step=step, unroll=unroll)


def bounded(agent: AgentNet, low: float, high: float) -> AgentNet:
    """`agent` with its outputs kept between `low` and `high`."""

    def step(params: Params, carry: Carry, step: TimeStep) -> tuple[Carry, jax.Array]:
        memory, out = agent.step(params, carry, step)
        return memory, jnp.clip(out, low, high)

    def unroll(params: Params, batch: Batch) -> jax.Array:
        return jnp.clip(agent.unroll(params, batch), low, high)

    return agent._replace(step=step, unroll=unroll)


def example_inputs(spec: EnvSpec) -> TimeStep:
    """One instant, B = 1, with the shapes and types of `spec`: for the initialisation of modules."""
    N = spec.n_agents
    return TimeStep(
        obs=jnp.zeros((1, N, *spec.obs_shape)),
        state=jnp.zeros((1, spec.state_dim)),
        avail=jnp.ones((1, N, 1 if spec.continuous else spec.n_actions), bool),
        alive=jnp.ones((1, N), bool),
    )


def agent_inputs(step: TimeStep, last_action: jax.Array | None, use_id: bool) -> jax.Array:
    """concat[obs, encoded last action (if given), one-hot agent index (if `use_id`)], [..., N, D']."""
    *leading, n_agents = step.alive.shape
    parts = [step.obs.reshape(*leading, n_agents, -1)]
    if last_action is not None:
        parts.append(last_action)
    if use_id:
        parts.append(jnp.broadcast_to(jnp.eye(n_agents), (*leading, n_agents, n_agents)))
    return jnp.concatenate(parts, axis=-1)


def encode_action(action: jax.Array, spec: EnvSpec) -> jax.Array:
    """One-hot [..., N, A], or in [-1, 1] [..., N, d]; what `no_action` gives becomes zeros."""
    return to_unit(action, spec) if spec.continuous else jax.nn.one_hot(action, spec.n_actions)


def no_action(leading: tuple[int, ...], spec: EnvSpec) -> jax.Array:
    """What stands for the last action when an episode begins, [*leading, N] or [*leading, N, d]."""
    shape = (*leading, spec.n_agents)
    return to_box(jnp.zeros((*shape, spec.action_dim)), spec) if spec.continuous else jnp.full(shape, -1)


def last_actions(first: jax.Array, action: jax.Array, spec: EnvSpec) -> jax.Array:
    """The action before each instant; `no_action` when an episode begins.

    Args:
      first: [I, B] bool, of I instants.
      action: [T, B', N] or [T, B', N, d] with T >= I - 1 and B' >= B; the first B sequences are read.

    Returns: [I, B, N] or [I, B, N, d].
    """
    instants, B = first.shape
    action = action[:, :B]
    none = no_action((1, B), spec).astype(action.dtype)
    previous = jnp.concatenate([none, action])[:instants]
    begins = first.reshape(*first.shape, *[1] * (action.ndim - 2))
    return jnp.where(begins, none, previous)
