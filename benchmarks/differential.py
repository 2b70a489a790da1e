"""FOP's continuous game (FOP, section 5.1): how often each system ends at the optimum, over many seeds.

    python benchmarks/differential.py --seeds 1000             # the table
    python benchmarks/differential.py --presets fop --seeds 64
    python benchmarks/differential.py --ablations --seeds 64   # of FOP

Every row is one jitted program over all its seeds: 20,000 plays each. A seed counts as optimal when both
greedy actions end within 0.5 of 5. Writes results/differential.json after each row, where rows not asked
for stay as they are; differential_figures.py draws them.
"""

import argparse
from pathlib import Path

import numpy as np

from me_igm_jax.runner import statistics
from runs import DEVICE, train, update_table

OUT = Path(__file__).parent / "results" / "differential.json"
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
# FOP with one thing changed: DOP's decomposition, other temperatures or none (its paper's Figure 3).
ABLATIONS = {
    "fop_linear": "--preset fop --algo.form linear",
    "fop_no_entropy": "--preset fop --algo.temperature fixed --hypers.alpha 1e-6",
    "fop_low": "--preset fop --algo.temperature fixed --hypers.alpha 0.05",
    "fop_high": "--preset fop --algo.temperature fixed --hypers.alpha 0.5",
    "fop_geometric": "--preset fop --algo.temperature anneal",
    "fop_fast": "--preset fop --hypers.alpha-steps 2000",
    "fop_slow": "--preset fop --hypers.alpha-steps 20000",
}
ALL = ROWS | ABLATIONS


def measure(name: str, seeds: int) -> dict:
    """Train all seeds; the share at the optimum, the curve and some seeds' greedy actions over time."""
    run = train([*ALL[name].split(), "--env", "differential/mtq", "--run.seeds", str(seeds)])
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
        "optimal_interval": list(statistics.wilson(int(optimal.sum()), len(optimal))),
        "wide_hill_rate": float(_near(point, -5.0, 2.0)),
        "final_return": {k: point["return"][k] for k in ("mean", "mean_interval", "iqm")},
        "curve": {
            "env_steps": of["env_steps"][:, 0].tolist(),
            "optimal": of["optimal"].mean(1).tolist(),
            "return_iqm": statistics.iqm(of["return"]).tolist(),
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=1000)
    parser.add_argument("--presets", nargs="+", default=list(ROWS), choices=ALL)
    parser.add_argument("--ablations", action="store_true", help="those of FOP instead")
    options = parser.parse_args()
    update_table(
        OUT, list(ALL), ABLATIONS if options.ablations else options.presets,
        measure=lambda name: measure(name, options.seeds),
        last=lambda row: f"{row['final_return']['mean']:.3f} | {row['seconds']:.0f} s",
    )  # fmt: skip


if __name__ == "__main__":
    main()
