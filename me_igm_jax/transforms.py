"""Transforms: how utilities become policy logits, OPT_i(Q_i, s) of ME-IGM (Eq. 2).

One signature: transform(q [..., N, A], state [..., G]) -> logits [..., N, A]. An order-preserving
transform acts on each action's value alone, with weights that depend on the agent and the state and
are kept non-negative, so it never changes which action is best: argmax_a logits = argmax_a q.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from .config import Algo
from .nets import MLP, Linear


class Identity(nn.Module):
    """logits = q: the ablation without OPT ("+Entropy" in ME-IGM's Table 3)."""

    @nn.compact
    def __call__(self, q: jax.Array, state: jax.Array) -> jax.Array:
        return q


class AffineOPT(nn.Module):
    """|u_i(s)| q + v_i(s): the one-layer OPT that ME-IGM uses (App. C, Table 5); Soft-QMIX's f_i.

    v_i cancels in the softmax, so the policy sees a per-agent, per-state inverse temperature.
    """

    hyper: int

    @nn.compact
    def __call__(self, q: jax.Array, state: jax.Array) -> jax.Array:
        n = q.shape[-2]
        u = jnp.abs(MLP((self.hyper, n))(state))
        v = MLP((self.hyper, n))(state)
        return u[..., None] * q + v[..., None]


class TwoLayerOPT(nn.Module):
    """|W2(s)| elu(|W1(s)| q + b1(s)) + b2(s), plus q when residual: ME-IGM Eq. 2; Soft-QMIX's g_i."""

    embed: int
    hyper: int
    residual: bool = False

    @nn.compact
    def __call__(self, q: jax.Array, state: jax.Array) -> jax.Array:
        n, shape = q.shape[-2], (*state.shape[:-1], q.shape[-2], 1, self.embed)
        w1 = jnp.abs(MLP((self.hyper, n * self.embed))(state)).reshape(shape)
        b1 = Linear(n * self.embed)(state).reshape(shape)
        w2 = jnp.abs(MLP((self.hyper, n * self.embed))(state)).reshape(shape)
        b2 = MLP((self.hyper, n))(state)[..., None]
        out = (w2 * nn.elu(w1 * q[..., None] + b1)).sum(-1) + b2
        return q + out if self.residual else out


class MLPTransform(nn.Module):
    """A three-layer MLP of all of an agent's utilities, the state and its index: order is not kept.

    The ablation "ME-QMIX (MLP)" of ME-IGM's Table 4; the paper gives no sizes.
    """

    embed: int

    @nn.compact
    def __call__(self, q: jax.Array, state: jax.Array) -> jax.Array:
        n, a = q.shape[-2:]
        per_agent = jnp.broadcast_to(state[..., None, :], (*q.shape[:-1], state.shape[-1]))
        index = jnp.broadcast_to(jnp.eye(n), (*q.shape[:-1], n))
        x = jnp.concatenate([q, per_agent, index], axis=-1)
        return MLP((self.embed, self.embed, a))(x)


def make_transform(algo: Algo) -> nn.Module:
    """The map from utilities to logits that `algo.transform` names."""
    return TRANSFORMS[algo.transform](algo)


def make_local(algo: Algo) -> nn.Module:
    """g_i, which acts on the utilities before they are mixed (Soft-QMIX)."""
    return LOCALS[algo.local](algo)


def _opt(algo: Algo) -> nn.Module:
    if algo.opt_layers == 1:
        return AffineOPT(algo.hyper_embed)
    return TwoLayerOPT(algo.opt_embed, algo.hyper_embed)


TRANSFORMS = {
    "identity": lambda algo: Identity(),
    "opt": _opt,
    "mlp": lambda algo: MLPTransform(algo.mlp_embed),
}
LOCALS = {
    "identity": lambda algo: Identity(),
    "residual": lambda algo: TwoLayerOPT(algo.opt_embed, algo.hyper_embed, residual=True),
}
