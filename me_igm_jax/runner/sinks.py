"""Where metrics go while a run trains. A sink is `write(rows)` and `close()`.

A row is one seed at one evaluation; see `records.rows`.
"""

import importlib.util
import os
import secrets
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ..config import Config, ConfigError, to_dict
from .files import Row, json_lines, read_rows, write_atomic
from .records import NOT_METRICS


class Sink(Protocol):
    """What a run sends its metrics to."""

    def write(self, rows: Sequence[Row]) -> None: ...

    def close(self) -> None: ...


class JsonLines:
    """metrics.jsonl: one line per evaluation and seed, flushed at every write."""

    def __init__(self, path: Path, keep_before: int = 0):
        """Keep only the rows of evaluations before `keep_before` (0: start afresh)."""
        kept = [row for row in read_rows(path) if row["eval"] < keep_before] if keep_before else []
        write_atomic(path, json_lines(kept))
        self._file = path.open("a")

    def write(self, rows: Sequence[Row]) -> None:
        self._file.write(json_lines(rows))
        self._file.flush()

    def close(self) -> None:
        self._file.close()


class TensorBoard:
    """Event files under <run>/tensorboard."""

    package = "tensorboardX"

    def __init__(self, directory: Path, config: Config):
        from tensorboardX import SummaryWriter

        self._writer = SummaryWriter(str(directory / "tensorboard"))

    def write(self, rows: Sequence[Row]) -> None:
        for name, value in tagged(rows):
            self._writer.add_scalar(name, value, mean_steps(rows))

    def close(self) -> None:
        self._writer.close()


class WandB:
    """Weights & Biases; offline unless WANDB_MODE says otherwise, so that no account is needed.

    WANDB_PROJECT, WANDB_ENTITY, WANDB_RUN_GROUP and WANDB_NAME are respected. A run that is resumed goes
    on as the same run: its id stands in <run>/wandb_id.
    """

    package = "wandb"

    def __init__(self, directory: Path, config: Config):
        import wandb

        path = directory / "wandb_id"
        if not path.is_file():
            write_atomic(path, secrets.token_hex(8))
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "me_igm_jax"),
            entity=os.environ.get("WANDB_ENTITY"),
            group=os.environ.get("WANDB_RUN_GROUP", f"{config.preset} on {config.env}"),
            name=os.environ.get("WANDB_NAME", directory.name),
            mode=os.environ.get("WANDB_MODE", "offline"),
            id=path.read_text().strip(),
            resume="allow",
            dir=str(directory),
            config=to_dict(config),
        )

    def write(self, rows: Sequence[Row]) -> None:
        self._run.log(dict(tagged(rows)), step=mean_steps(rows))

    def close(self) -> None:
        self._run.finish()


SINKS: dict[str, Any] = {"tensorboard": TensorBoard, "wandb": WandB}


def tagged(rows: Sequence[Row]) -> Iterator[tuple[str, float]]:
    """(tag, value) of every metric: the mean over the seeds of a point, then each seed.

    `return` and `return/seed_0`; in a sweep `return/point_2` and `return/point_2_seed_0`.
    """
    points = sorted({row["point"] for row in rows})
    for point in points:
        of_point = [row for row in rows if row["point"] == point]
        names = sorted({name for row in of_point for name in row} - NOT_METRICS)
        prefix = f"point_{point}_" if len(points) > 1 else ""
        for name in names:
            values = {row["seed"]: _number(row.get(name)) for row in of_point}
            mean_tag = f"{name}/{prefix[:-1]}" if prefix else name
            yield mean_tag, float(np.mean(list(values.values())))
            for seed, value in values.items():
                yield f"{name}/{prefix}seed_{seed}", value


def mean_steps(rows: Sequence[Row]) -> int:
    """The place of these rows on the axis of environment steps."""
    return int(np.mean([row["env_steps"] for row in rows]))


def _number(value: float | None) -> float:
    return float("nan") if value is None else float(value)


def check_sinks(config: Config) -> None:
    """Raise ConfigError when a sink of run.sinks needs a package that is not installed."""
    for name in config.run.sinks:
        package = SINKS[name].package
        if importlib.util.find_spec(package) is None:
            raise ConfigError(
                f"run.sinks={name}: needs the package {package}; pip install 'me_igm_jax[logging]'"
            )


def open_sinks(directory: Path, config: Config, first_eval: int) -> list[Sink]:
    """The run directory's metrics.jsonl and everything that run.sinks names."""
    services = [SINKS[name](directory, config) for name in config.run.sinks]
    return [JsonLines(directory / "metrics.jsonl", keep_before=first_eval), *services]
