"""What messages tell users to do is done, and works.

Each case is a mistake, the message that it gets, and what the message offers, as rows and flags; values that a
message suggests are taken out of it. Flags that are named anywhere in messages must exist.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from command_line import GOOD, invoke
from job_making import picture, write_jsonl
from remedy_cases import CASES, below, from_line, linked

from wanbatch.jobs.cli.main import main

ROOT = Path(__file__).parent.parent


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """The current folder, with two pictures."""
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    picture(here / "a.png", 32, 32, seed=1)
    picture(here / "b.png", 64, 32, seed=2)
    return here


@pytest.mark.parametrize("name", CASES)
def test_what_a_message_offers_works(folder, name):
    case = CASES[name]
    case.setup(folder)
    write_jsonl(Path("m.jsonl"), case.rows)
    refused = invoke("plan", "m.jsonl", *case.flags)
    assert refused.exit_code == 2, refused.output
    match = re.search(case.said, refused.stderr, re.MULTILINE)
    assert match is not None, refused.stderr
    for way in case.ways:
        rows, flags = way(match)
        write_jsonl(Path("m.jsonl"), rows)
        done = invoke("plan", "m.jsonl", *flags)
        assert done.exit_code == 0, done.output
        assert "cannot be read" not in done.output


def test_a_source_in_another_folder_is_found_by_what_the_plan_says(folder):
    below(folder)
    Path("lists").mkdir()
    manifest = write_jsonl(Path("lists/m.jsonl"), [{"image": "pictures/c.png"}])
    said = invoke("plan", manifest).output
    match = re.search(r"c\.png does not exist .*but it does in .*: set (--source-root \S+)", said)
    assert match is not None, said
    assert "cannot be read" not in invoke("plan", manifest, *from_line(match[1])).output


def test_a_link_that_leaves_the_folder_is_read_by_what_the_plan_says(folder):
    linked(folder)
    write_jsonl(Path("m.jsonl"), [{"image": "linked.png"}])
    said = invoke("plan", "m.jsonl").output
    match = re.search(r"copy the file into it, or set (--source-fence \S+) if", said)
    assert match is not None, said
    assert "cannot be read" not in invoke("plan", "m.jsonl", *from_line(match[1])).output


@pytest.mark.parametrize(
    ("text", "said", "better"),
    [
        ("stpes = 3\n", r"unknown field 'stpes'; .*; did you mean (\w+)\?", "{} = 3\n"),
        ('device = "cudo"\n', r"must be auto, cpu, cuda; did you mean (\w+)\?", 'device = "auto" # {}\n'),
        ("width = 100\nheight = 64\n", r"width: .*; every model takes (\d+)", "width = {}\nheight = 64\n"),
        ('sampler = "Euler"\n', r"'Euler' is unknown: .*; did you mean (\w+)\?", 'sampler = "{}"\n'),
    ],
)
def test_a_settings_file(folder, text, said, better):
    write_jsonl(Path("m.jsonl"), [GOOD])
    Path("wanbatch.toml").write_text(text)
    refused = invoke("plan", "m.jsonl")
    match = re.search(said, refused.stderr)
    assert match is not None, refused.stderr
    Path("wanbatch.toml").write_text(better.format(match[1]))
    assert invoke("plan", "m.jsonl").exit_code == 0


def test_a_variable(folder):
    write_jsonl(Path("m.jsonl"), [GOOD])
    refused = invoke("plan", "m.jsonl", env={"WANBATCH_STEP": "3"})
    match = re.search(r"variable WANBATCH_STEP sets nothing; .*; did you mean (\w+)\?", refused.stderr)
    assert match is not None, refused.stderr
    assert invoke("plan", "m.jsonl", "--json", env={match[1]: "3"}).exit_code == 0


# ---- flags that messages name

OTHER_PROGRAMS = {  # program -> flags of it that messages show
    "docker run": {"--memory", "--shm-size", "--ulimit", "--pids-limit"},
    "pip install": {"--no-deps", "--force-reinstall"},
    "hf download, hf upload": {"--revision", "--repo-type", "--local-dir"},
    "nvidia-smi": {"--query-gpu"},
}


def texts(path: Path) -> Iterator[str]:
    """The texts in a file that are no docstrings; values of f-strings are left out."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    silent = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in silent:
            yield node.value


def flags_of(command: click.Command) -> set[str]:
    own = {name for one in command.params for name in (*one.opts, *one.secondary_opts)} | {"--help"}
    return own.union(*map(flags_of, command.commands.values())) if isinstance(command, click.Group) else own


def test_flags_in_messages_exist():
    known = flags_of(main).union(*OTHER_PROGRAMS.values())
    named: dict[str, set[str]] = {}
    for wing in ("manifests", "jobs", "pipeline"):
        for path in (ROOT / wing).rglob("*.py"):
            if "training" in path.parts:
                continue  # scripts of their own
            for text in texts(path):
                for flag in re.findall(r"(?<![\w-])--[a-z][a-z0-9-]*[a-z0-9]", text):
                    named.setdefault(flag, set()).add(str(path.relative_to(ROOT)))
    assert {"--source-root", "--rerun-changed", "--allow-http", "--new-run"} <= named.keys(), "messages name these"
    unknown = {flag: sorted(files) for flag, files in named.items() if flag not in known}
    assert not unknown, json.dumps(unknown, indent=1)


def test_commands_in_messages_exist():
    named = {
        command
        for wing in ("manifests", "jobs", "pipeline")
        for path in (ROOT / wing).rglob("*.py")
        for text in texts(path)
        for command in re.findall(r"`wanbatch ([a-z]+)", text)
    }
    assert {"doctor", "tune"} <= named <= main.commands.keys()
