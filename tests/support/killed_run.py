"""Run by test_kills.py: fills output folders while it is killed before every file operation in turn.

    python killed_run.py FOLDER STEP

For N = 1, 1 + STEP, 1 + 2 STEP, ... a forked process works on FOLDER/N and kills itself before its Nth operation;
another one then opens the same folder, notes what is committed, and finishes the work. One JSON line for each N
is printed, and one for an undisturbed run (N = 0). Forking is safe because this process itself never starts a
thread.
"""

import itertools
import json
import os
import signal
import sys
import traceback
from pathlib import Path

import pandas  # noqa: F401  pyarrow imports it on first use: once here, not in every fork
from manifest_making import unit_of
from output_folders import tree, visible

from wanbatch.manifests.dataset.folder import OutputFolder
from wanbatch.manifests.dataset.part_files import write_attempt
from wanbatch.manifests.dataset.status import status

UNITS = [
    (["a", "b"], ["c"]),
    (["d"], []),
    ([], ["e"]),
    (["c"], []),  # a retry of what failed
    (["a"], ["d"]),  # changed rows: `a` made again, `d` failing now
]
EVENTS = {"os.link", "os.rename", "os.remove", "os.mkdir", "open"}

STATES = [  # after so many units: made, failed, parts in data, timings and failures
    ("", "", (), ()),
    ("ab", "c", (0,), (0,)),
    ("abd", "c", (0, 1), (0,)),
    ("abd", "ce", (0, 1), (0, 2)),
    ("abcd", "e", (0, 1, 3), (2,)),
    ("abc", "de", (0, 3, 4), (2, 4)),
]


def work(out: Path, token: str) -> None:
    with OutputFolder.open(out, {"model": "tiny"}) as folder:
        folder.set_plan({"rows": 5})
        for unit, (names, failed) in enumerate(UNITS):
            if unit not in folder.committed().units:
                digests = {name: f"{name}{unit}" for name in (*names, *failed)}
                attempt = write_attempt(out, attempt=token, **unit_of(unit, names, failed), digests=digests)
                folder.publish(attempt, replace=unit == 4)


def killed_before(out: Path, at: int) -> None:
    """Let this process be killed before its Nth file operation in a folder."""
    numbers = itertools.count(1)  # operations are those of several threads

    def before(event: str, arguments: tuple) -> None:
        concerned = event in EVENTS and str(out) in str(arguments[0])
        concerned = concerned and (event != "open" or (isinstance(arguments[1], str) and "x" in arguments[1]))
        if concerned and next(numbers) == at:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(before)


def dying_work(out: Path, at: int) -> None:
    killed_before(out, at)
    work(out, "first")


def survey(out: Path) -> dict:
    """What is committed and what is visible, after recovery."""
    with OutputFolder.open(out, {"model": "tiny"}) as folder:
        done = folder.committed()
        found = {"units": sorted(done.units), "made": sorted(done.made), "failed": sorted(done.failed)}
        found["digests"] = {name: done.made.get(name) for name in sorted(done.made)}
    return {**found, "files": tree(out), **visible_ids(out)}


def visible_ids(out: Path) -> dict:
    """The ids that readers of the parts see."""
    return dict(zip(("data_ids", "timings_ids", "failures_ids"), visible(out), strict=True))


def forked(function, *arguments) -> int:
    """How a fork of this process ended that did something: 1 after an error, which it prints; minus a signal."""
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            function(*arguments)
            code = 0
        except BaseException:  # noqa: BLE001  a fork never goes on with what its parent does
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def after(out: Path, at: int) -> None:
    torn = visible_ids(out)
    found = survey(out)
    work(out, "second")
    counts = {name: status(out)[name] for name in ("done", "quarantined", "pending")}
    print(json.dumps({"at": at, "torn": torn, "found": found, "final": survey(out), "counts": counts}))


def main(folder: Path, step: int) -> None:
    at = 0
    killed = True
    while killed or at == 1:
        out = folder / f"run{at}"
        killed = forked(dying_work, out, at) == -signal.SIGKILL or at == 0
        if forked(after, out, at) != 0:
            sys.exit(f"the run after kill {at} failed")
        at += step if at else 1


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
