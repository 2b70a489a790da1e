"""The learning curves that docs/results.md and the notes quote, against environment steps and seconds.

    python benchmarks/learning.py smax_smacv2_5_units

Every row is one `me-igm train` in a process of its own, all its seeds in one program; the rows of a suite
run one after the other. Writes results/<suite>.json after each row.
"""

import argparse
import collections
import json
import os
from pathlib import Path

from runs import train

RESULTS = Path(__file__).parent / "results"
UNITS5 = "--env smax/smacv2_5_units --run.seeds 2"
SHORT = f"{UNITS5} --run.total-steps 250000 --run.evals 5 --run.eval-episodes 128"
LEARNS = "--env smax/3m --run.seeds 2 --run.total-steps 120000 --run.evals 6 --run.final-eval-episodes 256"
# Whole episodes at the stream's replay ratio: battles last about 42 steps, so 64 of them are some 2,700
# transitions for every 4 x 42 collected, as 32 x 128 = 4,096 are for every 256.
WHOLE = "--collect.mode episodes --collect.envs 16 --collect.episodes-per-update 4 --replay.batch 64"
SUITES = {
    "smax_3m": {
        "me_qmix": "--preset me_qmix --env smax/3m --run.seeds 3 --run.total-steps 490000 --run.evals 10 "
        "--run.final-eval-episodes 512",
    },
    "smax_smacv2_5_units": {
        "qmix": f"--preset qmix {UNITS5} --run.total-steps 1000000 --run.evals 10",
        "me_qmix": f"--preset me_qmix {UNITS5} --run.total-steps 1000000 --run.evals 10",
    },
    # Short runs that show who learns at all; a random team wins no battle in a thousand.
    "smax_3m_baselines": {
        preset: f"--preset {preset} {LEARNS}"
        for preset in (
            "qmix",
            "cw_qmix",
            "ow_qmix",
            "qatten",
            "qtran",
            "fop",
            "hasac",
            "dop",
            "mappo",
            "ippo",
            "msac",
            "pac",
        )
    }
    # Its published temperature starts at 1 and takes many more updates to fall.
    | {
        "hasac_cool": f"--preset hasac {LEARNS} --hypers.alpha 0.1 --hypers.alpha-lr 3e-3 "
        "--hypers.entropy-share 0.3"
    },
    # Mixed precision, with the GRU that the preset does without on 3m.
    "precision": {
        operands: f"--preset me_qmix {LEARNS} --net.recurrent --net.layers 1 --net.operands {operands}"
        for operands in ("float32", "bfloat16")
    },
    # What is kept of each instant: what was seen, or a sixteenth of that, which it is computed from again.
    "replay": {
        store: f"--preset me_qmix {SHORT} --run.final-eval-episodes 512 --replay.store {store}"
        for store in ("observations", "states")
    },
    "collectors": {
        "stream": f"--preset me_qmix {SHORT}",
        "episodes": f"--preset me_qmix {SHORT} {WHOLE}",
    },
} | {
    suite: {preset: f"--preset {preset} {options}" for preset in ("qmix", "me_qmix")}
    for suite, options in {
        "mpe_spread": "--env mpe/spread --run.seeds 2",
        # The preset's schedules, made shorter with the run.
        "overcooked_cramped_room": "--env overcooked/cramped_room --run.seeds 2 --run.total-steps 600000 "
        "--hypers.shaping-steps 480000 --hypers.lr-steps 600000",
        "smax_zerg_5_vs_5": "--env smax/zerg_5_vs_5 --run.seeds 2 --run.total-steps 400000 --run.evals 8",
    }.items()
}


def measure(arguments: str) -> dict:
    """Train; the command, machine, seconds, curve (mean over seeds) and final values."""
    run = train(arguments.split())
    summary, rows = run.summary, run.rows
    by_evaluation = collections.defaultdict(list)
    for row in rows:
        by_evaluation[row["eval"]].append(row)
    names = [k for k in ("env_steps", "return", "won", "alpha", "entropy") if k in rows[0]]
    curve = [{k: sum(r[k] for r in of) / len(of) for k in names} for of in by_evaluation.values()]
    final = {k: v for k, v in summary["points"][0].items() if k in ("won", "return")}
    keys = ("compile_seconds", "env_steps_per_second", "updates_per_second", "replay_bytes_per_seed")
    return {
        "command": run.command,
        "device": run.manifest["device"],
        "versions": run.manifest["versions"],
        "process_seconds": run.seconds,
        "cpu_seconds": run.cpu_seconds,
        "final": final,
        "curve": curve,
    } | {k: summary[k] for k in keys}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("suite", choices=SUITES)
    parser.add_argument("--note", default="", help="kept in the file: what else the machine was doing")
    parser.add_argument("--rows", nargs="+", help="measure these only; the others stay as they are")
    options = parser.parse_args()
    out = RESULTS / f"{options.suite}.json"
    result = {"cores": os.cpu_count(), "note": options.note, "rows": {}}
    if options.rows and out.exists():
        result["rows"] = json.loads(out.read_text())["rows"]
    for name in options.rows or SUITES[options.suite]:
        row = measure(SUITES[options.suite][name])
        result["rows"][name] = row
        RESULTS.mkdir(exist_ok=True)
        out.write_text(json.dumps(result, indent=1) + "\n")
        metric = "won" if "won" in row["final"] else "return"
        values = row["final"][metric]
        print(
            f"{name}: {metric} {values['mean']:.3f} {values['per_seed']}, {row['process_seconds']:.0f} s "
            f"({row['cpu_seconds']:.0f} s of CPU), "
            f"{row['env_steps_per_second']:.0f} steps/s of all seeds",
            flush=True,
        )


if __name__ == "__main__":
    main()
