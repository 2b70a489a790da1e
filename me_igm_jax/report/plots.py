"""Learning curves of runs: the IQM over seeds with its 95 % bootstrap band."""

import sys
from collections.abc import Sequence
from itertools import cycle
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..config import ConfigError
from ..runner.files import Row, read_json, read_rows
from ..runner.members import algorithm_label, as_grid, grid_points
from ..runner.records import read_settings
from ..runner.statistics import bootstrap, iqm

LABELS = {"won": "greedy win rate", "return": "greedy team return", "length": "episode length"}
# Okabe and Ito's palette: colours that colour-blind readers can tell apart.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#F0E442")
STYLES = ("-", "--", ":", "-.")


class Curve(NamedTuple):
    """One hyper-point of a run."""

    label: str
    steps: np.ndarray  # [E] mean environment steps
    values: np.ndarray  # [E, S]


def curves(directory: str | Path, metric: str) -> list[Curve]:
    """One curve per hyper-point of the run. Raises ConfigError when it has no such metric."""
    directory = Path(directory)
    settings = read_settings(directory)
    rows = read_rows(directory / "metrics.jsonl")
    if not rows:
        raise ConfigError(f"{directory}: has no evaluations yet")
    if metric not in rows[0]:
        raise ConfigError(f"metric={metric}: not in {directory}; known: {', '.join(rows[0])}")
    points = grid_points(as_grid(settings.get("grid")))
    return [
        _curve(
            algorithm_label(settings["preset"], points[p]),
            [row for row in rows if row["point"] == p],
            metric,
        )
        for p in sorted({row["point"] for row in rows})
    ]


def _curve(label: str, rows: list[Row], metric: str) -> Curve:
    """The evaluations that all seeds of the point have; seeds of several jobs may have more than others."""
    seeds = sorted({row["seed"] for row in rows})
    at = {(row["eval"], row["seed"]): row for row in rows}
    evals = [e for e in sorted({row["eval"] for row in rows}) if all((e, s) in at for s in seeds)]
    values = [[at[e, s][metric] for s in seeds] for e in evals]
    steps = [np.mean([at[e, s]["env_steps"] for s in seeds]) for e in evals]
    return Curve(label, np.array(steps), np.array(values, float).reshape(len(evals), len(seeds)))


def plot(
    directories: Sequence[str | Path], metric: str | None = None, out: str | Path = "curves.png"
) -> Path:
    """Draw one curve per run and hyper-point, and save the figure; the suffix picks the format.

    metric  a column of metrics.jsonl; by default `won` when all runs have it, else `return`
    A run without evaluations is left out and named on stderr.
    """
    found = {Path(d): read_rows(Path(d) / "metrics.jsonl") for d in directories}
    envs = {d: shown_env(d) for d in found}
    for directory in [d for d, rows in found.items() if not rows]:
        print(f"left out {directory}: has no evaluations yet", file=sys.stderr)
        del found[directory], envs[directory]
    if not found:
        raise ConfigError("plot: no run has evaluations")
    metric = metric or ("won" if all("won" in rows[0] for rows in found.values()) else "return")
    drawn = [(d, curve) for d in found for curve in curves(d, metric)]
    return _save(drawn, envs, metric, Path(out))


def shown_env(directory: Path) -> str:
    """The name of the run's environment. Only the manifest knows the name of an Env object."""
    path, settings = directory / "manifest.json", read_settings(directory)
    return read_json(path).get("env", settings["env"]) if path.is_file() else settings["env"]


def _save(drawn: list[tuple[Path, Curve]], envs: dict[Path, str], metric: str, out: Path) -> Path:
    from matplotlib.figure import Figure
    from matplotlib.ticker import EngFormatter

    figure = Figure(figsize=(6.4, 4.0), layout="constrained")
    axes = figure.subplots()
    looks = cycle((colour, style) for style in STYLES for colour in COLOURS)
    for (directory, curve), (colour, style) in zip(drawn, looks, strict=False):
        name = curve.label
        if [other.label for _, other in drawn].count(name) > 1:
            name += f" [{directory.name}]"
        if len(set(envs.values())) > 1:
            name += f" on {envs[directory]}"
        _draw(axes, curve, name, colour, style)
    title = plain_text(", ".join(sorted(set(envs.values()))))
    axes.set(xlabel="environment steps", ylabel=plain_text(LABELS.get(metric, metric)), title=title)
    axes.xaxis.set_major_formatter(EngFormatter())
    if metric == "won":
        axes.set_ylim(-0.02, 1.02)
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, title="IQM and 95 % bootstrap interval", fontsize="small")
    try:
        figure.savefig(out, dpi=150)
    except OSError as error:
        raise ConfigError(f"--out {out}: {error.strerror}") from None
    return out


def _draw(axes: Any, curve: Curve, name: str, colour: str, style: str) -> None:
    """The IQM of the seeds whose numbers are all finite, and the band when there are several."""
    seeds = curve.values.shape[1]
    values = curve.values[:, np.isfinite(curve.values).all(0)]
    count = f"{seeds} seed{'s' if seeds > 1 else ''}"
    if values.shape[1] < seeds:
        count = f"{values.shape[1]} of {count}, the others not finite"
    label = plain_text(f"{name}, {count}")
    if values.size == 0:
        axes.plot([], [], color=colour, linestyle=style, label=label)
        return
    axes.plot(curve.steps, iqm(values), color=colour, linestyle=style, label=label)
    band = bootstrap(values)
    if band is not None:
        axes.fill_between(curve.steps, *band, color=colour, alpha=0.2, linewidth=0)


def plain_text(text: str) -> str:
    """`text` without a meaning for matplotlib, which reads $...$ as mathematics."""
    return text.replace("$", r"\$")
