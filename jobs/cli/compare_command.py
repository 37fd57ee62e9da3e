"""`wanbatch compare`: what changed between the pictures of two output folders."""

from __future__ import annotations

from pathlib import Path

import click

from wanbatch.jobs.cli.flag_types import PathOrUrl
from wanbatch.jobs.cli.options import json_option


@click.command()
@click.argument("out1", type=PathOrUrl("dir"))
@click.argument("out2", type=PathOrUrl("dir"))
@click.option(
    "--metric",
    "metrics",
    multiple=True,
    type=click.Choice(["psnr", "ssim", "lpips"]),
    help="may be repeated; psnr is always measured, the first one orders the pictures",
)
@click.option("--limit", type=click.IntRange(1), help="measure so many pairs at most, evenly spread; default: all")
@click.option("--to", type=click.Path(path_type=Path), default=Path("compare.html"), show_default=True, help="page")
@json_option
def compare(
    out1: str | Path, out2: str | Path, metrics: tuple[str, ...], limit: int | None, to: Path, as_json: bool
) -> None:
    """Set the pictures of OUT1 and OUT2 with the same ids side by side, with numbers for how far they are apart.

    It says what another sampler, step cache, precision or device did to these pictures: in a page, and in a JSON
    file beside it with the figures of each pair.

    \b
    Example:
      wanbatch compare out/quickstart out/fast --metric ssim --to compare.html
    """
    from wanbatch.jobs.comparison.compare import as_json as text_of
    from wanbatch.jobs.comparison.compare import compare as compare_folders
    from wanbatch.jobs.comparison.page import comparison_page
    from wanbatch.jobs.comparison.text import lines_of
    from wanbatch.jobs.reporting.report.write import require_page
    from wanbatch.manifests.storage.user_files import write_file

    require_page(to)
    names = tuple(dict.fromkeys((*metrics, "psnr")))
    found = compare_folders(out1, out2, names, limit)
    write_file(to, comparison_page(found, names[0]).encode())
    write_file(to.with_suffix(".json"), text_of(found).encode(errors="replace"))
    click.echo(text_of(found) if as_json else "\n".join(lines_of(found.data, str(to))))
