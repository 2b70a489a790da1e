"""Statistics over seeds (NumPy): interquartile mean, bootstrap and Wilson intervals."""

import numpy as np


def iqm(x: np.ndarray, axis: int = -1) -> np.ndarray:
    """Interquartile mean (Agarwal et al. 2021): the mean of the middle half, weights at the rims.

    Equals the mean for fewer than three values.
    """
    x = np.sort(np.moveaxis(np.asarray(x, float), axis, -1), axis=-1)
    n = x.shape[-1]
    if n < 3:
        return x.mean(-1)
    edges = np.arange(n + 1)
    weight = np.clip(np.minimum(edges[1:], 0.75 * n) - np.maximum(edges[:-1], 0.25 * n), 0, 1)
    return (x * weight).sum(-1) / weight.sum()


def bootstrap(x: np.ndarray, statistic=iqm, level: float = 0.95, draws: int = 2000, seed: int = 0):
    """Percentile bootstrap over the last axis (seeds): (low, high), each of the leading shape."""
    x = np.asarray(x, float)
    rng = np.random.default_rng(seed)
    index = rng.integers(0, x.shape[-1], (draws, x.shape[-1]))
    values = np.stack([statistic(x[..., i]) for i in index])
    tail = 50 * (1 - level)
    low, high = np.percentile(values, [tail, 100 - tail], axis=0)
    return low, high


def wilson(successes: int, trials: int, z: float = 1.959964) -> tuple[float, float]:
    """Wilson's 95 % interval of a proportion."""
    p, n = successes / trials, trials
    centre = (p + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z * np.sqrt(p * (1 - p) / n + z**2 / (4 * n**2)) / (1 + z**2 / n)
    # Rounding must not push a bound past the proportion itself when nothing or everything succeeds.
    return float(min(max(0.0, centre - half), p)), float(max(min(1.0, centre + half), p))


def describe(x: np.ndarray) -> dict:
    """Mean, IQM and the bootstrap interval of each over seeds [S], as plain numbers."""
    x = np.asarray(x, float)
    mean_low, mean_high = bootstrap(x, lambda v: v.mean(-1))
    iqm_low, iqm_high = bootstrap(x)
    return {
        "per_seed": x.tolist(),
        "mean": float(x.mean()),
        "mean_interval": [float(mean_low), float(mean_high)],
        "iqm": float(iqm(x)),
        "iqm_interval": [float(iqm_low), float(iqm_high)],
    }
