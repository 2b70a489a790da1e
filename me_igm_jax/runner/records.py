"""config.yaml, manifest.json and the rows of metrics.jsonl: what is written, and how it is read back."""

import os
import platform
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import numpy as np
import yaml
from jax.sharding import Mesh

from ..config import Config, ConfigError, from_dict, to_dict
from ..training.train import Program
from .files import Row, read_json, write_atomic, write_json
from .members import Grid, Point, as_grid

FORMAT = 2  # of config.yaml
COUNTS = {"env_steps", "episodes", "updates"}
NOT_METRICS = {"eval", "point", "seed", "env_steps", "finite"}  # columns of metrics.jsonl
_PACKAGES = ("me_igm_jax", "jax", "jaxlib", "jaxmarl", "flax", "optax", "distrax", "numpy")


def default_directory(config: Config) -> Config:
    """`config` with a fresh run directory: runs/<preset>-<env>-<time>, numbered when it is taken."""
    name = re.sub(r"[^\w.-]+", "-", f"{Path(config.preset).stem}-{config.env}")
    stem = f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"
    paths = (Path("runs") / (stem + (f"-{k}" if k else "")) for k in range(1000))
    path = next(p for p in paths if not p.exists())
    return replace(config, run=replace(config.run, dir=str(path)))


# -- config.yaml ----------------------------------------------------------------------------------


def write_config(directory: Path, config: Config, grid: Grid, objects: Sequence[str] = ()) -> None:
    """config.yaml: the resolved configuration, the swept grid, and which parts were objects."""
    data = {"format": FORMAT} | to_dict(config) | {"grid": grid, "objects": list(objects)}
    write_atomic(directory / "config.yaml", yaml.safe_dump(data, sort_keys=False))


def read_config(directory: Path) -> tuple[Config, Grid]:
    """The configuration and grid of the run at `directory`; ConfigError when it is no run."""
    data = read_settings(directory)
    grid = data.pop("grid", {})
    config = from_dict({key: value for key, value in data.items() if key not in ("format", "objects")})
    return replace(config, run=replace(config.run, dir=str(directory))), as_grid(grid)


def check_objects(directory: Path, call: str, objects: Sequence[str]) -> None:
    """Raise ConfigError when the run at `directory` was made with an object that is not handed in.

    `call` is the function that the caller used; `objects` are the parts that were handed in.
    """
    kinds = {"env": "an Env", "algo": "an Algorithm"}
    for name in read_settings(directory).get("objects", []):
        if name not in objects:
            raise ConfigError(
                f"{directory}: was made with {kinds[name]} object; hand it in: {call}(..., {name}=...)"
            )


def handed_in(**parts: Any) -> list[str]:
    """The names of the parts that are objects."""
    return [name for name, part in parts.items() if part is not None]


def read_settings(directory: Path) -> dict:
    """What config.yaml holds; ConfigError when there is none. Imports no code that it names."""
    path = directory / "config.yaml"
    if not path.is_file():
        raise ConfigError(f"{directory}: is no run directory (it has no config.yaml)")
    try:
        data = yaml.safe_load(path.read_text())
    except (yaml.YAMLError, UnicodeDecodeError):
        data = None
    if not isinstance(data, dict):
        raise ConfigError(f"{path}: is damaged (no YAML mapping)")
    if data.get("format") != FORMAT:
        raise ConfigError(
            f"{directory}: was written by an older release (0.1), whose settings this one cannot read; "
            "use that release"
        )
    return data


# -- manifest.json --------------------------------------------------------------------------------


def write_manifest(directory: Path, program: Program, mesh: Mesh, objects: Sequence[str]) -> None:
    """manifest.json: what one would need to know to get the same numbers again.

    A run that is resumed keeps its first command; the later ones stand under `resumed`.
    """
    path, command = directory / "manifest.json", this_command()
    manifest = _machine(mesh) | _program(program, objects)
    if path.is_file():
        before = read_json(path)
        resumed = [*before.get("resumed", []), command]
        manifest |= {"command": before.get("command"), "resumed": resumed}
    else:
        manifest |= {"command": command}
    write_json(path, manifest)


def this_command() -> list[str]:
    """The words of the command that runs this process."""
    return [Path(sys.argv[0]).name, *sys.argv[1:]]


def _machine(mesh: Mesh) -> dict:
    device = jax.local_devices()[0]
    return {
        "python": platform.python_version(),
        "versions": {name: version(name) for name in _PACKAGES},
        "device": device.device_kind if device.platform != "cpu" else platform.machine(),
        "platform": device.platform,
        "devices": int(mesh.size),
        "processes": jax.process_count(),
        "git_commit": _git_commit(),
        "xla_flags": os.environ.get("XLA_FLAGS"),
    }


def _program(program: Program, objects: Sequence[str]) -> dict:
    config = program.config
    return {
        "env": env_name(program, objects),
        "learner": config.learner,
        "plugins": list(config.plugins),
        "objects": list(objects),
        "seeds": config.run.seeds,
        "collect": config.collect.mode,
        "replay_store": config.replay.store,
        "sequences_per_update": program.schedule.sequences_per_update,
        "target_interval_episodes": program.algo.target_interval,
    }


def env_name(program: Program, objects: Sequence[str]) -> str:
    """The environment's name: the one that was asked for, or the one that an Env object bears."""
    return program.env.spec.name if "env" in objects else program.config.env


def _git_commit() -> str | None:
    """The commit of the checkout this package runs from, None for an installed wheel."""
    here = Path(__file__).parent
    try:
        found = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=40"],
            cwd=here, capture_output=True, text=True, timeout=5,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return None
    return found.stdout.strip() or None


# -- metrics.jsonl --------------------------------------------------------------------------------


def rows(
    index: int, metrics: dict[str, np.ndarray], seeds: int, points: list[Point], first_seed: int = 0
) -> list[Row]:
    """One row per member at evaluation `index`; metrics are [members].

    Swept values are columns `hypers.<key>`. A number that is not finite is None, beside `finite: False`.
    """
    found = []
    for member in range(seeds * len(points)):
        point, seed = divmod(member, seeds)
        row: Row = {"eval": index, "point": point, "seed": first_seed + seed}
        row |= {f"hypers.{key}": value for key, value in points[point].items()}
        for name, values in metrics.items():
            value = float(values[member])
            if not np.isfinite(value):
                row |= {name: None, "finite": False}
            else:
                row[name] = int(value) if name in COUNTS else round(value, 6)
        found.append(row)
    return found


def headline(metrics: dict[str, np.ndarray]) -> str:
    """What the progress bar shows: the win rate when there is one, and the return."""
    shown = {name: metrics[name].mean() for name in ("won", "return") if name in metrics}
    return ", ".join(f"{name} {value:.2f}" for name, value in shown.items())
