"""`wanbatch status` and `wanbatch report`: what an output folder holds."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from wanbatch.jobs.cli.options import folder_argument, json_option


@click.command()
@folder_argument
@json_option
def status(out: str | Path, as_json: bool) -> None:
    """Say how far the output folder OUT is; also while a run goes on.

    \b
    Example:
      wanbatch status out/quickstart
    """
    from wanbatch.jobs.reporting.run_log import speed
    from wanbatch.manifests.dataset.status import status as read_status

    found = read_status(out)
    rate = speed(out)
    found["pictures_per_second"] = rate
    found["seconds_left"] = (
        found["pending"] / rate if rate and found["holder"] and found["pending"] is not None else None
    )
    click.echo(json.dumps(found) if as_json else "\n".join(_lines(out, found)))


def _lines(out: str | Path, found: dict[str, Any]) -> Iterator[str]:
    total = "?" if found["rows"] is None else found["rows"]
    yield f"{out}: {found['done']} of {total} pictures made, {found['quarantined']} failed, {found['pending']} left"
    for name, count in found["failures"].items():
        yield f"  failed    {count} {name}"
    holder = found["holder"]
    state = f"a run goes on (pid {holder['pid']} on {holder['host']} since {holder['since']})" if holder else "no run"
    yield f"  state     {state}"
    if (rate := found["pictures_per_second"]) is not None:
        left = f", {found['seconds_left']:.0f} s left" if found["seconds_left"] is not None else ""
        yield f"  speed     {rate:.2f} pictures/s{left}"


@click.command()
@folder_argument
@click.option("--sheet", type=click.Path(path_type=Path), help="PNG to write; default: OUT/contact-sheet.png")
@click.option("--columns", default=4, show_default=True, type=click.IntRange(1, 50), help="pictures side by side")
@click.option("--limit", default=64, show_default=True, type=click.IntRange(1, 10_000), help="pictures at most")
@click.option("--tag", default="", help="only pictures with this tag; default: all")
def report(out: str | Path, sheet: Path | None, columns: int, limit: int, tag: str) -> None:
    """Draw the pictures of the output folder OUT on a contact sheet; that of a URL is written to this folder.

    \b
    Example:
      wanbatch report out/quickstart --sheet sheet.png
    """
    from wanbatch.jobs.reporting.contact_sheet import contact_sheet

    target = sheet or (out / "contact-sheet.png" if isinstance(out, Path) else Path("contact-sheet.png"))
    count = contact_sheet(out, target, columns=columns, limit=limit, tag=tag)
    click.echo(f"{count} pictures on {target}")
