"""Adapters that were in effect for a picture, as its row has them: in words and as other programs write them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

SHORT, ALL_DIGITS = 12, 64
"""Hexadecimal digits of a file's SHA-256: so many that people can tell it from others, and all."""

_FIELDS = {"name", "weight", "sha256", "merged"}
_IN_HASHES = 10  # Civitai's AutoV2: the first digits of the SHA-256 of the whole file
_NOT_IN_NAMES = re.compile(r'[<>:{}",\\\n]')


def recorded_adapters(row: Mapping[str, Any]) -> list[Mapping[str, Any]] | None:
    """What a row of an output folder says of the adapters that were in effect; None if it does not say.

    A folder that was begun before wanbatch wrote `adapters` may have a column of the manifest of that name.
    """
    told = row.get("adapters")
    if not isinstance(told, list) or not all(isinstance(one, Mapping) and one.keys() >= _FIELDS for one in told):
        return None
    return told


def adapter_words(adapter: Mapping[str, Any], digits: int = SHORT) -> str:
    """One adapter, as in `flat at 0.2 (SHA-256 0123456789ab)`.

    Args:
        adapter: a value of the column `adapters`.
        digits: of the SHA-256.
    """
    merged = ", merged" if adapter["merged"] else ""
    return f"{adapter['name']} at {adapter['weight']:g} (SHA-256 {adapter['sha256'][:digits]}{merged})"


def adapters_words(adapters: Iterable[Mapping[str, Any]] | None, digits: int = SHORT) -> str:
    """All of a row's adapters; `none` if there are none. digits: see `adapter_words`."""
    return "; ".join(adapter_words(one, digits) for one in adapters or ()) or "none"


def prompt_tags(adapters: Iterable[Mapping[str, Any]]) -> str:
    """What A1111's web UI writes behind a prompt, as in `<lora:flat:0.2>`, and many programs read."""
    return " ".join(f"<lora:{_plain(one['name'])}:{one['weight']:g}>" for one in adapters)


def hashes(adapters: Iterable[Mapping[str, Any]]) -> str:
    """What stands as `Hashes` in A1111's `parameters` where Civitai's extension writes it: an object of JSON.

    A1111's own `Lora hashes` are others, of a file without its header.
    """
    return json.dumps({f"lora:{_plain(one['name'])}": one["sha256"][:_IN_HASHES] for one in adapters})


def _plain(name: str) -> str:
    """A name without the characters that end it where it is read."""
    return _NOT_IN_NAMES.sub("_", name)
