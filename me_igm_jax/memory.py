"""What a run needs in memory, known before anything is compiled, and the replay that fits."""

from dataclasses import replace

import jax
from jax.sharding import Mesh

from . import devices, replay
from .config import Config, ConfigError, Hypers
from .train import Program, make_program


def fit_replay(config: Config, keys: jax.Array, hypers: Hypers, mesh: Mesh) -> tuple[Config, Program, dict]:
    """`config` with replay.store=auto decided, its program and its `estimate_memory`.

    Observations are kept where they fit into memory: recomputing them costs time in every update.
    """
    if config.replay.store == "auto":
        observations, states = (
            replace(config, replay=replace(config.replay, store=store))
            for store in ("observations", "states")
        )
        try:
            return fit_replay(observations, keys, hypers, mesh)
        except ConfigError:
            return fit_replay(states, keys, hypers, mesh)
    program = make_program(config, devices.split_of(mesh))
    return config, program, estimate_memory(config, program, keys, hypers, mesh)


def estimate_memory(config: Config, program: Program, keys: jax.Array, hypers: Hypers, mesh: Mesh) -> dict:
    """Replay and parameter bytes before anything is compiled; raises ConfigError if they cannot fit."""
    members = len(keys)
    shape = jax.eval_shape(program.init, keys[0], jax.tree.map(lambda x: x[0], hypers))
    ring = replay.nbytes(shape.ring)
    learner = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(shape.learner))
    # A scan over batches of seeds cannot update its input in place.
    twice, sharing = devices.seeds_at_a_time(config.run) is not None, mesh.shape["batch"]
    total, limit = (1 + twice) * sharing * (ring + 2 * learner) * members, devices.memory_limit()
    host = jax.local_devices()[0].platform == "cpu"
    per_device = total // (jax.process_count() if host else mesh.size)
    text = (
        f"memory: {members} x {ring / 2**20:.1f} MiB replay + {learner / 2**20:.1f} MiB learner"
        f"{', held twice (run.seeds_per_batch)' if twice else ''}"
        f"{f', on each of the {sharing} devices of a seed (run.devices_per_seed)' if sharing > 1 else ''} "
        f"= {total / 2**30:.2f} GiB on {mesh.size} {jax.default_backend()} device(s)"
    )
    if limit and per_device > 0.9 * limit:
        capacity = config.replay.capacity * 0.8 * limit / per_device
        capacity = int(capacity // config.collect.envs * config.collect.envs)
        smaller = "" if config.replay.store == "states" else "replay.store=states, "
        smaller += "run.devices_per_seed=1, " if sharing > 1 else ""
        raise ConfigError(
            f"replay.capacity={config.replay.capacity}: {text[8:]}, but there are "
            f"{limit / 2**30:.1f} GiB; try {smaller}replay.capacity={capacity} or fewer run.seeds"
        )
    return {"text": text, "replay_bytes_per_seed": ring}
