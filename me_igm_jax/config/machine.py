"""What this machine has: cores and memory that this process may use."""

import os
from pathlib import Path

import jax


def cores() -> int:
    """CPU cores that this process may use; fewer than the machine has when a scheduler lends a share."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def memory_limit() -> int | None:
    """Bytes that one device can hold (an accelerator's memory, or the host's, or a cgroup's), if known."""
    stats = jax.local_devices()[0].memory_stats()
    if stats and "bytes_limit" in stats:
        return stats["bytes_limit"]
    limits = [limit for limit in (_host_memory(), _cgroup_memory()) if limit]
    return min(limits, default=None)


def _host_memory() -> int | None:
    if not hasattr(os, "sysconf"):
        return None
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _cgroup_memory() -> int | None:
    for name in ("memory.max", "memory/memory.limit_in_bytes"):
        try:
            text = (Path("/sys/fs/cgroup") / name).read_text().strip()
        except OSError:
            continue
        if text.isdigit():
            return int(text)
    return None
