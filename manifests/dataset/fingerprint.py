"""A fingerprint: everything that must stay the same between the runs that fill one output folder.

It is a mapping of JSON values, nested at will. What is under `ENVIRONMENT` (the version of torch, the kind of device,
how each stage is computed) may be unknown at first: an entry that a folder does not have is added to it, and compared
from then on. What is under `SOURCE_DECODING` may change, and whoever goes on with the folder is told. With
`MIXED_DEVICES` any kind of device may fill the folder, from then on.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

ENVIRONMENT = "environment"
SOURCE_DECODING = "source_decoding"
"""How source images are decoded, and by what."""
MIXED_DEVICES = "mixed_devices"
"""Set: pictures come from several kinds of devices."""
_OF_DEVICE = ("device_name", "backends")
"""Entries of `ENVIRONMENT` that another kind of device changes."""


def differences(old: Any, new: Any, name: str = "") -> Iterator[str]:
    """Each value that differs, as a sentence; keys of nested objects are joined with dots."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted(old.keys() | new.keys()):
            yield from differences(old.get(key), new.get(key), f"{name}.{key}" if name else key)
    elif old != new:
        yield f"{name} was {_json_or_unset(old)}, now {_json_or_unset(new)}"


def changes(recorded: Mapping[str, Any], current: Mapping[str, Any]) -> list[str]:
    """What differs between a folder's fingerprint and the current one, a sentence each. Both are JSON values."""
    before, now = dict(recorded), dict(current)
    for fingerprint in (before, now):
        fingerprint.pop(SOURCE_DECODING, None)
    old, new = before.pop(ENVIRONMENT, {}), now.pop(ENVIRONMENT, {})
    known = old.keys() & new.keys()
    if now.get(MIXED_DEVICES):
        before[MIXED_DEVICES] = True
        known -= set(_OF_DEVICE)
    environment = differences({key: old[key] for key in known}, {key: new[key] for key in known}, ENVIRONMENT)
    return [*differences(before, now), *environment]


def decoding_changes(recorded: Mapping[str, Any], current: Mapping[str, Any]) -> list[str]:
    """How source images were decoded when the folder was begun, where that is not how it is done now.

    A folder that does not say it was begun by a version before it was noted: by release 0.1.0, or like it.
    """
    old, new = recorded.get(SOURCE_DECODING, {"version": 1}), current.get(SOURCE_DECODING, {})
    known = old.keys() & new.keys()
    return list(differences({key: old[key] for key in known}, {key: new[key] for key in known}))


def completed(recorded: Mapping[str, Any], current: Mapping[str, Any]) -> dict[str, Any]:
    """A folder's fingerprint with what it did not know of its environment, and whether devices are mixed from now."""
    environment = {**current.get(ENVIRONMENT, {}), **recorded.get(ENVIRONMENT, {})}
    mixed = {MIXED_DEVICES: True} if current.get(MIXED_DEVICES) else {}
    return {**recorded, **mixed, **({ENVIRONMENT: environment} if environment else {})}


def _json_or_unset(value: Any) -> str:
    return "not set" if value is None else json.dumps(value, ensure_ascii=False)
