"""How much is collected, kept and learned from, and in which order: what follows from the settings."""

from typing import NamedTuple

from .errors import ConfigError
from .settings import Config


class Schedule(NamedTuple):
    """Sizes of one training iteration: a collection, then gradient steps.

    A sequence is one episode or, when streaming, one packed sequence.
    """

    envs: int  # sequences in a collection
    capacity: int  # sequences in replay
    batch: int  # sequences drawn for a gradient step; 0 when only fresh data are learned from
    warmup: int  # collections before the first gradient step
    updates: int  # calls of the learner's update after each collection
    sequences_per_update: float  # collected for each of these calls

    @property
    def slots(self) -> int:
        """Collections in replay."""
        return self.capacity // self.envs


def schedule(config: Config, data: str) -> Schedule:
    """The sizes for a learner whose update is given `data` (see `types.Algorithm`).

    Raises ConfigError when the settings do not fit each other.
    """
    collect, replay = config.collect, config.replay
    if data == "fresh":  # one update takes all of a collection, and nothing older is kept
        return Schedule(
            envs=collect.envs, capacity=collect.envs, batch=0, warmup=0, updates=1,
            sequences_per_update=collect.envs,
        )  # fmt: skip
    per_update = (
        collect.episodes_per_update
        if collect.mode == "episodes"
        else collect.transitions_per_update / collect.length
    )
    updates = int(collect.envs / per_update)
    if updates < 1 or updates * per_update != collect.envs:
        raise ConfigError(
            f"collect.envs={collect.envs}: must be a multiple of {per_update:g}, the sequences "
            "collected per update"
        )
    if replay.capacity % collect.envs:
        raise ConfigError(
            f"replay.capacity={replay.capacity}: must be a multiple of collect.envs={collect.envs}"
        )
    warmup = replay.batch if replay.warmup is None else replay.warmup
    if warmup > replay.capacity:
        raise ConfigError(
            f"replay.warmup={warmup}: must lie between 1 and replay.capacity={replay.capacity}"
        )
    if replay.batch % (config.run.devices_per_seed or 1):
        raise ConfigError(
            f"run.devices_per_seed={config.run.devices_per_seed}: must divide replay.batch={replay.batch}"
        )
    return Schedule(
        envs=collect.envs,
        capacity=replay.capacity,
        batch=replay.batch,
        warmup=max(1, -(-warmup // collect.envs)),
        updates=updates,
        sequences_per_update=per_update,
    )
