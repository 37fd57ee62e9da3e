"""Adapters as settings have them: a name, where the file is, and how strongly it is applied."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from typing import Any, NamedTuple

EXAMPLE = "like crayon=crayon.safetensors:0.8"
FIELDS = ("path", "weight", "revision")


class Registered(NamedTuple):
    """Where an adapter is.

    Attributes:
        path: a file, a folder with one, or a hub id, perhaps with a file in it.
        revision: of the hub id; None for its main one.
        weight: how strongly it is applied where a row gives no weight of its own.
    """

    path: str
    revision: str | None
    weight: float


def named_adapters(value: object) -> object:
    """The texts of flags, or the one of a variable, as adapters by name: `crayon=crayon.safetensors:0.8,ink=ink`."""
    if not isinstance(value, str | list | tuple):
        return value
    found: dict[str, str] = {}
    texts = value.split(",") if isinstance(value, str) else value
    for text in (str(one).strip() for one in texts if str(one).strip()):
        name, equals, where = text.partition("=")
        if not (equals and name.strip() and where.strip()):
            raise ValueError(f"{text!r} must be NAME=PATH or NAME=PATH:WEIGHT, {EXAMPLE}")
        if name.strip() in found:
            raise ValueError(
                f"two adapters are called {name.strip()!r}, {found[name.strip()]} and {where.strip()}: "
                "give each a name of its own"
            )
        found[name.strip()] = where.strip()
    return found


def checked_adapters(adapters: dict[str, str]) -> dict[str, str]:
    """The adapters, if their weights make sense. Raises ValueError."""
    for text in adapters.values():
        registered(text)
    return adapters


def of_table(table: Mapping[str, Any]) -> dict[str, str]:
    """The table `[adapters]` of a settings file as the field `lora`.

    Raises:
        ValueError: An entry is neither a path nor a table of `FIELDS`.
    """
    return {name: _text_of(name, entry) for name, entry in table.items()}


def registered(text: str) -> Registered:
    """What `path[@revision][:weight]` says. Raises ValueError."""
    path, colon, last = text.rpartition(":")
    weight = 1.0
    if colon and path:
        try:
            weight = float(last)
        except ValueError:  # a colon of the path itself
            path = text
    else:
        path = text
    if not (math.isfinite(weight) and abs(weight) <= 100):
        raise ValueError(f"the weight of {path} is {last}: must be a number from -100 to 100")
    before, at, revision = path.rpartition("@")
    if at and before and revision and "/" not in revision and not path.endswith(".safetensors"):
        return Registered(before, revision, weight)
    return Registered(path, None, weight)


def in_any_folder(text: str) -> str:
    """The same adapter, by a path that holds in any current folder if it is on a disk."""
    given = registered(text)
    path = os.path.expanduser(given.path)
    if given.revision is not None or not os.path.exists(path):
        return text
    return f"{os.path.abspath(path)}:{given.weight!r}"


def _text_of(name: str, entry: object) -> str:
    if isinstance(entry, str):
        return entry
    if not isinstance(entry, Mapping) or "path" not in entry or set(entry) - set(FIELDS):
        unknown = sorted(set(entry) - set(FIELDS))[:1] if isinstance(entry, Mapping) else []
        why = f" (unknown: {unknown[0]})" if unknown else ""
        raise ValueError(f"[adapters] {name}: must be a path, or a table with {', '.join(FIELDS)}{why}")
    revision = f"@{entry['revision']}" if entry.get("revision") else ""
    weight = f":{entry['weight']}" if entry.get("weight") is not None else ""
    return f"{entry['path']}{revision}{weight}"
