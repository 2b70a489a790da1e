"""Layers: Linear, MLP and convolutions, initialised as PyTorch does.

PyTorch's default, which the reference code uses, takes every weight and every bias from
U(-1/sqrt(fan_in), 1/sqrt(fan_in)). The biases matter: a mixing weight is the absolute value of the output
of a hyper-network, and it would start near zero without them.
No orthogonal initialiser is used anywhere, because it calls LAPACK's QR. In a vmapped program on a two-core
CPU, two such calls can wait for each other for ever (seen with jaxlib 0.10.2).

Every module has the field `operands`: how the operands of its matrix products are rounded (`precision`).
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from ..types import Params
from .precision import product


def apply(module: nn.Module, params: Params, *args: Any, **kwargs: Any) -> Any:
    """`module.apply`, typed as what it gives without mutable collections: the output alone."""
    return module.apply(params, *args, **kwargs)


def torch_uniform(fan_in: int, scale: float = 1.0) -> Callable:
    """PyTorch's default initialiser, U(-1/sqrt(fan_in), 1/sqrt(fan_in)), times `scale`."""
    bound = scale * fan_in**-0.5
    return lambda key, shape, dtype=jnp.float32: jax.random.uniform(
        key, shape, dtype, minval=-bound, maxval=bound
    )


class Linear(nn.Module):
    """x W + b, or x W without `bias`: [..., D] -> [..., features].

    `scale` multiplies the initial weights and biases.
    """

    features: int
    scale: float = 1.0
    operands: str = "float32"
    bias: bool = True

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        init = torch_uniform(x.shape[-1], self.scale)
        return nn.Dense(
            self.features,
            use_bias=self.bias,
            kernel_init=init,
            bias_init=init,
            dot_general=lambda x, w, *_, **__: product(x, w, self.operands),
        )(x)


class MLP(nn.Module):
    """Linear layers with ReLU between them: [..., D] -> [..., widths[-1]]."""

    widths: Sequence[int]  # of the hidden layers and of the output
    operands: str = "float32"

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        for width in self.widths[:-1]:
            x = nn.relu(Linear(width, operands=self.operands)(x))
        return Linear(self.widths[-1], operands=self.operands)(x)


class Conv(nn.Module):
    """A convolution that keeps the size of the grid (zeros around it), [..., H, W, C] -> [..., H, W, F].

    It is one product with the neighbourhood of every cell, [..., H, W, size^2 C]. Under `vmap` over seeds
    a convolution becomes a grouped one, whose gradient took nearly twice as long on a CPU.
    """

    features: int
    size: int  # cells along a side of the neighbourhood
    operands: str = "float32"

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        (H, W), r = x.shape[-3:-1], self.size // 2
        x = jnp.pad(x, [(0, 0)] * (x.ndim - 3) + [(r, r), (r, r), (0, 0)])
        shifts = [x[..., i : i + H, j : j + W, :] for i in range(self.size) for j in range(self.size)]
        return Linear(self.features, operands=self.operands)(jnp.concatenate(shifts, axis=-1))


class CNN(nn.Module):
    """Embeds the grid that inputs [..., D] begin with, and keeps what follows it: [..., width + rest].

    The sizes are those of JaxMARL's networks for Overcooked: convolutions of 5, 3 and 3 cells, a layer.
    """

    shape: tuple[int, ...]  # of the grid: height, width, channels
    width: int
    operands: str = "float32"

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        grid, rest = jnp.split(x, [math.prod(self.shape)], axis=-1)
        h = grid.reshape(*x.shape[:-1], *self.shape)
        for size in (5, 3, 3):
            h = nn.relu(Conv(32, size, self.operands)(h))
        h = nn.relu(Linear(self.width, operands=self.operands)(h.reshape(*x.shape[:-1], -1)))
        return jnp.concatenate([h, rest], axis=-1)


def stacked_mlps(count: int, widths: Sequence[int], x: jax.Array, operands: str = "float32") -> jax.Array:
    """`count` MLPs that read the same input, as one module: [..., D] -> [..., count, widths[-1]].

    For use inside a compact module.
    """
    stacked = nn.vmap(
        MLP, in_axes=None, out_axes=-2,  # pyright: ignore[reportArgumentType]
        axis_size=count, variable_axes={"params": 0}, split_rngs={"params": True},
    )  # fmt: skip
    return stacked(widths, operands)(x)


def concat(*parts: jax.Array) -> jax.Array:
    """Concatenation over the last axis; the leading axes broadcast."""
    leading = jnp.broadcast_shapes(*(x.shape[:-1] for x in parts))
    return jnp.concatenate([jnp.broadcast_to(x, (*leading, x.shape[-1])) for x in parts], axis=-1)
