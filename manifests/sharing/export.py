"""`wanbatch export`: an output folder in another format, whole or not at all.

It is written into a folder beside the one that is asked for, counted, and renamed at the end. What a killed export
left there is gone on with by the same command, as long as the output folder is the same.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from wanbatch.counting import number_of
from wanbatch.errors import FolderHeldError, MachineryError, UserError
from wanbatch.manifests.dataset.disk_errors import machinery_error
from wanbatch.manifests.sharing.contents import Contents
from wanbatch.manifests.sharing.pictures import contents_of
from wanbatch.manifests.sharing.writers import WRITERS, Writer
from wanbatch.manifests.storage.urls import is_url

RECORD = "_export.json"
"""Says of which state of which folder an export is."""


@dataclass(frozen=True, slots=True)
class ExportReport:
    """What an export is.

    Attributes:
        folder: where it is.
        format: one of `WRITERS`.
        pictures: how many it has, counted in what was written.
        quarantined: rows of the output folder without a picture.
        left: rows that were still to be made.
        there_already: it was whole before.
    """

    folder: str
    format: str
    pictures: int
    quarantined: int
    left: int
    there_already: bool


def export(
    out: str | Path, to: str | Path, format: str, partial: bool = False, writer: Callable[[], Writer] | None = None
) -> ExportReport:
    """Write the pictures and rows of an output folder in another format.

    Args:
        out: the output folder, a path or a URL.
        to: the new folder, a local path.
        format: one of `WRITERS`.
        partial: also if rows are still to be made.
        writer: makes what writes the format, instead of the one of `WRITERS`; for tests.
    Raises:
        UserError: What was given cannot be exported, or not to there. Nothing was written then.
        FolderHeldError: Another export writes there.
        MachineryError: A disk or store refuses; run the same command again.
    """
    if is_url(to):
        raise UserError(f"{to}: exports go to a folder of this machine: give a path, and copy it to the store then")
    contents = contents_of(out, partial)
    target = Path(os.path.realpath(to))  # a link may be to an empty folder, or to one that is not there yet
    record = {"format": format, "content": contents.digest, "partial": contents.left > 0}
    if _is_there(target, record):
        return _report(contents, target, format, _counted(WRITERS[format](), target, contents), True)
    unfinished = target.with_name(f".{target.name}.unfinished")
    lock = FileLock(f"{unfinished}.lock")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with lock.acquire(timeout=0):
            pictures = _written(contents, unfinished, record, (writer or WRITERS[format])())
            os.rename(unfinished, target)
            Path(lock.lock_file).unlink(missing_ok=True)
    except Timeout as error:
        raise FolderHeldError(f"{target}: another export writes there: wait for it") from error
    except (FileExistsError, NotADirectoryError) as error:
        raise UserError(f"{target}: is to be inside {error.filename}, which is no folder: choose another") from error
    except OSError as error:
        raise machinery_error(str(error.filename or target), error) from error
    return _report(contents, target, format, pictures, False)


def _is_there(target: Path, record: dict[str, Any]) -> bool:
    """Whether the export is whole already. Raises UserError if something else is there."""
    try:
        if not target.exists() or (target.is_dir() and not any(target.iterdir())):
            return False
        there = json.loads((target / RECORD).read_bytes())
    except (FileNotFoundError, NotADirectoryError) as error:
        raise UserError(f"{target}: holds other files: choose a folder that is new or empty") from error
    except (OSError, ValueError) as error:
        raise UserError(f"{target}: cannot be read ({error}): choose another folder") from error
    if there != record:
        other = "in another format" if there.get("format") != record["format"] else "of another state of the dataset"
        raise UserError(f"{target}: holds an export {other}: remove it, or choose another folder")
    return True


def _written(contents: Contents, unfinished: Path, record: dict[str, Any], writer: Writer) -> int:
    note = unfinished / RECORD
    try:
        same = json.loads(note.read_bytes()) == record
    except (OSError, ValueError):
        same = False
    if not same:
        if unfinished.exists():
            shutil.rmtree(unfinished)
        unfinished.mkdir()
        note.write_text(json.dumps(record), encoding="utf-8")
    writer.write(contents, unfinished)
    return _counted(writer, unfinished, contents)


def _counted(writer: Writer, folder: Path, contents: Contents) -> int:
    """How many pictures a written folder has. One that is not right is not gone on with."""
    try:
        count, problem = writer.count(folder), ""
    except (OSError, ValueError, KeyError) as error:
        count, problem = -1, str(error)
    if count == contents.images:
        return count
    (folder / RECORD).unlink(missing_ok=True)
    found = (
        f"{number_of(count, 'pictures')} instead of {contents.images}"
        if not problem
        else f"what cannot be read ({problem})"
    )
    raise MachineryError(
        f"{folder}: has {found}: if a run goes on in the output folder, wait for its end; remove {folder} and run "
        "the same command again"
    )


def _report(contents: Contents, target: Path, format: str, pictures: int, there: bool) -> ExportReport:
    return ExportReport(str(target), format, pictures, contents.quarantined, contents.left, there)
