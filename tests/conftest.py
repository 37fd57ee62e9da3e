"""What must be in the environment before anything is imported, and the order of the tests.

Where there is no GPU, Triton interprets our kernels; it reads this when it is first imported, by torch perhaps. Ray's
workers are as important as the tests that wait for them, also where other tests keep all cores busy. Threads of
OpenMP sleep while they wait for each other: where there are more of them than cores, those that wait actively take
the core of the one that they wait for, and a run took five times as long. It changes no bit. A run on CPUs has a
worker for every two cores: each process of tests has two, so that runs are the same everywhere.

What Python compiles is kept, whatever the environment says: `PYTHONDONTWRITEBYTECODE` is common in containers. Tests
start some hundred processes, and each would compile our modules anew, those of Ray's workers, too.
"""

from __future__ import annotations

import gc
import os
import sys
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
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False
gc.disable()  # until all tests are there: modules and tests stay, so that looking for garbage among them is in vain


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest file comes first, so that it is not left alone at the end."""
    items.sort(key=lambda item: item.path.name != "test_readme.py")


def pytest_collection_finish() -> None:
    gc.freeze()
    gc.enable()


def pytest_unconfigure() -> None:
    """What libraries keep can be given back; duckdb prints all that it sees as leaked otherwise, a hundred lines."""
    gc.unfreeze()
    gc.collect()
