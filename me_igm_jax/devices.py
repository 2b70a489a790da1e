"""Where the seeds run: one axis of members (hyper-points x seeds), split evenly over the devices.

Members never talk to each other, so the split needs no communication. On a CPU the same mechanism
runs one member per core: small recurrent networks gain nothing from two threads inside an operation.
Where there are more devices than members, several can share a member's gradient steps (`split.py`).
"""

import os
import warnings
from collections.abc import Callable
from functools import cache
from itertools import zip_longest
from typing import Any

import jax
import numpy as np
from jax.experimental.multihost_utils import process_allgather
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from .config import Config, ConfigError, Run
from .split import ALONE, Split

SHARE = 2048  # transitions of each gradient step that a CPU device should have, to be worth sharing


def join(run: Run) -> None:
    """With run.distributed, make this process one of the run's; before JAX touches a device.

    Raises ConfigError if the others cannot be found.
    """
    if not run.distributed or jax.distributed.is_initialized():
        return
    count, own = (os.environ.get(f"JAX_{name}") for name in ("NUM_PROCESSES", "PROCESS_ID"))
    try:
        jax.distributed.initialize(
            num_processes=int(count) if count else None, process_id=int(own) if own else None
        )
    except (ValueError, RuntimeError) as error:
        raise ConfigError(f"run.distributed=True: {' '.join(str(error).split())}") from None


def is_lead() -> bool:
    """This process writes the run's records: the only one, or the first of a distributed run."""
    return jax.process_index() == 0


def prepare(config: Config, members: int) -> None:
    """Process-wide settings; must come before JAX first touches a device. Harmless afterwards."""
    run = config.run
    if run.deterministic:
        flag = "--xla_gpu_deterministic_ops=true"
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flag}".strip()
    cache = os.environ.get("ME_IGM_CACHE", os.path.expanduser("~/.cache/me_igm_jax"))
    if cache:
        jax.config.update("jax_compilation_cache_dir", cache)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 1.0)
    if run.distributed:
        return  # the number of CPU devices is each process's own choice (JAX_NUM_CPU_DEVICES)
    count = run.devices or cpu_devices(members, cores()) * devices_per_member(config, members)
    try:
        jax.config.update("jax_num_cpu_devices", count)
    except RuntimeError:  # a device is in use already: keep those there are
        there = jax.local_devices()
        if there[0].platform == "cpu" and len(there) < min(count, cores()):
            text = f"seeds share {len(there)} CPU device(s) of {count}: JAX was in use before the run"
            warnings.warn(text, stacklevel=2)


