"""FOP's factorisation of a joint value into the agents' values, and the temperatures that follow."""

from typing import Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.lax import stop_gradient

from ..ops.means import masked_mean
from ..ops.policies import chosen
from ..types import Params
from .layers import MLP, Linear, apply, stacked_mlps
from .mixers import importance

MAX_RATIO = 10.0  # alpha_i / alpha stays within [1/10, 10]; the ratio of the paper has no bounds


class JointValue(NamedTuple):
    """A joint value and what it was made of."""

    q: jax.Array  # [...] Q_jt(s, u)
    weight: jax.Array  # [..., N] lambda_i(s, u), the weight of agent i's advantage
    penalty: jax.Array  # [...] squared attention logits: mean over agents, summed over heads


class Factorisation(nn.Module):
    """Q_jt from individual Q_i and soft V_i (FOP section 4.3), with lambda_i as in QPLEX.

    paper      Q_jt = sum_i lambda_i(s, u) (Q_i - V_i) + V_jt(s)
    released   Q_jt = sum_i w_i(s) Q_i + V(s) + sum_i (lambda_i(s, u) - 1) sg[w_i (Q_i - V_i)],
               w_i = 1 or, with `attention`, the sum of the attention heads

    Shapes: q, v [..., N], action [..., N, A] one-hot (continuous: in [-1, 1], [..., N, d]), state [..., G].
    The leading axes broadcast.
    """

    form: Literal["paper", "released"] = "paper"
    attention: bool = False
    heads: int = 4  # of lambda_i, and of the attention
    layers: int = 1  # of each network in lambda_i
    mixing_embed: int = 32  # hidden width of V, and width of the attention's queries and keys
    hyper_embed: int = 64  # hidden width of the networks of lambda_i and of the queries
    operands: str = "float32"

    @nn.compact
    def __call__(self, q: jax.Array, v: jax.Array, action: jax.Array, state: jax.Array) -> JointValue:
        hidden = (self.hyper_embed,) * (self.layers - 1)
        weight = importance(self.heads, hidden, action, state, self.operands)
        value = MLP((self.mixing_embed, 1), self.operands)(state)[..., 0]
        penalty = jnp.zeros_like(value)
        if self.form == "paper":
            return JointValue((weight * (q - v)).sum(-1) + value, weight, penalty)
        w = 1.0
        if self.attention:
            logits = self._attention_logits(action.shape[-2], state)
            w = nn.softmax(logits / self.mixing_embed**0.5).sum(-2) + 1e-10
            penalty = jnp.square(logits).mean(-1).sum(-1)
        advantage = stop_gradient(w * (q - v))
        return JointValue((w * q).sum(-1) + value + ((weight - 1) * advantage).sum(-1), weight, penalty)

    def _attention_logits(self, n: int, state: jax.Array) -> jax.Array:
        """query_h(s) . key_hi(s), [..., heads, n].

        As in the released code, the last layer of the queries and the keys have no biases. There the keys
        read each agent's part of the state. Not every state has such parts, so here they read all of it.
        """
        heads, width = self.heads, self.mixing_embed
        per_head = nn.vmap(
            Linear, in_axes=-2, out_axes=-2,  # pyright: ignore[reportArgumentType]
            axis_size=heads, variable_axes={"params": 0}, split_rngs={"params": True},
        )  # fmt: skip
        hidden = nn.relu(stacked_mlps(heads, (self.hyper_embed,), state, self.operands))
        query = per_head(width, operands=self.operands, bias=False)(hidden)
        key = Linear(heads * n * width, operands=self.operands, bias=False)(state)
        key = key.reshape(*state.shape[:-1], heads, n, width)
        return (query[..., None, :] * key).sum(-1)


def soft_values(q: jax.Array, v: jax.Array | None, alpha: jax.Array) -> jax.Array:
    """V_i for K critics, without gradient: a network's, or alpha log sum_a exp(Q_i / alpha).

    Shapes: q [K, ..., N, A], v [..., N] or None, alpha [] -> [K, ..., N].
    """
    soft = alpha * nn.logsumexp(q / alpha, axis=-1) if v is None else jnp.broadcast_to(v, q.shape[:-1])
    return stop_gradient(soft)


def joint_values(
    mixer: Factorisation, params: Params, q: jax.Array, v: jax.Array, action: jax.Array, state: jax.Array
) -> JointValue:
    """Q_jt of discrete actions for K critics, whose mixers' parameters are stacked; leaves [K, ...].

    Shapes: q [K, ..., N, A], v [K, ..., N], action [..., N], state [..., G]. The leading axes broadcast.
    """
    one_hot = jax.nn.one_hot(action, q.shape[-1])
    return jax.vmap(lambda p, q, v: apply(mixer, p, chosen(q, action), v, one_hot, state))(params, q, v)


def temperature_ratio(gain: jax.Array, weighted: jax.Array, mask: jax.Array) -> jax.Array:
    """alpha_i / alpha = E[Q_i - V_i] / E[lambda_i (Q_i - V_i)] of every agent (FOP section 4.3), [N].

    It is 1 when the two expectations differ in sign.

    Args:
      gain: Q_i - V_i, [T, B, N].
      weighted: lambda_i (Q_i - V_i), [T, B, N].
      mask: 1 where the transition is real, [T, B].
    """
    mean = jax.vmap(masked_mean, in_axes=(-1, None))
    above, below = mean(gain, mask), mean(weighted, mask)
    ratio = above / jnp.where(above * below > 0, below, 1.0)
    return jnp.where(above * below > 0, jnp.clip(ratio, 1 / MAX_RATIO, MAX_RATIO), 1.0)
