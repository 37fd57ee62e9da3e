"""`wanbatch doctor`: whether this machine, an output folder and a model are ready for a run."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from wanbatch.jobs.cli.flag_types import PathOrUrl
from wanbatch.jobs.cli.options import json_option, settings_options

if TYPE_CHECKING:
    from wanbatch.jobs.doctor.runner import Result

FAULT_FOUND = 2  # as for whatever else the user has to set right
MARKS = {"ok": ("ok", "green"), "warning": ("warning", "yellow"), "fault": ("FAULT", "red")}
NAME_COLUMN, LEVEL_COLUMN = 10, 9


@click.command()
@click.option("--out", "-o", type=PathOrUrl("dir"), help="output folder or its URL, to try what a run does with it")
@settings_options("model", "revision")
@json_option
@click.pass_context
def doctor(
    ctx: click.Context, out: str | Path | None, model: str | None, revision: str | None, as_json: bool
) -> None:
    """Check this machine: what a run needs is tried, and each fault comes with its remedy.

    Exit codes: 0 no fault, perhaps warnings; 2 a fault, without whose remedy a run does not work.

    \b
    Example:
      wanbatch doctor
      wanbatch doctor --out s3://shop/images --model Wan-AI/Wan2.2-TI2V-5B-Diffusers
    """
    from wanbatch.errors import UserError
    from wanbatch.jobs.config.settings import Settings, read_settings
    from wanbatch.jobs.doctor.check import Question
    from wanbatch.jobs.doctor.runner import examine

    try:
        settings = read_settings(model=model, revision=revision)
    except UserError:  # the check of the settings says so
        settings = Settings.model_construct(**{"model": model or "tiny", "revision": revision})
    question = Question(None if out is None else str(out), settings.model, settings.revision)
    width = _width()
    results = []
    for result in examine(question):
        results.append(result)
        if not as_json:
            click.echo("\n".join(_lines(result, width)))
    levels = [result.finding.level for result in results]
    faults, warnings = levels.count("fault"), levels.count("warning")
    if as_json:
        checks = [{"check": one.check, **asdict(one.finding), "facts": one.facts} for one in results]
        click.echo(json.dumps({"faults": faults, "warnings": warnings, "checks": checks}))
    else:
        click.echo(_verdict(faults, warnings))
    ctx.exit(FAULT_FOUND if faults else 0)


def _lines(result: Result, width: int) -> Iterator[str]:
    """Yield the lines of one check: its name, its level and what it found, below that the remedy."""
    mark, colour = MARKS[result.finding.level]
    level = click.style(f"{mark:<{LEVEL_COLUMN}}", fg=colour, bold=result.finding.level != "ok")
    indent = " " * (NAME_COLUMN + LEVEL_COLUMN)
    first, *rest = _wrapped(result.finding.message, width - len(indent))
    yield f"{result.check:<{NAME_COLUMN}}{level}{first}"
    yield from (indent + line for line in rest)
    if remedy := result.finding.remedy:
        first, *rest = _wrapped(remedy, width - len(indent) - 3)
        yield f"{indent}{click.style('->', fg=colour, bold=True)} {first}"
        yield from (f"{indent}   {line}" for line in rest)


def _wrapped(text: str, width: int) -> list[str]:
    """Text in lines; names and addresses stay in one piece, so that they can be copied."""
    return textwrap.wrap(text, max(40, width), break_long_words=False, break_on_hyphens=False) or [""]


def _width() -> int:
    """How wide the terminal is; what is no terminal gets long lines."""
    import shutil
    import sys

    return shutil.get_terminal_size((100, 24)).columns if sys.stdout.isatty() else 10_000


def _verdict(faults: int, warnings: int) -> str:
    counts = [f"{n} {name}{'s' if n > 1 else ''}" for n, name in ((faults, "fault"), (warnings, "warning")) if n]
    if faults:
        return f"\n{' and '.join(counts)}: a run does not work as it is"
    return f"\n{counts[0]}: a run works" if counts else "\nall is well"
