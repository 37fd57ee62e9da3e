"""A comparison in a few lines of text. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from wanbatch.counting import number_of
from wanbatch.jobs.comparison.matching import ADAPTERS

SETTINGS_SHOWN = 6
VALUE_SHOWN, ADAPTERS_SHOWN = 60, 400
"""Characters of a value."""


def lines_of(data: Mapping[str, Any], page: str) -> Iterator[str]:
    """Say what was found.

    Args:
        data: of a `Comparison`.
        page: where it is drawn.
    """
    yield f"{data['folders'][0]} and {data['folders'][1]}:"
    yield f"  ids       {data['pairs']} in both, {data['same_pixels']} of them with the same pixels"
    for side, word in zip(data["only_in"], ("first", "second"), strict=True):
        if side["images"]:
            more = ", ..." if side["images"] > 3 else ""
            yield f"  warning   {side['images']} only in the {word}: {', '.join(side['ids'][:3])}{more}"
    for one in data["requests_differ"]:
        first, most = one["changes"][0], ADAPTERS_SHOWN if one["column"] == ADAPTERS else VALUE_SHOWN
        change = "" if one["column"] == "sources" else f": {first['from'][:most]} -> {first['to'][:most]}"
        yield f"  differs   {one['column']} of {one['images']} ids{change}{' and others' if one['kinds'] > 1 else ''}"
    yield from (f"  unknown   {sentence}" for sentence in unknown_of_adapters(data))
    yield from _settings(data["settings_differ"])
    if data["not_comparable"]:
        problem = next(row["problem"] for row in data["rows"] if "problem" in row)
        yield f"  warning   {data['not_comparable']} pairs cannot be compared; of one: {problem}"
    if data["measured"] < data["pairs"]:
        yield f"  measured  {data['measured']} pairs, evenly spread"
    if data["same_pixels"] == data["pairs"] > 0:
        yield "  metrics   none to tell: all pictures have the same pixels"
    for name, of in data["metrics"].items() if data["same_pixels"] < data["pairs"] else ():
        yield (
            f"  {name:<9} mean {of['mean']:.4g}, median {of['median']:.4g}, "
            f"from {of['least']:.4g} to {of['most']:.4g}"
        )
    yield f"  page      {page}"


def unknown_of_adapters(data: Mapping[str, Any]) -> Iterator[str]:
    """For each folder a sentence about adapters of its rows that it does not tell enough of to compare them."""
    for folder, images in zip(data["folders"], data["adapters_unknown"], strict=True):
        if images:
            yield (
                f"adapters of {number_of(images, 'ids')} of {folder}: an earlier version of wanbatch made them and "
                "did not record files and weights of adapters, so only what rows ask for is compared"
            )


def _settings(sentences: Sequence[str]) -> Iterator[str]:
    """In what the settings of two runs differ; what follows from the machines is counted, since it is long."""
    shown = [sentence for sentence in sentences if not sentence.startswith("environment.")][:SETTINGS_SHOWN]
    yield from (f"  differs   {sentence}" for sentence in shown)
    if len(shown) < len(sentences):
        yield f"  differs   {len(sentences) - len(shown)} more of settings and environment, which the page names"
