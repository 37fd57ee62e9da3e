"""The texts of flags and variables as values of settings: lists, pairs of columns, labels. Pure."""

from __future__ import annotations

import re

from wanbatch.manifests.reading.column_map import map_problem


def split_list(value: object) -> object:
    """The text of a flag or a variable as a list."""
    return [item.strip() for item in value.strip(" []").split(",")] if isinstance(value, str) else value


def column_pairs(value: object) -> object:
    """The texts of flags, or the one of a variable, as the pairs of a mapping: `caption=prompt,text=source_text`."""
    if not isinstance(value, str | list | tuple):
        return value
    if isinstance(value, str) and not value.strip(" ,"):
        return {}
    pairs: dict[str, str] = {}
    for pair in (one for text in ([value] if isinstance(value, str) else value) for one in _parted(str(text))):
        column, equals, target = pair.rpartition("=")
        if not (equals and column and target):
            raise ValueError(f"{pair!r} must be COLUMN=COLUMN, like caption=prompt")
        if pairs.setdefault(column, target) != target:
            raise ValueError(f"{column!r} is mapped to both {pairs[column]!r} and {target!r}: keep one")
    return pairs


def _parted(text: str) -> list[str]:
    """The pairs of a text; one with a comma in the name of its column is a single one."""
    parts = [part.strip() for part in text.strip(" ,").split(",")]
    return parts if all("=" in part for part in parts) else [text.strip()]


def possible_pairs(pairs: dict[str, str]) -> dict[str, str]:
    """The pairs of columns, if a manifest can be read by them. Raises ValueError."""
    if problem := map_problem(pairs):
        raise ValueError(problem)
    return pairs


def node_labels(value: object) -> object:
    """The texts of flags, or the one of a variable, as labels of nodes: `market-type=spot,zone=in(a,b)`."""
    if not isinstance(value, str | list | tuple):
        return value
    labels: dict[str, str] = {}
    texts = re.split(r",(?![^(]*\))", value) if isinstance(value, str) else value
    for pair in (str(text).strip() for text in texts if str(text).strip()):
        key, equals, wanted = pair.partition("=")
        if not (equals and key.strip() and wanted.strip()):
            raise ValueError(f"{pair!r} must be KEY=VALUE, like market-type=spot")
        if labels.setdefault(key.strip(), wanted.strip()) != wanted.strip():
            raise ValueError(
                f"label {key.strip()!r} is asked to be both {labels[key.strip()]!r} and {wanted.strip()!r}"
            )
    return labels
