"""What a run will need in memory, known before anything is compiled; a run that cannot fit is refused."""

from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh

from ..config import Config, ConfigError, machine
from ..training.train import Program
from . import devices
from .members import Members


class Estimate(NamedTuple):
    """Sizes of the training states, of which replay is nearly all."""

    text: str  # one line for people
    replay_bytes_per_seed: int


def states_held(config: Config, members: int, mesh: Mesh) -> int:
    """Training states that all devices together hold: more than members when some are held twice."""
    return _times_held(config) * members * mesh.shape["batch"]


def estimate_memory(program: Program, members: Members, mesh: Mesh) -> Estimate:
    """Bytes of replay and learners. Raises ConfigError, with settings to try, when they cannot fit."""
    one = jax.tree.map(lambda x: x[0], (members.keys, members.hypers))
    state = jax.eval_shape(program.init, *one)
    ring, learner = nbytes(state.ring), 2 * nbytes(state.learner)  # an update reads one and writes one
    states = states_held(program.config, members.size, mesh)
    text = _description(program.config, members.size, ring, learner, mesh)
    on_host = jax.local_devices()[0].platform == "cpu"  # where all devices of a process share a memory
    in_one = -(-states // (jax.process_count() if on_host else mesh.size))
    needed, limit = in_one * (ring + learner), machine.memory_limit()
    if limit and needed > 0.9 * limit:
        sizes = f"{needed / 2**30:.2f} GiB would lie in a memory of {limit / 2**30:.1f} GiB"
        key, value, hints = _what_to_try(program, (0.8 * limit / in_one - learner) / ring, mesh)
        raise ConfigError(f"{key}={value}: {text}; {sizes}; try {hints} or fewer run.seeds")
    return Estimate(f"memory: {text}", ring)


def nbytes(tree: Any) -> int:
    """Bytes of all arrays, or shapes of arrays, in a tree."""
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree))


def _times_held(config: Config) -> int:
    """A scan over batches of seeds cannot update its input in place, so it holds the state twice."""
    return 1 if devices.seeds_at_a_time(config.run) is None else 2


def _description(config: Config, members: int, ring: int, learner: int, mesh: Mesh) -> str:
    text = f"{members} x ({ring / 2**20:.1f} MiB replay + {learner / 2**20:.1f} MiB learner)"
    if _times_held(config) > 1:
        text += ", held twice (run.seeds_per_batch)"
    if mesh.shape["batch"] > 1:
        text += f", on each of the {mesh.shape['batch']} devices of a seed (run.devices_per_seed)"
    total = states_held(config, members, mesh) * (ring + learner)
    return f"{text} = {total / 2**30:.2f} GiB on {mesh.size} {jax.default_backend()} device(s)"


def _what_to_try(program: Program, share: float, mesh: Mesh) -> tuple[str, int, str]:
    """The setting that decides the size of the replay, its value, and settings that need less.

    `share` of the replay has room.
    """
    config, hints = program.config, []
    if config.replay.store != "states":
        hints.append("replay.store=states")
    if mesh.shape["batch"] > 1:
        hints.append("run.devices_per_seed=1")
    key, value, unit = "replay.capacity", config.replay.capacity, config.collect.envs
    if program.algo.data == "fresh":  # replay holds one collection
        key, value, unit = "collect.envs", config.collect.envs, 1
    if share * value >= unit:
        hints.append(f"{key}={int(share * value // unit * unit)}")
    return key, value, ", ".join(hints) or "a smaller net.hidden"
