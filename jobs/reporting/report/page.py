"""The report as one HTML page, which needs no other file, and no more bytes than a limit."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

from wanbatch.jobs.reporting.report import charts
from wanbatch.jobs.reporting.report.cards import Card, chosen_for_gallery, indices_of, read_cards
from wanbatch.jobs.reporting.report.checks import Measure
from wanbatch.jobs.reporting.report.collect import ReportData
from wanbatch.jobs.reporting.report.sources import SourceThumbnails

PAGE_BYTES = 10_000_000
PICTURE_BYTES = 8_000_000
"""Of the page, what pictures may take."""

GALLERY, CLASSES_SHOWN, TEXT_SHOWN = 240, 200, 20_000
UNDER_A_HEADING = 3
"""Cards that a group must have on average to stand under a heading of its own; `arrange.js` keeps to the same."""


@dataclass(frozen=True, slots=True)
class Page:
    """A finished page.

    Attributes:
        html: the whole file.
        pictures: how many images it shows.
    """

    html: str
    pictures: int


def report_page(report: ReportData, sources: SourceThumbnails, pages: str | None = None) -> Page:
    """Draw the report of a folder.

    Args:
        report: what was collected of it.
        sources: finds what images were made from.
        pages: address of the first of the pages with all images; None if there are none.
    """
    gallery = chosen_for_gallery(report, GALLERY)
    worst = {name for measure in report.checks.measures for name, _ in measure.worst}
    cards = read_cards(report, sorted({*gallery, *indices_of(report, worst)}), sources)
    ids = report.keys["id"].to_pylist()
    shown = [cards[ids[index]] for index in gallery if ids[index] in cards]
    judged = [(measure, _worst_cards(measure, cards)) for measure in report.checks.measures]
    shown = within_budget(shown, PICTURE_BYTES - sum(card.size for _, of in judged for card, _ in of))
    while True:
        html = _render(report, shown, judged, pages)
        if len(html.encode()) <= PAGE_BYTES or not (shown or judged):
            return Page(html, len(shown))
        shown, judged = spread(shown, len(shown) // 2), judged if shown else []


def _worst_cards(measure: Measure, cards: Mapping[str, Card]) -> list[tuple[Card, float]]:
    return [(cards[name], value) for name, value in measure.worst if name in cards]


def within_budget(cards: Sequence[Card], most: int) -> list[Card]:
    """As many of the cards, evenly spread, as take no more than `most` bytes."""
    total = sum(card.size for card in cards)
    return list(cards) if total <= most else spread(cards, int(len(cards) * max(0, most) / total))


def spread(cards: Sequence[Card], count: int) -> list[Card]:
    """So many of the cards, evenly spread over all of them."""
    return [cards[index * len(cards) // count] for index in range(count)] if count else []


def _render(
    report: ReportData, shown: Sequence[Card], judged: Sequence[tuple[Measure, list]], pages: str | None
) -> str:
    arrangements = [name for name in ("class", "creativity", "adapters") if any(name in card.kinds for card in shown)]
    return (
        environment()
        .get_template("report.html")
        .render(
            data=report.data,
            cards=arranged(shown, arrangements[0] if arrangements else None),
            arrangements=arrangements,
            under_a_heading=UNDER_A_HEADING,
            judged=judged,
            stages=_stages(report.data["stage_seconds"]),
            speed=_speed(report),
            classes=report.data["classes"][:CLASSES_SHOWN],
            most_of_a_class=max([1, *(row["after"] for row in report.data["classes"])]),
            pages=pages,
        )
    )


def arranged(cards: Sequence[Card], by: str | None) -> list[tuple[str | None, list[Card]]]:
    """Cards under headings, in the order of the manifest; small groups follow each other without headings."""
    found: dict[str | None, list[Card]] = {}
    for card in sorted(cards, key=lambda card: card.number):
        found.setdefault(None if by is None else card.kinds.get(by), []).append(card)
    groups = sorted(found.items(), key=lambda item: _order(item[0]))
    if len(cards) < UNDER_A_HEADING * len(groups):
        return [(None, [card for _, of in groups for card in of])]
    return groups


def _order(name: str | None) -> tuple[int, float, str]:
    try:
        return 0, float(name or ""), ""
    except ValueError:
        return 1, 0.0, name or ""


def _stages(seconds: Mapping[str, float]) -> list[dict[str, Any]]:
    """Stages that took time, with their share of all."""
    spent = {name: value for name, value in seconds.items() if value > 0}
    percent = charts.shares(spent, 1)
    return [{"name": name, "seconds": value, "percent": percent[name]} for name, value in spent.items()]


def _speed(report: ReportData) -> dict[str, Any] | None:
    timeline = report.timeline
    if timeline is None:
        return None
    seconds = timeline.bin_seconds * len(timeline.workers)
    starts = [start / seconds for start in timeline.run_starts]
    return {
        "images": charts.curve(timeline.images_per_second, starts),
        "workers": charts.curve([float(count) for count in timeline.workers], starts, stepped=True),
        "seconds": seconds,
        "most_workers": max(timeline.workers),
        "runs": len(timeline.run_starts),
    }


@cache
def environment(package: str = __package__ or "") -> Environment:
    """Jinja with autoescape, over the templates of a package, and of this one for what it lacks."""
    own = __package__ or ""
    found = Environment(
        loader=ChoiceLoader([PackageLoader(name, "templates") for name in dict.fromkeys((package, own))]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.filters |= {
        "duration": charts.duration,
        "bytes": charts.size,
        "number": charts.number,
        "pretty": lambda value: json.dumps(value, indent=2, ensure_ascii=False)[:TEXT_SHOWN],
    }
    return found
