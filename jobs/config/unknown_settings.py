"""What to say of a setting that there is none of: the likely one first. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from wanbatch.suggestions import closest

FLAGS_ALONE = ("out", "new_run", "rerun_changed", "drop_removed", "json")
"""What `wanbatch run` takes as flags alone: it is of one command, and nothing for all those of a folder."""


def instead_of(name: str, known: Iterable[str], prefix: str = "") -> str:
    """The end of a message about an unknown setting: what to give instead.

    Args:
        name: of the field that is not known, with the prefix.
        known: the fields that there are, without it.
        prefix: of variables, whose names are those of fields in capitals; empty in a file.
    """
    fields = list(known)
    plain = name.removeprefix(prefix).lower().replace("-", "_")
    if plain in FLAGS_ALONE:
        return f"this is a flag only: give --{plain.replace('_', '-')} with the command, and drop it here"
    if (meant := closest(plain, fields)) is not None:
        return f"did you mean {prefix}{meant.upper() if prefix else meant}? `wanbatch run --help` lists them all"
    return "none is like it; `wanbatch run --help` lists them all"
