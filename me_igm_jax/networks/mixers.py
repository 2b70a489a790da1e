"""Mixers: how the agents' utilities become one joint value Q_tot.

All mixers have one signature:

    mixer(q_taken [..., N], state [..., G], *, q_max [..., N], action [..., N, A] one-hot) -> q_tot [...]

  q_taken  utilities of the actions taken
  state    the central state
  q_max    the largest utility of each agent among its available actions
  action   the actions taken, one-hot (continuous: the actions, [..., N, d])
Only mixers that weigh advantages (QPLEX) read `q_max` and `action`; callers may leave both out for the
others. The leading axes broadcast: what depends on the state alone is computed once when all samples share
one state.

The mixers here satisfy IGM, argmax_u Q_tot = (argmax_a Q_1, ..., argmax_a Q_N); each class says why.
A mixer without that property belongs in `critics`.
"""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.lax import stop_gradient

from ..config import register_mixer
from ..config.registry import MIXERS, build
from .layers import MLP, Linear, concat, stacked_mlps


@register_mixer("vdn")
class VDN(nn.Module):
    """Q_tot = sum_i Q_i (Sunehag et al. 2018). IGM: it grows with every Q_i."""

    @nn.compact
    def __call__(self, q_taken, state, *, q_max=None, action=None) -> jax.Array:
        return q_taken.sum(-1)


@register_mixer("vdn_s")
class VDNS(nn.Module):
    """VDN-S, Q_tot = sum_i Q_i + V(s): the factored value of QTRAN (Son et al. 2019).

    IGM: it grows with every Q_i.
    """

    hyper_embed: int = 64  # hidden width of V
    operands: str = "float32"

    @nn.compact
    def __call__(self, q_taken, state, *, q_max=None, action=None) -> jax.Array:
        value = MLP((self.hyper_embed, self.hyper_embed, 1), self.operands)(state)
        return q_taken.sum(-1) + value[..., 0]


@register_mixer("qmix")
class QMIX(nn.Module):
    """Q_tot = elu(q |W1(s)| + b1(s)) . |w2(s)| + b2(s) (Rashid et al. 2020).

    IGM: it grows with every Q_i.
    """

    mixing_embed: int = 32  # width of the mixing layer
    hyper_embed: int = 64  # hidden width of the hyper-networks
    operands: str = "float32"

    @nn.compact
    def __call__(self, q_taken, state, *, q_max=None, action=None) -> jax.Array:
        n, width, operands = q_taken.shape[-1], self.mixing_embed, self.operands
        w1 = jnp.abs(MLP((self.hyper_embed, n * width), operands)(state))
        w1 = w1.reshape(*state.shape[:-1], n, width)
        b1 = Linear(width, operands=operands)(state)
        w2 = jnp.abs(MLP((self.hyper_embed, width), operands)(state))
        b2 = MLP((width, 1), operands)(state)[..., 0]
        # A sum of N terms, not a reduction: XLA fuses it on a CPU
        # (docs/notes/cpu-speed.md, "The weighted sum of QMIX").
        mixed = sum(q_taken[..., i, None] * w1[..., i, :] for i in range(n))
        hidden = nn.elu(mixed + b1)
        return (hidden * w2).sum(-1) + b2


