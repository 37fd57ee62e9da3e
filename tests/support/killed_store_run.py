"""Run by test_object_store.py: fills an output folder in a store while it is killed before every request that writes.

    python killed_store_run.py s3://bucket/folder STEP

Like killed_run.py; the server is the one of AWS_ENDPOINT_URL. Kills before operations STEP / 2, 3 / 2 STEP, ..., as
long as there are so many.
"""

import itertools
import json
import os
import signal
import sys

import pandas  # noqa: F401  pyarrow imports it on first use: once here, not in every fork
import pyarrow.parquet as pq
import s3fs  # noqa: F401  as well
from killed_run import UNITS, forked
from manifest_making import unit_of

from wanbatch.manifests.dataset.folder import OutputFolder
from wanbatch.manifests.dataset.part_files import write_attempt
from wanbatch.manifests.dataset.status import status
from wanbatch.manifests.storage import object_store

WRITING = ("pipe_file", "put_file", "cp_file", "rm_file")


def work(out: str, token: str) -> None:
    with OutputFolder.open(out, {"model": "tiny"}) as folder:
        folder.set_plan({"rows": 5})
        for unit, (names, failed) in enumerate(UNITS):
            if unit not in folder.committed().units:
                digests = {name: f"{name}{unit}" for name in (*names, *failed)}
                attempt = write_attempt(out, attempt=token, **unit_of(unit, names, failed), digests=digests)
                folder.publish(attempt, replace=unit == 4)


class Dying:
    """A file system whose process is killed before its Nth writing operation."""

    def __init__(self, system, at: int):
        self._system, self._at = system, at
        self._numbers = itertools.count(1)  # requests are those of several threads

    def __getattr__(self, name: str):
        if name in WRITING and next(self._numbers) == self._at:
            os.kill(os.getpid(), signal.SIGKILL)
        return getattr(self._system, name)


def copied(filled: str, out: str) -> None:
    """Another folder with all the files of one."""
    system = object_store.file_system(out)
    for path in system.find(filled):
        system.cp_file(path, f"{out}/{path.removeprefix(filled.removeprefix('s3://') + '/')}")


def killed_before(at: int) -> None:
    """Let this process be killed before its Nth request that writes."""
    real = object_store.file_system
    dying: list[Dying] = []

    def file_system(url: str):
        if not dying:
            dying.append(Dying(real(url), at))
        return dying[0]

    object_store.file_system = file_system


def dying_work(out: str, at: int) -> None:
    killed_before(at)
    work(out, "first")


def survey(out: str) -> dict:
    """What is committed and what is visible, after recovery."""
    with OutputFolder.open(out, {"model": "tiny"}) as folder:
        done = folder.committed()
        found = {"units": sorted(done.units), "made": sorted(done.made), "failed": sorted(done.failed)}
    return {**found, **visible(out)}


def visible(out: str) -> dict:
    backend = object_store.ObjectStoreBackend(out)
    ids: dict[str, list[str]] = {}
    for kind in ("data", "timings", "failures"):
        ids[f"{kind}_ids"] = []
        for name in backend.sizes(kind):
            with backend.open(name) as file:
                ids[f"{kind}_ids"] += pq.read_table(file)["id"].to_pylist()
        ids[f"{kind}_ids"].sort()
    files = [
        name for folder in ("data", "timings", "failures", "_wanbatch/commits") for name in backend.sizes(folder)
    ]
    return {**ids, "files": sorted(files), "tmp": sorted(backend.sizes("_wanbatch/tmp"))}


def after(out: str, at: int) -> None:
    found = survey(out)
    work(out, "second")
    counts = {name: status(out)[name] for name in ("done", "quarantined", "pending")}
    print(json.dumps({"at": at, "found": found, "final": survey(out), "counts": counts}))


def main(folder: str, step: int) -> None:
    at = 0
    while forked(dying_work, f"{folder}/run{at}", at) == (-signal.SIGKILL if at else 0):
        if forked(after, f"{folder}/run{at}", at) != 0:
            sys.exit(f"the run after kill {at} failed")
        at += step if at else max(1, step // 2)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
