"""Learning curves of runs: the IQM over seeds with its 95 % bootstrap band."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from . import stats
from .config import ConfigError
from .records import read_config
from .sinks import read_rows

LABELS = {"won": "greedy win rate", "return": "greedy team return", "length": "episode length"}


def curves(directory: Path, metric: str) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """{label: (env_steps [E], values [E, S])}, one entry per hyper-point of the run."""
    config, grid = read_config(directory)
    rows = read_rows(directory / "metrics.jsonl")
    if not rows:
        raise ConfigError(f"{directory}: has no evaluations yet")
    if metric not in rows[0]:
        raise ConfigError(f"metric={metric}: not in {directory}; known: {', '.join(rows[0])}")
    out = {}
    for point in sorted({row["point"] for row in rows}):
        mine = [row for row in rows if row["point"] == point]
        seen = [{r["eval"] for r in mine if r["seed"] == seed} for seed in {r["seed"] for r in mine}]
        evals = sorted(set.intersection(*seen))  # seeds of several jobs need not have equally many
        groups = [[row for row in mine if row["eval"] == e] for e in evals]
        steps = np.array([np.mean([row["env_steps"] for row in group]) for group in groups])
        values = np.array([[row[metric] for row in group] for group in groups], float)
        tail = ", ".join(f"{key}={mine[0][f'hypers.{key}']:g}" for key in grid)
        out[f"{config.preset}{f' ({tail})' if tail else ''}"] = (steps, values)
    return out


def plot(directories: Sequence[Path], metric: str | None, out: Path) -> Path:
    """Draw one curve per run and hyper-point, and save the figure; the suffix picks the format."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.ticker import EngFormatter

    first = read_rows(directories[0] / "metrics.jsonl")
    metric = metric or ("won" if first and "won" in first[0] else "return")
    drawn = [(d, label, c) for d in directories for label, c in curves(d, metric).items()]
    envs = sorted({read_config(d)[0].env for d in directories})
    figure, axes = plt.subplots(figsize=(6.4, 4.0), layout="constrained")
    for directory, label, (steps, values) in drawn:
        twice = [other for other in drawn if other[1] == label]
        name = f"{label} [{directory.name}]" if len(twice) > 1 else label
        name += f" on {read_config(directory)[0].env}" if len(envs) > 1 else ""
        line = axes.plot(steps, stats.iqm(values), label=f"{name}, {values.shape[1]} seeds")[0]
        low, high = stats.bootstrap(values)
        axes.fill_between(steps, low, high, color=line.get_color(), alpha=0.2, linewidth=0)
    axes.set(xlabel="environment steps", ylabel=LABELS.get(metric, metric), title=", ".join(envs))
    axes.xaxis.set_major_formatter(EngFormatter())
    if metric == "won":
        axes.set_ylim(-0.02, 1.02)
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, title="IQM and 95 % bootstrap interval")
    figure.savefig(out, dpi=150)
    plt.close(figure)
    return out
