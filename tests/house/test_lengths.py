"""The check of lengths finds what is too long, and only that."""

from __future__ import annotations

from pathlib import Path

import lengths
import pytest


def function(lines: int, name: str = "work") -> str:
    return "\n".join([f"def {name}():", *["    pass"] * (lines - 1)]) + "\n"


@pytest.fixture
def root(tmp_path) -> Path:
    """A project with one file at both limits."""
    (tmp_path / "jobs").mkdir()
    text = function(lengths.MOST_LINES_OF_A_FUNCTION)
    text += "\n" * (lengths.MOST_LINES_OF_A_FILE - len(text.splitlines()))
    (tmp_path / "jobs" / "just.py").write_text(text)
    return tmp_path


def test_a_file_and_a_function_at_the_limit_are_allowed(root, capsys):
    assert list(lengths.too_long(root)) == []
    assert lengths.main(root) == 0
    assert capsys.readouterr().out == "No file and no function is too long.\n"


def test_a_file_above_the_limit_is_named_with_its_count_and_the_rule(root, capsys):
    with (root / "jobs" / "just.py").open("a") as file:
        file.write("\n")
    assert lengths.main(root) == 1
    assert capsys.readouterr().out == "jobs/just.py: 351 lines; a file has at most 350. Split it by subject.\n"


@pytest.mark.parametrize("where", ["manifests", "pipeline", "engines", "src", "tests", "benchmarks", "examples"])
def test_a_function_above_the_limit_is_found_in_every_folder(root, where):
    (root / where / "inner").mkdir(parents=True)
    (root / where / "inner" / "long.py").write_text("\n\nasync " + function(51, "slow"))
    (problem,) = lengths.too_long(root)
    assert problem.startswith(f"{where}/inner/long.py:3: slow() has 51 lines; a function has at most 50.")


def test_a_method_is_a_function_and_a_link_is_not_followed(root):
    method = "".join(f"    {line}\n" for line in function(60, "method").splitlines())
    (root / "jobs" / "one.py").write_text("class One:\n" + method)
    (root / "src").mkdir()
    (root / "src" / "jobs").symlink_to(root / "jobs")
    assert [problem.split(";")[0] for problem in lengths.too_long(root)] == ["jobs/one.py:2: method() has 60 lines"]


def test_a_folder_that_is_no_project_is_not_called_clean(tmp_path):
    assert lengths.main(tmp_path) == 1
