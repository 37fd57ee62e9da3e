"""Failed images by error class and message, with the command that makes them again. Pure."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from wanbatch.counting import number_of
from wanbatch.jobs.reporting.report.groups import counted

MESSAGES, IDS, CLASSES = 20, 10, 20
"""Of a class at most so many messages and classes of images are shown, and of a message so many ids."""

_PARTS_THAT_DIFFER = re.compile(r"\d+|'[^']*'|\"[^\"]*\"")


def failure_classes(
    failures: Sequence[Mapping[str, Any]], out: str, image_classes: Sequence[str] | None = None
) -> list[dict[str, Any]]:
    """Failed images by error class, the most common first; in each, alike messages together.

    Messages are alike if they are the same but for the row's own id and sources, numbers and quoted values.

    Args:
        failures: rows of `failures/`.
        out: the output folder, as it is typed.
        image_classes: of each of them, what it was to be a picture of; None: not known.
    """
    classes: dict[str, list[Mapping[str, Any]]] = {}
    of_images: dict[str, list[str]] = {}
    for failure in failures:
        classes.setdefault(failure["error_class"], []).append(failure)
    for failure, image_class in zip(failures, image_classes or (), strict=bool(image_classes)):
        of_images.setdefault(failure["error_class"], []).append(image_class)
    return [
        {
            "class": name,
            "images": len(of),
            "retry": f"wanbatch retry {shlex.quote(out)} --class {shlex.quote(name)}",
            "messages": _messages(of),
            "image_classes": counted(of_images.get(name, ()), CLASSES),
        }
        for name, of in sorted(classes.items(), key=lambda item: (-len(item[1]), item[0]))
    ]


def _messages(failures: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    alike: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for failure in failures:
        alike.setdefault((failure["stage"], _shape(failure["message"])), []).append(failure)
    ordered = sorted(alike.items(), key=lambda item: -len(item[1]))
    found = [
        {
            "stage": stage,
            "message": of[0]["message"],
            "images": len(of),
            "ids": [failure["id"] for failure in of[:IDS]],
        }
        for (stage, _), of in ordered[:MESSAGES]
    ]
    if rest := ordered[MESSAGES:]:
        count = sum(len(of) for _, of in rest)
        found.append({"stage": "", "message": number_of(len(rest), "other messages"), "images": count, "ids": []})
    return found


def _shape(message: str) -> str:
    """A message without what names the row: its first word, if that is a file or address, numbers, quoted values."""
    first, space, rest = message.partition(" ")
    if space and re.search(r"[./\d]", first):
        message = rest
    return _PARTS_THAT_DIFFER.sub("*", message)
