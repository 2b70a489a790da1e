"""The files of a run directory: what is written, in which form, and how it is read back."""

import json
import os
import platform
import subprocess
import sys
import time
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import jax
import numpy as np
import yaml

from . import stats
from .config import Config, ConfigError
from .presets import from_dict, to_dict
from .sinks import Row, read_rows, write_atomic
from .train import Program

_COUNTS = ("env_steps", "episodes", "updates")
_PACKAGES = ("me_igm_jax", "jax", "jaxlib", "jaxmarl", "flax", "optax", "distrax", "numpy")


def default_directory(config: Config) -> Config:
    """`config` with a fresh run directory: runs/<preset>-<env>-<time>, numbered if it is taken."""
    stem = f"{config.preset}-{config.env.replace('/', '-')}-{time.strftime('%Y%m%d-%H%M%S')}"
    paths = (Path("runs") / (stem + (f"-{k}" if k else "")) for k in range(1000))
    path = next(p for p in paths if not p.exists())
    return replace(config, run=replace(config.run, dir=str(path)))


def write_config(directory: Path, config: Config, grid: dict) -> None:
    """config.yaml: the resolved configuration and the swept grid."""
    data = to_dict(config) | ({"grid": {k: [float(x) for x in v] for k, v in grid.items()}})
    write_atomic(directory / "config.yaml", yaml.safe_dump(data, sort_keys=False))


def read_config(directory: Path) -> tuple[Config, dict[str, list[float]]]:
    """The configuration and grid of the run at `directory`; ConfigError if it is no run."""
    path = directory / "config.yaml"
    if not path.is_file():
        raise ConfigError(f"{directory}: is no run directory (it has no config.yaml)")
    data = yaml.safe_load(path.read_text())
    grid = data.pop("grid", {})
    config = from_dict(data)
    return replace(config, run=replace(config.run, dir=str(directory))), grid


def write_manifest(directory: Path, config: Config, mesh) -> None:
    """manifest.json: what one would need to know to get the same numbers again."""
    device = jax.local_devices()[0]
    manifest = {
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
        "python": platform.python_version(),
        "versions": {name: version(name) for name in _PACKAGES},
        "device": device.device_kind if device.platform != "cpu" else platform.machine(),
        "platform": device.platform,
        "devices": int(mesh.size),
        "processes": jax.process_count(),
        "git_commit": _git_commit(),
        "xla_flags": os.environ.get("XLA_FLAGS"),
        "seeds": config.run.seeds,
        "collect": config.collect.mode,
        "sequences_per_update": config.envs_per_update,
        "target_interval_episodes": config.algo.target_interval,
    }
    write_atomic(directory / "manifest.json", json.dumps(manifest, indent=2) + "\n")


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


def rows(
    index: int, metrics: dict[str, np.ndarray], seeds: int, points: list[dict], first_seed: int = 0
) -> list[Row]:
    """One row per member; metrics are [members]. Swept values are columns `hypers.<key>`."""
    out = []
    for member in range(seeds * len(points)):
        point, seed = divmod(member, seeds)
        head = {"eval": index, "point": point, "seed": first_seed + seed}
        head |= {f"hypers.{k}": x for k, x in points[point].items()}
        values = {k: float(v[member]) for k, v in metrics.items()}
        out.append(head | {k: int(x) if k in _COUNTS else round(x, 6) for k, x in values.items()})
    return out


def headline(metrics: dict[str, np.ndarray]) -> str:
    """What the progress bar shows: the win rate where there is one, and the return."""
    shown = {name: metrics[name].mean() for name in ("won", "return") if name in metrics}
    return ", ".join(f"{name} {value:.2f}" for name, value in shown.items())


def write_summary(
    directory: Path, config: Config, points, final, timing: dict, program: Program, table
) -> dict:
    """summary.json and marl_eval.json; returns the summary.

    final holds per-episode arrays [members, episodes]; table is a GameTable with leaves [members, ..].
    """
    seeds = config.run.seeds
    by_point = {k: v.mean(-1).reshape(len(points), seeds) for k, v in final.items()}
    summaries = []
    for p, point in enumerate(points):
        entry = {"point": point} | {k: stats.describe(v[p]) for k, v in by_point.items()}
        if table is not None:
            members = slice(p * seeds, (p + 1) * seeds)
            entry |= game_summary(table, members, program)
        summaries.append(entry)
    summary = {
        "preset": config.preset,
        "env": config.env,
        "seeds": seeds,
        "final_eval_episodes": config.run.final_eval_episodes,
        "points": summaries,
        **timing,
    }
    write_atomic(directory / "summary.json", json.dumps(summary, indent=2) + "\n")
    write_atomic(directory / "marl_eval.json", json.dumps(marl_eval(directory, config), indent=1))
    return summary


def game_summary(table, members: slice, program: Program) -> dict:
    """How often the greedy joint action is optimal, and the learned values and policies."""
    env = program.env
    probs, greedy = (np.asarray(x[members]) for x in (table.probs, table.greedy))
    key = jax.random.key(0)
    state = env.reset(key)
    reward = np.asarray(jax.vmap(lambda a: env.step(key, state, a)[1].reward)(greedy))
    optimal = reward >= np.float32((env.spec.max_return or 0.0) / env.spec.horizon)  # of one play
    summary = {
        "optimal_rate": float(optimal.mean()),
        "optimal_interval": list(stats.wilson(int(optimal.sum()), len(optimal))),
        "policy": probs.mean(0).tolist(),
    }
    if table.q_tot is not None:
        q = np.asarray(table.q_tot[members])
        summary |= {"q_table": q.mean(0).tolist(), "additivity_error": additivity_error(q)}
        if optimal.any():
            summary["q_table_where_optimal"] = np.median(q[optimal], 0).tolist()
    return summary


def additivity_error(q: np.ndarray) -> float:
    """Largest second difference of any seed's Q table [S, A, A] from any 2 x 2 block; 0 if additive.

    Only for two players; NaN otherwise.
    """
    if q.ndim != 3:
        return float("nan")
    second = q - q[:, :1] - q[:, :, :1] + q[:, :1, :1]
    return float(np.abs(second).max())


def marl_eval(directory: Path, config: Config) -> dict:
    """The run's evaluations in the format that marl-eval reads."""
    family, task = config.env.split("/")
    runs: dict[str, dict] = {}
    names = [n for n in ("return", "won") if any(n in r for r in read_rows(directory / "metrics.jsonl"))]
    for row in read_rows(directory / "metrics.jsonl"):
        entry = runs.setdefault(f"seed_{row['seed']}_point_{row['point']}", {})
        entry[f"step_{row['eval']}"] = {"step_count": row["env_steps"]} | {n: [row[n]] for n in names}
    for steps in runs.values():
        last = steps[max(steps, key=lambda s: int(s.split("_")[1]))]
        steps["absolute_metrics"] = {n: last[n] for n in names}
    return {family: {task: {config.preset: runs}}}
