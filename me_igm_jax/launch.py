"""A sweep as several jobs, on a SLURM cluster or as processes of this machine, through submitit.

Members never talk to each other, so a job can train any box of them (some values of every swept key,
some seeds) in a run directory of its own, DIR/jobs/<k>. merge.py puts those together.
"""

import contextlib
import json
import math
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from . import checkpoint, records
from .config import Config, ConfigError
from .envs import parse_name
from .experiment import run
from .sinks import write_atomic

Grid = dict[str, list[float]]
Box = tuple[range, ...]  # of indices, one range per axis
REQUEUES = 100  # how often SLURM's time limit may cut one job
NO_LIMIT = 60 * 24 * 365  # minutes; submitit stops a local job after two if it is told nothing


class Part(NamedTuple):
    """What one job trains: itself a sweep, of some hyper-points and some seeds."""

    config: Config
    grid: Grid
    members: np.ndarray  # [M] their numbers in the whole sweep, in the part's own order


def split(box: Box, jobs: int, axes: int) -> list[Box]:
    """Cut `box` along its first `axes` axes into `jobs` boxes, as equal in size as halving makes them.

    Needs at least as many cells along those axes as jobs.
    """
    if jobs == 1:
        return [box]
    cells = math.prod(len(axis) for axis in box[:axes])

    def cuts() -> Iterator[tuple[int, ...]]:
        """Ways to cut, the best the least: the largest share, then how far from the middle."""
        for axis, n in enumerate(map(len, box[:axes])):
            for at in range(1, n):
                left, size = min(max(round(jobs * at / n), 1), jobs - 1), cells // n * at
                share = max(-(-size // left), -(-(cells - size) // (jobs - left)))
                yield share, abs(2 * left - jobs), abs(2 * at - n), axis, at, left

    *_, axis, at, left = min(cuts())
    halves = ((*box[:axis], half, *box[axis + 1 :]) for half in (box[axis][:at], box[axis][at:]))
    return [b for half, n in zip(halves, (left, jobs - left), strict=True) for b in split(half, n, axes)]


def make_parts(config: Config, grid: Grid, jobs: int) -> list[Part]:
    """The jobs' shares of the sweep in the run directory config.run.dir.

    Whole hyper-points while there are enough of them, else the seeds are divided too.
    Raises ConfigError if there are more jobs than members.
    """
    points, seeds = tuple(len(v) for v in grid.values()), config.run.seeds
    if not 1 <= jobs <= math.prod(points) * seeds:
        raise ConfigError(f"--jobs {jobs}: must lie between 1 and {math.prod(points) * seeds} members")
    axes = len(points) + (jobs > math.prod(points))
    parts = []
    for k, box in enumerate(split((*map(range, points), range(seeds)), jobs, axes)):
        own = {key: [grid[key][i] for i in axis] for key, axis in zip(grid, box[:-1], strict=True)}
        run_ = replace(
            config.run,
            dir=str(Path(str(config.run.dir)).resolve() / "jobs" / str(k)),
            seeds=len(box[-1]),
            first_seed=config.run.first_seed + box[-1].start,
            progress=False,
        )
        members = np.ravel_multi_index(np.ix_(*map(list, box)), (*points, seeds)).ravel()
        parts.append(Part(replace(config, run=run_), own, members))
    return parts


def is_finished(part: Part) -> bool:
    return (Path(str(part.config.run.dir)) / "summary.json").is_file()


# -- in the job -----------------------------------------------------------------------------------


class Job(NamedTuple):
    """What a job calls. It may be called again at any time: it goes on from what its directory holds."""

    part: Part

    def __call__(self) -> None:
        """Train the part. The cluster's warning signal leaves a checkpoint, then requeues the job."""
        from submitit import JobEnvironment

        if is_finished(self.part):
            return
        config, grid, _ = self.part
        directory = Path(str(config.run.dir))
        resume = checkpoint.is_resumable(directory)
        if not resume:
            shutil.rmtree(directory, ignore_errors=True)
        warning = getattr(signal, f"SIG{JobEnvironment.USR_SIG}")
        requeue: Any = signal.getsignal(warning)  # submitit's, which ends this process
        epochs, warnings = [], []

        def warned(number, frame):
            warnings.append(number)
            if not epochs:
                requeue(number, frame)  # nothing new to save yet
            signal.raise_signal(signal.SIGTERM)  # which stops the run after this epoch

        signal.signal(warning, warned)
        try:
            interrupted = run(config, grid, resume, lambda epoch, _: epochs.append(epoch)).interrupted
        finally:
            signal.signal(warning, requeue)
        if interrupted and warnings:
            signal.raise_signal(warning)
        if interrupted:
            sys.exit(130)  # stopped by somebody else: leave no result, which would say that it ended well

    def checkpoint(self):
        """What submitit is to call after the job was requeued: the same."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


# -- in the launcher ------------------------------------------------------------------------------


def launch(config: Config, grid: Grid, jobs: int, launcher: str, slurm: dict[str, str]) -> Path:
    """Start a sweep as `jobs` jobs, `launcher` being slurm or local; returns its run directory.

    `slurm` holds sbatch's options, "" for a mere flag. Raises ConfigError if the settings cannot work.
    """
    parse_name(config.env)
    if config.run.distributed:
        raise ConfigError("run.distributed=True: joins processes into one run; it takes no --launcher")
    config = config if config.run.dir else records.default_directory(config)
    if launcher == "local" and config.run.devices_per_seed is None:  # no core is idle beside other jobs
        config = replace(config, run=replace(config.run, devices_per_seed=1))
    directory = Path(str(config.run.dir))
    if directory.exists() and any(directory.iterdir()):
        raise ConfigError(f"run.dir={directory}: is not empty; give another or --resume it")
    make_parts(config, grid, jobs)
    make_executor(directory, launcher, slurm)
    directory.mkdir(parents=True, exist_ok=True)
    records.write_config(directory, config, grid)
    command = [Path(sys.argv[0]).name, *sys.argv[1:]]
    _write(directory, {"launcher": launcher, "slurm": slurm, "command": command, "ids": [None] * jobs})
    relaunch(directory)
    return directory


def relaunch(directory: Path, slurm: dict[str, str] | None = None) -> None:
    """Submit again what has neither finished nor runs; `slurm` replaces options of the first time."""
    plan, parts = read_plan(directory)
    plan["slurm"] |= slurm or {}
    again = [
        k for k, part in enumerate(parts) if not is_finished(part) and not is_running(directory, plan, k)
    ]
    if not again:
        return
    executor = make_executor(directory, plan["launcher"], plan["slurm"])
    # A terminal sends Ctrl-C to local jobs as well: then the runs stop after the epoch, with a
    # checkpoint, and nothing that watches over them may stop sooner.
    interrupt = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with executor.batch():
            submitted = [executor.submit(Job(parts[k])) for k in again]
    except Exception as error:  # of sbatch's: submitit wraps it in one of several
        raise ConfigError(f"--launcher {plan['launcher']}: {str(error).strip().splitlines()[-1]}") from None
    finally:
        signal.signal(signal.SIGINT, interrupt)
    for k, job in zip(again, submitted, strict=True):
        plan["ids"][k] = job.job_id
    _write(directory, plan)


def make_executor(directory: Path, launcher: str, slurm: dict[str, str]):
    """submitit's executor, with its files in DIR/submitit. Raises ConfigError if there is none."""
    try:
        import submitit
        from submitit.slurm.slurm import SlurmExecutor
    except ImportError:
        raise ConfigError("--launcher: needs submitit; pip install 'me_igm_jax[cluster]'") from None
    folder = directory.resolve() / "submitit"
    if launcher == "local":
        if slurm:
            raise ConfigError("--slurm: is for --launcher slurm")
        executor = submitit.LocalExecutor(folder)
        executor.update_parameters(timeout_min=NO_LIMIT)
        return executor
    if not slurm.get("time", "").isdigit():
        raise ConfigError(
            "--slurm time=MINUTES: is needed, a job's limit (what is cut off goes on by itself)"
        )
    if SlurmExecutor.affinity() < 0:
        raise ConfigError("--launcher slurm: there is no srun here; is this a login node of the cluster?")
    executor = SlurmExecutor(folder, max_num_timeout=REQUEUES)
    known = SlurmExecutor._valid_parameters() - {"additional_parameters"}
    options: dict = {"job_name": directory.name, "additional_parameters": {}}
    for key, text in slurm.items():
        value = True if not text else int(text) if text.isdigit() else text
        name = key.replace("-", "_")
        if name in ("setup", "teardown", "srun_args"):
            options[name] = [text]
        elif name in known:
            options[name] = value
        else:
            options["additional_parameters"][key] = value
    executor.update_parameters(**options)
    return executor


def wait(directory: Path, progress: bool = True) -> None:
    """Return when no job of the sweep runs any more. Ctrl-C stops the waiting alone on a cluster."""
    plan, parts = read_plan(directory)
    with tqdm(total=len(parts), desc="jobs finished", unit="job", disable=not progress) as bar:
        while True:
            running = [k for k in range(len(parts)) if is_running(directory, plan, k)]
            bar.update(sum(map(is_finished, parts)) - bar.n)
            bar.set_postfix_str(f"{len(running)} queued or running")
            if not running:
                return
            time.sleep(0.2 if plan["launcher"] == "local" else 5)


def is_running(directory: Path, plan: dict, k: int) -> bool:
    """Job k is queued or runs, as far as one can tell from here."""
    if plan["ids"][k] is None:
        return False
    if plan["launcher"] == "local":
        # The process may have been started by another command; its number alone may be taken again.
        with contextlib.suppress(OSError):
            line = Path(f"/proc/{plan['ids'][k]}/cmdline").read_bytes()
            return str(directory.resolve() / "submitit").encode() in line.split(b"\0")
        return False
    return not _submitted(directory, plan, k).done()


def unfinished(directory: Path) -> list[str]:
    """A line for every job that has not finished: where it is and where its log."""
    plan, parts = read_plan(directory)
    lines = []
    for k in (k for k, part in enumerate(parts) if not is_finished(part)):
        how = "still runs" if is_running(directory, plan, k) else "did not finish"
        log = f"; log: {_submitted(directory, plan, k).paths.stderr}" if plan["ids"][k] else ""
        lines.append(f"job {k} of {len(parts)} {how}{log}")
    return lines


def _submitted(directory: Path, plan: dict, k: int):
    from submitit import LocalJob, SlurmJob

    kind = LocalJob if plan["launcher"] == "local" else SlurmJob
    return kind(directory.resolve() / "submitit", plan["ids"][k])


def read_plan(directory: Path) -> tuple[dict, list[Part]]:
    """What was submitted from `directory`; ConfigError if it is no sweep's that was."""
    config, grid = records.read_config(directory)
    if not (directory / "jobs.json").is_file():
        raise ConfigError(f"{directory}: is no sweep in jobs (it has no jobs.json)")
    plan = json.loads((directory / "jobs.json").read_text())
    return plan, make_parts(config, grid, len(plan["ids"]))


def _write(directory: Path, plan: dict) -> None:
    write_atomic(directory / "jobs.json", json.dumps(plan, indent=2) + "\n")
