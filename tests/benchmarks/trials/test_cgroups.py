"""Quotas of containers, from file trees as both versions of the kernel's interface lay them out."""

from pathlib import Path

import pytest

from paceline.benchmarks.trials import environment
from paceline.benchmarks.trials.cgroups import cpu_quota, memory_limit

LARGEST = "9223372036854771712"  # what version 1 writes where there is no limit


def tree(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text + "\n")
    return root


V2 = {"proc/self/cgroup": "0::/system.slice/docker-1.scope"}
V2_INSIDE = {"proc/self/cgroup": "0::/"}
V1 = {
    "proc/self/cgroup": "12:memory:/docker/1\n4:cpu,cpuacct:/docker/1\n1:name=systemd:/docker/1\n0::/"
}
SCOPE = "sys/fs/cgroup/system.slice/docker-1.scope"


@pytest.mark.parametrize(
    ("files", "quota"),
    [
        (V2 | {f"{SCOPE}/cpu.max": "200000 100000"}, 2),
        (V2 | {f"{SCOPE}/cpu.max": "50000 100000"}, 0.5),
        (V2 | {f"{SCOPE}/cpu.max": "max 100000"}, None),
        (V2 | {f"{SCOPE}/cpu.max": "max"}, None),
        (
            V2
            | {
                f"{SCOPE}/cpu.max": "max 100000",
                "sys/fs/cgroup/system.slice/cpu.max": "300000 100000",
            },
            3,
        ),
        (
            V2
            | {
                f"{SCOPE}/cpu.max": "400000 100000",
                "sys/fs/cgroup/system.slice/cpu.max": "300000 100000",
            },
            3,
        ),
        (V2_INSIDE | {"sys/fs/cgroup/cpu.max": "150000 100000"}, 1.5),
        # The place is the host's, what is mounted the container's own.
        (V2 | {"sys/fs/cgroup/cpu.max": "150000 100000"}, 1.5),
        (
            V1
            | {
                "sys/fs/cgroup/cpu,cpuacct/docker/1/cpu.cfs_quota_us": "400000",
                "sys/fs/cgroup/cpu,cpuacct/docker/1/cpu.cfs_period_us": "100000",
            },
            4,
        ),
        (
            V1
            | {
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "250000",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "50000",
            },
            5,
        ),
        (
            V1
            | {
                "sys/fs/cgroup/cpu/docker/1/cpu.cfs_quota_us": "-1",
                "sys/fs/cgroup/cpu/docker/1/cpu.cfs_period_us": "100000",
            },
            None,
        ),
        (V1 | {"sys/fs/cgroup/cpu/docker/1/cpu.cfs_quota_us": "100000"}, None),
        (V2, None),
        ({"proc/self/cgroup": ""}, None),
        ({}, None),
    ],
)
def test_cpus_of_a_container(tmp_path: Path, files: dict[str, str], quota: float | None) -> None:
    assert cpu_quota(tree(tmp_path, files)) == quota


@pytest.mark.parametrize(
    ("files", "limit"),
    [
        (V2 | {f"{SCOPE}/memory.max": "2147483648"}, 2**31),
        (V2 | {f"{SCOPE}/memory.max": "max"}, None),
        (
            V2
            | {
                f"{SCOPE}/memory.max": "max",
                "sys/fs/cgroup/system.slice/memory.max": "1073741824",
            },
            2**30,
        ),
        (V2_INSIDE | {"sys/fs/cgroup/memory.max": "1073741824"}, 2**30),
        (V1 | {"sys/fs/cgroup/memory/docker/1/memory.limit_in_bytes": "1073741824"}, 2**30),
        (V1 | {"sys/fs/cgroup/memory/memory.limit_in_bytes": "1073741824"}, 2**30),
        (V1 | {"sys/fs/cgroup/memory/docker/1/memory.limit_in_bytes": LARGEST}, None),
        (V1, None),
        ({}, None),
    ],
)
def test_memory_of_a_container(tmp_path: Path, files: dict[str, str], limit: int | None) -> None:
    assert memory_limit(tree(tmp_path, files)) == limit


def test_a_limit_beside_this_processes_own_group_does_not_count(tmp_path: Path) -> None:
    beside = {
        "sys/fs/cgroup/user.slice/cpu.max": "100000 100000",
        "sys/fs/cgroup/user.slice/memory.max": "1",
    }
    root = tree(tmp_path, V2 | beside)
    assert cpu_quota(root) is None
    assert memory_limit(root) is None


def test_what_a_process_may_use_is_the_least_of_machine_and_container(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits = {"sys/fs/cgroup/cpu.max": "250000 100000", "sys/fs/cgroup/memory.max": "1073741824"}
    root = tree(tmp_path, V2_INSIDE | limits)
    monkeypatch.setattr(environment, "cpu_quota", lambda: cpu_quota(root))
    monkeypatch.setattr(environment, "memory_limit", lambda: memory_limit(root))
    monkeypatch.setattr(environment.os, "sched_getaffinity", lambda _: set(range(16)))
    assert environment.cores() == 2
    assert environment.memory_bytes() == 2**30
    monkeypatch.setattr(environment.os, "sched_getaffinity", lambda _: {0})
    assert environment.cores() == 1
    environment.hardware.cache_clear()
    assert environment.hardware()["memory_gib"] == 1
    environment.hardware.cache_clear()
    tree(root, {"sys/fs/cgroup/cpu.max": "10000 100000"})
    assert environment.cores() == 1
