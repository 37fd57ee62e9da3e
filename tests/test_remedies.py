"""What messages tell users to do is done, and works.

Each case is a mistake, the message that it gets, and what the message offers, as rows and flags; values that a
message suggests are taken out of it. Scenes do the same for what takes more than rows and flags. Flags that are named
anywhere in messages must exist. The last test looks for every remedy in the code: each is met by a case or a scene,
or `remedies_elsewhere.py` says where it is followed or why it cannot be.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
import scenes_adapters  # noqa: F401  scenes are taken when their files are imported
import scenes_after_runs  # noqa: F401
import scenes_cluster  # noqa: F401
import scenes_folders  # noqa: F401
import scenes_jobs  # noqa: F401
import scenes_models  # noqa: F401
import scenes_objects  # noqa: F401
import scenes_recipes  # noqa: F401
import scenes_schedule  # noqa: F401
import scenes_sharing  # noqa: F401
import scenes_sounds  # noqa: F401
import scenes_sources  # noqa: F401
import scenes_tables  # noqa: F401
import scenes_text  # noqa: F401
import scenes_training  # noqa: F401
import scenes_training_processes  # noqa: F401
from command_line import GOOD, invoke
from job_making import picture, write_jsonl
from remedies_elsewhere import ELSEWHERE, NOT_HERE
from remedies_that_are_none import NO_REMEDIES
from remedy_cases import CASES as PLAIN_CASES
from remedy_cases import Case, below, from_line, linked
from remedy_map_cases import MAP_CASES
from remedy_scenes import SCENES, At
from remedy_texts import WINGS, RemedyText, remedy_texts

from wanbatch.jobs.cli.main import main

ROOT = Path(__file__).parent.parent
CASES = {**PLAIN_CASES, **MAP_CASES}

TABLES = {"ELSEWHERE": ELSEWHERE, "NOT_HERE": NOT_HERE, "NO_REMEDIES": NO_REMEDIES}

SAID: dict[str, str] = {}
"""What each case and scene that was followed in this process said."""


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """The current folder, with two pictures."""
    return current_folder(tmp_path, monkeypatch)


def current_folder(around: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A new folder, which becomes the current one, with two pictures."""
    here = around / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    picture(here / "a.png", 32, 32, seed=1)
    picture(here / "b.png", 64, 32, seed=2)
    return here


@pytest.mark.parametrize("name", CASES)
def test_what_a_message_offers_works(folder, name):
    SAID[name] = follow(CASES[name], folder)


@pytest.mark.parametrize("name", SCENES)
def test_what_a_message_offers_in_a_scene_works(folder, monkeypatch, name):
    SAID[name] = "\n".join(SCENES[name](At(folder, monkeypatch)))


def follow(case: Case, folder: Path) -> str:
    """Make a mistake and do what the message offers; returns the message."""
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
    return refused.stderr


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
        ("stpes = 3\n", r"unknown field 'stpes': did you mean (\w+)\?", "{} = 3\n"),
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
    match = re.search(r"variable WANBATCH_STEP sets nothing: did you mean (\w+)\?", refused.stderr)
    assert match is not None, refused.stderr
    assert invoke("plan", "m.jsonl", "--json", env={match[1]: "3"}).exit_code == 0


# ---- flags that messages name

