"""A GRU over time: as one function with its own backward pass, and as a module.

JAX's derivative of the scan keeps more than the gates of every step, and on a CPU it is slow because of
that memory traffic. The backward pass here keeps only the states and the gates. It adds up the gradients
of the weights inside the reversed scan, because one step fits in the cache (docs/notes/cpu-speed.md,
"Recurrent unroll, gates kept").
"""

from functools import partial
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from .layers import torch_uniform
from .precision import product


class GRUWeights(NamedTuple):
    """The weights as PyTorch has them: the gates r, z, n side by side along the last axis."""

    w_i: jax.Array  # [D, 3 H]
    b_i: jax.Array  # [3 H]
    w_h: jax.Array  # [H, 3 H]
    b_h: jax.Array  # [3 H]


class Gates(NamedTuple):
    """What one step computed for R rows, each [R, H]."""

    reset: jax.Array
    keep: jax.Array
    new: jax.Array
    memory: jax.Array  # W_hn h + b_hn, which `reset` scales


def gru(
    weights: GRUWeights, h: jax.Array, x: jax.Array, first: jax.Array, operands: str = "float32"
) -> jax.Array:
    """All states of a GRU whose state is set to zero before each step at which `first` is set.

    r = s(W_ir x + b_ir + W_hr h + b_hr), z likewise, n = tanh(W_in x + b_in + r (W_hn h + b_hn)),
    h' = n + z (h - n): PyTorch's cell. It has reverse-mode derivatives only, and none for `first`.

    Args:
      h: the state before the first step, [R, H]; R counts rows that do not mix.
      x: inputs, [T, R, D].
      first: [T, R] bool.
      operands: see `precision.product`.

    Returns: [T, R, H].
    """
    return _unrolled(weights, h, x, first, operands)


def _cell(
    w: GRUWeights, operands: str, h: jax.Array, x: jax.Array, first: jax.Array
) -> tuple[jax.Array, Gates]:
    h = jnp.where(first[:, None], 0.0, h)
    i_r, i_z, i_n = jnp.split(product(x, w.w_i, operands) + w.b_i, 3, axis=-1)
    h_r, h_z, h_n = jnp.split(product(h, w.w_h, operands) + w.b_h, 3, axis=-1)
    reset, keep = jax.nn.sigmoid(i_r + h_r), jax.nn.sigmoid(i_z + h_z)
    new = jnp.tanh(i_n + reset * h_n)
    return new + keep * (h - new), Gates(reset=reset, keep=keep, new=new, memory=h_n)


def _unroll(weights: GRUWeights, h: jax.Array, x: jax.Array, first: jax.Array, operands: str):
    def step(h, inputs):
        h, _ = _cell(weights, operands, h, *inputs)
        return h, h

    return jax.lax.scan(step, h, (x, first))[1]


def _forward(weights: GRUWeights, h: jax.Array, x: jax.Array, first: jax.Array, operands: str):
    def step(before, inputs):
        after, gates = _cell(weights, operands, before, *inputs)
        return after, (before, after, gates)

    before, after, gates = jax.lax.scan(step, h, (x, first))[1]
    return after, (weights, x, first, before, gates)


def _backward(operands: str, kept, d_out: jax.Array):
    w, x, first, before, gates = kept
    dot = partial(product, operands=operands)
    w_i, w_h = w.w_i.T, w.w_h.T

    def step(carry, inputs):
        d_h, d_w = carry
        d_out, x, first, h, g = inputs
        h = jnp.where(first[:, None], 0.0, h)
        d_h += d_out
        d_new = d_h * (1 - g.keep) * (1 - g.new**2)
        d_reset = d_new * g.memory * g.reset * (1 - g.reset)
        d_keep = d_h * (h - g.new) * g.keep * (1 - g.keep)
        d_i = jnp.concatenate([d_reset, d_keep, d_new], axis=-1)
        d_m = jnp.concatenate([d_reset, d_keep, d_new * g.reset], axis=-1)
        d_w = GRUWeights(
            w_i=d_w.w_i + dot(x.T, d_i),
            b_i=d_w.b_i + d_i.sum(0),
            w_h=d_w.w_h + dot(h.T, d_m),
            b_h=d_w.b_h + d_m.sum(0),
        )
        d_h = jnp.where(first[:, None], 0.0, d_h * g.keep + dot(d_m, w_h))
        return (d_h, d_w), dot(d_i, w_i)

    start = (jnp.zeros_like(before[0]), jax.tree.map(jnp.zeros_like, w))
    (d_h, d_w), d_x = jax.lax.scan(step, start, (d_out, x, first, before, gates), reverse=True)
    return d_w, d_h, d_x, None


_unrolled = jax.custom_vjp(_unroll, nondiff_argnums=(4,))
_unrolled.defvjp(_forward, _backward)


class GRU(nn.Module):
    """`gru` for every agent; the carry is set to zero before each instant at which `first` is set.

    Shapes: carry [B, N, H], x [T, B, N, D], first [T, B] -> carry [B, N, H], h [T, B, N, H].
    """

    hidden: int
    operands: str = "float32"

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
        h = gru(weights, *rows, self.operands).reshape(T, B, N, H)
        return h[-1], h
