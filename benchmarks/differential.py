"""FOP's continuous game (FOP, section 5.1): how often each system ends at the optimum, over many seeds.

    python benchmarks/differential.py --seeds 1000             # the table
    python benchmarks/differential.py --presets fop --seeds 64
    python benchmarks/differential.py --figures                # surface, learning curves, learning paths

Every row is one jitted program over all its seeds: 20,000 plays each. A seed counts as optimal when both
greedy actions end within 0.5 of 5. Writes results/differential.json after each row, where rows not asked
for stay as they are, and docs/figures/mtq_*.png.
"""

import argparse
import json
from pathlib import Path

import numpy as np
from runs import DEVICE, train, update_table

from me_igm_jax import load, stats

ROOT = Path(__file__).parent.parent
OUT = ROOT / "benchmarks" / "results" / "differential.json"
FIGURES = ROOT / "docs" / "figures"
PATHS = 8  # seeds whose way through the game is kept
ROWS = {
    "me_qmix": "--preset me_qmix",
    "me_qmix_constant_lr": "--preset me_qmix --hypers.lr-decay 1",
    "me_ow_qmix": "--preset me_ow_qmix",
    "me_qplex": "--preset me_qplex",
    "qmix": "--preset qmix",
    "fop": "--preset fop",
    "maddpg": "--preset maddpg",
    "maac": "--preset maac",
    "facmaddpg": "--preset facmaddpg",
    "dop": "--preset dop",
}


def measure(name: str, seeds: int) -> dict:
    """Train all seeds; the share at the optimum, the curve and some seeds' greedy actions over time."""
    run = train([*ROWS[name].split(), "--env", "differential/mtq", "--run.seeds", str(seeds)])
    point = run.summary["points"][0]
    optimal = np.asarray(point["optimal"]["per_seed"])
    evals = 1 + max(row["eval"] for row in run.rows)
    of = {k: np.zeros((evals, seeds)) for k in ("env_steps", "return", "optimal", "u1", "u2")}
    for row in run.rows:
        for k, x in of.items():
            x[row["eval"], row["seed"]] = row[k]
    low, high = np.percentile(of["return"], [25, 75], axis=1)
    return {
        "command": run.command,
        "seeds": seeds,
        "optimal_rate": float(optimal.mean()),
        "optimal_interval": list(stats.wilson(int(optimal.sum()), len(optimal))),
        "wide_hill_rate": float(_near(point, -5.0, 2.0)),
        "final_return": {k: point["return"][k] for k in ("mean", "mean_interval", "iqm")},
        "curve": {
            "env_steps": of["env_steps"][:, 0].tolist(),
            "optimal": of["optimal"].mean(1).tolist(),
            "return_iqm": stats.iqm(of["return"]).tolist(),
            "return_quartiles": [low.tolist(), high.tolist()],
        },
        "paths": np.stack([of["u1"], of["u2"]], -1)[:, :PATHS].round(3).tolist(),
        "seconds": run.seconds,
        "cpu_seconds": run.cpu_seconds,
        "updates_per_second": run.summary["updates_per_second"],
        "jax": run.manifest["versions"]["jax"],
        "device": DEVICE,
    }


def _near(point: dict, centre: float, radius: float) -> float:
    u = np.asarray([point[k]["per_seed"] for k in ("u1", "u2")])
    return (np.abs(u - centre) <= radius).all(0).mean()


def explored(name: str) -> np.ndarray:
    """All actions that one seed of the row tried, in order, [20000, 2]."""
    import jax

    from me_igm_jax.train import make_train

    words = ROWS[name].split()
    options = dict(zip([w[2:].replace("-", "_") for w in words[::2]], words[1::2], strict=True))
    config = load(options.pop("preset"), env="differential/mtq", **(options | {"replay.capacity": 20_000}))
    state, _ = jax.jit(make_train(config))(jax.random.key(0), config.hypers)
    return np.asarray(state.ring.action[0, :, :, 0])


def figures(rows: dict[str, dict]) -> None:
    """The game's surface, the learning curves, and a panel per system with what it tried and its paths."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    from me_igm_jax.envs.differential import surface

    FIGURES.mkdir(parents=True, exist_ok=True)
    axis = np.linspace(-10, 10, 201)
    first, second = np.meshgrid(axis, axis, indexing="ij")
    reward = np.asarray(surface(np.stack([first, second], -1)))

    figure = plt.figure(figsize=(6, 5))
    axes = figure.add_subplot(projection="3d")
    axes.plot_surface(first, second, reward, cmap="viridis", vmin=-30, rcount=100, ccount=100)
    axes.set(xlabel="$u_1$", ylabel="$u_2$", title="Max of Two Quadratics: reward")
    figure.savefig(FIGURES / "mtq_surface.png", dpi=110, bbox_inches="tight")

    figure, axes = plt.subplots(figsize=(7, 4))
    for name, row in rows.items():
        curve = row["curve"]
        line = axes.plot(curve["env_steps"], curve["return_iqm"], label=f"{name} ({row['seeds']} seeds)")
        axes.fill_between(
            curve["env_steps"], *curve["return_quartiles"], alpha=0.15, color=line[0].get_color()
        )
    axes.set(
        xlabel="plays", ylabel="greedy return (best: 1)", title="Interquartile mean and range over seeds"
    )
    axes.legend(fontsize=8, ncols=2)
    figure.savefig(FIGURES / "mtq_curves.png", dpi=110, bbox_inches="tight")

    columns = 3
    figure, grid = plt.subplots(
        -(-len(rows) // columns), columns, figsize=(10, 3.3 * -(-len(rows) // columns)), sharex=True,
        sharey=True, squeeze=False,
    )  # fmt: skip
    for axes in grid.flat[len(rows) :]:
        axes.set_axis_off()
    for axes, (name, row) in zip(grid.flat, rows.items(), strict=False):
        axes.contourf(first, second, reward, levels=np.linspace(-40, 10, 26), cmap="Greys_r")
        tried = explored(name)
        axes.plot(*tried.T, ",", color="tab:red", alpha=0.4)
        for path in np.asarray(row["paths"]).swapaxes(0, 1):
            axes.plot(*path.T, lw=1)
            axes.plot(*path[-1], "o", ms=4, color="black")
        axes.set(title=f"{name}: {row['optimal_rate']:.3f} optimal", aspect="equal")
    figure.supxlabel("$u_1$")
    figure.supylabel("$u_2$")
    figure.savefig(FIGURES / "mtq_paths.png", dpi=110, bbox_inches="tight")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=1000)
    parser.add_argument("--presets", nargs="+", default=list(ROWS), choices=ROWS)
    parser.add_argument(
        "--figures", action="store_true", help="draw the results that there are, train none"
    )
    options = parser.parse_args()
    if options.figures:
        return figures(json.loads(OUT.read_text()))
    update_table(
        OUT, list(ROWS), options.presets,
        measure=lambda name: measure(name, options.seeds),
        last=lambda row: f"{row['final_return']['mean']:.3f} | {row['seconds']:.0f} s",
    )  # fmt: skip


if __name__ == "__main__":
    main()
