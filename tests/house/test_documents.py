"""The documents name files, functions and modules that exist, and the list of files is that of the code."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import list_files
import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = ("manifests", "pipeline", "engines", "jobs", "tests", "benchmarks", "examples", "docs", "src", ".github")
TEST_FOLDERS = tuple(path.name for path in (ROOT / "tests").iterdir() if path.is_dir() and path.name != "data")
DOCUMENTS = sorted(
    [*(ROOT / "docs").rglob("*.md"), ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"]
)
FILES = [
    path.relative_to(ROOT)
    for folder in FOLDERS
    for path in (ROOT / folder).rglob("*")
    if path.is_file() and "__pycache__" not in path.parts
]


def relative_links(document: Path) -> Iterator[str]:
    """Yield the links of a document that lead to files of the project."""
    for target in re.findall(r"\]\(([^)\s]+)\)", document.read_text(encoding="utf-8")):
        if "://" not in target and not target.startswith("#"):
            yield target.split("#")[0]


def words_of_code(document: Path) -> Iterator[str]:
    """Yield the words that a document sets as code, in its lines and in its blocks."""
    text = document.read_text(encoding="utf-8")
    for block in re.findall(r"^```\w*\n(.*?)^```$", text, re.DOTALL | re.MULTILINE):
        yield from block.split()
    for span in re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)):
        yield from span.split()


def is_path(word: str) -> bool:
    """Return whether a word means a file or a folder of the project, or a test in one."""
    name = word.split("::")[0]
    if name.endswith(".py"):
        return re.fullmatch(r"[\w./-]+", name) is not None
    first, slash, _ = name.partition("/")
    known = first in FOLDERS or first in TEST_FOLDERS
    return bool(slash) and known and re.fullmatch(r"[\w./-]+", name) is not None


def matching(name: str) -> list[Path]:
    """Return the files that a name means: by its whole path, or by the last parts of it where that says enough."""
    return [path for path in FILES if path == Path(name) or path.parts[-len(Path(name).parts) :] == Path(name).parts]


def problem_with(word: str) -> str | None:
    """Return what is wrong with a path in a document, or None."""
    name, *functions = word.rstrip(".,:;").split("::")
    if name.endswith("/") or "." not in Path(name).name:
        folders = (ROOT / name, ROOT / "tests" / name)
        return None if any(folder.is_dir() for folder in folders) else f"{word}: there is no such folder"
    found = matching(name)
    if not found:
        return f"{word}: there is no such file"
    for function in functions:
        if re.fullmatch(r"\w+", function) and not any(defines(path, function) for path in found):
            return f"{word}: {found[0]} does not define {function}"
    return None


def is_module(name: str) -> bool:
    """Return whether a dotted name without `wanbatch.` is a module, a package, or something that a module defines."""
    module = Path(*name.split("."))
    owner = module.parent.with_suffix(".py")
    if module.with_suffix(".py") in FILES or module / "__init__.py" in FILES:
        return True
    return owner in FILES and defines(owner, module.name)


def defines(path: Path, name: str) -> bool:
    return (
        re.search(rf"^\s*(def|class) {name}\b", (ROOT / path).read_text(encoding="utf-8"), re.MULTILINE) is not None
    )


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_to_files(document):
    missing = [target for target in relative_links(document) if not (document.parent / target).exists()]
    assert missing == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_paths_and_tests_that_are_named_exist(document):
    problems = [problem for word in words_of_code(document) if is_path(word) and (problem := problem_with(word))]
    assert problems == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_modules_that_are_named_exist(document):
    dotted = r"(?:wanbatch\.)?((?:manifests|pipeline|engines|jobs)(?:\.\w+)+)"
    names = [found[1] for word in words_of_code(document) if (found := re.fullmatch(dotted, word))]
    assert [name for name in names if not is_module(name)] == []


def test_documents_are_read_at_all():
    architecture = [*words_of_code(ROOT / "docs" / "architecture.md")]
    assert sum(is_path(word) for word in architecture) > 100
    faults = [word for word in words_of_code(ROOT / "docs" / "faults.md") if "::" in word]
    assert len(faults) > 20


@pytest.mark.parametrize(
    "word",
    [
        "jobs/backlog.py",
        "crew.py",
        "training/world.py",
        "manifests/readers/",
        "faults/test_disk.py::test_that_is_not_there",
        "docs/nothing.md",
    ],
)
def test_what_does_not_exist_is_found(word):
    assert is_path(word)
    assert problem_with(word) is not None


def test_a_module_that_does_not_exist_is_found():
    assert is_module("jobs.driver.run.run")
    assert is_module("jobs.driver")
    assert not is_module("jobs.crew")
    assert not is_module("jobs.driver.run.no_such_function")


def test_the_list_of_files_is_that_of_the_code():
    page = list_files.PAGE.read_text(encoding="utf-8")
    now = list_files.with_listing(page, list_files.listing(ROOT))
    assert page == now, "run `make docs` and commit it"
