"""Networks: PyTorch-style initialisation, small MLPs and CNNs, and the agents' recurrent torso.

The reference code initialises every weight and bias from U(-1/sqrt(fan_in), 1/sqrt(fan_in)). The
non-zero biases matter: |hyper-net output| is a mixing weight, which would vanish with them.
No orthogonal initialiser is used anywhere: a batched QR inside a vmapped program can deadlock a
two-core CPU.
"""

import math
from collections.abc import Callable, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from .boxes import to_box, to_unit
from .config import ConfigError, Net
from .precision import chosen_operands, product
from .recurrent import GRUWeights, gru
from .types import EnvSpec, TimeStep


def torch_uniform(fan_in: int, scale: float = 1.0) -> Callable:
    """PyTorch's default initialiser, U(-1/sqrt(fan_in), 1/sqrt(fan_in)), times `scale`."""
    bound = scale * fan_in**-0.5
    return lambda key, shape, dtype=jnp.float32: jax.random.uniform(
        key, shape, dtype, minval=-bound, maxval=bound
    )


def dot_general(x: jax.Array, w: jax.Array, *_, **__) -> jax.Array:
    """`precision.product`, as flax's layers call it."""
    return product(x, w)


class Linear(nn.Module):
    """x W + b with PyTorch's initialisation, for W and for b."""

    features: int
    scale: float = 1.0

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        init = torch_uniform(x.shape[-1], self.scale)
        return nn.Dense(self.features, kernel_init=init, bias_init=init, dot_general=dot_general)(x)


class MLP(nn.Module):
    """Linear layers with ReLU between them; `widths` includes the output."""

    widths: Sequence[int]

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        for width in self.widths[:-1]:
            x = nn.relu(Linear(width)(x))
        return Linear(self.widths[-1])(x)


class Conv(nn.Module):
    """A convolution that keeps the size of the grid (zeros around it), [..., H, W, C] -> [..., H, W, F].

    It is one product with every cell's neighbourhood, [..., H, W, size^2 C]: under `vmap` over seeds a
    convolution becomes a grouped one, whose gradient took nearly twice as long on a CPU.
    """

    features: int
    size: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        (H, W), r = x.shape[-3:-1], self.size // 2
        x = jnp.pad(x, [(0, 0)] * (x.ndim - 3) + [(r, r), (r, r), (0, 0)])
        shifts = [x[..., i : i + H, j : j + W, :] for i in range(self.size) for j in range(self.size)]
        return Linear(self.features)(jnp.concatenate(shifts, axis=-1))


class CNN(nn.Module):
    """Embeds the grid that inputs [..., D] begin with; what follows it is kept: [..., width + rest].

    The sizes are those of JaxMARL's Overcooked networks: convolutions of 5, 3 and 3 cells, a layer.
    """

    shape: tuple[int, ...]
    width: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        grid, rest = jnp.split(x, [math.prod(self.shape)], axis=-1)
        h = grid.reshape(*x.shape[:-1], *self.shape)
        for size in (5, 3, 3):
            h = nn.relu(Conv(32, size)(h))
        h = nn.relu(Linear(self.width)(h.reshape(*x.shape[:-1], -1)))
        return jnp.concatenate([h, rest], axis=-1)


class GRU(nn.Module):
    """`recurrent.gru` for every agent: its carry is reset to zero wherever `first` is set.

    Shapes: carry [B, N, H], x [T, B, N, D], first [T, B] -> carry [B, N, H], h [T, B, N, H].
    """

    hidden: int

    @nn.compact
    def __call__(self, carry: jax.Array, x: jax.Array, first: jax.Array):
        init, H = torch_uniform(self.hidden), self.hidden
        weights = GRUWeights(
            w_i=self.param("w_i", init, (x.shape[-1], 3 * H)),
            b_i=self.param("b_i", init, (3 * H,)),
            w_h=self.param("w_h", init, (H, 3 * H)),
            b_h=self.param("b_h", init, (3 * H,)),
        )
        T, B, N, D = x.shape
        rows = (carry.reshape(B * N, H), x.reshape(T, B * N, D), jnp.repeat(first, N, axis=1))
        h = gru(weights, *rows, chosen_operands())
        h = h.reshape(T, B, N, H)
        return h[-1], h


