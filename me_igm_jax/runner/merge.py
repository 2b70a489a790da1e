"""The jobs of a sweep as one run directory: what one program with all members would have written."""

from functools import reduce
from operator import getitem
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from . import checkpoint
from .files import json_lines, read_json, read_rows, write_atomic, write_json
from .launch import Part, read_plan
from .loading import load_run
from .members import grid_points
from .records import read_config
from .summary import make_ending, write_summary

_TIMING = {
    "env_steps_per_second": sum,
    "updates_per_second": sum,
    "compile_seconds": max,
    "wall_seconds": max,
    "peak_memory_bytes": max,
    "replay_bytes_per_seed": max,
}


def merge(directory: Path) -> dict:
    """Make `directory` the run directory of the whole sweep; returns its summary.

    All jobs must have finished. Their directories stay as they are.
    """
    config, grid = read_config(directory)
    plan, parts = read_plan(directory)
    homes = [part.directory for part in parts]
    summaries = [read_json(home / "summary.json") for home in homes]
    order = np.argsort(np.concatenate([part.members for part in parts]))
    merge_rows(directory, parts)
    merge_manifests(directory, plan, parts)

    programs, learners = zip(*map(load_run, homes), strict=True)
    learner = jax.tree.map(lambda *leaves: jnp.concatenate(leaves)[order], *learners)
    epoch = max(checkpoint.epochs(home)[-1] for home in homes)
    checkpoint.save_learner(directory, epoch, learner)

    scored = [k for k, v in summaries[0]["points"][0].items() if isinstance(v, dict) and "per_seed" in v]
    scores = {name: gathered(summaries, order, name, "per_seed") for name in scored}
    counts = (gathered(summaries, order, name) for name in ("env_steps", "updates"))
    program = programs[0]._replace(config=config)
    ending = make_ending(program, learner, scores, *counts)
    timing = {name: kind(s[name] for s in summaries) for name, kind in _TIMING.items()}
    return write_summary(directory, program, [], grid_points(grid), ending, timing)


def gathered(summaries: list[dict], order: np.ndarray, *keys: str) -> np.ndarray:
    """What every job's points hold for each seed under `keys`, in the order of the whole sweep."""
    found: list[float | None] = []
    for point in (point for summary in summaries for point in summary["points"]):
        found += reduce(getitem, keys, point)
    return np.array(found, float)[order]


def merge_rows(directory: Path, parts: list[Part]) -> None:
    """One metrics.jsonl, with the points numbered as in the whole sweep."""
    rows = []
    for part in parts:
        found = read_rows(part.directory / "metrics.jsonl")
        rows += [row | {"point": part.points[row["point"]]} for row in found]
    rows.sort(key=lambda row: (row["eval"], row["point"], row["seed"]))
    write_atomic(directory / "metrics.jsonl", json_lines(rows))


def merge_manifests(directory: Path, plan: dict, parts: list[Part]) -> None:
    """The first job's manifest, with the command of the launcher and each job's machine."""
    manifests = [read_json(part.directory / "manifest.json") for part in parts]
    jobs = [{key: m[key] for key in ("device", "devices", "git_commit")} for m in manifests]
    whole = {"command": plan["command"], "seeds": parts[0].all_seeds, "jobs": jobs}
    write_json(directory / "manifest.json", manifests[0] | whole)
