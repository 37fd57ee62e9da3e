"""The comparison as one HTML page, with the pictures that are farthest apart first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from wanbatch.jobs.comparison.compare import Comparison
from wanbatch.jobs.comparison.matching import ADAPTERS, change_in_words, row_adapters
from wanbatch.jobs.comparison.measuring import EQUAL, TOGETHER, Measured
from wanbatch.jobs.comparison.text import unknown_of_adapters
from wanbatch.jobs.reporting.report.page import PAGE_BYTES, PICTURE_BYTES, environment
from wanbatch.jobs.reporting.report.thumbnails import Thumbnail, thumbnail

WORST, OTHERS = 60, 40
"""Pairs that are shown: the ones that are farthest apart, and some of all others."""

AMPLIFIED = 4
"""Differences are shown this many times as large, around grey."""

LOWER_IS_WORSE = {"psnr": True, "ssim": True, "lpips": False}


@dataclass(frozen=True, slots=True)
class PairCard:
    """One pair as the page shows it: both pictures and their difference, small."""

    measured: Measured
    first: Thumbnail
    second: Thumbnail
    difference: Thumbnail | None
    prompt: str
    settings: Sequence[tuple[str, str]]
    changed: Sequence[tuple[str, str, str]]

    @property
    def size(self) -> int:
        """Bytes that it takes in the page."""
        shown = [one for one in (self.first, self.second, self.difference) if one is not None]
        return sum(len(one.uri) for one in shown) + 2500


def comparison_page(comparison: Comparison, metric: str) -> str:
    """Draw a comparison.

    Args:
        comparison: what was found.
        metric: by which pairs are ordered.
    """
    worst, others = shown_pairs(comparison.measured, metric)
    cards = _cards(comparison, [*worst, *others])
    groups = [
        (
            f"Farthest apart by {metric.upper()}",
            _within([cards[one.pair.id] for one in worst if one.pair.id in cards]),
        ),
        ("Some of the others", []),
    ]
    left = PICTURE_BYTES - sum(card.size for card in groups[0][1])
    groups[1] = (groups[1][0], _within([cards[one.pair.id] for one in others if one.pair.id in cards], left))
    while True:
        html = (
            environment(__package__ or "")
            .get_template("compare.html")
            .render(
                data=comparison.data,
                groups=groups,
                amplified=AMPLIFIED,
                names=_names(comparison.data["folders"]),
                unknown=list(unknown_of_adapters(comparison.data)),
            )
        )
        if len(html.encode()) <= PAGE_BYTES or not any(of for _, of in groups):
            return html
        groups = [(title, of[: len(of) // 2]) for title, of in groups]


def shown_pairs(measured: Sequence[Measured], metric: str) -> tuple[list[Measured], list[Measured]]:
    """The pairs that are farthest apart, and others evenly spread over the rest, both the farthest first."""
    sign = 1 if LOWER_IS_WORSE[metric] else -1
    apart = [one for one in measured if one.values and one.values[metric] != EQUAL[metric]]
    ordered = sorted(apart, key=lambda one: sign * one.values[metric])
    rest = ordered[WORST:]
    count = min(OTHERS, len(rest))
    return ordered[:WORST], [rest[index * len(rest) // count] for index in range(count)]


def _within(cards: Sequence[PairCard], most: int = PICTURE_BYTES) -> list[PairCard]:
    """The first of the cards that take no more than `most` bytes together."""
    kept: list[PairCard] = []
    for card in cards:
        most -= card.size
        if most < 0:
            break
        kept.append(card)
    return kept


def _names(folders: Sequence[str]) -> list[str]:
    """Short names of the two folders: the ends of their paths, from where they differ."""
    parts = [folder.rstrip("/").split("/") for folder in folders]
    length = 1
    while parts[0][-length:] == parts[1][-length:] and length < max(map(len, parts)):
        length += 1
    return ["/".join(of[-length:]) for of in parts]


def _cards(comparison: Comparison, wanted: Sequence[Measured]) -> dict[str, PairCard]:
    """Cards by id, read a few pairs at a time."""
    found = {}
    for start in range(0, len(wanted), TOGETHER):
        batch = wanted[start : start + TOGETHER]
        ones = comparison.sides[0].pictures([one.pair.first for one in batch])
        others = comparison.sides[1].pictures([one.pair.second for one in batch])
        for one in batch:
            pixels = ones.get(one.pair.id), others.get(one.pair.id)
            if pixels[0] is not None and pixels[1] is not None:
                found[one.pair.id] = _card(comparison, one, pixels[0], pixels[1])
    return found


def _card(comparison: Comparison, measured: Measured, first: np.ndarray, second: np.ndarray) -> PairCard:
    pair = measured.pair
    rows = [_values(comparison, 0, pair.first), _values(comparison, 1, pair.second)]
    changed = [(name, *_change(name, rows[0], rows[1])) for name in pair.differs if name != "sources"]
    names = ("creativity", "steps", "guidance", "sampler", "schedule", "step_cache", "seed")
    return PairCard(
        measured,
        thumbnail(Image.fromarray(first)),
        thumbnail(Image.fromarray(second)),
        thumbnail(Image.fromarray(difference(first, second))),
        _text(rows[0].get("prompt"))[:400],
        [(name, _text(rows[0][name])) for name in names if rows[0].get(name) is not None],
        changed,
    )


def _change(name: str, first: Mapping[str, Any], second: Mapping[str, Any]) -> tuple[str, str]:
    if name == ADAPTERS:
        return change_in_words(name, row_adapters(first), row_adapters(second))
    return _text(first.get(name)), _text(second.get(name))


def difference(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """What changed, amplified around grey; all uint8 [height, width, 3]."""
    apart = (second.astype(np.int16) - first) * AMPLIFIED + 128
    return np.clip(apart, 0, 255).astype(np.uint8)


def _values(comparison: Comparison, side: int, row: int) -> Mapping[str, Any]:
    return comparison.tables[side].slice(row, 1).to_pylist()[0]


def _text(value: Any) -> str:
    if value is None:
        return "none"
    return f"{value:g}" if isinstance(value, float) else str(value)[:200]
