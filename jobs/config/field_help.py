"""What a field of the settings accepts, in words, for messages and `--help`. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, Literal, get_args, get_origin

import annotated_types
from pydantic.fields import FieldInfo

_KINDS = {int: "a whole number", float: "a number", str: "text", Path: "a path", bool: "true or false"}


RULE = "rule"
"""Key of a field's `json_schema_extra` that says in words what it accepts, where the annotation does not."""
METAVAR = "metavar"
"""Key of a field's `json_schema_extra` that says how `--help` shows what its flag takes."""


def accepted(field: FieldInfo) -> str:
    """Like `a whole number from 1 to 64, or auto`."""
    if isinstance(field.json_schema_extra, dict) and RULE in field.json_schema_extra:
        return str(field.json_schema_extra[RULE])
    return ", or ".join(_alternatives(field.annotation, list(field.metadata)))


def choices(field: FieldInfo) -> list[str]:
    """The words that a field takes; none if it takes anything else."""
    return list(_words(field.annotation))


def _words(kind: Any) -> Iterator[str]:
    if get_origin(kind) is Literal:
        yield from map(str, get_args(kind))
    else:
        for member in get_args(kind):
            yield from _words(member)


def _alternatives(kind: Any, metadata: list[Any]) -> Iterator[str]:
    if get_origin(kind) is Annotated:
        kind, *more = get_args(kind)
        yield from _alternatives(kind, metadata + more)
    elif get_origin(kind) is Literal:
        yield ", ".join(map(str, get_args(kind)))
    elif get_args(kind):  # a union
        for member in get_args(kind):
            if member is not NoneType:
                yield from _alternatives(member, metadata)
    else:
        yield _KINDS.get(kind, "text") + _limits(metadata)


def _limits(metadata: list[Any]) -> str:
    text = ""
    for rule in _flat(metadata):
        if isinstance(rule, annotated_types.Ge):
            text += f" from {rule.ge}"
        elif isinstance(rule, annotated_types.Gt):
            text += f" above {rule.gt}"
        elif isinstance(rule, annotated_types.Le):
            text += f" to {rule.le}"
        elif isinstance(rule, annotated_types.Lt):
            text += f" below {rule.lt}"
        elif isinstance(rule, annotated_types.MultipleOf):
            text += f", a multiple of {rule.multiple_of}"
        elif pattern := getattr(rule, "pattern", None):
            text += " like " + {r"^\d+(\.\d+)?%?$": "20 or 5%"}.get(pattern, pattern)
    return text


def _flat(metadata: list[Any]) -> Iterator[Any]:
    for rule in metadata:
        if isinstance(rule, FieldInfo):
            yield from rule.metadata
        elif isinstance(rule, annotated_types.GroupedMetadata):
            yield from rule
        else:
            yield rule
