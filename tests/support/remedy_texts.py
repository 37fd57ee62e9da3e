"""Finds the texts in the code that tell users what to do, and what turns each into a pattern that messages match."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

WINGS = ("manifests", "jobs", "pipeline", "engines")
NO_MESSAGES = ("pipeline/training/",)
"""Scripts of their own, which are no part of the command."""

_VERB = (
    r"add|allow|ask|bring|cast|check|choose|close|compress|convert|copy|correct|decode|delete|develop|"
    r"download|drop|empty|end|export|fetch|finish|follow|free|give|go|install|keep|leave|let|list|log|look|"
    r"lower|make|map|mend|mount|move|name|omit|pass|point|put|raise|read|remove|rename|repair|replace|"
    r"restart|restore|retry|run|save|see|set|share|shorten|simplify|split|start|stop|store|take|try|unpack|"
    r"unset|update|upload|use|wait|write"
)
_REMEDY = re.compile(
    rf"(?:^|[:;,.)?] |\(| or | and |, then )(?:or |then |else |please )?(?:{_VERB})\b(?! (?:was|were|is|are|of)\b)"
    r"|`wanbatch |(?:^| )--[a-z]|did you mean|the nearest|\bpip install\b",
    re.IGNORECASE,
)
_HELP = {"help", "description", "short_help", "epilog"}


@dataclass(frozen=True)
class RemedyText:
    """A text that tells a user what to do.

    Attributes:
        file: relative to the repository.
        line: where it begins.
        text: with `{}` for each value that is put in, or `%s`.
    """

    file: str
    line: int
    text: str

    @cached_property
    def pattern(self) -> re.Pattern[str]:
        """What a message with this text in it matches; words in capitals are values, too."""
        parts = re.split(r"\{\}|%[sd]|\b(?:PATH|NEW|NAME)\b", self.text.strip())
        return re.compile(".*?".join(map(re.escape, filter(None, parts))))

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.text!r}"


@cache
def remedy_texts(root: Path) -> list[RemedyText]:
    """Every text with a remedy in the code below a folder, those of docstrings and of the help of flags left out."""
    found = []
    for wing in WINGS:
        for path in sorted((root / wing).rglob("*.py")):
            name = path.relative_to(root).as_posix()
            if not name.startswith(NO_MESSAGES):
                found += [RemedyText(name, line, text) for line, text in _texts(ast.parse(path.read_text("utf-8")))]
    return [one for one in found if " " in one.text.strip() and _REMEDY.search(one.text.strip(" ;:,.("))]


def _texts(tree: ast.Module) -> Iterator[tuple[int, str]]:
    silent: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr):
            silent.add(id(node.value))
        elif isinstance(node, ast.keyword) and node.arg in _HELP:
            silent.update(map(id, ast.walk(node.value)))
        elif isinstance(node, ast.JoinedStr):
            silent.update(id(part) for part in node.values if isinstance(part, ast.Constant))
    for node in ast.walk(tree):
        if id(node) in silent:
            continue
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.lineno, node.value
        elif isinstance(node, ast.JoinedStr):
            yield node.lineno, "".join(part.value if isinstance(part, ast.Constant) else "{}" for part in node.values)
