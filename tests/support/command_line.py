"""Runs the command line in this process and checks how it refuses what it is given."""

from __future__ import annotations

from click.testing import CliRunner, Result

from wanbatch.jobs.cli.main import main

GOOD = {"prompt": "a heart"}


def invoke(*arguments: object, env: dict[str, str] | None = None) -> Result:
    """Run `wanbatch` with these arguments."""
    return CliRunner(env=env).invoke(main, list(map(str, arguments)))


def refused(result: Result, lines: int = 1) -> list[str]:
    """Return the lines of the message of a refused command: on stderr alone, without a traceback."""
    text = _stderr(result)
    assert text.startswith("wanbatch: ")
    found = text.removeprefix("wanbatch: ").splitlines()
    assert len(found) == lines, text
    return found


def usage_error(result: Result) -> str:
    """Return what click says is wrong with a flag or argument: on stderr alone, after how the command is used."""
    usage, _, error = _stderr(result).partition("\nError: ")
    assert usage.startswith("Usage: ")
    assert len(error.splitlines()) == 1, result.stderr
    return error.strip()


def _stderr(result: Result) -> str:
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    return result.stderr
