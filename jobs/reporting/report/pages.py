"""Pages with all images and all failures of a folder, which the report links to; written only when asked for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from wanbatch.jobs.reporting.report.cards import read_cards
from wanbatch.jobs.reporting.report.collect import ReportData
from wanbatch.jobs.reporting.report.page import environment
from wanbatch.jobs.reporting.report.sources import SourceThumbnails

FOLDER = "report-pages"
"""Beside the report."""

IMAGES, FAILURES = 200, 2000
"""Of one page."""


def page_names(report: ReportData) -> list[str]:
    """The files of all pages, in their order: those with images first."""
    images = range(-(-len(report.keys) // IMAGES))
    failures = range(-(-len(report.failures) // FAILURES))
    return [f"pictures-{number + 1:05d}.html" for number in images] + [
        f"failures-{number + 1:05d}.html" for number in failures
    ]


def all_pages(report: ReportData, sources: SourceThumbnails, back: str) -> Iterator[tuple[Path, bytes]]:
    """Each page with its path from the report's folder, one after the other: they may be more than memory holds.

    Args:
        report: what was collected of the folder.
        sources: finds what images were made from.
        back: address of the report from a page.
    """
    names = page_names(report)
    ids = report.keys["id"].to_pylist()
    failed = len(names) - -(-len(ids) // IMAGES)
    for number, first in enumerate(range(0, len(ids), IMAGES)):
        indices = range(first, min(first + IMAGES, len(ids)))
        cards = read_cards(report, indices, sources)
        shown = [cards[ids[index]] for index in indices if ids[index] in cards]
        title = f"pictures {first + 1} to {indices[-1] + 1} of {len(ids)}"
        yield _page(report, title, names, number, back, cards=shown)
    for number, first in enumerate(range(0, len(report.failures), FAILURES)):
        last = min(first + FAILURES, len(report.failures))
        title = f"failures {first + 1} to {last} of {len(report.failures)}"
        yield _page(report, title, names, len(names) - failed + number, back, failures=report.failures[first:last])


def _page(
    report: ReportData, title: str, names: Sequence[str], index: int, back: str, cards=(), failures=()
) -> tuple[Path, bytes]:
    html = (
        environment()
        .get_template("images.html")
        .render(
            folder=report.data["folder"],
            title=title,
            back=back,
            before=names[index - 1] if index else None,
            after=names[index + 1] if index + 1 < len(names) else None,
            first=names[0],
            last=names[-1],
            cards=cards,
            failures=failures,
        )
    )
    return Path(FOLDER) / names[index], html.encode()
