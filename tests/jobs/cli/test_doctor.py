"""`wanbatch doctor` as a command: its table, its JSON and its exit codes, with a real Ray."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest
from command_line import invoke
from job_making import command

from wanbatch.jobs.cli import doctor_command
from wanbatch.jobs.doctor import runner
from wanbatch.jobs.doctor.check import Finding
from wanbatch.jobs.doctor.registry import CHECKS
from wanbatch.jobs.doctor.runner import Result

PAGE = (Path(__file__).parents[3] / "docs" / "environments.md").read_text(encoding="utf-8")
LONG = "/a/folder/with-a-name-that/nobody-breaks " * 6


@pytest.fixture
def findings(monkeypatch):
    """Replaces the checks by what they find, in their order."""

    def replace(*found: Finding) -> None:
        results = [Result(check.name, finding, {}) for check, finding in zip(CHECKS, found, strict=False)]
        monkeypatch.setattr(runner, "examine", lambda question: iter(results))

    return replace


def test_the_whole_on_this_machine(tmp_path):
    """The last example of its page, which asks for all checks."""
    [examples] = re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL)
    assert all(line.startswith("wanbatch doctor") for line in examples.splitlines())
    arguments = shlex.split(examples.splitlines()[-1])[1:]
    ended = command(*arguments, "--json", cwd=tmp_path, TMPDIR="/tmp")
    assert ended.code == 0, ended.out + ended.err
    found = json.loads(ended.out)
    assert found["faults"] == 0
    assert [check["check"] for check in found["checks"]] == [check.name for check in CHECKS]
    facts = {check["check"]: check["facts"] for check in found["checks"]}
    assert (facts["ray"]["address"], facts["ray"]["error"]) == ("127.0.0.1", "")
    assert facts["ray"]["pid_of_worker"] > 0
    assert facts["model"]["model"] == "tiny"
    assert facts["output"]["where"] == str(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_the_table(findings):
    findings(
        Finding("ok", "4 cores"), Finding("warning", "few files", "ulimit -n 4096"), Finding("fault", "no", "so")
    )
    ended = invoke("doctor")
    assert ended.exit_code == 2
    assert ended.stdout.splitlines() == [
        "machine   ok       4 cores",
        "limits    warning  few files",
        "                   -> ulimit -n 4096",
        "locale    FAULT    no",
        "                   -> so",
        "",
        "1 fault and 1 warning: a run does not work as it is",
    ]


def test_warnings_are_no_fault(findings):
    findings(Finding("warning", "few files", "ulimit -n 4096"), Finding("warning", "slow", "wait"))
    ended = invoke("doctor")
    assert (ended.exit_code, ended.stdout.splitlines()[-1]) == (0, "2 warnings: a run works")
    findings(Finding("ok", "fine"))
    ended = invoke("doctor", "--json")
    assert (ended.exit_code, json.loads(ended.stdout)["warnings"]) == (0, 0)
    assert invoke("doctor").stdout.splitlines()[-1] == "all is well"


def test_lines_fit_a_terminal_and_commands_stay_whole(findings, monkeypatch):
    findings(Finding("warning", LONG, LONG))
    monkeypatch.setattr(doctor_command, "_width", lambda: 80)
    lines = invoke("doctor").stdout.splitlines()
    assert max(map(len, lines)) <= 80
    assert all("with-a-name-that" in line for line in lines[:6])
    assert len({line.index("/a/folder") for line in lines[:3]}) == 1


def test_settings_that_cannot_be_read_do_not_end_it(tmp_path, monkeypatch, findings):
    (tmp_path / "wanbatch.toml").write_text("stepps = 4\n")
    findings(Finding("ok", "fine"))
    assert invoke("doctor").exit_code == 0


def test_every_check_is_explained():
    explained = re.findall(r"^\| `(\w+)` \|.*\| (\d+) s \|$", PAGE, re.MULTILINE)
    assert explained == [(check.name, f"{check.seconds:.0f}") for check in CHECKS]
