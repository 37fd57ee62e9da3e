"""A Ray to run on: one of the run's own on this machine, or the one that this process is connected to already."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager

import ray

from wanbatch.errors import MachineryError
from wanbatch.jobs.driver.interruption import kept_signal_handlers

OBJECT_STORE_BYTES = 128 << 20  # only tasks and reports pass through Ray


def workers_on_a_host(workers: int, device: str) -> int:
    """How many of a run's workers share a host at most, on the Ray that this process is connected to.

    Args:
        workers: of the run.
        device: `cuda`, with a GPU for each worker, or `cpu`.
    """
    if device == "cpu":
        return workers
    gpus = max((int(node["Resources"].get("GPU", 0)) for node in ray.nodes() if node["Alive"]), default=0)
    return max(1, min(workers, gpus))


@contextmanager
def local_ray() -> Iterator[None]:
    """Start Ray on this machine and stop it at the end; if this process is connected to one, use that.

    Raises:
        MachineryError: Ray does not start.
    """
    if ray.is_initialized():
        yield
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    with kept_signal_handlers():  # Ray puts its own in place
        try:
            ray.init(
                address="local",
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.ERROR,
                object_store_memory=OBJECT_STORE_BYTES,
            )
        except Exception as error:  # of many kinds: no disk, no shared memory, no port, no time
            raise MachineryError(f"Ray did not start: {error}") from error
    try:
        yield
    finally:
        ray.shutdown()
