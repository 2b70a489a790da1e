"""Mixers: how the agents' utilities become one joint value.

One signature for all of them:

    mixer(q_taken [..., N], q_max [..., N], action [..., N, A] one-hot, state [..., G]) -> q_tot [...]

`q_max` is the largest utility among the available actions; only the advantage-based mixers read it
and the actions. The leading axes broadcast: what depends on the state alone is computed once where
all samples share one state (one-shot games).

Every mixer here satisfies IGM: argmax_u Q_tot = (argmax_a Q_1, ..., argmax_a Q_N).
"""

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
        return (w * q_taken + v).sum(-1) + (advantage * (self._lambda(action, state) - 1)).sum(-1)

    def _lambda(self, action, state):
        n = action.shape[-2]
        joint = concat(state, action.reshape(*action.shape[:-2], -1))
        hidden = (self.hyper,) * (self.layers - 1)

        # The heads of one branch are one network with a leading head axis.
        def branch(width, x):
            heads = nn.vmap(
                MLP, in_axes=None, out_axes=-2,  # pyright: ignore[reportArgumentType]
                axis_size=self.heads,
                variable_axes={"params": 0}, split_rngs={"params": True},
            )  # fmt: skip
            return heads((*hidden, width))(x)  # [..., K, width]

        key = jnp.abs(branch(1, state)) + 1e-10
        return (key * nn.sigmoid(branch(n, state)) * nn.sigmoid(branch(n, joint))).sum(-2)


class CentralMixer(nn.Module):
    """The unrestricted mixer of Weighted QMIX's critic: MLP([q, s]) + V(s); no monotonicity."""

    embed: int

    @nn.compact
    def __call__(self, q_taken, q_max, action, state):
        e = self.embed
        mixed = MLP((e, e, e, 1))(concat(q_taken, state))
        return (mixed + MLP((e, 1))(state))[..., 0]


def concat(*parts: jax.Array) -> jax.Array:
    """Concatenation over the last axis, the leading axes broadcast."""
    lead = jnp.broadcast_shapes(*(x.shape[:-1] for x in parts))
    return jnp.concatenate([jnp.broadcast_to(x, (*lead, x.shape[-1])) for x in parts], axis=-1)


def make_mixer(algo: Algo) -> nn.Module:
    """The mixer that `algo.mixer` names."""
    return MIXERS[algo.mixer](algo)


MIXERS = {
    "vdn": lambda algo: VDN(),
    "qmix": lambda algo: QMIX(algo.mixing_embed, algo.hyper_embed),
    "qplex": lambda algo: QPLEX(algo.qplex_heads, algo.qplex_layers, algo.hyper_embed),
}
