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
    value: jax.Array,
    gamma: jax.Array | float,
    n: int,
) -> jax.Array:
    """The n-step return G^n, of fewer steps where an episode ends or is cut off.

        G^0_t = V_t,   G^k_t = r_t + gamma d_t [ m_{t+1} G^{k-1}_{t+1} + (1 - m_{t+1}) V_{t+1} ]

    As in `lambda_return` all falls on V_{t+1} where the next transition is not real, and nothing of
    t+1 enters where d = 0. Shapes: reward, discount, mask [T, ...]; value [T+1, ...] -> [T, ...].
    """
    chex.assert_equal_shape([reward, discount, mask, value[1:]])
    goes_on = jnp.concatenate([mask[1:], jnp.zeros_like(mask[:1])]) > 0

    def backward(_, g):
        following = jnp.concatenate([g[1:], g[:1]])  # never read after the last transition
        return reward + gamma * discount * jnp.where(goes_on, following, value[1:])

    return jax.lax.fori_loop(0, min(n, len(reward)), backward, value[:-1])


def masked_mean(x: jax.Array, mask: jax.Array) -> jax.Array:
    """sum(m x) / sum(m) over all axes of `mask`; zero where nothing is real."""
    chex.assert_equal_shape([x, mask])
    return (x * mask).sum() / jnp.maximum(mask.sum(), 1.0)
