"""The report that a run leaves in its output folder."""

from __future__ import annotations

import logging
from pathlib import Path

from wanbatch.manifests.reading.manifest import Manifest
from wanbatch.manifests.storage.backend import open_backend

_log = logging.getLogger(__name__)


MOST_WHEN_INTERRUPTED = 10_000
"""Images; the report of more takes longer than somebody who interrupts a run wants to wait."""


def is_worth_waiting(interrupted: bool, images: int) -> bool:
    """Whether a run leaves a report.

    Args:
        interrupted: it was asked to stop, so it is to end soon.
        images: that its folder has.
    """
    return not interrupted or images <= MOST_WHEN_INTERRUPTED


def report_after_run(out: str | Path, manifest: Manifest) -> str | None:
    """Write the report of a folder whose run has just ended. What goes wrong is a warning, and never fails the run.

    Args:
        out: the folder, or its URL; complete but for the report.
        manifest: of the run.

    Returns:
        Path or URL of the page; None if it could not be written.
    """
    try:
        from wanbatch.jobs.reporting.report.collect import collect  # what makes pages takes a second to import
        from wanbatch.jobs.reporting.report.write import PAGE, report_files

        files, _ = report_files(collect(out, over=True, manifest=lambda: manifest), lambda: manifest)
        backend = open_backend(out)
        for name, data in files.items():
            backend.write_atomic(name, data)
    except Exception as error:  # noqa: BLE001  the dataset is whole; nothing about a report may say otherwise
        what = " ".join(str(error).split()) or type(error).__name__
        _log.warning("%s: its report was not written (%s); `wanbatch report` tries again", out, what)
        return None
    return f"{str(out).rstrip('/')}/{PAGE}"
