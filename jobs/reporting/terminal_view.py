"""How a terminal shows a run that goes on: bar, speed, time left, workers, failures, the last pictures."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from PIL import Image
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.padding import Padding
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from wanbatch.jobs.reporting.report.charts import duration
from wanbatch.jobs.reporting.watch import Look

WORKERS_SHOWN, GAP = 8, 6
SHEET_CELLS = 12
"""Lines of the terminal that pictures take, at most."""

Draw = Callable[[Image.Image], RenderableType]


def picture_drawing() -> Draw | None:
    """How this terminal draws pictures: by the sixel or the kitty protocol; None if it says that it has neither."""
    from textual_image.renderable import Image as Chosen  # asks the terminal when it is imported
    from textual_image.renderable import SixelImage, TGPImage

    if Chosen not in (SixelImage, TGPImage) or 0 in shutil.get_terminal_size((0, 0)):
        return None
    return lambda picture: Chosen(picture, width="auto", height=SHEET_CELLS)


def show(looks: Iterable[Look], out: str | Path, draw: Draw | None, console: Console | None = None) -> Look:
    """Show a folder while its run goes on, and return the last look."""
    console = console or Console()
    last: Look | None = None
    with Live(console=console, auto_refresh=False, vertical_overflow="crop") as live:
        for last in looks:
            live.update(view(out, last, draw), refresh=True)
    assert last is not None
    return last


def view(out: str | Path, seen: Look, draw: Draw | None = None) -> Group:
    """What is shown of one look.

    Args:
        out: the folder as the user named it.
        seen: what was found.
        draw: how pictures are drawn; None: they are not.
    """
    found = seen.found
    done, total = found["done"] + found["quarantined"], found["rows"]
    parts: list[RenderableType] = [_headline(out, seen)]
    if total:
        parts.append(Padding(ProgressBar(total=total, completed=done), 0))  # which ends its line
    parts.append(_figures(seen))
    for name, count in found["failures"].items():
        parts.append(Text(f"  {count} {name}", style="red"))
    for name, kind in seen.last_failures:
        parts.append(Text(f"    {name}: {kind}", style="dim", overflow="ellipsis", no_wrap=True))
    if seen.workers:
        parts.append(_workers(seen))
    if draw is not None and seen.pictures:
        parts.append(draw(sheet(seen.pictures)))
    return Group(*parts)


def _headline(out: str | Path, seen: Look) -> Text:
    holder = seen.found["holder"]
    if holder:
        state = (f"running on {holder['host']} (pid {holder['pid']})", "bold cyan")
    elif seen.ended:
        state = (seen.ended, "bold green" if seen.ended == "finished" else "bold yellow")
    else:
        state = ("no run goes on", "bold yellow")
    return Text.assemble((str(out), "bold"), "  ", state)


def _figures(seen: Look) -> Text:
    found = seen.found
    total = "?" if found["rows"] is None else f"{found['rows']:,}"
    text = Text.assemble((f"{found['done']:,}", "green"), f" of {total} made")
    if found["quarantined"]:
        text.append(f", {found['quarantined']:,} failed", "red")
    if found["pending"]:
        text.append(f", {found['pending']:,} left")
    if seen.images_per_second is not None:
        text.append(f"  ·  {seen.images_per_second:.3g} pictures/s")
    if seen.seconds_left is not None:
        text.append(f"  ·  {duration(seen.seconds_left)} left", "bold")
    return text


def _workers(seen: Look) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("worker", no_wrap=True, overflow="ellipsis")
    table.add_column("pictures", justify="right")
    table.add_column("last unit", justify="right", no_wrap=True)
    for worker in seen.workers[:WORKERS_SHOWN]:
        table.add_row(Text(worker.name), f"{worker.images:,}", f"{duration(worker.seconds_ago)} ago")
    if (more := len(seen.workers) - WORKERS_SHOWN) > 0:
        table.add_row(Text(f"and {more} more", style="dim"), "", "")
    return table


def sheet(pictures: Any) -> Image.Image:
    """Pictures side by side."""
    width = sum(picture.width + GAP for picture in pictures) - GAP
    joined = Image.new("RGB", (width, max(picture.height for picture in pictures)))
    left = 0
    for picture in pictures:
        joined.paste(picture, (left, 0))
        left += picture.width + GAP
    return joined
