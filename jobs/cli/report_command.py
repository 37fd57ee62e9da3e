"""`wanbatch report`: a page about an output folder, pages with all its pictures, a contact sheet."""

from __future__ import annotations

from pathlib import Path

import click

from wanbatch.counting import number_of
from wanbatch.jobs.cli.options import folder_argument


@click.command()
@folder_argument
@click.option("--to", type=click.Path(path_type=Path), help="page to write; default: OUT/report.html")
@click.option("--pages", is_flag=True, help="write pages with all pictures and failures, too, in OUT/report-pages")
@click.option("--class-column", help="column with the class of a picture; default: class, label, category, ...")
@click.option("--sheet", type=click.Path(path_type=Path), help="draw a contact sheet, a PNG, instead of the page")
@click.option("--columns", default=4, show_default=True, type=click.IntRange(1, 50), help="of the contact sheet")
@click.option(
    "--limit", default=64, show_default=True, type=click.IntRange(1, 10_000), help="pictures on the contact sheet"
)
@click.option("--keyword", default="", help="on the contact sheet only pictures with this one among their keywords")
def report(
    out: str | Path,
    to: Path | None,
    pages: bool,
    class_column: str | None,
    sheet: Path | None,
    columns: int,
    limit: int,
    keyword: str,
) -> None:
    """Write a page about the output folder OUT: counts, failures, pictures, checks, times; also while a run goes on.

    It is one file that needs no other, of at most 10 MB; report.json beside it has the same figures. That of a URL
    is written to the current folder.

    \b
    Example:
      wanbatch report out/quickstart
      wanbatch report out/quickstart --sheet sheet.png
    """
    if sheet is not None:
        _draw_sheet(out, sheet, columns, limit, keyword)
        return
    for name, given, default in (("--columns", columns, 4), ("--limit", limit, 64), ("--keyword", keyword, "")):
        if given != default:
            raise click.UsageError(f"{name} is of the contact sheet: give --sheet FILE.png with it")
    from wanbatch.jobs.reporting.report.charts import size
    from wanbatch.jobs.reporting.report.write import PAGE, write_report

    target = to or (out / PAGE if isinstance(out, Path) else Path(PAGE))
    written = write_report(out, target, class_column, pages)
    some = f"{written.pictures} of " if written.pictures < written.images else ""
    click.echo(f"{written.path}: {some}{number_of(written.images, 'pictures')}, {size(written.bytes)}")
    if written.pages:
        click.echo(f"{written.pages[0]}: {number_of(len(written.pages), 'pages')} with all pictures and failures")


def _draw_sheet(out: str | Path, sheet: Path, columns: int, limit: int, keyword: str) -> None:
    from wanbatch.jobs.reporting.contact_sheet import contact_sheet

    count = contact_sheet(out, sheet, columns=columns, limit=limit, keyword=keyword)
    click.echo(f"{number_of(count, 'pictures')} on {sheet}")
