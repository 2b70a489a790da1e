"""What a job of a sweep does on the machine that it was given."""

import shutil
import signal
import sys
from pathlib import Path
from typing import Any, NamedTuple

from ..config import Config, from_dict, to_dict
from . import checkpoint
from .experiment import run
from .members import Grid
from .parts import Part


class Job(NamedTuple):
    """The function that submitit stores in a file and calls in the job.

    It may be called again at any time: it goes on from what its directory holds. It holds the settings
    as plain data, so that reading the file needs no module of a plug-in.
    """

    settings: dict
    grid: Grid

    @classmethod
    def of(cls, part: Part) -> "Job":
        return cls(to_dict(part.config), part.grid)

    def __call__(self) -> None:
        """Train the part. The cluster's warning signal leaves a checkpoint, then requeues the job."""
        config = from_dict(self.settings, trusted=True)  # the user's own command named its code
        directory = Path(str(config.run.dir))
        if (directory / "summary.json").is_file():
            return
        resume = checkpoint.is_resumable(directory)
        if not resume:
            shutil.rmtree(directory, ignore_errors=True)
        interrupted, warned = _run_until_warned(config, self.grid, resume)
        if interrupted and warned is not None:
            signal.raise_signal(warned)
        if interrupted:
            sys.exit(130)  # somebody else stopped it: without a result, submitit does not call it finished

    def checkpoint(self):
        """What submitit calls after the job was requeued: the same."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


def _run_until_warned(config: Config, grid: Grid, resume: bool) -> tuple[bool, int | None]:
    """(the run was interrupted, the number of the cluster's warning signal when it came)."""
    from submitit import JobEnvironment

    warning = getattr(signal, f"SIG{JobEnvironment.USR_SIG}")
    requeue: Any = signal.getsignal(warning)  # a function of submitit, which ends this process
    epochs, warnings = [], []

    def warned(number, frame):
        warnings.append(number)
        if not epochs:
            requeue(number, frame)  # there is nothing new to save yet
        signal.raise_signal(signal.SIGTERM)  # the run stops after this epoch

    signal.signal(warning, warned)
    try:
        result = run(config, grid, resume, lambda epoch, _: epochs.append(epoch))
    finally:
        signal.signal(warning, requeue)
    return result.interrupted, warning if warnings else None
