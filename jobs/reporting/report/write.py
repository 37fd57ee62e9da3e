"""Writes the report of a folder: `report.html`, with `report.json` beside it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from wanbatch.errors import UserError
from wanbatch.jobs.reporting.report.collect import ReportData, collect
from wanbatch.jobs.reporting.report.page import report_page
from wanbatch.jobs.reporting.report.pages import FOLDER, all_pages, page_names
from wanbatch.jobs.reporting.report.sources import FindManifest, SourceThumbnails
from wanbatch.manifests.storage.user_files import write_file

PAGE, DATA = "report.html", "report.json"


@dataclass(frozen=True, slots=True)
class Written:
    """What was written.

    Attributes:
        path: of the page.
        bytes: of it.
        pictures: how many images it shows.
        images: how many there are.
        pages: paths of the pages with all images and failures.
    """

    path: str
    bytes: int
    pictures: int
    images: int
    pages: tuple[str, ...] = ()


def report_files(
    report: ReportData, manifest: FindManifest | None = None, pages: str | None = None
) -> tuple[dict[str, bytes], int]:
    """Make the two files of a report.

    Args:
        report: what was collected of the folder.
        manifest: the manifest of its run, where that is at hand.
        pages: address of the first of the pages with all images; None if there are none.

    Returns:
        Name -> content, and how many images the page shows.
    """
    page = report_page(report, SourceThumbnails(report.plan, manifest), pages)
    return {PAGE: page.html.encode(), DATA: data_file(report)}, page.pictures


def data_file(report: ReportData) -> bytes:
    """The content of `report.json`."""
    return json.dumps(report.data, indent=1, ensure_ascii=False, default=str).encode(errors="replace") + b"\n"


def write_report(out: str | Path, target: Path, class_column: str | None = None, with_pages: bool = False) -> Written:
    """Write the report of a folder as a file, and `.json` beside it.

    Args:
        out: the folder, or its URL.
        target: the page to write; its folder is made.
        class_column: the column that has the class of an image; None: the first that looks like it.
        with_pages: write pages with all images and failures, too.

    Raises:
        UserError: It is no output folder, or the files cannot be written. MachineryError: It cannot be read.
    """
    require_page(target)
    report = collect(out, class_column)
    there = page_names(report) if with_pages else []
    pages = []
    for path, data in all_pages(report, SourceThumbnails(report.plan), f"../{quote(target.name)}") if there else ():
        write_file(target.parent / path, data)
        pages.append(str(target.parent / path))
    files, shown = report_files(report, pages=f"{FOLDER}/{there[0]}" if there else None)
    write_file(target, files[PAGE])
    write_file(target.with_suffix(".json"), files[DATA])
    return Written(str(target), len(files[PAGE]), shown, len(report.keys), tuple(pages))


def require_page(target: Path) -> None:
    """Check that the figures, which are written as `.json` beside a page, do not take its place. Raises UserError."""
    if target.suffix == ".json":
        page = target.with_suffix(".html")
        raise UserError(f"--to {target}: is the page, and the figures lie beside it as .json: give --to {page}")
