"""The documents name files, tests and modules that exist, and the list of files is that of the code."""

from __future__ import annotations

from pathlib import Path

import names
import pytest
import write_architecture
from names import Project

ROOT = Path(__file__).parents[2]
PROJECT = Project(ROOT)


@pytest.mark.parametrize("document", PROJECT.documents(), ids=lambda path: str(path.relative_to(ROOT)))
def test_what_a_document_names_exists(document):
    assert list(PROJECT.problems_of_document(document)) == []


def test_documents_are_read_at_all():
    architecture = [*names.words_of_code((ROOT / "docs" / "architecture.md").read_text(encoding="utf-8"))]
    assert sum(PROJECT.is_path(word) for word in architecture) > 100
    faults = [word for word in names.words_of_code((ROOT / "docs" / "faults.md").read_text("utf-8")) if "::" in word]
    assert len(faults) > 20


def test_the_architecture_says_what_the_code_says():
    page = write_architecture.PAGE.read_text(encoding="utf-8")
    assert page == write_architecture.written(page), "run `make docs` and commit it"
    manifests = write_architecture.MANIFESTS.read_text(encoding="utf-8")
    assert manifests == write_architecture.written_manifests(manifests), "run `make docs` and commit it"


@pytest.fixture
def small(tmp_path) -> Path:
    """A project with one module, one test and a page that names them."""
    for folder in ("jobs/driver", "tests/faults", "docs"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "jobs/driver/run.py").write_text('"""Runs. See `run.py`."""\n\ndef run(): ...\n')
    (tmp_path / "tests/faults/test_disk.py").write_text("class TestFull:\n    def test_exit(self): ...\n")
    paths = "`jobs/driver/run.py`, `run.py`, `jobs/driver/`, [run](../jobs/driver/run.py#L1)"
    others = "`wanbatch.jobs.driver.run.run`, `faults/test_disk.py::TestFull::test_exit`"
    (tmp_path / "docs/page.md").write_text(f"{paths}, {others}\n")
    return tmp_path


def test_names_of_what_exists_are_no_problem(small, capsys):
    assert names.main(small) == 0
    assert capsys.readouterr().out == "All that 1 documents and the code name exists.\n"


@pytest.mark.parametrize(
    "text",
    [
        "`jobs/backlog.py`",
        "`crew.py`",
        "`driver/crew.py`",
        "`jobs/readers/`",
        "`faults/test_disk.py::test_that_is_not_there`",
        "`docs/nothing.md`",
        "[page](nothing.md)",
        "`jobs.crew`",
        "`wanbatch.jobs.driver.run.no_such_function`",
        "```\npython jobs/driver/crew.py --fast\n```",
    ],
)
def test_what_a_document_names_and_does_not_exist_is_found(small, capsys, text):
    (small / "docs/page.md").write_text(f"See\n{text}\nfor that.\n")
    assert names.main(small) == 1
    assert capsys.readouterr().out.startswith("docs/page.md: ")


def test_what_a_docstring_names_and_does_not_exist_is_found(small, capsys):
    (small / "jobs/driver/run.py").write_text('"""Runs. See `backlog.py`."""\n\ndef run(): ...\n')
    assert names.main(small) == 1
    assert capsys.readouterr().out == "jobs/driver/run.py: backlog.py: there is no such file\n"


def test_the_list_has_folders_files_and_first_sentences(small, monkeypatch):
    monkeypatch.setattr(write_architecture, "FOLDERS", ("jobs",))
    (small / "jobs/__init__.py").write_text('"""Running it. More."""')
    (small / "jobs/driver/__init__.py").write_text('"""One run\n(Zhang et al. 2018), made whole. More."""')
    assert [" ".join(line.split()) for line in write_architecture.listing(small)] == [
        "jobs/ Running it",
        "driver/ One run (Zhang et al. 2018), made whole",
        "run.py Runs",
    ]
    (small / "jobs/driver/__init__.py").write_text("")
    with pytest.raises(ValueError, match="has no docstring"):
        list(write_architecture.listing(small))
