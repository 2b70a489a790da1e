"""What Q_tot is fitted to: TD targets under weights, or the central critic under QTRAN's constraints."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from ..config import Algo, Hypers
from ..returns import masked_mean


class JointValues(NamedTuple):
    """Values of a batch's joint actions u and of the greedy ones, u* = (argmax_a Q_i)_i.

    Shapes [T, B], or what broadcasts to it: sequences that share an instant share u*.
    """

    q_tot: jax.Array  # Q_tot(s, u)
    q_tot_best: jax.Array  # Q_tot(s, u*)
    q_hat: jax.Array  # Q^(s, u), the central critic's; Q_tot's where there is none
    q_hat_best: jax.Array  # Q^(s, u*)
    is_best: jax.Array  # bool, u = u*
    opt_sum: jax.Array  # sum_i OPT_i(Q_i(u_i), s)


def q_tot_loss(algo: Algo, v: JointValues, g: jax.Array, mask: jax.Array, hypers: Hypers) -> jax.Array:
    """The loss that `algo.fit` and `algo.weighting` name; no gradient reaches the critic."""
    if algo.fit == "qtran":
        return qtran_loss(v, mask, hypers.nopt_weight)
    w, norm = td_weights(algo.weighting, v, g, hypers.optimistic_weight)
    error = mask * w * jnp.square(v.q_tot - g)
    return 0.5 * error.sum() / jnp.maximum((mask * norm).sum(), 1e-8)


def td_weights(rule: str, v: JointValues, g: jax.Array, low: jax.Array | float):
    """Weights of the TD errors towards the target g, and what their weighted sum is divided by.

    Weighted QMIX (Rashid et al. 2020b), `low` unless Q_tot(s, u) < g (optimistic), or unless u = u* or
    g > Q^(s, u*) (centrally). The released Soft-QMIX's rule is in no paper.
    """
    ones = jnp.ones_like(g)
    if rule == "optimistic":
        return jnp.where(v.q_tot < g, 1.0, low), ones
    if rule == "centrally":
        return jnp.where(v.is_best | (g > v.q_hat_best), 1.0, low), ones
    if rule == "soft_qmix":
        w = jnp.where((v.q_tot > v.opt_sum) == (v.q_tot < g), 0.5, 1.0)
        return w, w
    return ones, ones


def qtran_loss(v: JointValues, mask: jax.Array, nopt_weight: jax.Array | float) -> jax.Array:
    """QTRAN-base's L_opt and L_nopt (Son et al. 2019): Q_tot = Q^ at u*, and nowhere Q_tot < Q^."""
    q_hat, q_hat_best = jax.lax.stop_gradient((v.q_hat, v.q_hat_best))
    opt = jnp.square(v.q_tot_best - q_hat_best)
    nopt = jnp.square(jnp.minimum(v.q_tot - q_hat, 0.0))
    return 0.5 * masked_mean(opt + nopt_weight * nopt, mask)
