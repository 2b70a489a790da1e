"""The best action in a box, by a search that comes ever closer: for values that nothing is known of."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from scipy.stats import qmc

from ..types import EnvSpec
from .action_box import to_box


def best_in_box(
    value: Callable[[jax.Array], jax.Array],
    leading: tuple[int, ...],
    spec: EnvSpec,
    candidates: int,
    refinements: int,
) -> jax.Array:
    """argmax_u value(u): among points all over the box, then among points ever closer around the best.

    The points are evenly spread (Halton's sequence) over a cube a little larger than the box. Those outside
    go to its border. The cube shrinks slowly enough that later searches can still leave a poor start.

    Args:
      value: actions [*leading, K, d] -> [*leading, K].
      candidates: points of each search; the best one so far is added to them.
      refinements: searches after the first.

    Returns: actions [*leading, d].
    """
    points = 1.15 * (2 * qmc.Halton(spec.action_dim, scramble=False).random(candidates) - 1)
    shrink = min(2.5 * candidates ** (-1 / spec.action_dim), 0.7)
    centre = jnp.zeros((*leading, spec.action_dim))
    for i in range(1 + refinements):
        around = jnp.clip(centre[..., None, :] + shrink**i * points, -1.0, 1.0)
        tried = jnp.concatenate([around, centre[..., None, :]], axis=-2)  # never worse than before
        centre = pick(tried, value(to_box(tried, spec)).argmax(-1))
    return to_box(centre, spec)


def pick(actions: jax.Array, index: jax.Array) -> jax.Array:
    """The actions [..., K, d] at `index` [...] -> [..., d]."""
    return jnp.take_along_axis(actions, index[..., None, None], axis=-2)[..., 0, :]
