"""Run by test_failing_calls.py, with failing_calls.so preloaded: one system call after another fails.

    python failing_run.py FOLDER KIND:ERRNO:STEP...

For each case and each work of `WORKS`, and for N = STEP / 2, 3 / 2 STEP, ... (all, if STEP is 1), a forked process
does the work while the Nth call of this kind fails; another one then opens the folder without faults, notes what it
finds, and finishes. One JSON line is printed for each. Forking is safe because this process itself never starts a
thread.
"""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import killed_run
import pandas  # noqa: F401  pyarrow imports it on first use: once here, not in every fork
from failing_calls import FailingCalls
from manifest_making import unit_of

from wanbatch.errors import WanbatchError
from wanbatch.manifests.dataset import card, publisher, repair
from wanbatch.manifests.dataset.folder import OutputFolder
from wanbatch.manifests.dataset.part_files import write_attempt
from wanbatch.manifests.dataset.status import status

FINGERPRINT = {"model": "tiny"}


def nothing(out: Path) -> None:
    """A folder that is not there yet."""


def interrupted(out: Path) -> None:
    """A folder whose driver died between the last commit and the replacements that it names, in the midst of more."""

    def die() -> None:
        publisher.install_replacements = lambda backend, replaced: os._exit(0)
        killed_run.work(out, "first")

    killed_run.forked(die)
    write_attempt(out, attempt="leftover", **unit_of(7, ["x"]))
    tmp = out / "_wanbatch/tmp"
    (tmp / "00007-leftover-data.parquet").rename(out / "data/part-00007.parquet")


def finished_with_a_loss(out: Path) -> None:
    """A finished folder, one part of which is gone."""
    killed_run.forked(killed_run.work, out, "first")
    (out / "data/part-00003.parquet").unlink()


def fill(out: Path) -> None:
    """The whole work of killed_run.py."""
    killed_run.work(out, "second")


def go_on(out: Path) -> None:
    """Look at the folder, open it, keep its card, publish one more unit, look again."""
    status(out)
    with OutputFolder.open(out, FINGERPRINT) as folder:
        folder.keep_card(card.CardContent("tiny", None, {}))
        folder.set_plan({"rows": 6})
        if 5 not in folder.committed().units:
            folder.publish(write_attempt(out, attempt="more", **unit_of(5, ["f"])))
        folder.append_internal_file("log.jsonl", b'{"event": "x"}\n')
        folder.settle_card()
    status(out)


def mend(out: Path) -> None:
    """Repair the folder, and make again what was lost."""
    repair.repair(out)
    with OutputFolder.open(out, FINGERPRINT) as folder:
        if "c" not in folder.committed().made:
            unit = folder.committed().next_unit
            folder.publish(write_attempt(out, attempt="again", **unit_of(unit, ["c"])))


@dataclass(frozen=True, slots=True)
class Work:
    """What is done with a folder, and how the folder is made before."""

    before: Callable[[Path], None]
    do: Callable[[Path], None]


WORKS = {"fill": Work(nothing, fill), "go_on": Work(interrupted, go_on), "mend": Work(finished_with_a_loss, mend)}


def parts(out: Path) -> dict[str, str]:
    """Name -> SHA-256 of the parts that readers see."""
    return {
        path.relative_to(out).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for kind in ("data", "timings", "failures")
        for path in (out / kind).glob("part-*.parquet")
    }


def records(out: Path) -> list[dict]:
    """All commit records."""
    files = sorted((out / "_wanbatch/commits").glob("*.json"))
    return [json.loads(line) for path in files for line in path.read_bytes().splitlines()]


def faulty(out: Path, notes: Path, do: Callable[[Path], None], kind: str, code: int, nth: int) -> None:
    """Do the work while the Nth call fails; write what was committed last, and how it ended, to `notes`."""
    calls = FailingCalls()
    noted = {"parts": parts(out), "records": records(out), "message": None, "code": 0}
    publish = OutputFolder.publish

    def publish_and_note(*arguments, **options) -> None:
        publish(*arguments, **options)
        with calls.paused():
            noted.update(parts=parts(out), records=records(out))

    OutputFolder.publish = publish_and_note  # type: ignore[method-assign]
    calls.arm(out, kind, nth, code)
    try:
        do(out)
    except WanbatchError as error:
        noted.update(message=str(error), code=error.exit_code)
    with calls.paused():
        noted.update(seen=calls.seen, victim=calls.victim)
        notes.write_text(json.dumps(noted))


def after(out: Path, notes: Path, case: str, work: str) -> None:
    """Open the folder without faults, note what is there, finish the work, and print it all."""
    noted = json.loads(notes.read_text())
    if work == "mend":
        repair.repair(out)
    with OutputFolder.open(out, FINGERPRINT):
        found = {"parts": parts(out), "records": records(out)}
    WORKS[work].do(out)
    final = killed_run.survey(out)
    print(
        json.dumps(
            {"case": case, "work": work, **noted, "found": found, "final": final, "counts": status(out)["done"]}
        )
    )


def main(folder: Path, cases: list[str]) -> None:
    logging.disable()
    for name, work in WORKS.items():
        work.before(folder / f"{name}-before")
    seen: dict[tuple[str, str], int] = {}
    for case in cases:
        kind, _, step = case.split(":")
        for name in WORKS:
            if (name, kind) not in seen:
                seen[name, kind] = seen_when(folder, case, name, 0)
            begin = max(1, min(int(step), seen[name, kind]) // 2)
            for nth in range(begin, seen[name, kind] + 1, int(step)):
                seen_when(folder, case, name, nth)


def seen_when(folder: Path, case: str, name: str, nth: int) -> int:
    """Do a work while the Nth call fails (0: none), then look what became of it. Gives how many calls it made."""
    kind, code, _ = case.split(":")
    out, notes, template = folder / f"{name}-{nth}", folder / f"{name}-{nth}.json", folder / f"{name}-before"
    if template.exists():
        shutil.copytree(template, out)
    if killed_run.forked(faulty, out, notes, WORKS[name].do, kind, getattr(errno, code), nth) != 0:
        sys.exit(f"{name}: a bug when call {nth} of {kind} failed with {code}")
    if nth and killed_run.forked(after, out, notes, case, name) != 0:
        sys.exit(f"{name}: the work after call {nth} of {kind} failed with {code} failed")
    shutil.rmtree(out)
    return json.loads(notes.read_text())["seen"]


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