class Agent(nn.Module):
    """CNN (optional) - (Linear - ReLU) x layers - GRU (optional) - Linear, the same for all agents.

    Shapes: carry [B, N, H], x [T, B, N, D], first [T, B] -> carry [B, N, H], [T, B, N, outputs].
    """

    outputs: int
    hidden: int
    layers: int
    recurrent: bool
    grid: tuple[int, ...] | None = None  # shape of the observation, for a CNN
    layer_norm: bool = False
    output_scale: float = 1.0

    @nn.compact
    def __call__(self, carry: jax.Array, x: jax.Array, first: jax.Array):
        def normalise(h):
            return nn.LayerNorm()(h) if self.layer_norm else h

        h = normalise(CNN(self.grid, self.hidden)(x) if self.grid else x)
        for _ in range(self.layers):
            h = normalise(nn.relu(Linear(self.hidden)(h)))
        if self.recurrent:
            carry, h = GRU(self.hidden)(carry, h, first)
        return carry, Linear(self.outputs, self.output_scale)(h)


class Agents(nn.Module):
    """As `Agent`, with weights of its own for every agent: parameters have a leading axis N."""

    sizes: tuple  # Agent's fields, in order

    @nn.compact
    def __call__(self, carry: jax.Array, x: jax.Array, first: jax.Array):
        each = nn.vmap(
            Agent, in_axes=(1, 2, None), out_axes=(1, 2),  # pyright: ignore[reportArgumentType]
            axis_size=x.shape[2], variable_axes={"params": 0}, split_rngs={"params": True},
        )  # fmt: skip
        carry, out = each(*self.sizes)(carry[:, :, None], x[:, :, :, None], first)
        return carry[:, :, 0], out[:, :, :, 0]


def make_agent(net: Net, spec: EnvSpec, outputs: int | None = None) -> nn.Module:
    """The network that `net` describes, with an output per action unless told otherwise.

    Raises ConfigError if it cannot read the observations of `spec`.
    """
    cnn = net.torso == "cnn"
    if cnn and len(spec.obs_shape) != 3:
        raise ConfigError(f"net.torso=cnn: what {spec.name} shows is no grid; use net.torso=mlp")
    outputs = spec.n_actions if outputs is None else outputs
    grid = spec.obs_shape if cnn else None
    sizes = (outputs, net.hidden, net.layers, net.recurrent, grid, net.layer_norm, net.output_scale)
    return Agent(*sizes) if net.shared else Agents(sizes)


def agent_inputs(step: TimeStep, last_action: jax.Array | None, use_id: bool) -> jax.Array:
    """concat[obs, encoded last action, one-hot agent index], [..., N, D']; the latter two if asked for."""
    *lead, n_agents = step.alive.shape
    parts = [step.obs.reshape(*lead, n_agents, -1)]
    if last_action is not None:
        parts.append(last_action)
    if use_id:
        parts.append(jnp.broadcast_to(jnp.eye(n_agents), (*lead, n_agents, n_agents)))
    return jnp.concatenate(parts, axis=-1)


def encode_action(action: jax.Array, spec: EnvSpec) -> jax.Array:
    """One-hot [..., N, A], or in [-1, 1] [..., N, d]; what `no_action` gives becomes zeros."""
    return to_unit(action, spec) if spec.continuous else jax.nn.one_hot(action, spec.n_actions)


def no_action(lead: tuple[int, ...], spec: EnvSpec) -> jax.Array:
    """What stands for the last action where an episode begins, [*lead, N] or [*lead, N, d]."""
    shape = (*lead, spec.n_agents)
    return to_box(jnp.zeros((*shape, spec.action_dim)), spec) if spec.continuous else jnp.full(shape, -1)


def last_actions(first: jax.Array, action: jax.Array, spec: EnvSpec) -> jax.Array:
    """The action before each instant of `first` [I, B], `no_action` where an episode begins.

    action [T, B', N, ...] with T >= I - 1; only the first B of its sequences are read.
    """
    instants, B = first.shape
    none = no_action((1, action.shape[1]), spec)
    previous = jnp.concatenate([none.astype(action.dtype), action])[:instants, :B]
    begins = first.reshape(*first.shape, *[1] * (action.ndim - 2))
    return jnp.where(begins, none[:, :B], previous)
