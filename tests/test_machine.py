"""Cores that may be used: affinity, and the quotas of control groups of both versions."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from wanbatch import machine
from wanbatch.jobs.worker.actor import encoder_threads
from wanbatch.machine import available_memory, memory_limit, room_for_threads, usable_cores

GB = 1 << 30


def system(root: Path, groups: str, **files: str) -> Path:
    """A folder like `/`, with control groups: `cpu_max__a` is the file `sys/fs/cgroup/a/cpu.max`."""
    (root / "proc" / "self").mkdir(parents=True)
    (root / "proc" / "self" / "cgroup").write_text(groups)
    for name, text in files.items():
        path = root / "sys" / "fs" / "cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


@pytest.fixture
def many(monkeypatch) -> None:
    monkeypatch.setattr(machine.os, "sched_getaffinity", lambda pid: set(range(32)))


@pytest.mark.usefixtures("many")
@pytest.mark.parametrize(
    ("groups", "files", "expected"),
    [
        ("0::/\n", {"cpu.max": "400000 100000\n"}, 4),
        ("0::/\n", {"cpu.max": "max 100000\n"}, 32),
        ("0::/pod/box\n", {"pod/box/cpu.max": "max 100000\n", "pod/cpu.max": "250000 100000\n"}, 2),
        ("0::/box\n", {"box/cpu.max": "50000 100000\n"}, 1),
        ("0::/\n", {}, 32),
        ("2:cpu,cpuacct:/box\n", {"cpu/box/cpu.cfs_quota_us": "600000", "cpu/box/cpu.cfs_period_us": "100000"}, 6),
        ("2:cpu:/\n", {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, 32),
    ],
)
def test_quotas_limit_cores(tmp_path, groups, files, expected):
    assert usable_cores(system(tmp_path, groups, **files)) == expected


@pytest.mark.usefixtures("many")
def test_a_system_without_control_groups_has_all_its_cores(tmp_path):
    assert usable_cores(tmp_path) == 32


@pytest.mark.parametrize(
    ("groups", "files", "limit"),
    [
        ("0::/\n", {"memory.max": f"{GB}\n", "memory.current": "1000\n"}, GB),
        ("0::/\n", {"memory.max": "max\n", "memory.current": "1000\n"}, None),
        ("0::/pod/box\n", {"pod/memory.max": f"{2 * GB}\n", "pod/memory.current": "0\n"}, 2 * GB),
        ("4:memory:/\n", {"memory/memory.limit_in_bytes": f"{GB}", "memory/memory.usage_in_bytes": "0"}, GB),
        (
            "4:memory:/\n",
            {"memory/memory.limit_in_bytes": f"{2**63 - 4096}", "memory/memory.usage_in_bytes": "0"},
            None,
        ),
    ],
)
def test_limits_of_memory(tmp_path, groups, files, limit):
    assert memory_limit(system(tmp_path, groups, **files)) == limit


def test_memory_that_is_free_within_a_limit(tmp_path):
    """What only caches files is given up at once."""
    used = {"memory.max": "1000000", "memory.current": "900000", "memory.stat": "anon 5\ninactive_file 300000\n"}
    assert available_memory(system(tmp_path, "0::/\n", **used)) == 400_000
    assert available_memory(tmp_path / "none") > 400_000


def test_threads_of_a_container(tmp_path):
    found = room_for_threads(
        system(tmp_path, "0::/\n8:pids:/\n", **{"pids/pids.max": "100", "pids/pids.current": "30"})
    )
    assert found["group"] == 70
    assert "group" not in room_for_threads(tmp_path / "none")


def test_affinity_is_heeded():
    """A process that is bound to one core, as schedulers of clusters bind theirs."""
    one = min(os.sched_getaffinity(0))
    code = (
        f"import os; os.sched_setaffinity(0, {{{one}}}); from wanbatch.machine import usable_cores; "
        "print(usable_cores())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "1"


def test_workers_of_a_host_share_its_cores():
    """Eight on 32 cores had eight threads each: every one of them counted all cores as its own."""
    assert encoder_threads("cuda", 32, 8) * 8 <= 32
    assert encoder_threads("cuda", 32, 8) == 2
    assert encoder_threads("cuda", 32, 1) == 8
    assert encoder_threads("cuda", 2, 8) == 1
    assert encoder_threads("cpu", 64, 1) == 1
