"""Settings as the flags that give them. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def flag_words(name: str, value: Any) -> list[str]:
    """The words of a command line that give a setting a value.

    Args:
        name: of a field of `Settings`.
        value: as the field has it, and not None; a switch that is off needs no words.
    """
    flag = f"--{name.replace('_', '-')}"
    if isinstance(value, bool):
        return [flag] if value else []
    if isinstance(value, Mapping):
        return [word for key, target in value.items() for word in (flag, f"{key}={target}")]
    return [flag, ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)]
