"""Checks that the files, tests and modules that are named exist: in the documents, and in the code.

`make check` runs this file as a script: `python tests/house/names.py [ROOT]`. It prints every name that means
nothing, with the file it is in, and exits with 1 if there is one.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

FOLDERS = ("manifests", "pipeline", "engines", "jobs", "tests", "benchmarks", "examples", "docs", "src", ".github")
DOTTED = re.compile(r"(?:wanbatch\.)?((?:manifests|pipeline|engines|jobs)(?:\.\w+)+)")
FOREIGN = (
    "wan/configs/wan_ti2v_5B.py",
    "wan_t2v_A14B.py",
    "shared_config.py",
)
"""Files of the repository that Wan2.2 was published in."""


class Project:
    """The files of the project, by which names in documents and code are judged.

    Attributes:
        root: The folder of the project.
        files: All files of its folders, relative to `root`.
        test_folders: The folders in `tests/`; documents may leave `tests/` out.
    """

    def __init__(self, root: Path):
        self.root = root
        found = (path for folder in FOLDERS for path in (root / folder).rglob("*"))
        self.files = {path.relative_to(root) for path in found if path.is_file() and "__pycache__" not in path.parts}
        self.test_folders = {path.parts[1] for path in self.files if path.parts[0] == "tests" and len(path.parts) > 2}

    def documents(self) -> list[Path]:
        """Return the documents: the pages of `docs/` and those at the root."""
        return sorted([*(self.root / "docs").rglob("*.md"), *self.root.glob("*.md")])

    def problems_of_document(self, document: Path) -> Iterator[str]:
        """Yield what is wrong with the links of a document and with what it sets as code."""
        text = document.read_text(encoding="utf-8")
        for target in relative_links(text):
            if not (document.parent / target).exists():
                yield f"{target}: the link leads nowhere"
        for word in words_of_code(text):
            if self.is_path(word) and (problem := self.problem_with_path(word)):
                yield problem
            if (dotted := DOTTED.fullmatch(word)) and not self.is_module(dotted[1]):
                yield f"{word}: there is no such module"

    def problems_of_code(self, file: Path) -> Iterator[str]:
        """Yield what is wrong with the files that docstrings and comments of a Python file name between backticks."""
        for word in re.findall(r"`([\w./-]+\.(?:py|md)(?:::\w+)*)`", (self.root / file).read_text(encoding="utf-8")):
            if word not in FOREIGN and (problem := self.problem_with_path(word)):
                yield problem

    def is_path(self, word: str) -> bool:
        """Return whether a word means a file or a folder of the project, or a test in one."""
        name = word.split("::")[0]
        if not re.fullmatch(r"[\w./-]+", name):
            return False
        first, slash, _ = name.partition("/")
        return name.endswith(".py") or bool(slash and (first in FOLDERS or first in self.test_folders))

    def problem_with_path(self, word: str) -> str | None:
        """Return what is wrong with a path, or None. A file may be named by the last parts of its path alone."""
        name, *functions = word.rstrip(".,:;").split("::")
        parts = Path(name).parts
        if name.endswith("/") or "." not in Path(name).name:
            known = any((self.root / above / name).is_dir() for above in ("", "tests"))
            return None if known else f"{word}: there is no such folder"
        found = [path for path in self.files if path.parts[-len(parts) :] == parts]
        if not found:
            return f"{word}: there is no such file"
        for function in functions:
            if re.fullmatch(r"\w+", function) and not any(self.defines(path, function) for path in found):
                return f"{word}: {found[0]} does not define {function}"
        return None

    def is_module(self, name: str) -> bool:
        """Return whether a dotted name without `wanbatch.` is a module, a package, or what a module defines."""
        module = Path(*name.split("."))
        owner = module.parent.with_suffix(".py")
        if module.with_suffix(".py") in self.files or module / "__init__.py" in self.files:
            return True
        return owner in self.files and self.defines(owner, module.name)

    def defines(self, path: Path, name: str) -> bool:
        """Return whether a file has a function, a method or a class of that name."""
        text = (self.root / path).read_text(encoding="utf-8")
        return re.search(rf"^\s*(def|class) {name}\b", text, re.MULTILINE) is not None


def relative_links(text: str) -> Iterator[str]:
    """Yield the links of a document that lead to files of the project."""
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if "://" not in target and not target.startswith("#"):
            yield target.split("#")[0]


def words_of_code(text: str) -> Iterator[str]:
    """Yield the words that a document sets as code, in its blocks and in its lines."""
    block = re.compile(r"^ *```\w*\n(.*?)^ *```$", re.DOTALL | re.MULTILINE)
    for inside in block.findall(text):
        yield from inside.split()
    for span in re.findall(r"`([^`\n]+)`", block.sub("", text)):
        yield from span.split()


def main(root: Path) -> int:
    """Print the names that mean nothing under `root`; return the exit code."""
    project = Project(root)
    problems = [
        f"{document.relative_to(root)}: {problem}"
        for document in project.documents()
        for problem in project.problems_of_document(document)
    ]
    # The tests of this check name files that do not exist.
    code = (file for file in sorted(project.files) if file.suffix == ".py" and file.parts[:2] != ("tests", "house"))
    problems += [f"{file}: {problem}" for file in code for problem in project.problems_of_code(file)]
    print("\n".join(problems) or f"All that {len(project.documents())} documents and the code name exists.")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parents[2]))
