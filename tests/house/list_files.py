"""Writes the list of wings and files in `docs/architecture.md`, from the first sentence of each docstring.

`tests/house/test_documents.py` fails when the list is no longer what this script writes. To write it anew:

    python tests/house/list_files.py
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "architecture.md"
FOLDERS = ("manifests", "pipeline", "engines", "jobs")
BEGIN = "<!-- Written by tests/house/list_files.py from the docstrings. Do not edit. -->\n```\n"
END = "```\n<!-- The end of what tests/house/list_files.py writes. -->"
COLUMN = 26  # where the sentences begin


def listing(root: Path) -> Iterator[str]:
    """Yield one line for each folder and each file of the four folders, wings after the files that stand alone."""
    for folder in FOLDERS:
        yield from lines_of(root / folder, depth=0)


def lines_of(folder: Path, depth: int) -> Iterator[str]:
    """Yield the lines of a folder, its files and the folders in it."""
    yield line(f"{folder.name}/", folder / "__init__.py", depth)
    for file in sorted(folder.glob("*.py")):
        if not file.name.startswith("__"):
            yield line(file.name, file, depth + 1)
    for inner in sorted(folder.glob("*/__init__.py")):
        yield from lines_of(inner.parent, depth + 1)


def line(name: str, file: Path, depth: int) -> str:
    """Return a line with a name, indented by its depth, and what the file's docstring says first."""
    return f"{'  ' * depth + name:<{COLUMN}} {first_sentence(file)}"


def first_sentence(file: Path) -> str:
    """Return the first sentence of a file's docstring, without the full stop.

    Raises:
        ValueError: The file has no docstring.
    """
    text = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8")))
    if not text:
        raise ValueError(f"{file} has no docstring: say in its first line what it is for")
    paragraph = " ".join(text.split("\n\n")[0].split())
    return re.split(r"\.(?= [A-Z]|$)", paragraph)[0]


def with_listing(page: str, lines: Iterator[str]) -> str:
    """Return the text of the page with these lines in place of those that it has."""
    before, rest = page.split(BEGIN)
    after = rest.split(END)[1]
    return "".join([before, BEGIN, *(f"{line}\n" for line in lines), END, after])


def main() -> int:
    """Write the list of the code as it is."""
    PAGE.write_text(with_listing(PAGE.read_text(encoding="utf-8"), listing(ROOT)), encoding="utf-8")
    print(f"Written: {PAGE}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
