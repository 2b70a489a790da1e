"""Saving and restoring a run with orbax: `learner` is what was learned, `loop` is everything else.

A finished run keeps the learner only. An interrupted one keeps both, replay buffer included, and
continues exactly where it stopped. A checkpoint's number is how many epochs were done.
"""

import shutil
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from ..config import ConfigError
from ..training.pieces import RunState
from ..types import Learner


def save(directory: Path, epoch: int, state: RunState) -> None:
    """Write checkpoints/<epoch>, from which a run can continue, then drop the older ones."""
    items = {"learner": state.learner, "loop": state._replace(learner=())}
    _save(directory, epoch, items, keep=1)


def save_learner(directory: Path, epoch: int, learner: Learner) -> None:
    """Write what was learned into checkpoints/<epoch>. Older checkpoints stay until `tidy`."""
    if epoch not in epochs(directory):
        _save(directory, epoch, {"learner": learner}, keep=None)


def tidy(directory: Path) -> None:
    """Of a finished run, keep only the newest checkpoint's learner."""
    *older, newest = epochs(directory)
    for epoch in older:
        shutil.rmtree(directory / "checkpoints" / str(epoch))
    shutil.rmtree(directory / "checkpoints" / str(newest) / "loop", ignore_errors=True)


def epochs(directory: Path, resumable: bool = False) -> list[int]:
    """The numbers of the checkpoints, ascending; with `resumable`, of those that hold all of the state."""
    found = [path for path in (directory / "checkpoints").glob("*") if path.name.isdigit()]
    return sorted(int(path.name) for path in found if not resumable or (path / "loop").is_dir())


def is_resumable(directory: Path) -> bool:
    """There is a checkpoint that holds the training loop's state too."""
    return bool(epochs(directory, resumable=True))


def restore_state(directory: Path, like: RunState) -> tuple[RunState, int]:
    """The whole state, and how many epochs were done; `like` gives shapes, types and shardings."""
    found = epochs(directory, resumable=True)
    if not found:
        raise ConfigError(f"{directory}: holds no checkpoint that can be resumed")
    parts = {"learner": like.learner, "loop": like._replace(learner=())}
    items = _restore(directory, found[-1], parts)
    return items["loop"]._replace(learner=items["learner"]), found[-1]


def restore_learner(directory: Path, like: Learner) -> Learner:
    """What was learned, from the newest checkpoint."""
    found = epochs(directory)
    if not found:
        raise ConfigError(f"{directory}: holds no checkpoint")
    return _restore(directory, found[-1], {"learner": like})["learner"]


def abstract(tree: Any, sharding: Any = None) -> Any:
    """Shapes and types of `tree`, to restore into."""
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), tree)


def _save(directory: Path, epoch: int, items: dict[str, Any], keep: int | None) -> None:
    args = {name: ocp.args.StandardSave(item) for name, item in items.items()}
    with _manager(directory, keep) as manager:
        if epoch in manager.all_steps():  # saved, then interrupted before the next epoch ended
            return
        manager.save(epoch, args=ocp.args.Composite(**args))


def _restore(directory: Path, epoch: int, like: dict[str, Any]) -> Any:
    args = {name: ocp.args.StandardRestore(item) for name, item in like.items()}
    with _manager(directory, None) as manager:
        return manager.restore(epoch, args=ocp.args.Composite(**args))


def _manager(directory: Path, keep: int | None) -> ocp.CheckpointManager:
    options = ocp.CheckpointManagerOptions(max_to_keep=keep, enable_async_checkpointing=False)
    return ocp.CheckpointManager((directory / "checkpoints").resolve(), options=options)
