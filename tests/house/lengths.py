"""Checks that no Python file and no function is too long to be read in one go.

`make check` runs this file as a script: `python tests/house/lengths.py [ROOT]`. It prints every file and function
that is too long, with its count and the rule, and exits with 1 if there is one.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

FOLDERS = ("manifests", "pipeline", "engines", "jobs", "src", "tests", "benchmarks", "examples", "docs")
MOST_LINES_OF_A_FILE = 350
MOST_LINES_OF_A_FUNCTION = 50


def too_long(root: Path) -> Iterator[str]:
    """Yield one sentence for every file and function under `root` that has more lines than the rule allows.

    The lines of a function are counted from its `def` to its last line; the lines of a function inside another one
    count for both. Links are not followed, so that `src/wanbatch/jobs` does not repeat `jobs`.
    """
    for path in python_files(root):
        text, name = path.read_text(encoding="utf-8"), path.relative_to(root)
        lines = len(text.splitlines())
        if lines > MOST_LINES_OF_A_FILE:
            yield f"{name}: {lines} lines; a file has at most {MOST_LINES_OF_A_FILE}. Split it by subject."
        for node in ast.walk(ast.parse(text, filename=str(path))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                assert node.end_lineno is not None  # the parser always sets it
                lines = node.end_lineno - node.lineno + 1
                if lines > MOST_LINES_OF_A_FUNCTION:
                    rule = f"a function has at most {MOST_LINES_OF_A_FUNCTION}. Give its steps names of their own."
                    yield f"{name}:{node.lineno}: {node.name}() has {lines} lines; {rule}"


def python_files(root: Path) -> list[Path]:
    """Return the Python files of the project, in the order of their names."""
    return sorted(path for folder in FOLDERS for path in (root / folder).rglob("*.py"))


def main(root: Path) -> int:
    """Print what is too long under `root`; return the exit code."""
    if not python_files(root):
        print(f"{root} holds no Python file in any of {', '.join(FOLDERS)}")
        return 1
    problems = list(too_long(root))
    print("\n".join(problems) or "No file and no function is too long.")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parents[2]))
