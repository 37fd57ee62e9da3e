"""What a settings file says: TOML, whose doubled names are told by what they are."""

from __future__ import annotations

import re
import tomllib
from typing import Any

ADAPTERS = "adapters"
"""The table that is the field `lora` of settings."""
_LINE = re.compile(r"\(at line (\d+), column \d+\)")
_TABLE = re.compile(rf"Cannot declare \('{ADAPTERS}', '(.+)'\) twice")
_NAME = re.compile(r"""\s*("[^"]*"|'[^']*'|[\w.-]+)\s*=""")


def settings_table(content: bytes) -> dict[str, Any]:
    """The tables and values of a settings file.

    Args:
        content: Of the file.

    Raises:
        UnicodeDecodeError: It is not UTF-8.
        ValueError: It is not TOML, or a name is there twice.
    """
    text = content.decode("utf-8-sig")
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ValueError(_twice(text, str(error)) or str(error)) from error


def _twice(text: str, said: str) -> str | None:
    """What to say of a name that is there twice, with the line of the second; None: something else is wrong."""
    lines, found = text.splitlines(), _LINE.search(said)
    number = int(found.group(1)) if found else len(lines)
    if (declared := _TABLE.match(said)) is not None:
        return _of_adapters(declared.group(1), number)
    name = _NAME.match(lines[number - 1])
    if name is None or not said.startswith("Cannot overwrite a value"):
        return None
    called = name.group(1).strip("\"'")
    table = next((line.strip() for line in reversed(lines[:number]) if line.lstrip().startswith("[")), "")
    if re.fullmatch(rf"\[\s*{ADAPTERS}\s*\](\s*#.*)?", table):
        return _of_adapters(called, number)
    return f"sets {called!r} twice, the second time in line {number}: keep one of them"


def _of_adapters(name: str, line: int) -> str:
    return f"two adapters are called {name!r}, the second in line {line}: give each a name of its own"
