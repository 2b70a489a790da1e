"""Transforms: how utilities become policy logits, OPT_i(Q_i, s) of ME-IGM (Eq. 2).

All transforms have one signature: transform(q [..., N, A], state [..., G]) -> logits [..., N, A].

An order-preserving transform acts on the value of each action by itself. Its weights depend on the agent
and the state and are never negative. So it never changes which action is best:
argmax_a logits = argmax_a q.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from ..config import register_transform
from ..config.registry import TRANSFORMS, build
from .layers import MLP, Linear, concat


@register_transform("identity")
class Identity(nn.Module):
    """logits = q: the ablation without OPT ("+Entropy" in ME-IGM's Table 3)."""

    @nn.compact
    def __call__(self, q: jax.Array, state: jax.Array) -> jax.Array:
        return q


@register_transform("opt")
class AffineOPT(nn.Module):
    """|u_i(s)| q + v_i(s): the one-layer OPT that ME-IGM uses (App. C, Table 5); Soft-QMIX's f_i.

    v_i cancels in the softmax, so the policy sees an inverse temperature per agent and state.
    """

    hyper_embed: int = 64  # hidden width of the hyper-networks
    operands: str = "float32"

    @nn.compact
    def __call__(self, q: jax.Array, state: jax.Array) -> jax.Array:
        n = q.shape[-2]
        u = jnp.abs(MLP((self.hyper_embed, n), self.operands)(state))
        v = MLP((self.hyper_embed, n), self.operands)(state)
        return u[..., None] * q + v[..., None]


@register_transform("opt_two_layers")
class TwoLayerOPT(nn.Module):
    """|W2(s)| elu(|W1(s)| q + b1(s)) + b2(s), plus q when `residual`: ME-IGM Eq. 2."""

    opt_embed: int = 16  # width between the two layers
    hyper_embed: int = 64  # hidden width of the hyper-networks
    residual: bool = False
    operands: str = "float32"

    @nn.compact
    def __call__(self, q: jax.Array, state: jax.Array) -> jax.Array:
        n, width, operands = q.shape[-2], self.opt_embed, self.operands

        def of_each_action(x: jax.Array) -> jax.Array:  # [..., N width] -> [..., N, 1, width]
            return x.reshape(*state.shape[:-1], n, 1, width)

        w1 = jnp.abs(of_each_action(MLP((self.hyper_embed, n * width), operands)(state)))
        b1 = of_each_action(Linear(n * width, operands=operands)(state))
        w2 = jnp.abs(of_each_action(MLP((self.hyper_embed, n * width), operands)(state)))
        b2 = MLP((self.hyper_embed, n), operands)(state)[..., None]
        out = (w2 * nn.elu(w1 * q[..., None] + b1)).sum(-1) + b2
        return q + out if self.residual else out


@register_transform("opt_residual")
class ResidualOPT(TwoLayerOPT):
    """q + |W2(s)| elu(|W1(s)| q + b1(s)) + b2(s): Soft-QMIX's g_i."""

    residual: bool = True


@register_transform("mlp")
class MLPTransform(nn.Module):
    """A three-layer MLP of all utilities of an agent, the state and the agent's index: order is not kept.

    The ablation "ME-QMIX (MLP)" of ME-IGM's Table 4; the paper gives no sizes.
    """

    mlp_embed: int = 64  # hidden width
    operands: str = "float32"

    @nn.compact
    def __call__(self, q: jax.Array, state: jax.Array) -> jax.Array:
        n, a = q.shape[-2:]
        x = concat(q, state[..., None, :], jnp.eye(n))
        return MLP((self.mlp_embed, self.mlp_embed, a), self.operands)(x)


def make_transform(name: str, options: Any, operands: str = "float32") -> nn.Module:
    """The transform of that name; its fields are filled from those of `options` with the same names."""
    return build(TRANSFORMS.get(name), **vars(options) | {"operands": operands})
