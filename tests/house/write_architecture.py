"""Writes what documents take from the code: the list of wings and files, the columns, their names in other tools.

The list has the first sentence of each docstring. `tests/house/test_documents.py` fails when a page no longer has
what this script writes. To write them anew:

    python tests/house/write_architecture.py
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from wanbatch.manifests.columns import markdown_table
from wanbatch.manifests.reading.column_names import aliases_table

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "architecture.md"
MANIFESTS = ROOT / "docs" / "manifests.md"
FOLDERS = ("manifests", "pipeline", "engines", "jobs")
LIST = ("<!-- files: from their docstrings -->\n```\n", "```\n<!-- end of files -->")  # the marks around it
TABLE = ("<!-- columns: from manifests/columns.py -->\n", "\n<!-- end of columns -->")
ALIASES = ("<!-- aliases: from manifests/columns.py -->\n", "<!-- end of aliases -->")
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


def between(page: str, marks: tuple[str, str], text: str) -> str:
    """Return the text of the page with another text between two marks."""
    before, rest = page.split(marks[0])
    return f"{before}{marks[0]}{text}{marks[1]}{rest.split(marks[1])[1]}"


def written(page: str) -> str:
    """Return the text of the page with what the code says now."""
    lines = "".join(f"{line}\n" for line in listing(ROOT))
    return between(between(page, LIST, lines), TABLE, markdown_table())


def written_manifests(page: str) -> str:
    """Return the text of the page about manifests with the names of other tools that the code says now."""
    return between(page, ALIASES, f"{aliases_table()}\n")


def main() -> int:
    """Write the pages anew."""
    for page, text in ((PAGE, written), (MANIFESTS, written_manifests)):
        page.write_text(text(page.read_text(encoding="utf-8")), encoding="utf-8")
        print(f"Written: {page}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
