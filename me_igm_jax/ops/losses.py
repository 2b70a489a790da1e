"""Losses of Q_tot: TD errors under weights, or QTRAN's constraints towards a central critic."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.lax import stop_gradient

from .means import masked_mean


class JointValues(NamedTuple):
    """Values of a batch's joint actions u and of the greedy ones, u* = (argmax_a Q_i)_i.

    Shapes [T, B], or shapes that broadcast to it (when all sequences share an instant, they share u*).
    """

    q_tot: jax.Array  # Q_tot(s, u)
    q_tot_best: jax.Array  # Q_tot(s, u*)
    q_hat: jax.Array  # Q^(s, u) of the central critic; without one, Q_tot(s, u)
    q_hat_best: jax.Array  # Q^(s, u*); without a central critic, Q_tot(s, u*)
    is_best: jax.Array  # bool, u = u*
    opt_sum: jax.Array  # sum_i OPT_i(Q_i(u_i), s)


def q_tot_loss(
    fit: str, weighting: str, values: JointValues, g: jax.Array, mask: jax.Array, hypers: Any
) -> jax.Array:
    """The loss of Q_tot that `fit` and `weighting` name, []; no gradient reaches the central critic.

    td     1/2 mean of w (Q_tot(s, u) - G)^2, the weights w by `weighting` (`td_weights`)
    qtran  `qtran_loss`, with hypers.nopt_weight

    Args:
      g: the target G, [T, B].
      hypers: read for optimistic_weight only when `weighting` is optimistic or centrally.
    """
    if fit == "qtran":
        return qtran_loss(values, mask, hypers.nopt_weight)
    low = hypers.optimistic_weight if weighting in ("optimistic", "centrally") else 1.0
    w, norm = td_weights(weighting, values, g, low)
    error = mask * w * jnp.square(values.q_tot - g)
    return 0.5 * error.sum() / jnp.maximum((mask * norm).sum(), 1e-8)


def td_weights(
    rule: str, values: JointValues, g: jax.Array, low: jax.Array | float
) -> tuple[jax.Array, jax.Array]:
    """(w, n): weights of the TD errors towards the target g, and what sums to their normaliser, [T, B].

    uniform     w = 1
    optimistic  w = 1 if Q_tot(s, u) < g, else `low` (Weighted QMIX, Rashid et al. 2020b)
    centrally   w = 1 if u = u* or g > Q^(s, u*), else `low` (Weighted QMIX)
    soft_qmix   w = 1/2 if Q_tot(s, u) lies above or below both sum_i OPT_i and g, else 1; n = w
                (the released Soft-QMIX; in no paper)
    """
    v, ones = values, jnp.ones_like(g)
    if rule == "optimistic":
        return jnp.where(v.q_tot < g, 1.0, low), ones
    if rule == "centrally":
        return jnp.where(v.is_best | (g > v.q_hat_best), 1.0, low), ones
    if rule == "soft_qmix":
        w = jnp.where((v.q_tot > v.opt_sum) == (v.q_tot < g), 0.5, 1.0)
        return w, w
    return ones, ones


def qtran_loss(values: JointValues, mask: jax.Array, nopt_weight: jax.Array | float) -> jax.Array:
    """QTRAN-base's L_opt + nopt_weight L_nopt (Son et al. 2019), [].

    L_opt demands Q_tot = Q^ at u*. L_nopt demands Q_tot >= Q^ at every u.
    """
    q_hat, q_hat_best = stop_gradient((values.q_hat, values.q_hat_best))
    opt = jnp.square(values.q_tot_best - q_hat_best)
    nopt = jnp.square(jnp.minimum(values.q_tot - q_hat, 0.0))
    return 0.5 * masked_mean(opt + nopt_weight * nopt, mask)
