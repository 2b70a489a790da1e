"""How fast training runs once it runs: presets x environments x seeds in one call.

    python benchmarks/speed.py                                         # the table of docs/results.md
    python benchmarks/speed.py --presets me_qmix --envs smax/smacv2_5_units --seeds 1 2 4 8 16 32

Every row is a process of its own, which compiles with empty caches, goes through the warm-up and then
trains in turns; rates are medians over the turns. FLOPs of an update are those of its matrix products, as
traced and as compiled, loops counted as often as they run, beside what one large single-precision product
reaches on the same devices between the turns. Prints a Markdown table and writes results/speed.json after
each row; rows of other presets, environments, seeds and settings stay as they are.
"""

import argparse
import json
import os
import platform
import statistics
import sys
from pathlib import Path

from steady import Trainer, compiled_product_flops, matmul_flops_per_second, one_update, product_flops
from workers import Worker, serve

OUT = Path(__file__).parent / "results" / "speed.json"


def work(preset: str, env: str, seeds: int, iterations: int, settings: list[str]) -> None:
    """A row's process: compile, say what was found, then train a turn for every line."""
    import jax

    from me_igm_jax import load
    from me_igm_jax.runner import devices

    options = dict(pair.split("=", 1) for pair in settings)
    config = load(preset, env=env, **{"run.seeds": seeds, **options})
    trainer = Trainer(config, iterations)
    device = jax.devices()[0]
    update, *args = one_update(config)
    compiled = jax.jit(update).lower(*args).compile(devices.compiler_options()).as_text() or ""
    facts = {
        "preset": preset,
        "env": env,
        "seeds": seeds,
        "settings": options,
        "compile_seconds": trainer.steps.seconds,
        "replay_bytes_per_seed": trainer.program.replay.nbytes,
        "product_flops_per_update": product_flops(update, *args),
        # None where products are library calls, which XLA's text does not tell from others.
        "compiled_product_flops_per_update": compiled_product_flops(compiled) or None,
        "steps_per_turn": trainer.steps_per_turn,
        "updates_per_turn": trainer.updates_per_turn,
        "jax": jax.__version__,
        "device": f"{platform.machine()} CPU" if device.platform == "cpu" else device.device_kind,
        "devices": len(jax.devices()),
        "cores": os.cpu_count(),
    }

    def turn():
        peak = matmul_flops_per_second()
        return {"seconds": trainer.turn(), "matmul": peak, "memory": devices.peak_memory()}

    serve(facts, turn)


def measure(worker: Worker, rounds: int) -> dict:
    """The row: rates over `rounds` turns."""
    turns = [worker.turn() for _ in range(rounds)]
    facts = dict(worker.facts)
    steps, updates = facts.pop("steps_per_turn"), facts.pop("updates_per_turn")
    seconds = statistics.median(t["seconds"] for t in turns)
    flops, peak = facts["product_flops_per_update"], statistics.median(t["matmul"] for t in turns)
    return facts | {
        "env_steps_per_second": steps / seconds,
        "updates_per_second": updates / seconds,
        "turn_seconds": [t["seconds"] for t in turns],
        "matmul_gflops": peak / 1e9,
        "fraction_of_matmul_peak": flops * updates / seconds / peak,
        "peak_memory_bytes": max(t["memory"] for t in turns),
    }


def identity(row: dict) -> list:
    """What tells one row from another."""
    return [row[k] for k in ("preset", "env", "seeds", "settings", "device")]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--presets", nargs="+", default=["qmix", "me_qmix", "me_qplex", "fop", "mappo"])
    parser.add_argument("--envs", nargs="+", default=["smax/smacv2_5_units"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--iterations", type=int, default=8, help="collections in one turn")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each row")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="configuration")
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        preset, env, seeds = options.presets[0], options.envs[0], options.seeds[0]
        return work(preset, env, seeds, options.iterations, options.set)

    rows = json.loads(options.out.read_text()) if options.out.exists() else []
    print("| preset | environment | seeds | steps/s | updates/s | of matmul peak | compilation | memory |")
    print("|---|---|---|---|---|---|---|---|")
    for env in options.envs:
        for preset in options.presets:
            for seeds in options.seeds:
                words = ["--presets", preset, "--envs", env, "--seeds", seeds, "--set", *options.set]
                command = ["python", "benchmarks/speed.py", *map(str, words)]
                command += ["--iterations", str(options.iterations), "--rounds", str(options.rounds)]
                worker = Worker(f"{preset} {env}", [sys.executable, __file__, "--worker", *command[2:]])
                row = measure(worker, options.rounds) | {"command": " ".join(command)}
                worker.close()
                rows = [r for r in rows if identity(r) != identity(row)] + [row]
                options.out.parent.mkdir(exist_ok=True)
                options.out.write_text(json.dumps(rows, indent=1) + "\n")
                print(
                    f"| `{preset}` | {env} | {seeds} | {row['env_steps_per_second']:,.0f} | "
                    f"{row['updates_per_second']:,.1f} | {100 * row['fraction_of_matmul_peak']:.0f} % | "
                    f"{row['compile_seconds']:.0f} s | {row['peak_memory_bytes'] / 2**30:.2f} GiB |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
