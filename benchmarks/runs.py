"""One `me-igm train` in a process of its own, what its run directory then says, and tables of such runs."""

import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

DEVICE = f"{platform.machine()} CPU, {os.cpu_count()} cores"


class Finished(NamedTuple):
    """A run that ended."""

    command: str  # without the run directory
    summary: dict
    manifest: dict
    rows: list[dict]  # of metrics.jsonl: a row per evaluation and seed
    seconds: float  # of the whole process, compilation included
    cpu_seconds: float  # likewise, all cores


def train(words: Sequence[str]) -> Finished:
    """Run `me-igm train` with these words; raises CalledProcessError if it fails."""
    main = "from me_igm_jax.cli import main; main()"
    with tempfile.TemporaryDirectory() as directory:
        run = Path(directory) / "run"
        extra = ["--run.dir", str(run), "--run.no-progress"]
        begin, cpu = time.perf_counter(), _children_cpu_seconds()
        command = [sys.executable, "-c", main, "train", *words, *extra]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        return Finished(
            command=" ".join(["me-igm", "train", *words]),
            seconds=time.perf_counter() - begin,
            cpu_seconds=_children_cpu_seconds() - cpu,
            summary=json.loads((run / "summary.json").read_text()),
            manifest=json.loads((run / "manifest.json").read_text()),
            rows=[json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()],
        )


def update_table(
    out: Path, order: Sequence[str], asked: Iterable[str], measure: Callable[[str], dict], last: Callable
) -> None:
    """Measure the rows asked for; `out` holds {name: row} in this order, where other rows stay as they are.

    Writes `out` and prints a line of Markdown after each row: how often the optimum was found, and `last`
    of the row.
    """
    rows = json.loads(out.read_text()) if out.exists() else {}
    for name in asked:
        rows[name] = row = measure(name)
        out.parent.mkdir(exist_ok=True)
        out.write_text(json.dumps({k: rows[k] for k in order if k in rows}, indent=1) + "\n")
        low, high = row["optimal_interval"]
        rate = f"{row['optimal_rate']:.3f} [{low:.3f}, {high:.3f}]"
        print(f"| `{name}` | {row['seeds']} | {rate} | {last(row)} |", flush=True)


def _children_cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
