"""Pictures of FOP's continuous game from results/differential.json (FOP, figures 2 and 3).

    python benchmarks/differential_figures.py

docs/figures/mtq_surface.png, and of the systems and of FOP's ablations the learning curves and the
learning paths. One seed of each row is trained again, for all that it tried.
"""

import json
from pathlib import Path

import jax
import matplotlib
import numpy as np

from differential import ABLATIONS, ALL, OUT, ROWS
from me_igm_jax import load, make_train
from me_igm_jax.envs.differential import surface

matplotlib.use("Agg")
import matplotlib.pyplot as plt

FIGURES = Path(__file__).parent.parent / "docs" / "figures"
AXIS = np.linspace(-10, 10, 201)
U1, U2 = np.meshgrid(AXIS, AXIS, indexing="ij")
COLUMNS = 3  # panels of learning paths in a line


def save(figure, name: str) -> None:
    figure.savefig(FIGURES / f"mtq_{name}.png", dpi=110, bbox_inches="tight")


def draw_surface(reward: np.ndarray) -> None:
    figure = plt.figure(figsize=(6, 5))
    axes = figure.add_subplot(projection="3d")
    axes.plot_surface(U1, U2, reward, cmap="viridis", vmin=-30, rcount=100, ccount=100)
    axes.set(xlabel="$u_1$", ylabel="$u_2$", title="Max of Two Quadratics: reward")
    save(figure, "surface")


def draw_curves(name: str, rows: dict[str, dict]) -> None:
    """Greedy return over plays: the interquartile mean over the seeds, and the range it is taken of."""
    figure, axes = plt.subplots(figsize=(7, 4))
    for row_name, row in rows.items():
        curve = row["curve"]
        label = f"{row_name} ({row['seeds']} seeds)"
        line = axes.plot(curve["env_steps"], curve["return_iqm"], label=label)
        axes.fill_between(
            curve["env_steps"], *curve["return_quartiles"], alpha=0.15, color=line[0].get_color()
        )
    axes.set(
        xlabel="plays", ylabel="greedy return (best: 1)", title="Interquartile mean and range over seeds"
    )
    axes.legend(fontsize=8, ncols=2)
    save(figure, name)


def draw_paths(name: str, rows: dict[str, dict], reward: np.ndarray) -> None:
    """A panel for each row: what one seed tried, and where the greedy actions of some seeds went."""
    lines = -(-len(rows) // COLUMNS)
    figure, grid = plt.subplots(
        lines, COLUMNS, figsize=(10, 3.3 * lines), sharex=True, sharey=True, squeeze=False
    )
    for axes in grid.flat[len(rows) :]:
        axes.set_axis_off()
    for axes, (row_name, row) in zip(grid.flat, rows.items(), strict=False):
        axes.contourf(U1, U2, reward, levels=np.linspace(-40, 10, 26), cmap="Greys_r")
        axes.plot(*explored(row_name).T, ",", color="tab:red", alpha=0.4)
        for path in np.asarray(row["paths"]).swapaxes(0, 1):
            axes.plot(*path.T, lw=1)
            axes.plot(*path[-1], "o", ms=4, color="black")
        axes.set(title=f"{row_name}: {row['optimal_rate']:.3f} optimal", aspect="equal")
    figure.supxlabel("$u_1$")
    figure.supylabel("$u_2$")
    save(figure, name)


def explored(name: str) -> np.ndarray:
    """All actions that one seed of the row tried, in order, [20000, 2]."""
    words = ALL[name].split()
    options = dict(zip([w[2:].replace("-", "_") for w in words[::2]], words[1::2], strict=True))
    config = load(options.pop("preset"), env="differential/mtq", **(options | {"replay.capacity": 20_000}))
    state, _ = jax.jit(make_train(config))(jax.random.key(0), config.hypers)
    return np.asarray(state.ring.action[0, :, :, 0])


def main() -> None:
    rows = json.loads(OUT.read_text())
    reward = np.asarray(surface(np.stack([U1, U2], -1)))
    FIGURES.mkdir(parents=True, exist_ok=True)
    draw_surface(reward)
    systems = {name: row for name, row in rows.items() if name in ROWS}
    ablations = {name: row for name, row in rows.items() if name == "fop" or name in ABLATIONS}
    for prefix, shown in {"": systems, "ablation_": ablations}.items():
        draw_curves(f"{prefix}curves", shown)
        draw_paths(f"{prefix}paths", shown, reward)


if __name__ == "__main__":
    main()
