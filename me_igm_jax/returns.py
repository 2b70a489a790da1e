"""Returns: what values are fitted to."""

import chex
import jax
import jax.numpy as jnp


def lambda_return(
    reward: jax.Array,
    discount: jax.Array,
    mask: jax.Array,
    value: jax.Array,
    bonus: jax.Array,
    gamma: jax.Array | float,
    lam: jax.Array | float,
) -> jax.Array:
    """TD(lambda) with the entropy of the next instant (ME-IGM App. A in its clean, masked form).

        G_t = r_t + gamma d_t [ (1 - l) V_{t+1} + l G_{t+1} + b_{t+1} ],   l = lambda m_{t+1}

    The bonus b (alpha times the entropy) of instant t+1 enters once and is never mixed by lambda.
    Where the next transition is not real (m = 0: padding, a truncated episode, the end of the
    sequence) the whole weight falls on V_{t+1}; where d = 0 nothing of t+1 enters.

    Shapes: reward, discount, mask [T, ...]; value, bonus [T+1, ...] -> [T, ...].
    """
    chex.assert_equal_shape([reward, discount, mask, value[1:], bonus[1:]])
    mix = lam * jnp.concatenate([mask[1:], jnp.zeros_like(mask[:1])])

    def backward(g_next, inputs):
        r, d, m, v_next, b_next = inputs
        g = r + gamma * d * (v_next + m * (g_next - v_next) + b_next)
        return g, g

    inputs = (reward, discount, mix, value[1:], bonus[1:])
    return jax.lax.scan(backward, value[-1], inputs, reverse=True)[1]


def n_step_return(
    reward: jax.Array,
    discount: jax.Array,
    mask: jax.Array,
    q: jax.Array,
    value: jax.Array,
    trace: jax.Array,
    gamma: jax.Array | float,
    n: int,
) -> jax.Array:
    """The corrected n-step return.

        G_t = Q_t + sum_{k < n} (prod_{0 < j <= k} gamma d_{t+j-1} m_{t+j} c_{t+j}) delta_{t+k}
        delta_t = r_t + gamma d_t V_{t+1} - Q_t

    With the traces c = 1 and Q = V it is the plain n-step return; with c the probability that the policy,
    whose value V is, does what was done, n steps of tree backup (Precup et al. 2000; DOP Eq. 9).
    The end of an episode, of a sequence or of what is real cuts the sum as it does `lambda_return`'s.

    Shapes: reward, discount, mask, q, trace [T, ...]; value [T+1, ...] -> [T, ...].
    """
    chex.assert_equal_shape([reward, discount, mask, q, value[1:], trace])

    def following(x: jax.Array) -> jax.Array:
        return jnp.concatenate([x[1:], jnp.zeros_like(x[:1])])

    delta = reward + gamma * discount * value[1:] - q
    decay = gamma * discount * following(mask * trace)

    def further(_, total: jax.Array) -> jax.Array:
        return delta + decay * following(total)

    return q + jax.lax.fori_loop(1, min(n, len(reward)), further, delta)


def masked_mean(x: jax.Array, mask: jax.Array) -> jax.Array:
    """sum(m x) / sum(m) over all axes of `mask`; zero where nothing is real."""
    chex.assert_equal_shape([x, mask])
    return (x * mask).sum() / jnp.maximum(mask.sum(), 1.0)
