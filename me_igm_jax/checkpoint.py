"""Saving and restoring a run with orbax: `learner` is what was learned, `loop` is all the rest.

A finished run keeps the learner only. An interrupted one keeps both, replay buffer included, and
continues exactly where it stopped.
"""

from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from .config import ConfigError
from .train import RunState
from .types import Learner


def save(directory: Path, epoch: int, state: RunState, resumable: bool) -> None:
    """Write checkpoints/<epoch>, then drop the older ones."""
    items: dict[str, Any] = {"learner": ocp.args.StandardSave(state.learner)}
    if resumable:
        items["loop"] = ocp.args.StandardSave(state._replace(learner=()))
    with _manager(directory) as manager:
        # A run that was interrupted at its last epoch may already have this one, with its loop.
        if epoch in manager.all_steps():
            manager.delete(epoch)
        manager.save(epoch, args=ocp.args.Composite(**items))


def latest(directory: Path) -> int | None:
    """Number of epochs done at the newest checkpoint, if there is any."""
    path = directory / "checkpoints"
    steps = [int(p.name) for p in path.glob("*") if p.name.isdigit()] if path.is_dir() else []
    return max(steps, default=None)


def is_resumable(directory: Path) -> bool:
    """The newest checkpoint holds the training loop's state too."""
    epoch = latest(directory)
    return epoch is not None and (directory / "checkpoints" / str(epoch) / "loop").is_dir()


def restore_state(directory: Path, like: RunState) -> RunState:
    """The whole state of the newest checkpoint; `like` gives shapes, types and shardings."""
    learner = restore_learner(directory, like.learner)
    loop = _restore(directory, "loop", like._replace(learner=()))
    return loop._replace(learner=learner)


def restore_learner(directory: Path, like: Learner) -> Learner:
    """What was learned, from the newest checkpoint."""
    return _restore(directory, "learner", like)


def _restore(directory: Path, item: str, like: Any) -> Any:
    epoch = latest(directory)
    if epoch is None:
        raise ConfigError(f"{directory}: holds no checkpoint")
    with _manager(directory) as manager:
        args = ocp.args.Composite(**{item: ocp.args.StandardRestore(like)})
        return manager.restore(epoch, args=args)[item]


def _manager(directory: Path) -> ocp.CheckpointManager:
    options = ocp.CheckpointManagerOptions(max_to_keep=1, enable_async_checkpointing=False)
    return ocp.CheckpointManager((directory / "checkpoints").resolve(), options=options)


def abstract(tree: Any, sharding: Any = None) -> Any:
    """Shapes and types of `tree`, to restore into."""
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), tree)
