"""What must be in the environment before anything is imported, and the order of the tests.

Where there is no GPU, Triton interprets our kernels; it reads this when it is first imported, by torch perhaps. Ray's
workers are as important as the tests that wait for them, also where other tests keep all cores busy. Threads of
OpenMP sleep while they wait for each other: where there are more of them than cores, those that wait actively take
the core of the one that they wait for, and a run took five times as long. It changes no bit. A run on CPUs has a
worker for every two cores: each process of tests has two, so that runs are the same everywhere.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

pytest.register_assert_rewrite("fault_making")  # so that its checks show what they compared

if not Path("/dev/nvidiactl").exists():
    os.environ.setdefault("TRITON_INTERPRET", "1")
    if hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        first = 2 * int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
        os.sched_setaffinity(0, {cores[first % len(cores)], cores[(first + 1) % len(cores)]})
os.environ.setdefault("RAY_worker_niceness", "0")
os.environ.setdefault("OMP_WAIT_POLICY", "passive")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest file comes first, so that it is not left alone at the end."""
    items.sort(key=lambda item: item.path.name != "test_readme.py")
