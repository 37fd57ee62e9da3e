"""What this process may use of its machine: cores, memory and threads, as its control groups and others limit them.

`os.cpu_count` knows neither: in a container with 4 of a host's 64 cores it says 64.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath

ROOT = Path("/")
MEMORY_FILES = {1: ("memory.limit_in_bytes", "memory.usage_in_bytes"), 2: ("memory.max", "memory.current")}
NO_LIMIT = 1 << 60  # version 1 of control groups has a number near 2**63 where there is no limit

# How often a thread of PyTorch looks for the others before it sleeps. By default it does so for milliseconds, and
# takes the core from the one it waits for where other programs have the rest (benchmarks/busy_machine.py).
SPINNING, SPINS = "GOMP_SPINCOUNT", "10000"


def waiting_variables(given: Mapping[str, str]) -> dict[str, str]:
    """The environment variables by which threads of PyTorch fall asleep soon while they wait for each other.

    They act in processes that have not imported PyTorch yet, and change no bit.

    Args:
        given: the environment's. Whoever says there how threads wait has the last word.
    """
    return {} if given.keys() & {SPINNING, "OMP_WAIT_POLICY"} else {SPINNING: SPINS}


def usable_cores(root: Path = ROOT) -> int:
    """Return how many cores this process may use, at least 1.

    Args:
        root: where `proc` and `sys` are.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, math.floor(min([float(cores), *_core_limits(root)])))


def available_memory(root: Path = ROOT) -> int:
    """Return how many bytes this process and its children can still have, as of now.

    Args:
        root: where `proc` and `sys` are.
    """
    import psutil

    return max(0, min([psutil.virtual_memory().available, *(limit - used for limit, used in _memory_limits(root))]))


def memory_limit(root: Path = ROOT) -> int | None:
    """Return the smallest limit of a control group that this process is in, in bytes; None: there is none.

    Args:
        root: where `proc` and `sys` are.
    """
    return min((limit for limit, _ in _memory_limits(root)), default=None)


def room_for_threads(root: Path = ROOT) -> dict[str, int]:
    """Return how many more threads can be started, as of now, by what limits them; nothing does: an empty one.

    Args:
        root: where `proc` and `sys` are.

    Returns:
        `user`: what `ulimit -u` leaves, which does not hold for root. `group`: what a control group leaves.
    """
    rooms = {}
    if (limit := _user_limit()) is not None:
        rooms["user"] = limit - _threads_of_user()
    if groups := list(_pid_limits(root)):
        rooms["group"] = min(groups)
    return rooms


def _user_limit() -> int | None:
    import resource

    limit = resource.getrlimit(resource.RLIMIT_NPROC)[0]
    return None if limit == resource.RLIM_INFINITY or os.geteuid() == 0 else limit


def _threads_of_user() -> int:
    import psutil

    me = os.geteuid()
    found = psutil.process_iter(["uids", "num_threads"])
    return sum(one.info["num_threads"] or 1 for one in found if one.info["uids"] and one.info["uids"].real == me)


def _pid_limits(root: Path) -> Iterator[int]:
    """What each control group that has a limit of threads leaves."""
    for _, folder in _groups(root, "pids"):
        try:
            limit, used = (int((folder / name).read_text()) for name in ("pids.max", "pids.current"))
        except (OSError, ValueError):  # no such group here; `max`
            continue
        yield limit - used


def _groups(root: Path, controller: str) -> Iterator[tuple[int, Path]]:
    """The control groups that this process is in, and those above them: the version, 1 or 2, and the folder.

    A folder need not be there: in a container the paths are often those of the host.
    """
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:  # no Linux
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        group = PurePosixPath(path)
        for folder in (group, *group.parents):
            if not controllers:
                yield 2, root / "sys/fs/cgroup" / folder.relative_to("/")
            elif controller in controllers.split(","):
                yield 1, root / "sys/fs/cgroup" / controller / folder.relative_to("/")


def _core_limits(root: Path) -> Iterator[float]:
    """The limit of each control group that has one, in cores."""
    for version, folder in _groups(root, "cpu"):
        yield from _cores_v2(folder) if version == 2 else _cores_v1(folder)


def _cores_v2(folder: Path) -> Iterator[float]:
    """Version 2: `cpu.max` has quota and period, in microseconds; the quota may be `max`."""
    try:
        quota, period = (folder / "cpu.max").read_text().split()
        yield int(quota) / int(period)
    except (OSError, ValueError):  # no such file in the root group; no limit
        return


def _cores_v1(folder: Path) -> Iterator[float]:
    """Version 1: a quota of -1 is none."""
    try:
        quota, period = (int((folder / f"cpu.cfs_{name}_us").read_text()) for name in ("quota", "period"))
    except (OSError, ValueError):
        return
    if quota > 0:
        yield quota / period


def _memory_limits(root: Path) -> Iterator[tuple[int, int]]:
    """Of each control group that has a limit: the limit and what is in use, in bytes."""
    for version, folder in _groups(root, "memory"):
        limit_name, used_name = MEMORY_FILES[version]
        try:
            limit, used = (int((folder / name).read_text()) for name in (limit_name, used_name))
        except (OSError, ValueError):  # no such group here; `max`
            continue
        if limit < NO_LIMIT:
            yield limit, used - _cached(folder)


def _cached(folder: Path) -> int:
    """Bytes of files that a group's memory holds and would give up at once."""
    try:
        lines = (folder / "memory.stat").read_text().splitlines()
        return sum(int(line.split()[1]) for line in lines if line.startswith("inactive_file "))
    except (OSError, ValueError, IndexError):
        return 0
