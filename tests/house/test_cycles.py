"""The check of imports finds every circle, wherever its imports stand, and only circles."""

from __future__ import annotations

import itertools
from pathlib import Path

import cycles
import pytest

NAMES = (f"circled{number}" for number in itertools.count())  # grimp and Python remember what they have found once


@pytest.fixture
def check(tmp_path, monkeypatch, capsys):
    """Writes a package from {module: source}, checks it, and returns the exit code and what was printed."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def check(**modules: str) -> tuple[int, str]:
        package = next(NAMES)
        for module, source in {"": "", **modules}.items():
            path = tmp_path / package / Path(*module.split("__"))
            for folder in [path.parent, *path.parent.parents][: len(module.split("__"))]:
                folder.mkdir(parents=True, exist_ok=True)
                (folder / "__init__.py").touch()
            if module:
                path.with_suffix(".py").write_text(source.replace("PACKAGE", package))
        code = cycles.main(package)
        return code, capsys.readouterr().out.replace(package, "PACKAGE")

    return check


def test_imports_in_one_direction_are_no_circle(check):
    code, printed = check(
        jobs__cli__main="from PACKAGE.jobs.run import go",
        jobs__run="import PACKAGE.errors\ngo = 1",
        errors="import os",
    )
    assert (code, printed) == (0, "No circle among 6 modules and 5 wings.\n")


@pytest.mark.parametrize(
    "back",
    [
        "from PACKAGE.jobs.run import first",
        "def later():\n    from PACKAGE.jobs.run import first",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from PACKAGE.jobs.run import first",
    ],
)
def test_a_circle_of_two_modules_is_printed_wherever_the_import_stands(check, back):
    code, printed = check(jobs__run__first="from PACKAGE.jobs.run import second", jobs__run__second=back)
    line = len(back.splitlines())
    assert code == 1
    assert printed.splitlines() == [
        "2 modules import each other in a circle:",
        "    PACKAGE.jobs.run.first -> PACKAGE.jobs.run.second    (line 1: from PACKAGE.jobs.run import second)",
        f"    PACKAGE.jobs.run.second -> PACKAGE.jobs.run.first    (line {line}: {back.splitlines()[-1].strip()})",
    ]


def test_a_circle_of_three_and_another_one_are_both_printed(check):
    code, printed = check(
        a="import PACKAGE.b",
        b="import PACKAGE.c",
        c="import PACKAGE.a",
        d="import PACKAGE.e",
        e="import PACKAGE.d\nimport PACKAGE.a",
    )
    assert code == 1
    assert printed.count("3 modules import each other") == 1
    assert printed.count("2 modules import each other") == 1
    assert "PACKAGE.e -> PACKAGE.a" not in printed


def test_wings_may_not_go_in_a_circle_even_if_their_files_do_not(check):
    code, printed = check(
        jobs__driver__run="from PACKAGE.jobs.reporting import progress",
        jobs__reporting__progress="",
        jobs__driver__summary="",
        jobs__reporting__page="from PACKAGE.jobs.driver import summary",
    )
    assert code == 1
    assert "modules import each other" not in printed
    names = "PACKAGE.jobs.driver -> PACKAGE.jobs.reporting -> PACKAGE.jobs.driver"
    assert printed.startswith(f"2 wings import each other in a circle, {names}:")
    assert "PACKAGE.jobs.driver.run -> PACKAGE.jobs.reporting.progress" in printed
    assert "PACKAGE.jobs.reporting.page -> PACKAGE.jobs.driver.summary" in printed
