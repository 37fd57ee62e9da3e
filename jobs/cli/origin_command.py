"""`wanbatch origin`: what a picture's file says of how it was made, and the row that it was made by."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from wanbatch.jobs.cli.flag_types import PathOrUrl
from wanbatch.jobs.cli.options import json_option

if TYPE_CHECKING:
    from wanbatch.manifests.dataset.mark_reading import FileMarks, FoundRow

_FOUND_BY = {
    "pixels": "by its pixels",
    "file": "by its pixels, as the file has them",
    "mark": "by its mark alone: its pixels were changed since",
}


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--in", "folder", type=PathOrUrl("dir"), help="output folder, or its URL, to find the picture's row in")
@json_option
def origin(file: Path, folder: str | Path | None, as_json: bool) -> None:
    """Say what the picture FILE says of its origin; with --in also which row of an output folder it is.

    FILE is a PNG, WEBP or JPEG. What is said in XMP anyone can have written; what is signed (C2PA) is checked.

    \b
    Example:
      wanbatch origin cat.png --in out/quickstart
    """
    from wanbatch.manifests.dataset.mark_reading import find_row, read_marks

    marks = read_marks(file)
    row = None if folder is None else find_row(folder, marks)
    if as_json:
        found = {"row": None if row is None else asdict(row)} if folder is not None else {}
        click.echo(json.dumps({"file": str(file), **asdict(marks), **found}, default=str))
    else:
        click.echo("\n".join(_lines(file, marks, folder, row)))


def _lines(file: Path, marks: FileMarks, folder: str | Path | None, row: FoundRow | None) -> Iterator[str]:
    from wanbatch.manifests.adapter_words import adapters_words, recorded_adapters
    from wanbatch.manifests.digital_source import MEANINGS

    if marks.term is None:
        yield f"{file}: has no mark of origin (which does not say that no model made it)"
    else:
        yield f"{file}: {MEANINGS.get(marks.term, 'marked')} ({marks.term})"
    if marks.tool is not None:
        yield f"  tool      {marks.tool}"
    if marks.made_sha256 is not None:
        same = marks.made_sha256 == marks.pixels_sha256
        lossy = "the file's are others: it is lossy, or was changed since"
        yield f"  pixels    {'those that were made' if same else lossy}"
    if marks.credentials is not None:
        said = marks.credentials
        trusted = "" if said.state == "Trusted" else f" ({', '.join(said.problems)})" if said.problems else ""
        yield f"  signed    {said.state}, by {said.signer or 'an unknown signer'}: {said.term or 'no term'}{trusted}"
    if marks.prompt is not None:
        yield f"  prompt    {marks.prompt}"
        if marks.negative_prompt:
            yield f"  negative  {marks.negative_prompt}"
    if marks.settings is not None:
        yield f"  settings  {json.dumps(marks.settings, ensure_ascii=False)}"
    if folder is not None:
        if row is None:
            yield f"  row       none in {folder}"
        else:
            yield f"  row       {row.values['id']!r} of {folder}, found {_FOUND_BY[row.by]}"
            yield f"            {row.part} row {row.row}"
            if adapters := recorded_adapters(row.values):
                yield f"            made with the adapters {adapters_words(adapters)}"
            number = row.values["manifest_row"]
            yield f"            row {number} of the manifest as it was then; it may have changed since: join on id"
