"""Wall seconds, imports and compilation included, until a greedy win rate is passed: what a user waits for.

    python benchmarks/time_to_quality.py                        # both settings on smacv2_5_units, 3 seeds
    python benchmarks/time_to_quality.py --settings recurrent --stop 0.33

Each setting is a process of its own with an empty compilation cache. After every epoch the mean win rate of
all seeds' greedy teams is taken; the time of a goal is the end of the first evaluation that is not below
it. A run ends once the highest goal is passed. Writes results/time_to_quality.json after each setting.
"""

import argparse
import contextlib
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

OUT = Path(__file__).parent / "results" / "time_to_quality.json"
GOALS = {
    0.33: "JaxMARL's recurrent QMIX after 1M steps, as published (about 400 s)",
    0.49: "our first prototype of QMIX after 1M steps (about 425 s)",
    0.54: "the better of our first prototypes of ME-QMIX after 1M steps",
}
COMMON = {"run.seeds": 3, "run.total_steps": 1_000_000, "run.evals": 40, "run.eval_episodes": 128}
# No memory, and batches of 1,024 transitions for every 128 instead of 4,096 for every 256.
FEEDFORWARD = {
    "net.recurrent": False, "net.layers": 2, "collect.envs": 32, "collect.length": 64,
    "collect.transitions_per_update": 128, "replay.batch": 16, "hypers.lr": 1e-3,
}  # fmt: skip
SETTINGS = {  # name: preset, what differs from it
    "recurrent": ("me_qmix", {}),
    "feedforward": ("me_qmix", FEEDFORWARD),
    "qmix_feedforward": ("qmix", FEEDFORWARD),
}


class Enough(Exception):  # noqa: N818
    """The last goal is passed."""


def work(setting: str, seeds: int, stop: float, started: float) -> None:
    """Train in this process, which began at `started` (seconds of the epoch); prints the curve."""
    import jax

    from me_igm_jax import load, run

    curve = []
    with tempfile.TemporaryDirectory() as directory:
        preset, own = SETTINGS[setting]
        options = COMMON | own | {"run.seeds": seeds, "run.progress": False}
        config = load(preset, env="smax/smacv2_5_units", **options, **{"run.dir": directory})

        def on_epoch(epoch: int, metrics) -> None:
            won = metrics["won"]
            curve.append(
                {
                    "seconds": time.time() - started,
                    "env_steps": float(metrics["env_steps"].mean()),
                    "won": float(won.mean()),
                    "won_per_seed": won.tolist(),
                }
            )
            if won.mean() >= stop:
                raise Enough

        with contextlib.suppress(Enough):
            run(config, on_epoch=on_epoch)
    print(json.dumps({"curve": curve, "jax": jax.__version__}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--settings", nargs="+", default=list(SETTINGS), choices=SETTINGS)
    parser.add_argument("--seeds", type=int, default=COMMON["run.seeds"])
    parser.add_argument("--stop", type=float, default=max(GOALS), help="end once this win rate is passed")
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--worker", type=float, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        return work(options.settings[0], options.seeds, options.stop, options.worker)
    rows = json.loads(options.out.read_text()) if options.out.exists() else {}
    for name in options.settings:
        words = ["--settings", name, "--seeds", str(options.seeds), "--stop", str(options.stop)]
        command = [sys.executable, __file__, *words, "--worker", str(time.time())]
        done = subprocess.run(
            command, check=True, stdout=subprocess.PIPE, text=True, env=os.environ | {"ME_IGM_CACHE": ""}
        )
        row = json.loads(done.stdout.splitlines()[-1])
        row["goals"] = {
            goal: next(({k: p[k] for k in ("seconds", "env_steps", "won")} for p in row["curve"]
                        if p["won"] >= goal), None)
            for goal in GOALS
        }  # fmt: skip
        row |= {
            "preset": SETTINGS[name][0],
            "setting": SETTINGS[name][1],
            "command": " ".join(["python", "benchmarks/time_to_quality.py", *words]),
            "device": f"{platform.machine()} CPU, {os.cpu_count()} cores",
        }
        rows[name] = row
        options.out.parent.mkdir(exist_ok=True)
        options.out.write_text(json.dumps(rows, indent=1) + "\n")
        for goal, reached in row["goals"].items():
            text = f"{reached['seconds']:.0f} s, {reached['env_steps']:,.0f} steps" if reached else "never"
            print(f"{name}: {goal} after {text}", flush=True)


if __name__ == "__main__":
    main()
