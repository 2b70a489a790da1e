"""Is this commit as fast as another one? Both train in turns, so that they meet the same machine.

    python benchmarks/guard.py --against HEAD~1
    python benchmarks/guard.py --against 04aa09e --cases qmix:smax/smacv2_5_units:1:4

A case is preset:environment:seeds:iterations; a turn trains so many collections with their updates. The
other commit is checked out into a temporary folder. It runs its own benchmarks/speed.py. The table shows
the median ratio of the steps per second of this commit to those of the other, the range of that ratio over
the rounds, and the seconds that both compiled for. With --out the numbers are written as JSON.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from workers import Worker

ROOT = Path(__file__).parent.parent
CASES = ("qmix:smax/smacv2_5_units:1:2", "me_qmix:smax/smacv2_5_units:1:2", "me_qmix:matrix/qtran:64:300")


def worker(root: Path, case: str) -> Worker:
    """The case's process with the code that stands in `root`."""
    preset, env, seeds, iterations = case.split(":")
    words = ["--presets", preset, "--envs", env, "--seeds", seeds, "--iterations", iterations]
    command = [sys.executable, str(root / "benchmarks" / "speed.py"), "--worker", *words]
    return Worker(f"{case} in {root}", ["env", f"PYTHONPATH={root}", *command])


def compare(here: Path, there: Path, case: str, rounds: int) -> dict:
    """Turns of both, one after the other, each round in the other order."""
    contestants = {"this": worker(here, case), "other": worker(there, case)}
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for k in range(rounds):
        for name in sorted(contestants, reverse=bool(k % 2)):
            seconds[name].append(contestants[name].turn()["seconds"])
    rates = {
        name: [w.facts["steps_per_turn"] / s for s in seconds[name]] for name, w in contestants.items()
    }
    ratios = [a / b for a, b in zip(rates["this"], rates["other"], strict=True)]
    for contestant in contestants.values():
        contestant.close()
    return {
        "case": case,
        "ratio": statistics.median(ratios),
        "ratio_range": [min(ratios), max(ratios)],
        "steps_per_second": {name: statistics.median(values) for name, values in rates.items()},
        "compile_seconds": {name: w.facts["compile_seconds"] for name, w in contestants.items()},
        "rounds": rounds,
        "jax": contestants["this"].facts["jax"],
        "cores": os.cpu_count(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--against", default="HEAD~1", help="the other commit")
    parser.add_argument(
        "--cases", nargs="+", default=list(CASES), help="preset:environment:seeds:iterations"
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, help="JSON file to write")
    options = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        there = Path(folder) / "other"
        subprocess.run(["git", "clone", "--quiet", "--shared", str(ROOT), str(there)], check=True)
        commit = ["git", "rev-parse", options.against]
        commit = subprocess.run(commit, cwd=ROOT, check=True, capture_output=True, text=True).stdout.strip()
        subprocess.run(["git", "checkout", "--quiet", commit], cwd=there, check=True)
        print(f"| case | steps/s, ratio to {commit[:7]} | compilation, this and other |\n|---|---|---|")
        for case in options.cases:
            row = compare(ROOT, there, case, options.rounds) | {"against": commit}
            rows.append(row)
            low, high = row["ratio_range"]
            seconds = " and ".join(f"{s:.0f} s" for s in row["compile_seconds"].values())
            print(f"| {case} | {row['ratio']:.2f} [{low:.2f}, {high:.2f}] | {seconds} |", flush=True)
            if options.out:
                options.out.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
