"""Reads the limits of a container: the CPU quota and the memory limit of this process's cgroups.

It reads both versions of the kernel's interface, see `cgroups(7)`. A limit applies to all cgroups below
it, so the smallest limit of the process's own cgroup and its parents counts.
"""

from collections.abc import Iterator
from pathlib import Path


def cpu_quota(root: Path = Path("/")) -> float | None:
    """Returns the number of CPUs that may be used at once, e.g. 1.5, or None if there is no quota.

    Args:
        root: the folder that contains `proc` and `sys`.
    """
    found = []
    for folder in _folders(root, "cpu"):
        quota, period = _words(folder / "cpu.max", 2)  # version 2: '150000 100000' or 'max 100000'
        if quota is None:
            (quota,) = _words(folder / "cpu.cfs_quota_us", 1)
            (period,) = _words(folder / "cpu.cfs_period_us", 1)
        if quota is not None and period is not None and quota > 0 and period > 0:
            found.append(quota / period)
    return min(found, default=None)


def memory_limit(root: Path = Path("/")) -> int | None:
    """Returns the bytes of memory that may be used, or None if there is no limit.

    Args:
        root: the folder that contains `proc` and `sys`.
    """
    names = ("memory.max", "memory.limit_in_bytes")
    words = [_words(folder / n, 1)[0] for folder in _folders(root, "memory") for n in names]
    # Version 1 expresses 'no limit' as the largest number of whole pages, in bytes.
    return min((int(word) for word in words if word is not None and word < 2**60), default=None)


def _folders(root: Path, controller: str) -> Iterator[Path]:
    """Yields the folders of this process's cgroups that have a controller, each with its parents."""
    try:
        lines = (root / "proc/self/cgroup").read_text().split()
    except OSError:
        return
    mounts = root / "sys/fs/cgroup"
    for line in lines:
        _, controllers, place = line.split(":", 2)
        if not controllers:
            tops = [mounts, mounts / "unified"]
        elif controller in controllers.split(","):
            tops = [mounts / controllers, mounts / controller]
        else:
            continue
        for top in tops:
            # In a container, the path may be the one on the host while the container's own folder is
            # mounted.
            folder = top / place.lstrip("/")
            yield from (f for f in (folder, *folder.parents) if f == top or top in f.parents)


def _words(file: Path, count: int) -> list[float | None]:
    """Returns the first `count` words of a file as numbers, with None for a missing or other word."""
    try:
        words = file.read_text().split()
    except OSError:
        words = []
    numbers = [float(word) if word.lstrip("-").isdigit() else None for word in words[:count]]
    return numbers + [None] * (count - len(numbers))
