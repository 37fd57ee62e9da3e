"""`wanbatch push`: an output folder as a dataset on the Hugging Face Hub."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from wanbatch.counting import number_of
from wanbatch.jobs.cli.options import folder_argument, json_option

if TYPE_CHECKING:
    from wanbatch.manifests.sharing.push import PushReport
    from wanbatch.manifests.sharing.shards import Shard


@click.command()
@folder_argument
@click.argument("target")
@click.option("--license", required=True, help="of the dataset, as the Hub names licences, like cc-by-4.0")
@click.option("--source-license", help="of the pictures that images were made from; required if there are any")
@click.option("--public", is_flag=True, help="make a new repository for everyone to see; default: private")
@click.option("--partial", is_flag=True, help="also if rows are still to be made")
@click.option("--replace", is_flag=True, help="replace a dataset that has more images than OUT")
@click.option("--dry-run", is_flag=True, help="say what would go up, and show the card; the Hub is not asked")
@json_option
def push(
    out: str | Path,
    target: str,
    license: str,
    source_license: str | None,
    public: bool,
    partial: bool,
    replace: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Publish the output folder OUT as the dataset TARGET (hf://OWNER/NAME) on the Hugging Face Hub.

    The same command again goes on where it was stopped, and sends only what the Hub does not have. It uses the token
    of `hf auth login` or HF_TOKEN. Timings and failures stay here, since they name hosts and paths.

    \b
    Example:
      wanbatch push out/quickstart hf://your-name/quickstart --license cc-by-4.0 --source-license cc0-1.0 --dry-run
    """
    from wanbatch.manifests.sharing.hub_card import Licences
    from wanbatch.manifests.sharing.push import PushOptions
    from wanbatch.manifests.sharing.push import push as push_folder

    options = PushOptions(Licences(license, source_license), partial, public, replace, dry_run)

    def say(shard: Shard, sent: bool) -> None:
        what = "would go up" if dry_run else "sent" if sent else "is there"
        click.echo(f"{shard.name}: {number_of(shard.rows, 'images')}, {shard.bytes / 1e6:.1f} MB, {what}", err=True)

    report = push_folder(out, target, options, say)
    click.echo(json.dumps({**asdict(report), "dry_run": dry_run}) if as_json else "\n".join(_lines(report, dry_run)))


def _lines(report: PushReport, dry_run: bool) -> Iterator[str]:
    size = sum(report.files.values()) / 1e6
    whose = {True: "private", False: "public", None: "of unknown visibility"}[report.private]
    images, files = number_of(report.images, "images"), number_of(len(report.files), "files")
    yield f"hf://{report.repository}: {images}, {size:.1f} MB in {files}, {whose}"
    if report.rows_left:
        yield f"  left      {number_of(report.rows_left, 'rows')} still to be made"
    for message in report.warnings:
        yield f"  warning   {message}"
    for name in report.removed:
        yield f"  removed   {name}"
    if dry_run:
        for name, count in report.files.items():
            yield f"  file      {name}, {count / 1e6:.3f} MB"
        yield "  nothing was sent; the card would be:"
        yield ""
        yield report.card
    elif report.commit is None:
        yield "  everything was there already"
    else:
        yield f"  sent      {number_of(len(report.sent), 'files')}, by one commit"
        yield f"  commit    {report.commit}"
