"""summary.json and marl_eval.json: what a run, or a merged sweep, came to."""

from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ..config import Config
from ..training.diagnostics import GameTable, game_table, has_game_table
from ..training.train import Program
from ..types import Env, Learner
from . import devices, statistics
from .files import finite, read_rows, write_json
from .members import Point, algorithm_label
from .records import env_name


class Ending(NamedTuple):
    """What the members came to; NumPy arrays with a leading axis of members."""

    scores: dict[str, np.ndarray]  # [members] means over the final episodes
    env_steps: np.ndarray  # [members] real transitions collected
    updates: np.ndarray  # [members] gradient steps
    diverged: np.ndarray  # [members] bool: weights that are not finite
    table: GameTable | None  # leaves [members, ...]; None for a game that is too large for a table


def make_ending(program: Program, learner: Learner, scores: dict, env_steps: Any, updates: Any) -> Ending:
    """Look at the learners, leaves [members, ...]. All processes of a distributed run take part."""
    look = partial(_look, program)
    diverged, table = devices.fetch(jax.jit(jax.vmap(look))(learner))
    return Ending(
        scores=scores,
        env_steps=np.asarray(env_steps),
        updates=np.asarray(updates),
        diverged=diverged,
        table=table,
    )


def _look(program: Program, learner: Learner) -> tuple[jax.Array, GameTable | None]:
    weights = [x for x in jax.tree.leaves(learner.params) if jnp.issubdtype(x.dtype, jnp.inexact)]
    diverged = ~jnp.all(jnp.asarray([jnp.isfinite(x).all() for x in weights]))
    known = has_game_table(program.env.spec) and program.algo.inspect is not None
    return diverged, game_table(program.algo, program.env, learner) if known else None


def write_summary(
    directory: Path, program: Program, objects: list[str], points: list[Point], ending: Ending, timing: dict
) -> dict:
    """Write summary.json and marl_eval.json; returns the summary."""
    config, seeds = program.config, program.config.run.seeds
    groups = [slice(p * seeds, (p + 1) * seeds) for p in range(len(points))]
    summary = finite({
        "preset": config.preset,
        "env": env_name(program, objects),
        "seeds": seeds,
        "final_eval_episodes": config.run.final_eval_episodes,
        "points": [
            {"point": point} | point_summary(jax.tree.map(lambda x, g=group: x[g], ending), program)
            for point, group in zip(points, groups, strict=True)
        ],
        **timing,
    })  # fmt: skip
    write_json(directory / "summary.json", summary)
    write_json(directory / "marl_eval.json", marl_eval(directory, config, summary))
    return summary


def point_summary(ending: Ending, program: Program) -> dict:
    """One hyper-point's summary, from what its seeds came to."""
    first = program.config.run.first_seed
    summary: dict[str, Any] = {
        "env_steps": [int(x) for x in ending.env_steps],
        "updates": [int(x) for x in ending.updates],
        "diverged": [first + int(s) for s in np.flatnonzero(ending.diverged)],
    }
    summary |= {name: statistics.describe(score) for name, score in ending.scores.items()}
    if ending.table is not None:
        summary |= game_summary(ending.table, ending.diverged, program.env)
    return summary


def game_summary(table: GameTable, diverged: np.ndarray, env: Env) -> dict:
    """How often the greedy joint action is optimal, and the learned values and policies.

    Leaves of `table` are [S, ...]. A seed that diverged has learned no action, so it is never optimal.
    """
    key = jax.random.key(0)
    state = env.reset(key)
    reward = np.asarray(jax.vmap(lambda a: env.step(key, state, a)[1].reward)(table.greedy))
    best = np.float32((env.spec.max_return or 0.0) / env.spec.horizon)  # of one play
    optimal = (reward >= best) & ~diverged
    summary: dict[str, Any] = {
        "optimal_rate": float(optimal.mean()),
        "optimal_interval": list(statistics.wilson(int(optimal.sum()), len(optimal))),
    }
    if table.probs is not None:
        summary["policy"] = table.probs.mean(0).tolist()
    if table.q_tot is not None:
        q = np.asarray(table.q_tot)
        summary |= {"q_table": q.mean(0).tolist(), "additivity_error": additivity_error(q)}
        if optimal.any():
            summary["q_table_where_optimal"] = np.median(q[optimal], 0).tolist()
    return summary


def additivity_error(q: np.ndarray) -> float | None:
    """Largest second difference of any seed's Q table [S, A, A] from any 2 x 2 block; 0 when additive.

    None for a game of more than two players.
    """
    if q.ndim != 3:
        return None
    second = q - q[:, :1] - q[:, :, :1] + q[:, :1, :1]
    return float(np.abs(second).max())


def marl_eval(directory: Path, config: Config, summary: dict) -> dict:
    """The run's evaluations in the format that marl-eval reads (github.com/instadeepai/marl-eval).

    Each hyper-point is an algorithm of its own. `absolute_metrics` are means over the final episodes.
    """
    family, _, task = summary["env"].partition("/")
    names = [name for name in ("return", "won") if name in summary["points"][0]]
    labels = [algorithm_label(config.preset, entry["point"]) for entry in summary["points"]]
    algorithms: dict[str, dict[str, dict]] = {label: {} for label in labels}
    for row in read_rows(directory / "metrics.jsonl"):
        steps = algorithms[labels[row["point"]]].setdefault(f"seed_{row['seed']}", {})
        steps[f"step_{row['eval']}"] = {
            "step_count": row["env_steps"], **{name: [row[name]] for name in names}
        }  # fmt: skip
    for label, entry in zip(labels, summary["points"], strict=True):
        for number in range(config.run.seeds):
            steps = algorithms[label].setdefault(f"seed_{config.run.first_seed + number}", {})
            steps["absolute_metrics"] = {name: [entry[name]["per_seed"][number]] for name in names}
    return {family: {task or family: algorithms}}
