"""`wanbatch plan`: checking a manifest without making anything."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from wanbatch.jobs.cli.options import json_option, manifest_argument, settings_options
from wanbatch.jobs.config.settings import read_settings
from wanbatch.manifests.sources.notes import WORDS

if TYPE_CHECKING:
    from wanbatch.manifests.reading.column_names import UnusedColumn
    from wanbatch.pipeline.loading.registry import ModelInfo

NAMES_SHOWN = 10


@click.command()
@manifest_argument
@json_option
@settings_options()
def plan(manifest: str | Path, as_json: bool, **given: Any) -> None:
    """Check MANIFEST and say what a run would do. Loads no model and writes nothing.

    \b
    Example:
      wanbatch plan shop.parquet --model tiny
    """
    from wanbatch.jobs.config.presets import with_preset
    from wanbatch.jobs.planning.preparation import prepare

    settings = with_preset(read_settings(**given))
    planned, model = prepare(manifest, settings, weights=False, every_source=True)
    described = planned.describe(settings.unit_rows)
    if as_json:
        click.echo(json.dumps({"manifest": str(manifest), "model": model.name, **described}))
    else:
        click.echo("\n".join(_lines(manifest, model, described, planned.manifest.unused_columns)))


def _lines(
    manifest: str | Path, model: ModelInfo, described: dict[str, Any], unused: Sequence[UnusedColumn]
) -> Iterator[str]:
    counts = (_count(described[name], name) for name in ("rows", "images", "units"))
    yield "{}: {}, {} in {}".format(manifest, *counts)
    least, most = (described["evaluations_of_an_image"][name] for name in ("least", "most"))
    each = f"{least} an image" if least == most else f"{least} to {most} an image"
    yield f"  model     {model.name}, {model.sampler}, {described['model_evaluations']} evaluations in all, {each}"
    for size, count in described["sizes"].items():
        yield f"  {size:<9} {_count(count, 'images')}"
    yield f"  sources   {_count(described['with_sources'], 'images')} start from one or more"
    for name, noted in described["source_notes"].items():
        first = " ".join(noted["example"].split())
        yield f"  note      {_count(noted['sources'], 'sources')} {WORDS[name]}; {first} for one"
    if names := described["passthrough"]:
        yield f"  columns   passed through unchanged: {', '.join(names[:NAMES_SHOWN])}{_more(names)}"
    for message in described["warnings"]:
        yield f"  warning   {message}"
    yield from _unused_lines(unused)
    if unreadable := list(described["unreadable_sources"].values()):
        yield f"  warning   {_count(len(unreadable), 'sources')} cannot be read; their rows will fail:"
        for message in unreadable[:NAMES_SHOWN]:
            yield f"            {message}"
        if _more(unreadable):
            yield f"            {_more(unreadable).lstrip(', ')} (--json names them all)"


def _unused_lines(unused: Sequence[UnusedColumn]) -> Iterator[str]:
    """What to do about columns that seem to mean others, as a table and one line to copy."""
    if not unused:
        return
    count = "1 column passes" if len(unused) == 1 else f"{len(unused)} columns pass"
    yield f"  warning   {count} through without being used; did you mean another?"
    width = max(len(column.column) for column in unused)
    for column in unused:
        note = f"  ({column.note})" if column.note else ""
        yield f"            {column.column:<{width}}  {column.meant}{note}"
    if options := [column.option for column in unused if column.can_be_mapped]:
        yield f"            take {'them' if len(options) > 1 else 'it'}: {' '.join(options)}"
    yield f"            or keep one under another name, without this warning: {unused[0].keeping}"


def _count(number: int, things: str) -> str:
    return f"{number} {things if number != 1 else things.removesuffix('s')}"


def _more(names: list[str]) -> str:
    return f", and {len(names) - NAMES_SHOWN} more" if len(names) > NAMES_SHOWN else ""
