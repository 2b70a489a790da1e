"""The jobs of a sweep as one run directory: what one program with all members would have written."""

import json
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from . import checkpoint, records
from .diagnostics import game_table
from .experiment import make_members
from .launch import read_plan
from .play import load_run
from .sinks import read_rows, write_atomic
from .train import RunState


def merge(directory: Path) -> dict:
    """Make `directory` the run directory of the whole sweep; returns its summary.

    All jobs must have finished. Their directories stay as they are.
    """
    config, grid = records.read_config(directory)
    plan, parts = read_plan(directory)
    homes = [Path(str(part.config.run.dir)) for part in parts]
    summaries = [json.loads((home / "summary.json").read_text()) for home in homes]
    order = np.argsort(np.concatenate([part.members for part in parts]))
    seeds, rows = config.run.seeds, []
    for part, home in zip(parts, homes, strict=True):
        points = (part.members[:: part.config.run.seeds] // seeds).tolist()
        rows += [r | {"point": points[int(r["point"])]} for r in read_rows(home / "metrics.jsonl")]
    rows.sort(key=lambda row: (row["eval"], row["point"], row["seed"]))
    write_atomic(directory / "metrics.jsonl", "".join(json.dumps(row) + "\n" for row in rows))

    manifests = [json.loads((home / "manifest.json").read_text()) for home in homes]
    whole = {"command": plan["command"], "seeds": seeds}
    jobs = [{k: m[k] for k in ("device", "devices", "git_commit")} for m in manifests]
    text = json.dumps(manifests[0] | whole | {"jobs": jobs}, indent=2)
    write_atomic(directory / "manifest.json", text + "\n")

    programs, learners = zip(*map(load_run, homes), strict=True)
    learner = jax.tree.map(lambda *leaves: jnp.concatenate(leaves)[order], *learners)
    epoch = max(checkpoint.latest(home) or 0 for home in homes)
    checkpoint.save(directory, epoch, RunState(learner, *[()] * 4), resumable=False)  # pyright: ignore

    final = {
        name: np.concatenate([np.ravel([p[name]["per_seed"] for p in s["points"]]) for s in summaries])
        for name, value in summaries[0]["points"][0].items()
        if isinstance(value, dict) and "per_seed" in value
    }
    timing = {
        name: kind(s[name] for s in summaries)
        for name, kind in {
            "env_steps_per_second": sum,
            "updates_per_second": sum,
            "compile_seconds": max,
            "wall_seconds": max,
            "peak_memory_bytes": max,
            "replay_bytes_per_seed": max,
        }.items()
    }
    program, table = programs[0], None
    if config.env.startswith("matrix/"):
        table = jax.jit(jax.vmap(partial(game_table, program.algo, program.env)))(learner)
    final = {k: v[order][:, None] for k, v in final.items()}
    points = make_members(config, grid).points
    return records.write_summary(directory, config, points, final, timing, program, table)
