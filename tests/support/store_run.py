"""Run by test_nodes.py: a run whose tasks are large, while somebody else fills Ray's object store and its disk.

    python store_run.py MANIFEST OUT DISK

DISK: a small file system, where Ray puts what its store has no room for. The store is filled once the first unit
is committed. Prints what happened as JSON.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from pathlib import Path

import fake_pipelines
import numpy as np
import ray
from job_making import commits
from progress_hooks import SMALL, ProgressHook

from wanbatch.errors import WanbatchError
from wanbatch.jobs.config.settings import Settings
from wanbatch.jobs.driver.run import run

STORE = 78 << 20


@ray.remote(num_cpus=0)
class Hog:
    """Holds on to as much as it can."""

    def fill(self) -> int:
        self.held = []
        with contextlib.suppress(ray.exceptions.RayError):
            while len(self.held) < 400:
                self.held.append(ray.put(np.random.default_rng(0).bytes(1 << 20)))
        return len(self.held)


def main(manifest: Path, out: Path, disk: Path) -> None:
    ray.cloudpickle.register_pickle_by_value(fake_pipelines)
    ray.init(
        address="local",
        object_store_memory=STORE,
        _temp_dir=str(disk),
        log_to_driver=False,
        logging_level="ERROR",
        include_dashboard=False,
    )
    hog = Hog.remote()
    filled: list[int] = []

    def fill() -> None:
        if not filled and commits(out):
            (disk / "ballast").write_bytes(b"x" * max(0, room(disk) - (8 << 20)))
            filled.append(ray.get(hog.fill.remote()))

    result: dict = {}
    try:
        settings = Settings(**SMALL, unit_rows=1)
        summary = run(manifest, out, settings, lambda n, done: ProgressHook(n, done, fill), fake_pipelines.load)
        result = {"code": summary.exit_code, "message": ""}
    except WanbatchError as error:
        result = {"code": error.exit_code, "message": str(error)}
    print(json.dumps({**result, "filled": filled}))


def room(disk: Path) -> int:
    found = os.statvfs(disk)
    return found.f_bavail * found.f_frsize


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]))
