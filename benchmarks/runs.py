"""One `me-igm train` in a process of its own, and what its run directory then says."""

import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple


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


def _children_cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
