"""Mixers: how the agents' utilities become one joint value.

One signature for all of them:

    mixer(q_taken [..., N], q_max [..., N], action [..., N, A] one-hot, state [..., G]) -> q_tot [...]

`q_max` is the largest utility among the available actions; only the advantage-based mixers read it
and the actions. The leading axes broadcast: what depends on the state alone is computed once where
all samples share one state (one-shot games).

Every mixer here satisfies IGM: argmax_u Q_tot = (argmax_a Q_1, ..., argmax_a Q_N).
"""

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from .config import Algo
from .nets import MLP, Linear


class VDN(nn.Module):
    """Q_tot = sum_i Q_i (Sunehag et al. 2018)."""

    @nn.compact
    def __call__(self, q_taken, q_max, action, state):
        return q_taken.sum(-1)


class VDNS(nn.Module):
    """VDN-S, Q_tot = sum_i Q_i + V(s): the factored value of QTRAN (Son et al. 2019)."""

    hyper: int

    @nn.compact
    def __call__(self, q_taken, q_max, action, state):
        return q_taken.sum(-1) + MLP((self.hyper, self.hyper, 1))(state)[..., 0]


class QMIX(nn.Module):
    """Q_tot = elu(q |W1(s)| + b1(s)) . |w2(s)| + b2(s) (Rashid et al. 2020), monotone in every Q_i."""

    embed: int
    hyper: int

    @nn.compact
    def __call__(self, q_taken, q_max, action, state):
        n = q_taken.shape[-1]
        w1 = jnp.abs(MLP((self.hyper, n * self.embed))(state))
        w1 = w1.reshape(*state.shape[:-1], n, self.embed)
        b1 = Linear(self.embed)(state)
        w2 = jnp.abs(MLP((self.hyper, self.embed))(state))
        b2 = MLP((self.embed, 1))(state)[..., 0]
        # A sum of N terms, not a reduction: XLA's CPU backend fuses it (docs/engineering-notes.md).
        mixed = sum(q_taken[..., i, None] * w1[..., i, :] for i in range(n))
        hidden = nn.elu(mixed + b1)
        return (hidden * w2).sum(-1) + b2


class QPLEX(nn.Module):
    """Duplex dueling (Wang et al. 2021), with the reference code's gradient stop.

    Q~_i = w_i Q_i + v_i and M~_i = w_i max_a Q_i + v_i with w_i > 0;
    Q_tot = sum_i Q~_i + sum_i (lambda_i(s, u) - 1) sg(Q~_i - M~_i), and
    lambda_i = sum_k key_k(s) sigma(agent_ki(s)) sigma(act_ki(s, u)) > 0 over the heads k.
    """

    heads: int
    layers: int
    hyper: int

    @nn.compact
    def __call__(self, q_taken, q_max, action, state):
        n = q_taken.shape[-1]
        w = jnp.abs(MLP((self.hyper, n))(state)) + 1e-10
        v = MLP((self.hyper, n))(state)
        advantage = jax.lax.stop_gradient(w * (q_taken - q_max))
        weight = importance(self.heads, (self.hyper,) * (self.layers - 1), action, state)
        return (w * q_taken + v).sum(-1) + (advantage * (weight - 1)).sum(-1)


class Qatten(nn.Module):
    """Multi-head attention over the agents (Yang et al. 2020), with PyMARL2's weighted heads.

    Q_tot = sum_h |w_h(s)| sum_i a_hi(s) Q_i + c(s), a_h = softmax_i(query_h(s) . key_hi(s) / sqrt(E)).
    The reference's keys are linear in each agent's own part of the state; not every state has such
    parts, so here they are linear in all of it.
    """

    heads: int
    embed: int
    hyper: int

    @nn.compact
    def __call__(self, q_taken, q_max, action, state):
        attention = nn.softmax(similarity(self.heads, q_taken.shape[-1], self.hyper, self.embed, state))
        w = jnp.abs(MLP((self.hyper, self.heads))(state))
        per_agent = (w[..., None] * attention).sum(-2)
        return (per_agent * q_taken).sum(-1) + MLP((self.embed, 1))(state)[..., 0]


class CentralMixer(nn.Module):
    """The unrestricted mixer of Weighted QMIX's critic: MLP([q, s]) + V(s); no monotonicity."""

    embed: int

    @nn.compact
    def __call__(self, q_taken, q_max, action, state):
        e = self.embed
        mixed = MLP((e, e, e, 1))(concat(q_taken, state))
        return (mixed + MLP((e, 1))(state))[..., 0]


def importance(count: int, hidden: Sequence[int], action: jax.Array, state: jax.Array) -> jax.Array:
    """QPLEX's lambda_i(s, u) > 0 with `count` kernels and MLPs of hidden widths `hidden`, [..., N]."""
    n = action.shape[-2]
    joint = concat(state, action.reshape(*action.shape[:-2], -1))

    def branch(width, x):
        return heads(count, (*hidden, width), x)

    key = jnp.abs(branch(1, state)) + 1e-10
    return (key * nn.sigmoid(branch(n, state)) * nn.sigmoid(branch(n, joint))).sum(-2)


def similarity(count: int, n: int, hyper: int, embed: int, state: jax.Array) -> jax.Array:
    """Qatten's scaled products of queries and the agents' keys, [..., G] -> [..., count, n]."""
    query = heads(count, (hyper, embed), state)
    key = Linear(count * n * embed)(state).reshape(*state.shape[:-1], count, n, embed)
    return (query[..., None, :] * key).sum(-1) / embed**0.5


def heads(count: int, widths: Sequence[int], x: jax.Array) -> jax.Array:
    """`count` MLPs of one input as a single network with a head axis: [..., D] -> [..., K, widths[-1]]."""
    stacked = nn.vmap(
        MLP, in_axes=None, out_axes=-2,  # pyright: ignore[reportArgumentType]
        axis_size=count, variable_axes={"params": 0}, split_rngs={"params": True},
    )  # fmt: skip
    return stacked(widths)(x)


def concat(*parts: jax.Array) -> jax.Array:
    """Concatenation over the last axis, the leading axes broadcast."""
    lead = jnp.broadcast_shapes(*(x.shape[:-1] for x in parts))
    return jnp.concatenate([jnp.broadcast_to(x, (*lead, x.shape[-1])) for x in parts], axis=-1)


def make_mixer(algo: Algo) -> nn.Module:
    """The mixer that `algo.mixer` names."""
    return MIXERS[algo.mixer](algo)


MIXERS = {
    "vdn": lambda algo: VDN(),
    "vdn_s": lambda algo: VDNS(algo.hyper_embed),
    "qmix": lambda algo: QMIX(algo.mixing_embed, algo.hyper_embed),
    "qplex": lambda algo: QPLEX(algo.qplex_heads, algo.qplex_layers, algo.hyper_embed),
    "qatten": lambda algo: Qatten(algo.qatten_heads, algo.mixing_embed, algo.hyper_embed),
}