@register_mixer("qplex")
class QPLEX(nn.Module):
    """Duplex dueling (Wang et al. 2021), with the gradient stop of the reference code.

    Q~_i = w_i Q_i + v_i and M~_i = w_i max_a Q_i + v_i with w_i > 0;
    Q_tot = sum_i Q~_i + sum_i (lambda_i(s, u) - 1) sg(Q~_i - M~_i), and
    lambda_i = sum_k key_k(s) sigma(agent_ki(s)) sigma(act_ki(s, u)) > 0 over the heads k.

    IGM: the advantages lambda_i (Q~_i - M~_i) are at most zero, and zero for the best action.
    """

    qplex_heads: int = 4
    qplex_layers: int = 2  # layers of each network in lambda_i
    hyper_embed: int = 64  # hidden width of every network
    operands: str = "float32"

    @nn.compact
    def __call__(self, q_taken, state, *, q_max=None, action=None) -> jax.Array:
        if q_max is None or action is None:
            raise ValueError("QPLEX weighs the advantages of actions: it needs q_max and action")
        n, hidden = q_taken.shape[-1], (self.hyper_embed,)
        w = jnp.abs(MLP((*hidden, n), self.operands)(state)) + 1e-10
        v = MLP((*hidden, n), self.operands)(state)
        advantage = stop_gradient(w * (q_taken - q_max))
        layers = hidden * (self.qplex_layers - 1)
        weight = importance(self.qplex_heads, layers, action, state, self.operands)
        return (w * q_taken + v).sum(-1) + (advantage * (weight - 1)).sum(-1)


@register_mixer("qatten")
class Qatten(nn.Module):
    """Multi-head attention over the agents (Yang et al. 2020), with the weighted heads of PyMARL2.

    Q_tot = sum_h |w_h(s)| sum_i a_hi(s) Q_i + c(s), a_h = softmax_i(query_h(s) . key_hi(s) / sqrt(E)).
    The keys of the reference code are linear in each agent's part of the state. Not every state has such
    parts, so here the keys are linear in all of it.

    IGM: Q_tot grows with every Q_i.
    """

    qatten_heads: int = 4
    mixing_embed: int = 32  # width of queries and keys, E
    hyper_embed: int = 64  # hidden width of the networks of w and of the queries
    operands: str = "float32"

    @nn.compact
    def __call__(self, q_taken, state, *, q_max=None, action=None) -> jax.Array:
        n, heads, operands = q_taken.shape[-1], self.qatten_heads, self.operands
        attention = nn.softmax(similarity(heads, n, self.hyper_embed, self.mixing_embed, state, operands))
        w = jnp.abs(MLP((self.hyper_embed, heads), operands)(state))
        per_agent = (w[..., None] * attention).sum(-2)
        value = MLP((self.mixing_embed, 1), operands)(state)[..., 0]
        return (per_agent * q_taken).sum(-1) + value


def importance(
    heads: int, hidden: Sequence[int], action: jax.Array, state: jax.Array, operands: str = "float32"
) -> jax.Array:
    """QPLEX's lambda_i(s, u) > 0, [..., N]. For use inside a compact module.

    Args:
      heads: the number of terms in the sum (kernels).
      hidden: the widths of the hidden layers of every network.
      action: one-hot, [..., N, A] (or continuous, [..., N, d]).
      state: [..., G].
    """
    n = action.shape[-2]
    joint = concat(state, action.reshape(*action.shape[:-2], -1))

    def branch(width, x):
        return stacked_mlps(heads, (*hidden, width), x, operands)

    key = jnp.abs(branch(1, state)) + 1e-10
    return (key * nn.sigmoid(branch(n, state)) * nn.sigmoid(branch(n, joint))).sum(-2)


def similarity(
    heads: int, n: int, hyper_embed: int, embed: int, state: jax.Array, operands: str = "float32"
) -> jax.Array:
    """Qatten's scaled products of queries and keys, [..., G] -> [..., heads, n].

    For use inside a compact module. `embed` is the width of queries and keys, `hyper_embed` the hidden
    width of the queries' networks.
    """
    query = stacked_mlps(heads, (hyper_embed, embed), state, operands)
    key = Linear(heads * n * embed, operands=operands)(state)
    key = key.reshape(*state.shape[:-1], heads, n, embed)
    return (query[..., None, :] * key).sum(-1) / embed**0.5


def make_mixer(name: str, options: Any, operands: str = "float32") -> nn.Module:
    """The mixer of that name; its fields are filled from those of `options` with the same names."""
    return build(MIXERS.get(name), **vars(options) | {"operands": operands})
