"""The commands of docs/cluster.md are ones that wanbatch takes; those that reach no cluster are run."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from job_making import write_jsonl

from wanbatch.jobs.cli.main import main

PAGE = Path(__file__).parents[3] / "docs/cluster.md"
BLOCKS = re.findall(r"```sh\n(.*?)```", PAGE.read_text(), re.DOTALL)
COMMANDS = [shlex.split(line) for block in BLOCKS for line in block.splitlines() if line.startswith("wanbatch ")]


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_every_command_is_one_that_wanbatch_takes(words):
    words = words[1 : words.index(">")] if ">" in words else words[1:]
    command: click.Command = main
    context = click.Context(main, info_name="wanbatch")
    while isinstance(command, click.Group):
        name, found, words = command.resolve_command(context, words)
        assert found is not None
        context = found.make_context(name, list(words), parent=context)
        command = found
        words = [*context._protected_args, *context.args] if isinstance(found, click.Group) else []


def test_there_are_commands_of_each_kind():
    assert {words[1] for words in COMMANDS} == {"plan", "submit", "jobs", "status", "run"}
    assert {words[2] for words in COMMANDS if words[1] == "jobs"} == {"list", "status", "logs", "stop"}


@pytest.mark.parametrize("words", [words for words in COMMANDS if "--emit" in words], ids=" ".join)
def test_what_is_emitted_is_printed_without_a_cluster(words, tmp_path):
    manifest = write_jsonl(tmp_path / "m.jsonl", [{"prompt": "a cup"}])
    given = [str(manifest) if word.endswith(".parquet") else word for word in words[1 : words.index(">")]]
    done = CliRunner().invoke(main, given)
    assert done.exit_code == 0, done.output
    assert done.stdout.startswith("#")
