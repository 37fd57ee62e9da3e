"""`wanbatch export`: an output folder in the format of another tool."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import click

from wanbatch.counting import number_of
from wanbatch.jobs.cli.flag_types import PathOrUrl
from wanbatch.jobs.cli.options import folder_argument, json_option

FORMATS = ("webdataset", "imagefolder", "coco", "lance")


@click.command()
@folder_argument
@click.option("--to", required=True, type=PathOrUrl("dir"), help="the folder to make")
@click.option("--format", required=True, type=click.Choice(FORMATS), help="what the folder is to be")
@click.option("--partial", is_flag=True, help="also if rows are still to be made")
@json_option
def export(out: str | Path, to: str | Path, format: str, partial: bool, as_json: bool) -> None:
    """Write the pictures and rows of the output folder OUT in another format.

    The folder is there once it is whole; an export that was stopped is gone on with by the same command. Picture
    files are copied as they are, with their marks of origin.

    \b
    Example:
      wanbatch export out/quickstart --to quickstart-tars --format webdataset
    """
    from wanbatch.manifests.sharing.export import export as write_export

    report = write_export(out, to, format, partial)
    if as_json:
        click.echo(json.dumps(asdict(report)))
        return
    was = "holds already" if report.there_already else "has"
    click.echo(f"{report.folder}: {was} {number_of(report.pictures, 'pictures')} as {report.format}")
    if report.quarantined:
        click.echo(f"  failed    {number_of(report.quarantined, 'rows')} without a picture, not in it")
    if report.left:
        click.echo(f"  left      {number_of(report.left, 'rows', 'was', 'were')} still to be made")
