"""Returns: what values are fitted to.

The functions here accept values of T + 1 instants or of T. With T instants no transition has a next
instant: every transition is terminal, and the return is the reward.
"""

from typing import Any

import jax
import jax.numpy as jnp

from ..types import Batch

Scalar = jax.Array | float


def lambda_return(
    reward: jax.Array,
    discount: jax.Array,
    mask: jax.Array,
    value: jax.Array,
    gamma: Scalar,
    lam: Scalar,
    bonus: jax.Array | None = None,
) -> jax.Array:
    """TD(lambda) with the entropy of the next instant (ME-IGM App. A, with masks and without its errors).

        G_t = r_t + gamma d_t [ (1 - mix_t) V_{t+1} + mix_t G_{t+1} + b_{t+1} ],   mix_t = lambda m_{t+1}

    The bonus b (alpha times the entropy) of instant t + 1 enters once and is never mixed by lambda.
    When the next transition is not real (m = 0: padding, a truncated episode, the end of the sequence),
    the whole weight falls on V_{t+1}. When d = 0, nothing of instant t + 1 enters.

    Args:
      reward, discount, mask: r, d and m, [T, ...].
      value, bonus: V and b (zero by default), [T + 1, ...] or [T, ...] (see above); all axes after
        the first broadcast to those of `reward`.
      gamma, lam: the discount factor and lambda, [].

    Returns: G [T, ...].
    """
    if not _has_final_instant(value, reward):
        return reward
    v_next = _of_next_instants(value, reward)
    b_next = jnp.zeros_like(reward) if bonus is None else _of_next_instants(bonus, reward)
    mix = lam * _following(mask)

    def backward(g_next, inputs):
        r, d, mix, v_next, b_next = inputs
        g = r + gamma * d * (v_next + mix * (g_next - v_next) + b_next)
        return g, g

    return jax.lax.scan(backward, v_next[-1], (reward, discount, mix, v_next, b_next), reverse=True)[1]


def n_step_return(
    reward: jax.Array,
    discount: jax.Array,
    mask: jax.Array,
    q: jax.Array,
    value: jax.Array,
    trace: jax.Array,
    gamma: Scalar,
    n: int,
) -> jax.Array:
    """The corrected n-step return.

        G_t = Q_t + sum_{k < n} (prod_{0 < j <= k} gamma d_{t+j-1} m_{t+j} c_{t+j}) delta_{t+k}
        delta_t = r_t + gamma d_t V_{t+1} - Q_t

    With the traces c = 1 and Q = V it is the plain n-step return. When V is the value of a policy, and c
    is the probability that this policy takes the recorded action, it is n steps of tree backup
    (Precup et al. 2000; DOP Eq. 9). The end of an episode, of a sequence or of the real data cuts the
    sum as in `lambda_return`.

    Args:
      reward, discount, mask: r, d and m, [T, ...].
      q: Q, [T, ...] or more instants, of which only the first T are read.
      value: V, [T + 1, ...] or [T, ...] (see above).
      trace: c, [T, ...]. Like q and value, it broadcasts to the axes of `reward` after the first.
      gamma, n: the discount factor, [], and the number of steps.

    Returns: G [T, ...].
    """
    if not _has_final_instant(value, reward):
        return reward
    q, trace = (jnp.broadcast_to(x[: len(reward)], reward.shape) for x in (q, trace))
    delta = reward + gamma * discount * _of_next_instants(value, reward) - q
    decay = gamma * discount * _following(mask * trace)

    def one_step_further(_, total: jax.Array) -> jax.Array:
        return delta + decay * _following(total)

    return q + jax.lax.fori_loop(1, min(n, len(reward)), one_step_further, delta)


def batch_return(batch: Batch, value: jax.Array, hypers: Any, bonus: jax.Array | None = None) -> jax.Array:
    """`lambda_return` of a batch, with hypers.gamma and hypers.td_lambda.

    `value` and `bonus` have the instants of `batch.steps`, [T + 1 or T, B]. They may have a further
    axis, [..., M] for M critics or agents: then each of them receives the team's reward.

    Returns: [T, B] or [T, B, M].
    """
    reward, discount, mask = batch.reward, batch.discount, batch.mask
    if value.ndim > reward.ndim:
        reward, discount, mask = (
            jnp.broadcast_to(x[..., None], (*x.shape, value.shape[-1])) for x in (reward, discount, mask)
        )
    return lambda_return(reward, discount, mask, value, hypers.gamma, hypers.td_lambda, bonus)


def _has_final_instant(value: jax.Array, reward: jax.Array) -> bool:
    if len(value) not in (len(reward), len(reward) + 1):
        raise ValueError(f"{len(reward)} transitions have {len(reward) + 1} instants, not {len(value)}")
    return len(value) > len(reward)


def _of_next_instants(x: jax.Array, reward: jax.Array) -> jax.Array:
    """x_{t+1} for every transition t, with the shape of `reward`."""
    return jnp.broadcast_to(x[1:], reward.shape)


def _following(x: jax.Array) -> jax.Array:
    """x_{t+1} for every t of x [T, ...], and zero after the last."""
    return jnp.concatenate([x[1:], jnp.zeros_like(x[:1])])
