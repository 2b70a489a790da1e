"""Statistics over seeds: interquartile mean, bootstrap intervals, Wilson's interval of a proportion."""

from collections.abc import Callable

import numpy as np


def iqm(x: np.ndarray, axis: int = -1) -> np.ndarray:
    """Interquartile mean (Agarwal et al. 2021): the mean of the middle half of the values.

    A value on the rim of that half counts by the part of it that lies inside. Equals the mean for
    fewer than three values.
    """
    x = np.sort(np.moveaxis(np.asarray(x, float), axis, -1), axis=-1)
    n = x.shape[-1]
    if n < 3:
        return x.mean(-1)
    edges = np.arange(n + 1)
    weight = np.clip(np.minimum(edges[1:], 0.75 * n) - np.maximum(edges[:-1], 0.25 * n), 0, 1)
    return (x * weight).sum(-1) / weight.sum()


def bootstrap(x: np.ndarray, statistic: Callable = iqm) -> tuple[np.ndarray, np.ndarray] | None:
    """95 % percentile bootstrap of `statistic(x, axis=-1)` over the last axis, the seeds.

    Returns (low, high), each of the leading shape. One seed says nothing about other seeds, and a
    number that is not finite has no interval: then None.
    """
    from scipy import stats

    x = np.asarray(x, float)
    if x.shape[-1] < 2 or not np.isfinite(x).all():
        return None
    found = stats.bootstrap(
        (x,), statistic, axis=-1, vectorized=True, n_resamples=2000, batch=100, method="percentile", rng=0
    )
    return found.confidence_interval.low, found.confidence_interval.high


def wilson(successes: int, trials: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a proportion."""
    from scipy import stats

    interval = stats.binomtest(successes, trials).proportion_ci(0.95, method="wilson")
    return float(interval.low), float(interval.high)


def describe(x: np.ndarray) -> dict:
    """Mean and IQM over seeds [S], and the bootstrap interval of each, as plain numbers."""
    x = np.asarray(x, float)
    return {
        "per_seed": x.tolist(),
        "mean": float(x.mean()),
        "mean_interval": _plain(bootstrap(x, np.mean)),
        "iqm": float(iqm(x)),
        "iqm_interval": _plain(bootstrap(x)),
    }


def _plain(interval: tuple[np.ndarray, np.ndarray] | None) -> list[float] | None:
    return None if interval is None else [float(bound) for bound in interval]
