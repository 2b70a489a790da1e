"""The members of a run: hyper-points x seeds, the one axis that is added to the program from outside."""

import itertools
import math
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ..config import Config, sweep
from ..config.coerce import coerce

Grid = dict[str, list[float]]  # values of each swept hyperparameter
Point = dict[str, float]  # what one hyper-point sets


class Members(NamedTuple):
    """P hyper-points x S seeds, flattened, seeds varying fastest."""

    points: list[Point]
    hypers: Any  # leaves [P * S]
    keys: jax.Array  # [P * S]; a seed has the same key at every point

    @property
    def size(self) -> int:
        return len(self.keys)


def make_members(config: Config, grid: Grid) -> Members:
    """Keys and hyperparameters of every member; an empty grid is one point."""
    points, seeds = grid_points(grid), config.run.seeds
    hypers = jax.tree.map(lambda x: jnp.repeat(x, seeds), sweep(config, **grid))
    numbers = config.run.first_seed + jnp.arange(seeds, dtype=jnp.uint32)
    keys = jax.vmap(partial(jax.random.fold_in, jax.random.key(config.run.seed)))(numbers)
    return Members(points, hypers, jnp.tile(keys, len(points)))


def as_grid(values: dict[str, Any] | None) -> Grid:
    """The grid with its values as plain floats, exactly as they were typed."""
    return {key: [coerce(f"hypers.{key}", x, float) for x in axis] for key, axis in (values or {}).items()}


def grid_points(grid: Grid) -> list[Point]:
    """The grid's hyper-points, the last key varying fastest."""
    return [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]


def member_count(config: Config, grid: Grid) -> int:
    """Hyper-points times seeds."""
    return config.run.seeds * math.prod(len(axis) for axis in grid.values())


def point_label(point: Point) -> str:
    """What a hyper-point sets, for people: "lr=0.001, alpha=0.5"."""
    return ", ".join(f"{key}={value:.12g}" for key, value in point.items())


def algorithm_label(preset: str, point: Point) -> str:
    """The preset's name, and in a sweep what the point sets: "qmix (lr=0.001)"."""
    name = Path(preset).stem  # a preset can be a file
    return f"{name} ({point_label(point)})" if point else name
