"""How often each preset finds the optimum of the (8, -12, 0) game, over many seeds.

    python benchmarks/matrix_table.py --seeds 1000 --qplex-seeds 200

Every preset is one jitted program over all its seeds. Prints a Markdown table and writes
results/matrix_table.json after each preset, where rows of presets not asked for stay as they are.
Seconds are of the whole process, compilation included.
"""

import argparse
from pathlib import Path

import jax

from me_igm_jax import load
from runs import DEVICE, train, update_table
from steady import matmul_flops_per_second, one_update

OUT = Path(__file__).parent / "results" / "matrix_table.json"
PRESETS = (
    "me_ow_qmix", "me_qmix", "soft_qmix_released", "qmix", "soft_qmix", "vdn", "me_vdn", "entropy_qmix",
    "mlp_qmix", "me_qplex", "qplex", "ow_qmix", "cw_qmix", "qatten", "qtran", "fop", "fop_released",
    "hasac", "hasac_released", "msac", "msac_released", "mappo", "ippo", "dop", "dop_released", "pac",
)  # fmt: skip
KEPT = (
    "optimal_rate", "optimal_interval", "q_table", "q_table_where_optimal", "policy", "additivity_error",
)  # fmt: skip


def measure(preset: str, seeds: int) -> dict:
    """Train `preset` on matrix/qtran in a process of its own; its summary, and the share of this device's
    peak, taken just before, that its updates reach.
    """
    peak = matmul_flops_per_second()
    run = train(["--preset", preset, "--env", "matrix/qtran", "--run.seeds", str(seeds)])
    point, flops = run.summary["points"][0], flops_per_update(preset)
    timing = {k: run.summary[k] for k in ("updates_per_second", "compile_seconds", "peak_memory_bytes")}
    return {
        "seeds": seeds, "command": run.command, "seconds": run.seconds, "cpu_seconds": run.cpu_seconds,
        **{k: point[k] for k in KEPT if k in point}, **timing,
        "flops_per_update": flops, "matmul_gflops": peak / 1e9,
        "fraction_of_matmul_peak": flops * timing["updates_per_second"] / peak,
        "jax": run.manifest["versions"]["jax"], "device": DEVICE,
    }  # fmt: skip


def flops_per_update(preset: str) -> float:
    """Floating-point operations of one update of one seed, as XLA counts the compiled program."""
    update, *args = one_update(load(preset, env="matrix/qtran"))
    return float(jax.jit(update).lower(*args).compile().cost_analysis()["flops"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=1000)
    parser.add_argument("--qplex-seeds", type=int, default=200)
    parser.add_argument("--presets", nargs="+", default=PRESETS, choices=PRESETS)
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args()
    update_table(
        options.out, PRESETS, options.presets,
        measure=lambda name: measure(name, options.qplex_seeds if "qplex" in name else options.seeds),
        last=lambda row: f"{row['seconds']:.0f} s | {100 * row['fraction_of_matmul_peak']:.0f} %",
    )  # fmt: skip


if __name__ == "__main__":
    main()
