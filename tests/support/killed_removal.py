"""Run by test_removal.py: ids leave a folder while it is killed before every operation.

    python killed_removal.py FOLDER STEP

FOLDER: a local one, or s3://bucket/folder. Like killed_run.py and killed_store_run.py: kills before operations 1,
1 + STEP, 1 + 2 STEP..., after an undisturbed run whose ids all stayed. One JSON line for each kill.
"""

import json
import shutil
import signal
import sys
from pathlib import Path

import killed_run
import killed_store_run
import pandas  # noqa: F401  pyarrow imports it on first use: once here, not in every fork
import s3fs  # noqa: F401  as well
from killed_run import forked
from manifest_making import unit_of

from wanbatch.manifests.dataset.card import CardContent
from wanbatch.manifests.dataset.folder import OutputFolder
from wanbatch.manifests.dataset.part_files import write_attempt
from wanbatch.manifests.dataset.repair import repair
from wanbatch.manifests.dataset.status import status
from wanbatch.manifests.storage.backend import open_backend

UNITS = [(["a", "b"], ["c"]), (["d"], []), ([], ["e"]), (["f", "g"], ["h"])]
BEFORE = [list("abdfg"), list("ceh")]  # made, failed
AFTER = [list("afg"), ["e"]]
LEAVING = {"b", "c", "d", "h"}  # a part of a unit, and all of one


def before(out: str) -> None:
    with OutputFolder.open(out, {}) as folder:
        folder.set_plan({"rows": 8})
        folder.keep_card(CardContent("tiny", None, {}))
        for unit, (names, failed) in enumerate(UNITS):
            folder.publish(write_attempt(out, attempt="t", **unit_of(unit, names, failed)))
        folder.settle_card()


def remove(out: str) -> None:
    """What a run does whose manifest lacks these ids."""
    with OutputFolder.open(out, {}) as folder:
        if leaving := LEAVING & folder.committed().where.keys():
            folder.remove(leaving)
        folder.set_plan({"rows": 4})


def dying(filled: str, out: str, at: int) -> None:
    if out.startswith("s3://"):
        killed_store_run.copied(filled, out)
        killed_store_run.killed_before(at)
    else:
        shutil.copytree(filled, out)
        killed_run.killed_before(Path(out), at)
    remove(out)


def look(out: str) -> None:
    """What a killed process left, what the next one finds, and what it leaves."""
    killed = visible(out)
    with OutputFolder.open(out, {}) as folder:
        done = folder.committed()
        found = [sorted(done.made), sorted(done.failed), *visible(out)]
    remove(out)
    backend = open_backend(out)
    counts = [status(out)[name] for name in ("rows", "done", "quarantined", "pending")]
    left = [*backend.sizes("_wanbatch/tmp"), *backend.sizes("_wanbatch/orphans")]
    commits = [json.loads(line) for line in backend.read_all(sorted(backend.sizes("_wanbatch/commits")))]
    removals = [record for record in commits if record["attempt"] == "removal"]
    told = [killed, found, visible(out), counts, left, len(removals), repair(out).whole]
    print(json.dumps(told))


def visible(out: str) -> list[list[str]]:
    """The ids that readers of data, timings and failures see."""
    if out.startswith("s3://"):
        seen = killed_store_run.visible(out)
        return [seen[f"{kind}_ids"] for kind in ("data", "timings", "failures")]
    return list(killed_run.visible(Path(out)))


def require_all_or_nothing(runs: list) -> None:
    """What this file printed, parsed, is what it may be: all ids that leave are there, or none is."""
    for killed, found, left, counts, files, removals, whole in runs:
        data, timings, failures = killed
        assert set(AFTER[0]) <= set(data) <= set(BEFORE[0]), "nothing that stays is gone at any moment"
        assert set(AFTER[0]) <= set(timings) <= set(BEFORE[0])
        assert set(AFTER[1]) <= set(failures) <= set(BEFORE[1])
        made, failed, *seen = found
        assert [made, failed] in (BEFORE, AFTER)
        assert seen == [made, made, failed]
        assert left == [AFTER[0], AFTER[0], AFTER[1]]
        assert counts == [4, 3, 1, 0]
        assert (files, removals, whole) == ([], 1, True)
    assert [found[:2] for _, found, *_ in (runs[0], runs[-1])] == [BEFORE, AFTER]


def main(folder: str, step: int) -> None:
    at, killed, filled = 1, True, f"{folder}/before"
    if forked(before, filled) != 0:
        sys.exit("the run before the kills failed")
    while killed:
        out = f"{folder}/run{at}"
        killed = forked(dying, filled, out, at) == -signal.SIGKILL
        if forked(look, out) != 0:
            sys.exit(f"the run after kill {at} failed")
        at += step


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
