"""Where the seeds run: one axis of members (hyper-points x seeds), divided evenly over the devices.

Members never exchange anything, so dividing them needs no communication. On a CPU each core is a
device: small recurrent networks gain nothing from two threads inside an operation. When there are more
devices than members, several devices can share a member's gradient steps (`ops/gradient_share.py`).
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

from ..config import Config, ConfigError, Run
from ..config.machine import cores
from ..config.registry import learner_entry
from ..config.schedule import schedule
from ..ops.gradient_share import ALONE, GradientShare

WORTH_SHARING = 2048  # transitions of a gradient step that each CPU device must have, or sharing costs time


# -- this process ---------------------------------------------------------------------------------


def join(run: Run) -> None:
    """With run.distributed, make this process one of the run's; before JAX touches a device.

    Raises ConfigError when the others cannot be found.
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
    """This process writes the run's records: the only process, or the first of a distributed run."""
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
        return  # each process chooses its number of CPU devices itself (JAX_NUM_CPU_DEVICES)
    count = run.devices or cpu_devices(members, cores()) * devices_per_member(config, members)
    try:
        jax.config.update("jax_num_cpu_devices", count)
    except RuntimeError:  # a device is in use already: keep those that exist
        existing = jax.local_devices()
        if existing[0].platform == "cpu" and len(existing) < min(count, cores()):
            warnings.warn(
                f"seeds share {len(existing)} CPU device(s) of {count}: JAX was in use before the run; "
                f"to use all, begin with jax.config.update('jax_num_cpu_devices', {count})",
                stacklevel=2,
            )


def peak_memory() -> int:
    """Most bytes in use so far: of the accelerator when it tells, else of this process."""
    stats = jax.local_devices()[0].memory_stats()
    if stats and "peak_bytes_in_use" in stats:
        return stats["peak_bytes_in_use"]
    import resource  # Windows has none

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


# -- how many devices -----------------------------------------------------------------------------


def cpu_devices(members: int, cores: int) -> int:
    """CPU devices that keep every core busy: the least divisor of `members` that is >= cores.

    A divisor far above the number of cores (a prime number of seeds) helps no more; then one device.
    """
    divisors = [d for d in range(1, members + 1) if members % d == 0]
    enough = [d for d in divisors if d >= min(cores, members)]
    return enough[0] if enough[0] <= 4 * cores else 1


def devices_per_member(config: Config, members: int) -> int:
    """Devices that share each member's gradient steps: as asked for, else as many as a CPU can spare."""
    run, collect, entry = config.run, config.collect, learner_entry(config.learner)
    if run.devices_per_seed:
        return run.devices_per_seed
    # Only a scan of many small operations leaves cores idle: a large batch without a GRU uses all of them.
    small = config.net.recurrent and collect.mode == "stream"
    if not small or not entry.shareable(config.algo) or run.distributed:
        return 1
    batch = schedule(config, entry.data).batch
    most = min((run.devices or cores()) // members, batch * collect.length // WORTH_SHARING)
    return max((n for n in range(1, most + 1) if batch % n == 0), default=1)


def member_mesh(config: Config, members: int) -> Mesh:
    """The devices used, of all processes in turn, run.devices at most; axes ("member", "batch").

    As many as divide the members along the first axis, as many as share a member along the second.
    """
    run, sharing = config.run, devices_per_member(config, members)
    processes = [[d for d in jax.devices() if d.process_index == p] for p in range(jax.process_count())]
    available = [d for turn in zip_longest(*processes) for d in turn if d is not None]
    limit = run.devices or len(available)
    if limit > len(available):
        raise ConfigError(f"run.devices={limit}: this machine has {len(available)}")
    if run.devices_per_seed is None and (limit < sharing or available[0].platform != "cpu"):
        sharing = 1
    if sharing > limit:
        raise ConfigError(f"run.devices_per_seed={sharing}: more than the {limit} device(s) of the run")
    count = max(d for d in range(1, limit // sharing + 1) if members % d == 0)
    if count < len(processes):
        text = f"{members} members cannot be divided so that each of {len(processes)} processes has some"
        raise ConfigError(f"run.distributed=True: {text}")
    return Mesh(np.array(available[: count * sharing]).reshape(count, sharing), ("member", "batch"))


def gradient_share(mesh: Mesh) -> GradientShare:
    """How the devices of `mesh` share gradient steps."""
    parts = mesh.shape["batch"]
    return GradientShare("batch", parts) if parts > 1 else ALONE


def seeds_at_a_time(run: Run) -> int | None:
    """Members that a device trains side by side, None for all: on a CPU run.seeds_per_batch."""
    return run.seeds_per_batch if jax.default_backend() == "cpu" else None


# -- programs over members ------------------------------------------------------------------------


def over_members(
    f: Callable, mesh: Mesh, shared: tuple[int, ...] = (), at_a_time: int | None = None
) -> Callable:
    """vmap `f` over the leading axis of every argument but the `shared` ones, divided over `mesh`.

    With `at_a_time`, each device takes that many members after the other, still in one program.
    """

    def on_one_device(*args):
        if at_a_time is None:
            return jax.vmap(f, in_axes=tuple(None if i in shared else 0 for i in range(len(args))))(*args)
        own = {i: x for i, x in enumerate(args) if i not in shared}

        def one(own):
            return f(*(own.get(i, x) for i, x in enumerate(args)))

        return jax.lax.map(one, own, batch_size=at_a_time)

    def on_all(*args):
        if mesh.size == 1:
            return on_one_device(*args)
        member = PartitionSpec("member")
        specs = tuple(PartitionSpec() if i in shared else member for i in range(len(args)))
        # Inside, only the shared arguments are replicated, and nothing writes to them.
        return jax.shard_map(
            on_one_device, mesh=mesh, in_specs=specs, out_specs=member, check_vma=False
        )(*args)  # fmt: skip

    return on_all


@cache
def compiler_options() -> dict[str, str | bool] | None:
    """On a CPU: LLVM at -O1, and reductions by XLA's code instead of a library.

    Why: docs/notes/compilation.md, "Optimisation level 1"; docs/notes/cpu-speed.md, "Library reductions".
    Both change speed, and results by rounding at most. The second option has an experimental name, so
    it is left out when this XLA does not know it.
    """
    if jax.default_backend() != "cpu":
        return None
    quick: dict[str, str | bool] = {"xla_backend_optimization_level": "1"}
    fusion: dict[str, str | bool] = {
        "xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT"
    }
    try:
        jax.jit(lambda x: x).lower(0.0).compile(quick | fusion)
    except jax.errors.JaxRuntimeError:
        return quick
    return quick | fusion


# -- arrays of members ----------------------------------------------------------------------------


def member_sharding(mesh: Mesh) -> NamedSharding:
    """How arrays with a leading member axis lie on the devices."""
    return NamedSharding(mesh, PartitionSpec("member"))


def put(tree: Any, mesh: Mesh) -> Any:
    """Arrays [members, ...] that every process holds whole, divided over the devices of all processes."""
    if jax.process_count() == 1:
        return tree
    sharding = member_sharding(mesh)
    return jax.tree.map(lambda x: jax.make_array_from_callback(x.shape, sharding, lambda i: x[i]), tree)


def fetch(tree: Any) -> Any:
    """NumPy arrays of the whole; in a distributed run every process must ask for them together."""
    if jax.process_count() == 1:
        return jax.tree.map(np.asarray, tree)
    return process_allgather(tree, tiled=True)


def anywhere(flag: bool) -> bool:
    """Whether `flag` is set in any process."""
    return bool(np.any(process_allgather(flag))) if jax.process_count() > 1 else flag
