"""`wanbatch check --regenerate`: rejected pictures are made once more from another seed, beside the rejected ones."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from wanbatch.counting import number_of
from wanbatch.errors import UserError
from wanbatch.jobs.augment.checking import CheckReport
from wanbatch.jobs.augment.draws import integer
from wanbatch.jobs.augment.earlier import read_rows
from wanbatch.jobs.augment.manifest_file import write_manifest
from wanbatch.jobs.augment.manifest_lock import locked_manifest
from wanbatch.jobs.config.settings import Settings, recorded_settings
from wanbatch.jobs.reporting.summary import Summary
from wanbatch.manifests.dataset.checks import REJECTED_BY, checks_tables
from wanbatch.manifests.dataset.disk_errors import machinery_error
from wanbatch.manifests.dataset.status import RUN, status
from wanbatch.manifests.storage.backend import open_backend

MOVED = "source_moved"

Run = Callable[[Path, str | Path, Settings], Summary]


def regenerate(
    out: str | Path,
    report: CheckReport,
    times: int,
    check: Callable[[], CheckReport],
    run: Run,
    say: Callable[[str], None] = lambda line: None,
) -> CheckReport:
    """Make rejected pictures again, until none is rejected or each was made again so many times.

    Rows are added to the manifest that filled the folder, with a seed of their own and `regeneration` counting up;
    what was rejected stays, and so does its row. Pictures whose source moved are not made again: another seed gives
    them no better label.

    Args:
        out: the output folder.
        report: what the checks found.
        times: how often a picture is made again at most.
        check: checks the folder once more.
        run: runs a manifest into a folder.
        say: is told if another command writes the manifest, which is waited for.
    Returns:
        What the last checks found.
    Raises:
        UserError: No recipe wrote the folder's manifest, or it cannot be written.
    """
    plan = status(out)["plan"]
    manifest, settings = Path(plan["manifest"]), recorded_settings(plan["settings"], RUN)
    for _ in range(times):
        if not _asked_again(manifest, to_make_again(out), times, say):
            break
        run(manifest, out, settings)
        report = check()
    return report


def to_make_again(out: str | Path) -> set[str]:
    """The ids of rejected pictures that another seed may make better, by the checks of an output folder.

    Raises:
        MachineryError: They cannot be read.
    """
    found: set[str] = set()
    try:
        for table in checks_tables(open_backend(out), ["id", REJECTED_BY, MOVED]):
            for row in table.to_pylist():
                if row[REJECTED_BY] and not row[MOVED]:
                    found.add(row["id"])
    except OSError as error:
        raise machinery_error(str(out), error, reading=True) from error
    return found


def _asked_again(manifest: Path, rejected: Collection[str], times: int, say: Callable[[str], None]) -> bool:
    """Add the rows that replace rejected ones to a manifest; whether there are some. Arguments as above."""
    with locked_manifest(manifest, say):
        rows = read_rows(manifest, "was written by no recipe, so its rows are not made again: leave out --regenerate")
        new = rows_again(rows, rejected, times)
        if new:
            write_manifest(manifest, [*rows, *new])
    return bool(new)


def rows_again(rows: Sequence[Mapping[str, Any]], rejected: Collection[str], times: int) -> list[dict[str, Any]]:
    """The rows that replace rejected ones, each but those that were replaced already or so many times.

    Args:
        rows: of the manifest.
        rejected: ids of pictures that were made and rejected.
        times: how often a picture is made again at most.
    """
    there = {row["id"] for row in rows}
    new = []
    for row in rows:
        count = row["regeneration"] + 1
        name = name_again(row["id"], count)
        if row["id"] in rejected and count <= times and name not in there:
            seed = integer([row["seed"], "regeneration", count], 2**63)
            new.append({**row, "id": name, "seed": seed, "regeneration": count})
    return new


def name_again(name: str, count: int) -> str:
    """The id of a picture that is made again: `disc-0a1b2c-3` is `disc-0a1b2c.r1-3`, and that `disc-0a1b2c.r2-3`."""
    head, _, number = name.rpartition("-")
    if count > 1:
        head = head.removesuffix(f".r{count - 1}")
    return f"{head}.r{count}-{number}"


def run_again(manifest: Path, out: str | Path, settings: Settings) -> Summary:
    """Run a manifest into a folder. Raises UserError if its run was interrupted or stopped."""
    from wanbatch.jobs.driver.run import run

    summary = run(manifest, out, settings)
    if summary.pending:
        raise UserError(
            f"{out}: {number_of(summary.pending, 'pictures', 'is', 'are')} not made yet: run wanbatch check "
            f"{out} once more"
        )
    return summary