def cores() -> int:
    """CPU cores that this process may use, fewer than the machine has where a scheduler lends a share."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cpu_devices(members: int, cores: int) -> int:
    """CPU devices that keep every core busy: the least divisor of `members` that is >= cores.

    A divisor far above the number of cores (a prime number of seeds) helps no more; then one device.
    """
    divisors = [d for d in range(1, members + 1) if members % d == 0]
    enough = [d for d in divisors if d >= min(cores, members)]
    return enough[0] if enough[0] <= 4 * cores else 1


def devices_per_member(config: Config, members: int) -> int:
    """Devices that share each member's gradient steps: what was asked for, else what a CPU could spare."""
    run, collect, batch = config.run, config.collect, config.replay.batch
    if run.devices_per_seed:
        return run.devices_per_seed
    # Only what is a scan of small operations: those of a large batch without a GRU use all cores anyway.
    small = config.net.recurrent and collect.mode == "stream"
    mergeable = config.algo.learner == "value" and config.algo.weighting != "soft_qmix"
    if not small or not mergeable or run.distributed:
        return 1
    most = min((run.devices or cores()) // members, batch * collect.length // SHARE)
    return max((n for n in range(1, most + 1) if batch % n == 0), default=1)


def member_mesh(config: Config, members: int) -> Mesh:
    """The devices used, of all processes in turn, run.devices at most; axes ("member", "batch").

    As many as divide the members along the first, as many as share a member along the second.
    """
    run, sharing = config.run, devices_per_member(config, members)
    processes = [[d for d in jax.devices() if d.process_index == p] for p in range(jax.process_count())]
    available = [d for turn in zip_longest(*processes) for d in turn if d is not None]
    limit = run.devices or len(available)
    if limit > len(available):
        raise ConfigError(f"run.devices={limit}: only {len(available)} are there")
    if run.devices_per_seed is None and (limit < sharing or available[0].platform != "cpu"):
        sharing = 1
    if sharing > limit:
        raise ConfigError(f"run.devices_per_seed={sharing}: only {limit} device(s) are there")
    count = max(d for d in range(1, limit // sharing + 1) if members % d == 0)
    if count < len(processes):
        text = f"{members} members cannot be divided so that each of {len(processes)} processes has some"
        raise ConfigError(f"run.distributed=True: {text}")
    return Mesh(np.array(available[: count * sharing]).reshape(count, sharing), ("member", "batch"))


def split_of(mesh: Mesh) -> Split:
    """How the devices of `mesh` share gradient steps."""
    parts = mesh.shape["batch"]
    return Split("batch", parts) if parts > 1 else ALONE


def seeds_at_a_time(run: Run) -> int | None:
    """Members that a device trains side by side, None being all: on a CPU run.seeds_per_batch."""
    return run.seeds_per_batch if jax.default_backend() == "cpu" else None


def over_members(
    f: Callable, mesh: Mesh, shared: tuple[int, ...] = (), at_a_time: int | None = None
) -> Callable:
    """vmap `f` over the leading axis of every argument but the `shared` ones, split over `mesh`.

    With `at_a_time`, each device takes so many members after the other, in one program still.
    """

    def mapped(*args):
        axes = tuple(None if i in shared else 0 for i in range(len(args)))
        specs = tuple(PartitionSpec() if a is None else PartitionSpec("member") for a in axes)

        def local(*args):
            if at_a_time is None:
                return jax.vmap(f, in_axes=axes)(*args)
            own = {i: x for i, x in enumerate(args) if i not in shared}

            def one(own):
                return f(*(own.get(i, x) for i, x in enumerate(args)))

            return jax.lax.map(one, own, batch_size=at_a_time)

        if mesh.size == 1:
            return local(*args)
        # Nothing is replicated inside but the shared arguments, which nothing writes.
        return jax.shard_map(
            local, mesh=mesh, in_specs=specs, out_specs=PartitionSpec("member"), check_vma=False
        )(*args)

    return mapped


@cache
def compiler_options() -> dict[str, str | bool] | None:
    """On a CPU: LLVM at -O1, and XLA's own code for reductions instead of a library's (engineering notes).

    Both change speed, and results by rounding at most. The second has an experimental name, so it is
    dropped where XLA lacks it.
    """
    if jax.default_backend() != "cpu":
        return None
    quick: dict[str, str | bool] = {"xla_backend_optimization_level": "1"}
    own: dict[str, str | bool] = {
        "xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT"
    }
    try:
        jax.jit(lambda x: x).lower(0.0).compile(quick | own)
    except jax.errors.JaxRuntimeError:
        return quick
    return quick | own


def member_sharding(mesh: Mesh) -> NamedSharding:
    """How arrays with a leading member axis lie on the devices."""
    return NamedSharding(mesh, PartitionSpec("member"))


def put(tree: Any, mesh: Mesh) -> Any:
    """Arrays [members, ...] that every process holds whole, split over the devices of all of them."""
    if jax.process_count() == 1:
        return tree
    split = member_sharding(mesh)
    return jax.tree.map(lambda x: jax.make_array_from_callback(x.shape, split, lambda i: x[i]), tree)


def fetch(tree: Any) -> Any:
    """NumPy arrays of the whole; in a distributed run every process must ask for them together."""
    if jax.process_count() == 1:
        return jax.tree.map(np.asarray, tree)
    return process_allgather(tree, tiled=True)


def anywhere(flag: bool) -> bool:
    """Whether `flag` is set in any process."""
    return bool(np.any(process_allgather(flag))) if jax.process_count() > 1 else flag


def memory_limit() -> int | None:
    """Bytes that one device (an accelerator's memory, or all of the host's) can hold, if known."""
    stats = jax.local_devices()[0].memory_stats()
    if stats and "bytes_limit" in stats:
        return stats["bytes_limit"]
    if hasattr(os, "sysconf"):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return None


def peak_memory() -> int:
    """Most bytes in use so far: of the accelerator where it tells, else of this process."""
    stats = jax.local_devices()[0].memory_stats()
    if stats and "peak_bytes_in_use" in stats:
        return stats["peak_bytes_in_use"]
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
