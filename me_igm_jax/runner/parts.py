"""The parts of a sweep that is trained in several jobs: which job trains which members.

Members never exchange anything, so a job can train any box of them (some values of every swept
key, some seeds).
"""

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..config import Config, ConfigError
from .members import Grid, member_count

Box = tuple[range, ...]  # of indices, one range per axis


class Part(NamedTuple):
    """What one job trains: itself a sweep, of some hyper-points and some seeds."""

    config: Config
    grid: Grid
    members: np.ndarray  # [M] their numbers in the whole sweep, in the order of this part
    all_seeds: int  # seeds of the whole sweep

    @property
    def directory(self) -> Path:
        return Path(str(self.config.run.dir))

    @property
    def points(self) -> list[int]:
        """The numbers of this part's hyper-points in the whole sweep."""
        return (self.members[:: self.config.run.seeds] // self.all_seeds).tolist()

    @property
    def is_finished(self) -> bool:
        return (self.directory / "summary.json").is_file()


def make_parts(config: Config, grid: Grid, jobs: int) -> list[Part]:
    """The jobs' shares of the sweep in the run directory config.run.dir, each in DIR/jobs/<k>.

    Whole hyper-points while there are enough of them, else the seeds are divided too.
    Raises ConfigError when there are more jobs than members.
    """
    points, seeds = tuple(len(axis) for axis in grid.values()), config.run.seeds
    if not 1 <= jobs <= member_count(config, grid):
        raise ConfigError(f"--jobs {jobs}: must lie between 1 and {member_count(config, grid)} members")
    axes = len(points) + (1 if jobs > math.prod(points) else 0)
    boxes = cut_box((*map(range, points), range(seeds)), jobs, axes)
    return [_part(config, grid, box, k) for k, box in enumerate(boxes)]


def _part(config: Config, grid: Grid, box: Box, number: int) -> Part:
    *point_axes, seed_axis = box
    run = replace(
        config.run,
        dir=str(Path(str(config.run.dir)).resolve() / "jobs" / str(number)),
        seeds=len(seed_axis),
        first_seed=config.run.first_seed + seed_axis.start,
        progress=False,
    )
    shape = (*(len(axis) for axis in grid.values()), config.run.seeds)
    return Part(
        config=replace(config, run=run),
        grid={key: [grid[key][i] for i in axis] for key, axis in zip(grid, point_axes, strict=True)},
        members=np.ravel_multi_index(np.ix_(*map(list, box)), shape).ravel(),
        all_seeds=config.run.seeds,
    )


def cut_box(box: Box, jobs: int, axes: int) -> list[Box]:
    """Cut `box` along its first `axes` axes into `jobs` boxes, as equal in size as halving makes them.

    Needs at least as many cells along those axes as jobs.
    """
    if jobs == 1:
        return [box]
    axis, at, left = _best_cut(box[:axes], jobs)
    first, second = ((*box[:axis], half, *box[axis + 1 :]) for half in (box[axis][:at], box[axis][at:]))
    return cut_box(first, left, axes) + cut_box(second, jobs - left, axes)


def _best_cut(box: Box, jobs: int) -> tuple[int, int, int]:
    """(axis, place, jobs for what lies before the place): the largest job is then as small as it can be.

    Among equal cuts, the one nearest to the middle.
    """
    cells = math.prod(len(axis) for axis in box)

    def cuts() -> Iterator[tuple[int, ...]]:
        for axis, n in enumerate(map(len, box)):
            for at in range(1, n):
                left, size = min(max(round(jobs * at / n), 1), jobs - 1), cells // n * at
                largest = max(-(-size // left), -(-(cells - size) // (jobs - left)))
                yield largest, abs(2 * left - jobs), abs(2 * at - n), axis, at, left

    _, _, _, axis, at, left = min(cuts())
    return axis, at, left