OTHER_PROGRAMS = {  # program -> flags of it that messages show
    "docker run": {"--memory", "--shm-size", "--ulimit", "--pids-limit"},
    "pip install": {"--no-deps", "--force-reinstall"},
    "hf download, hf upload": {"--revision", "--repo-type", "--local-dir"},
    "nvidia-smi": {"--query-gpu"},
    "sbatch, srun": {
        *("--job-name", "--nodes", "--ntasks-per-node", "--exclusive", "--no-kill", "--requeue", "--open-mode"),
        *("--output", "--kill-on-bad-exit", "--gpus-per-node"),
    },
    "ray start, ray symmetric-run": {"--address", "--head", "--min-nodes"},
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
    for wing in WINGS:
        for path in (ROOT / wing).rglob("*.py"):
            if "training" in path.relative_to(ROOT).parts:
                continue  # scripts of their own
            for text in texts(path):
                for flag in re.findall(r"(?<![\w-])--[a-z][a-z0-9.-]*[a-z0-9](?![\w-])", text):
                    named.setdefault(flag, set()).add(str(path.relative_to(ROOT)))
    assert {"--source-root", "--rerun-changed", "--allow-http", "--new-run"} <= named.keys(), "messages name these"
    unknown = {flag: sorted(files) for flag, files in named.items() if flag not in known}
    assert not unknown, json.dumps(unknown, indent=1)


def test_commands_in_messages_exist():
    named = {
        command
        for wing in WINGS
        for path in (ROOT / wing).rglob("*.py")
        for text in texts(path)
        for command in re.findall(r"`wanbatch ([a-z]+)", text)
    }
    assert {"doctor", "tune"} <= named <= main.commands.keys()


# ---- the inventory of remedies

WHAT_TO_DO = """These texts tell users what to do, and no test does it. For each, write a scene (in a file
tests/support/scenes_*.py) that makes the mistake, yields the message and does what it offers; or name the
test that does so in tests/support/remedies_elsewhere.py, or the reason there why none can:
"""


@pytest.fixture(scope="module")
def said(tmp_path_factory) -> list[str]:
    """What all cases and scenes say; those that no test of this process has followed are followed now."""
    for name, play in {**CASES, **SCENES}.items():
        if name not in SAID:
            with pytest.MonkeyPatch.context() as monkeypatch:
                here = current_folder(tmp_path_factory.mktemp("scene"), monkeypatch)
                done = follow(play, here) if isinstance(play, Case) else "\n".join(play(At(here, monkeypatch)))
            SAID[name] = done
    return list(SAID.values())


def entry(table: dict[str, dict[str, str]], remedy: RemedyText) -> str | None:
    """What a table says of a text; None: nothing."""
    return next((said for part, said in table.get(remedy.file, {}).items() if part in remedy.text), None)


def test_every_remedy_in_the_code_is_followed(said):
    unknown = []
    for remedy in remedy_texts(ROOT):
        followed = any(remedy.pattern.search(text) for text in said)
        listed = [name for name, table in TABLES.items() if entry(table, remedy) is not None]
        if not (followed or listed):
            unknown.append(str(remedy))
    assert not unknown, WHAT_TO_DO + "\n".join(unknown)


@pytest.mark.parametrize("name", TABLES)
def test_a_table_has_no_entry_too_many(said, name):
    """An entry is of one text or more, and NOT_HERE has none of a text that is followed."""
    remedies = remedy_texts(ROOT)
    for file, parts in TABLES[name].items():
        for part in parts:
            meant = [remedy for remedy in remedies if remedy.file == file and part in remedy.text]
            assert meant, f"{file}: no remedy has {part!r}: correct the entry in {name}, or remove it"
            if name == "NOT_HERE" and len(re.findall(r"\w+", part)) > 3:
                followed = all(any(remedy.pattern.search(text) for text in said) for remedy in meant)
                assert not followed, f"{file}: {part!r} is followed: remove its entry in {name}"


def test_tests_that_follow_remedies_exist_and_know_the_message():
    """They have three words in a row of the message, at least."""
    remedies = remedy_texts(ROOT)
    for file, parts in ELSEWHERE.items():
        for part, test in parts.items():
            path, _, name = test.partition("::")
            source = (ROOT / path).read_text("utf-8")
            names = {node.name for node in ast.walk(ast.parse(source)) if isinstance(node, ast.FunctionDef)}
            assert name in names, f"{file}: {part!r} is followed by {test}, which is not there"
            said = " ".join(re.findall(r"\w+", source))
            for remedy in remedies:
                if remedy.file == file and part in remedy.text:
                    known = [words for words in three_words(remedy.text) if words in said]
                    assert known, f"{test} is to follow {remedy}, and has no three words of it"


def three_words(text: str) -> Iterator[str]:
    """Each three words that follow each other in a text, values left out."""
    for part in re.split(r"\{\}|%s", text):
        words = re.findall(r"\w+", part)
        yield from (" ".join(words[at : at + 3]) for at in range(max(1, len(words) - 2)) if words)
