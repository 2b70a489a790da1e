"""How often each preset finds the optimum of the (8, -12, 0) game, over many seeds.

    python benchmarks/matrix_table.py --seeds 1000 --qplex-seeds 200

Every preset is one jitted program over all its seeds. Prints a Markdown table and writes
results/matrix_table.json after each preset, where rows of presets not asked for stay as they are.
Seconds are of the whole process, compilation included.
"""

import argparse
import json
import os
import platform
import time
from pathlib import Path

from runs import train

OUT = Path(__file__).parent / "results" / "matrix_table.json"
PRESETS = (
    "me_ow_qmix", "me_qmix", "soft_qmix_released", "qmix", "soft_qmix", "vdn", "me_vdn", "entropy_qmix",
    "mlp_qmix", "me_qplex", "qplex", "ow_qmix", "cw_qmix", "qatten", "qtran", "fop", "fop_released",
    "hasac", "hasac_released", "mappo", "ippo", "dop", "dop_released",
)  # fmt: skip
KEPT = (
    "optimal_rate", "optimal_interval", "q_table", "q_table_where_optimal", "policy", "additivity_error",
)  # fmt: skip


def measure(preset: str, seeds: int) -> dict:
    """Train `preset` on matrix/qtran in a process of its own; what its summary says."""
    run = train(["--preset", preset, "--env", "matrix/qtran", "--run.seeds", str(seeds)])
    point = run.summary["points"][0]
    timing = {k: run.summary[k] for k in ("updates_per_second", "compile_seconds", "peak_memory_bytes")}
    head = {"preset": preset, "seeds": seeds, "command": run.command, "seconds": run.seconds}
    return head | {"cpu_seconds": run.cpu_seconds} | {k: point[k] for k in KEPT if k in point} | timing


def flops_per_update(preset: str) -> float:
    """Floating-point operations of one update of one seed, as XLA counts the compiled program."""
    import jax
    import jax.numpy as jnp

    from me_igm_jax import load
    from me_igm_jax.train import make_program

    config = load(preset, env="matrix/qtran")
    program = make_program(config)
    state = jax.eval_shape(program.init, jax.random.key(0), config.hypers)

    def update(state, key):
        batch = program.draw(state.ring, jnp.zeros((), int), key, config.replay.batch)
        return program.algo.update(state.learner, batch, key, jnp.zeros(()), config.hypers)

    cost = jax.jit(update).lower(state, jax.random.key(0)).compile().cost_analysis()
    return float(cost["flops"])


def matmul_flops_per_second() -> float:
    """What one large single-precision product reaches on this device, now."""
    import jax
    import jax.numpy as jnp

    product, x = jax.jit(lambda a: a @ a), jnp.ones((2048, 2048))
    product(x).block_until_ready()
    begin = time.perf_counter()
    for _ in range(5):
        product(x).block_until_ready()
    return 5 * 2 * 2048**3 / (time.perf_counter() - begin)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=1000)
    parser.add_argument("--qplex-seeds", type=int, default=200)
    parser.add_argument("--presets", nargs="+", default=PRESETS, choices=PRESETS)
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args()
    import jax

    device = f"{platform.machine()} CPU, {os.cpu_count()} cores"
    rows = {}
    if options.out.exists():
        rows = {r["preset"]: r for r in json.loads(options.out.read_text())["rows"]}
    for preset in options.presets:
        peak = matmul_flops_per_second()
        row = measure(preset, options.qplex_seeds if "qplex" in preset else options.seeds)
        row |= {"flops_per_update": flops_per_update(preset), "matmul_gflops": peak / 1e9}
        row["fraction_of_matmul_peak"] = row["flops_per_update"] * row["updates_per_second"] / peak
        rows[preset] = row | {"jax": jax.__version__, "device": device}
        result = {
            "total_seconds": sum(r["seconds"] for r in rows.values()),
            "rows": [rows[p] for p in PRESETS if p in rows],
        }
        options.out.parent.mkdir(exist_ok=True)
        options.out.write_text(json.dumps(result, indent=1) + "\n")
        low, high = row["optimal_interval"]
        print(
            f"| {preset} | {row['seeds']} | {row['optimal_rate']:.3f} [{low:.3f}, {high:.3f}] | "
            f"{row['seconds']:.0f} s | {100 * row['fraction_of_matmul_peak']:.0f} % |",
            flush=True,
        )


if __name__ == "__main__":
    main()
