"""Critics: networks of values that only learning reads, never greedy agents.

They need not satisfy IGM. Those that combine the agents' values have the signature of `mixers`.
"""

from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.lax import stop_gradient

from ..ops.policies import UNAVAILABLE
from .layers import MLP, Linear, concat


class CentralMixer(nn.Module):
    """The unrestricted mixer of Weighted QMIX's central critic: MLP([q, s]) + V(s).

    Not monotone in the utilities, so without IGM.
    """

    central_embed: int = 256  # width of the hidden layers
    operands: str = "float32"

    @nn.compact
    def __call__(self, q_taken, state, *, q_max=None, action=None) -> jax.Array:
        e = self.central_embed
        mixed = MLP((e, e, e, 1), self.operands)(concat(q_taken, state))
        return (mixed + MLP((e, 1), self.operands)(state))[..., 0]


class LinearMixer(nn.Module):
    """Q_tot = sum_i |w_i(s)| Q_i + b(s), w and b linear in s: the mixer of mSAC's released code."""

    operands: str = "float32"

    @nn.compact
    def __call__(self, q_taken, state, *, q_max=None, action=None) -> jax.Array:
        w = jnp.abs(Linear(q_taken.shape[-1], operands=self.operands)(state))
        return (w * q_taken).sum(-1) + Linear(1, operands=self.operands)(state)[..., 0]


class PositiveSum(nn.Module):
    """(k, b) of DOP's Q_tot = sum_i k_i(s) Q_i + b(s), k = |W(s)| |w(s)|: [..., G] -> [..., N], [...].

    paper      as above (Eq. 1)
    released   k / sum_i k_i, and b = 0
    """

    n_agents: int
    mixing_embed: int = 32  # columns of W(s)
    form: Literal["paper", "released"] = "paper"
    operands: str = "float32"

    @nn.compact
    def __call__(self, state: jax.Array) -> tuple[jax.Array, jax.Array]:
        n, width, operands = self.n_agents, self.mixing_embed, self.operands
        first = jnp.abs(Linear(n * width, operands=operands)(state))
        second = jnp.abs(Linear(width, operands=operands)(state))
        k = (first.reshape(*state.shape[:-1], n, -1) * second[..., None, :]).sum(-1)
        if self.form == "released":
            return k / k.sum(-1, keepdims=True), jnp.zeros(k.shape[:-1])
        return k, MLP((width, 1), operands)(state)[..., 0]


class ActionValue(nn.Module):
    """Q(h, u) of continuous actions: what an agent remembers, h [..., H], and u [..., d] -> [...].

    It has one hidden layer. The leading axes broadcast, so that many actions share one h.
    """

    hidden: int
    operands: str = "float32"

    @nn.compact
    def __call__(self, h: jax.Array, action: jax.Array) -> jax.Array:
        from_memory = Linear(self.hidden, operands=self.operands)(nn.relu(h))
        from_action = Linear(self.hidden, operands=self.operands)(action)
        return Linear(1, operands=self.operands)(nn.relu(from_memory + from_action))[..., 0]


class AgentCritic(nn.Module):
    """DOP's Q_i(s, o_i, .) = a(h) + v(h), h two layers on [s, o_i, i].

    Shapes: state [..., G], inputs [..., N, D] -> [..., N, A].
    """

    n_actions: int
    hidden: int = 256
    operands: str = "float32"

    @nn.compact
    def __call__(self, state: jax.Array, inputs: jax.Array) -> jax.Array:
        h = concat(state[..., None, :], inputs)
        for _ in range(2):
            h = nn.relu(Linear(self.hidden, operands=self.operands)(h))
        advantage = Linear(self.n_actions, operands=self.operands)(h)
        return advantage + Linear(1, operands=self.operands)(h)


class AttentionCritic(nn.Module):
    """MAAC's Q_i(o, u) = f(e_i, x_i), x_i what agent i attends to in the others (Eq. 5-6):

        e_i = g(h_i, u_i),   x_i = concat_k sum_{j != i} a_kij leaky(V_k e_j)
        a_ki = softmax_{j != i}((K_k e_j) . (W_k e_i) / sqrt(width of a head))

    With `own`, gradients reach the actions through e_i alone, not through the e_j of the others.
    Shapes: features h [..., N, H], actions in [-1, 1] [..., N, d] -> [..., N]; leading axes broadcast.
    """

    hidden: int = 64  # a multiple of `heads`
    heads: int = 4
    operands: str = "float32"

    @nn.compact
    def __call__(self, h: jax.Array, action: jax.Array, own: bool = False) -> jax.Array:
        def linear(features: int, **kwargs) -> Linear:
            return Linear(features, operands=self.operands, **kwargs)

        def split_heads(x: jax.Array) -> jax.Array:
            return x.reshape(*x.shape[:-1], self.heads, -1)

        e = nn.leaky_relu(linear(self.hidden)(nn.relu(h)) + linear(self.hidden)(action))
        others = stop_gradient(e) if own else e
        query = split_heads(linear(self.hidden, bias=False, name="query")(e))[..., :, None, :, :]
        key = split_heads(linear(self.hidden, bias=False, name="key")(others))[..., None, :, :, :]
        value = split_heads(nn.leaky_relu(linear(self.hidden)(others)))[..., None, :, :, :]
        itself = jnp.eye(action.shape[-2], dtype=bool)[..., None]  # [N, N, 1]
        logits = (query * key).sum(-1) / value.shape[-1] ** 0.5  # [..., N, N, K]
        weights = nn.softmax(jnp.where(itself, UNAVAILABLE, logits), axis=-2)
        weights = jnp.where(itself, 0.0, weights)  # without other agents there is nothing to attend to
        x = (weights[..., None] * value).sum(-3).reshape(e.shape)
        y = nn.leaky_relu(linear(self.hidden)(concat(e, x)))
        return linear(1)(y)[..., 0]
