"""A sweep as several jobs, on a SLURM cluster or as processes of this machine, through submitit.

Each job trains a part of the sweep (parts.py) in the run directory DIR/jobs/<k>. merge.py puts the
parts together.
"""

import contextlib
import json
import signal
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ..config import Config, ConfigError
from . import records
from .files import read_json, write_atomic
from .job import Job
from .members import Grid, as_grid
from .parts import Part, make_parts
from .plan import require_empty

REQUEUES = 100  # how often SLURM's time limit may end one job
NO_LIMIT = 60 * 24 * 365  # minutes; without a limit submitit would stop a local job after two


def launch(config: Config, grid: Grid, jobs: int, launcher: str, slurm: dict[str, str]) -> Path:
    """Start a sweep as `jobs` jobs; returns its run directory.

    launcher  "slurm" or "local"
    slurm     options of sbatch; "" for a flag without a value
    Raises ConfigError when the settings cannot work.
    """
    if config.run.distributed:
        raise ConfigError("run.distributed=True: joins processes into one run; it takes no --launcher")
    grid = as_grid(grid)
    config = config if config.run.dir else records.default_directory(config)
    if launcher == "local" and config.run.devices_per_seed is None:  # other jobs leave no core idle
        config = replace(config, run=replace(config.run, devices_per_seed=1))
    directory = Path(str(config.run.dir))
    require_empty(directory)
    make_parts(config, grid, jobs)
    make_executor(directory, launcher, slurm)
    directory.mkdir(parents=True, exist_ok=True)
    records.write_config(directory, config, grid)
    plan = {"launcher": launcher, "slurm": slurm, "command": records.this_command(), "ids": [None] * jobs}
    write_plan(directory, plan)
    relaunch(directory)
    return directory


def relaunch(directory: Path, slurm: dict[str, str] | None = None) -> None:
    """Submit again the jobs that have not finished and do not run; `slurm` replaces earlier options."""
    plan, parts = read_plan(directory)
    plan["slurm"] |= slurm or {}
    again = [
        k for k, part in enumerate(parts) if not part.is_finished and not is_running(directory, plan, k)
    ]
    if not again:
        return
    executor = make_executor(directory, plan["launcher"], plan["slurm"])
    # A terminal sends Ctrl-C to local jobs too. Then the runs stop after their epoch, with a checkpoint,
    # and the processes that watch over them must not stop sooner.
    interrupt = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with executor.batch():
            submitted = [executor.submit(Job.of(parts[k])) for k in again]
    except Exception as error:  # submitit wraps what sbatch says in several kinds of exceptions
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise ConfigError(f"--launcher {plan['launcher']}: {lines[-1]}") from None
    finally:
        signal.signal(signal.SIGINT, interrupt)
    for k, job in zip(again, submitted, strict=True):
        plan["ids"][k] = job.job_id
    write_plan(directory, plan)


def wait(directory: Path, progress: bool = True) -> None:
    """Return when no job of the sweep runs any more. On a cluster, Ctrl-C only stops the waiting."""
    plan, parts = read_plan(directory)
    with tqdm(total=len(parts), desc="jobs finished", unit="job", disable=not progress) as bar:
        while True:
            running = [k for k in range(len(parts)) if is_running(directory, plan, k)]
            bar.update(sum(part.is_finished for part in parts) - bar.n)
            bar.set_postfix_str(f"{len(running)} queued or running")
            if not running:
                return
            time.sleep(0.2 if plan["launcher"] == "local" else 5)


def is_running(directory: Path, plan: dict, k: int) -> bool:
    """Job k is queued or runs, as far as one can tell from here."""
    if plan["ids"][k] is None:
        return False
    if plan["launcher"] == "local":
        # Another command may have started the process, and the number may belong to another process now.
        with contextlib.suppress(OSError):
            line = Path(f"/proc/{plan['ids'][k]}/cmdline").read_bytes()
            return str(directory.resolve() / "submitit").encode() in line.split(b"\0")
        return False
    return not _submitted(directory, plan, k).done()


def unfinished(directory: Path) -> list[str]:
    """A line for every job that has not finished: its number, its state and its log file."""
    plan, parts = read_plan(directory)
    lines = []
    for k in (k for k, part in enumerate(parts) if not part.is_finished):
        how = "still runs" if is_running(directory, plan, k) else "did not finish"
        log = f"; log: {_submitted(directory, plan, k).paths.stderr}" if plan["ids"][k] else ""
        lines.append(f"job {k} of {len(parts)} {how}{log}")
    return lines


def _submitted(directory: Path, plan: dict, k: int):
    from submitit import LocalJob, SlurmJob

    kind = LocalJob if plan["launcher"] == "local" else SlurmJob
    return kind(directory.resolve() / "submitit", plan["ids"][k])


# -- jobs.json: how the sweep was launched, and the number that each job was given ----------------


def read_plan(directory: Path) -> tuple[dict, list[Part]]:
    """What was submitted from `directory`; ConfigError when no sweep in jobs was."""
    config, grid = records.read_config(directory)
    path = directory / "jobs.json"
    if not path.is_file():
        raise ConfigError(f"{directory}: is no sweep in jobs (it has no jobs.json)")
    plan = read_json(path)
    return plan, make_parts(config, grid, len(plan["ids"]))


def write_plan(directory: Path, plan: dict) -> None:
    """Write jobs.json."""
    write_atomic(directory / "jobs.json", json.dumps(plan, indent=2) + "\n")


# -- submitit -------------------------------------------------------------------------------------


def make_executor(directory: Path, launcher: str, slurm: dict[str, str]):
    """The executor of submitit, with its files in DIR/submitit. Raises ConfigError when there is none."""
    try:
        import submitit
    except ImportError:
        raise ConfigError("--launcher: needs submitit; pip install 'me_igm_jax[cluster]'") from None
    folder = directory.resolve() / "submitit"
    if launcher == "slurm":
        return _slurm_executor(folder, directory.name, slurm)
    if slurm:
        raise ConfigError("--slurm: is for --launcher slurm")
    executor = submitit.LocalExecutor(folder)
    executor.update_parameters(timeout_min=NO_LIMIT)
    return executor


def _slurm_executor(folder: Path, name: str, slurm: dict[str, str]):
    from submitit.slurm.slurm import SlurmExecutor

    if not slurm.get("time", "").isdigit():
        raise ConfigError(
            "--slurm time=MINUTES: is needed, the limit of a job (what it ends goes on by itself)"
        )
    if SlurmExecutor.affinity() < 0:
        raise ConfigError("--launcher slurm: there is no srun here; is this a login node of the cluster?")
    executor = SlurmExecutor(folder, max_num_timeout=REQUEUES)
    executor.update_parameters(job_name=name, **_slurm_options(slurm, SlurmExecutor._valid_parameters()))
    return executor


def _slurm_options(slurm: dict[str, str], known: set[str]) -> dict[str, Any]:
    """Options of sbatch as submitit takes them; those that it does not know go through as they are."""
    options: dict[str, Any] = {"additional_parameters": {}}
    for key, text in slurm.items():
        value = True if not text else int(text) if text.isdigit() else text
        name = key.replace("-", "_")
        if name in ("setup", "teardown", "srun_args"):
            options[name] = [text]
        elif name in known - {"additional_parameters"}:
            options[name] = value
        else:
            options["additional_parameters"][key] = value
    return options
