"""What a container may use: the CPU quota and the memory limit of this process's cgroups.

Both versions of the kernel's interface are read, see `cgroups(7)`. A limit holds for all that is below
it, so the least of the process's own cgroup and those above it counts.
"""

from collections.abc import Iterator
from pathlib import Path


def cpu_quota(root: Path = Path("/")) -> float | None:
    """CPUs that may be used at once, e.g. 1.5; None without a quota.

    Args:
        root: the folder that holds `proc` and `sys`.
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
    """Bytes that may be used; None without a limit. `root` is as of `cpu_quota`."""
    names = ("memory.max", "memory.limit_in_bytes")
    words = [_words(folder / n, 1)[0] for folder in _folders(root, "memory") for n in names]
    # Version 1 writes 'no limit' as the largest number of pages.
    return min((int(word) for word in words if word is not None and word < 2**60), default=None)


def _folders(root: Path, controller: str) -> Iterator[Path]:
    """The folders of this process's cgroups that have a controller, each with those above it."""
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
            # In a container the place may be the host's, and what is mounted is the container's own.
            folder = top / place.lstrip("/")
            yield from (f for f in (folder, *folder.parents) if f == top or top in f.parents)


def _words(file: Path, count: int) -> list[float | None]:
    """The first numbers of a file; None for each that is no number or not there."""
    try:
        words = file.read_text().split()
    except OSError:
        words = []
    numbers = [float(word) if word.lstrip("-").isdigit() else None for word in words[:count]]
    return numbers + [None] * (count - len(numbers))
