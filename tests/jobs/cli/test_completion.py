"""What shells complete, and the scripts that make them do it."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from click.shell_completion import CompletionItem, ShellComplete
from command_line import invoke, usage_error

from wanbatch.jobs.cli.completion_command import COMPLETERS
from wanbatch.jobs.cli.main import main
from wanbatch.pipeline.sampling.solvers import SOLVERS


def completions(*words: str) -> list[CompletionItem]:
    """What is offered for the last of these words after `wanbatch`."""
    *before, incomplete = words
    return ShellComplete(main, {}, "wanbatch", "_WANBATCH_COMPLETE").get_completions(before, incomplete)


def values(*words: str) -> list[str]:
    return [item.value for item in completions(*words)]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["st"], ["status"]),
        (["completion", ""], ["bash", "zsh", "fish"]),
        (["run", "--samp"], ["--sampler"]),
        (["plan", "--sampler", ""], list(SOLVERS)),
        (["run", "--sampler", "dp"], ["dpmpp_2m"]),
        (["run", "--schedule", "k"], ["karras"]),
        (["bench", "--preset", ""], ["exact", "balanced", "fast"]),
        (["tune", "--precision", "f"], ["fp32", "fp8"]),
        (["run", "--slots", "a"], ["auto"]),
        (["run", "--step-cache", ""], ["none", "deepcache", "taylor", "adaptive"]),
        (["run", "--steps", ""], []),
    ],
)
def test_commands_flags_and_their_values_are_completed(words, expected):
    assert values(*words) == expected


@pytest.mark.parametrize(
    ("words", "kind"), [(["run", "sho"], "file"), (["status", "ou"], "dir"), (["run", "--out", "ou"], "dir")]
)
def test_the_shell_completes_paths(words, kind):
    assert [(item.value, item.type) for item in completions(*words)] == [(words[-1], kind)]


def test_models_are_folders_and_the_small_one():
    found = [(item.value, item.type) for item in completions("run", "--model", "ti")]
    assert found == [("ti", "dir"), ("tiny", "plain")]
    assert values("run", "--model", "wan") == ["wan"]


@pytest.mark.parametrize("shell", COMPLETERS)
def test_the_script_asks_the_command(shell):
    result = invoke("completion", shell)
    assert (result.exit_code, result.stderr) == (0, "")
    assert f"_WANBATCH_COMPLETE={shell}_complete" in result.stdout


def test_the_help_says_where_scripts_belong():
    text = invoke("completion", "--help").stdout
    assert all(f"wanbatch completion {shell} > " in text for shell in COMPLETERS)


def test_other_shells_are_refused():
    assert "'tcsh' is not one of 'bash', 'zsh', 'fish'" in usage_error(invoke("completion", "tcsh"))


def test_bash_gets_what_it_asks_for(tmp_path):
    """As its script does it: the command with three variables."""
    asked = {"_WANBATCH_COMPLETE": "bash_complete", "COMP_WORDS": "wanbatch run --format w", "COMP_CWORD": "3"}
    code = "from wanbatch.jobs.cli.main import main; main(prog_name='wanbatch')"
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **asked}, cwd=tmp_path, capture_output=True, text=True
    )
    assert (done.stdout, done.stderr) == ("plain,webp\n", "")
