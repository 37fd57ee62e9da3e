"""How many processor cores this process may use: its affinity, and the limits of its control groups.

`os.cpu_count` knows neither: in a container with 4 of a host's 64 cores it says 64.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath


def usable_cores(root: Path = Path("/")) -> int:
    """Return how many cores this process may use, at least 1.

    Args:
        root: where `proc` and `sys` are.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, math.floor(min([float(cores), *_limits(root)])))


def _limits(root: Path) -> Iterator[float]:
    """The limit of each control group that this process is in, in cores; of those above them, too."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:  # no Linux
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        group = PurePosixPath(path)
        for folder in (group, *group.parents):
            if not controllers:
                yield from _limit_v2(root / "sys/fs/cgroup" / folder.relative_to("/"))
            elif "cpu" in controllers.split(","):
                yield from _limit_v1(root / "sys/fs/cgroup/cpu" / folder.relative_to("/"))


def _limit_v2(folder: Path) -> Iterator[float]:
    """Version 2: `cpu.max` has quota and period, in microseconds; the quota may be `max`."""
    try:
        quota, period = (folder / "cpu.max").read_text().split()
        yield int(quota) / int(period)
    except (OSError, ValueError):  # no such file in the root group; no limit
        return


def _limit_v1(folder: Path) -> Iterator[float]:
    """Version 1: a quota of -1 is none."""
    try:
        quota, period = (int((folder / f"cpu.cfs_{name}_us").read_text()) for name in ("quota", "period"))
    except (OSError, ValueError):
        return
    if quota > 0:
        yield quota / period
