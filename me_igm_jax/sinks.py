"""Where metrics go. A sink is `write(rows)` and `close()`; a row is one seed at one evaluation."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from .config import Config, ConfigError

Row = dict[str, float | int]


class Sink(Protocol):
    def write(self, rows: Sequence[Row]) -> None: ...

    def close(self) -> None: ...


class JsonLines:
    """metrics.jsonl: one line per evaluation and seed, flushed at every write."""

    def __init__(self, path: Path, keep_before: int = 0):
        """Keep only the rows of evaluations before `keep_before` (0: start afresh)."""
        kept = [row for row in read_rows(path) if row["eval"] < keep_before] if keep_before else []
        write_atomic(path, "".join(json.dumps(row) + "\n" for row in kept))
        self._file = path.open("a")

    def write(self, rows: Sequence[Row]) -> None:
        self._file.write("".join(json.dumps(row) + "\n" for row in rows))
        self._file.flush()

    def close(self) -> None:
        self._file.close()


class _Means:
    """Shared by the services: the mean over seeds under the name, each seed's under name/seed_k."""

    def write(self, rows: Sequence[Row]) -> None:
        names = [k for k in rows[0] if k not in ("eval", "point", "seed", "env_steps")]
        step = int(np.mean([row["env_steps"] for row in rows]))
        values = {name: float(np.mean([row[name] for row in rows])) for name in names}
        for row in rows:
            values |= {f"{n}/point_{row['point']}_seed_{row['seed']}": row[n] for n in names}
        self._log(values, step)

    def _log(self, values: dict[str, float], step: int) -> None:
        raise NotImplementedError


class TensorBoard(_Means):
    """Event files under <run>/tensorboard."""

    def __init__(self, directory: Path, config: Config):
        from tensorboardX import SummaryWriter

        self._writer = SummaryWriter(str(directory / "tensorboard"))

    def _log(self, values, step):
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        self._writer.close()


class WandB(_Means):
    """Weights & Biases; offline unless WANDB_MODE says otherwise, so no account is needed."""

    def __init__(self, directory: Path, config: Config):
        import wandb

        from .presets import to_dict

        mode = os.environ.get("WANDB_MODE", "offline")
        self._run = wandb.init(project="me_igm_jax", dir=str(directory), mode=mode, config=to_dict(config))

    def _log(self, values, step):
        self._run.log(values, step=step)

    def close(self) -> None:
        self._run.finish()


SINKS = {"tensorboard": TensorBoard, "wandb": WandB}


def open_sinks(directory: Path, config: Config, first_eval: int) -> list[Sink]:
    """The run directory's metrics.jsonl and whatever `run.sinks` names."""
    sinks: list[Sink] = []
    for name in config.run.sinks:
        try:
            sinks.append(SINKS[name](directory, config))
        except ImportError as error:
            raise ConfigError(
                f"run.sinks={name}: needs the package {error.name}; pip install 'me_igm_jax[logging]'"
            ) from None
    return [JsonLines(directory / "metrics.jsonl", keep_before=first_eval), *sinks]


def read_rows(path: Path) -> list[Row]:
    """All rows of a metrics.jsonl; a last line cut off by a crash is ignored."""
    rows = []
    for line in path.read_text().splitlines() if path.exists() else ():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows


def write_atomic(path: Path, text: str) -> None:
    """Replace the file at `path` in one step: it holds the old text or the new, never half."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_text(text)
    temporary.replace(path)
