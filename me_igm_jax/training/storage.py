"""What replay stores of each instant: the one place that decides what replay.store=auto means."""

from collections.abc import Callable, Mapping
from dataclasses import replace

import jax
import jax.numpy as jnp

from ..config import Config
from ..config.machine import memory_limit
from ..config.schedule import Schedule
from ..types import Algorithm, Batch, Env
from .replay import Replay, make_replay

SHARE = 0.6  # of the memory that observations may take; the rest is for learners, batches and roll-outs


def choose_replay(
    config: Config,
    env: Env,
    algo: Algorithm,
    sizes: Schedule,
    collectors: Mapping[str, Callable[..., Batch]],
    members: int,
) -> tuple[Config, Replay]:
    """`config` with replay.store decided, and the replay of one member.

    auto stores observations when the buffers of all `members` fit into memory: to compute them again
    costs time in every update. Else it stores states.
    """
    store = config.replay.store
    if store == "auto":
        replay = replay_of("observations", config, env, algo, sizes, collectors)
        store = "observations" if fits(replay.nbytes * members) else "states"
    config = replace(config, replay=replace(config.replay, store=store))
    return config, replay_of(store, config, env, algo, sizes, collectors)


def replay_of(
    store: str,
    config: Config,
    env: Env,
    algo: Algorithm,
    sizes: Schedule,
    collectors: Mapping[str, Callable[..., Batch]],
) -> Replay:
    """The replay that stores observations or states."""
    learner = jax.eval_shape(algo.init, jax.random.key(0), config.hypers)
    example = jax.eval_shape(collectors[store], learner, jax.random.key(0), jnp.zeros(()), config.hypers)
    states = store == "states"
    dtype = "float32" if states else config.replay.dtype
    return make_replay(example, sizes.capacity, env.spec, dtype, env.expand if states else None)


def fits(nbytes: int) -> bool:
    """Buffers of so many bytes in all leave enough memory for the rest. Accelerators hold a part each."""
    limit = memory_limit()
    device = jax.local_devices()[0]
    devices = 1 if device.platform == "cpu" else jax.device_count()
    return limit is None or nbytes <= SHARE * limit * devices
