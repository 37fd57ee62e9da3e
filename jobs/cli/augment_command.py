"""`wanbatch augment`: growing a dataset by a recipe."""

from __future__ import annotations

import json
import shlex
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from wanbatch.counting import number_of
from wanbatch.errors import UserError
from wanbatch.jobs.cli.flag_types import PathOrUrl
from wanbatch.jobs.cli.options import json_option, settings_options
from wanbatch.jobs.cli.process_start import print_or_drop, said_on_stderr
from wanbatch.jobs.config.settings import Settings, read_settings

if TYPE_CHECKING:
    from wanbatch.jobs.augment.augment import Augmentation
    from wanbatch.jobs.augment.classifier import Learner
    from wanbatch.jobs.augment.writing import Written

DECIDED = ("prompt", "creativity", "seed")
"""Settings that the rows of a recipe decide."""

CLASSES_SHOWN = 12


@click.command()
@click.argument("recipe", type=click.Path(path_type=Path))
@click.option("--out", "-o", type=PathOrUrl(), help="manifest to write, or with --run the output folder")
@click.option("--run", "make", is_flag=True, help="make the pictures, too")
@click.option(
    "--submit-to", metavar="URL", help="with --run, make them as a job on the Ray cluster with this dashboard"
)
@click.option(
    "--manifest",
    type=click.Path(path_type=Path),
    help="with --run, manifest to write; default: that of OUT",
)
@click.option(
    "--preview", type=click.IntRange(1, 200), help="make so many rows and draw them on NAME.preview.png only"
)
@click.option("--measure", type=PathOrUrl("dir"), help="whether the pictures in this output folder help a classifier")
@click.option("--epochs", type=click.IntRange(1, 10_000), default=30, show_default=True, help="of --measure")
@click.option("--result", type=click.Path(path_type=Path), help="JSON file of --measure; default: NAME.measured.json")
@click.option(
    "--embeddings",
    type=click.Path(path_type=Path),
    help="with --measure, ONNX file or folder of transformers: also measure a linear layer on its embeddings",
)
@click.option(
    "--drop-removed",
    is_flag=True,
    help="take rows out of the manifest whose pictures are gone or moved, and with --run out of the dataset",
)
@json_option
@settings_options(*(name for name in Settings.model_fields if name not in DECIDED))
@click.pass_context
def augment(
    ctx: click.Context,
    recipe: Path,
    out: str | Path | None,
    make: bool,
    submit_to: str | None,
    manifest: Path | None,
    preview: int | None,
    measure: str | Path | None,
    epochs: int,
    result: Path | None,
    embeddings: Path | None,
    drop_removed: bool,
    as_json: bool,
    **given: Any,
) -> None:
    """Write the manifest that RECIPE makes of a dataset, and with --run make its pictures.

    RECIPE is a TOML file that names a dataset and says how its classes grow. The same recipe and dataset give the
    same manifest; the same command on a grown dataset adds rows and leaves those that there are.

    \b
    Example:
      wanbatch augment recipe.toml --out manifest.jsonl
      wanbatch augment recipe.toml --preview 12
      wanbatch augment recipe.toml --run --out out/grown
      wanbatch augment recipe.toml --run --out s3://shop/grown --submit-to http://ray-head:8265
      wanbatch augment recipe.toml --measure out/grown --embeddings dinov2-small
    """
    if submit_to is not None and not make:
        raise click.UsageError("--submit-to is for --run: it says where the pictures are made")
    if embeddings is not None and measure is None:
        raise click.UsageError("--embeddings is for --measure: it says what else is measured")
    settings = read_settings(**given)
    if measure is not None:
        _measure(recipe, measure, epochs, result, embeddings, settings, as_json)
        return
    target = _manifest(recipe, out, make, manifest)
    if preview is not None:
        _preview(recipe, target, preview, settings, drop_removed, as_json)
        return
    made_into = _output(recipe, out) if make else None
    planned, written = _planned_and_written(recipe, target, made_into, settings, drop_removed)
    if written is None:
        _say_there_is_nothing(planned, as_json)
        return
    flags = [name for name, value in given.items() if value is not None]
    _go_on(ctx, planned, written, made_into, submit_to, settings, flags, as_json)


def _planned_and_written(
    recipe: Path, target: Path, out: str | Path | None, settings: Settings, drop_removed: bool
) -> tuple[Augmentation, Written | None]:
    """Draw the rows and write the manifest, which no other command does meanwhile.

    Args:
        recipe, target, settings, drop_removed: as `plan_augmentation` takes them.
        out: the output folder that it is made into; None: it is not made.
    Returns:
        What was planned and what was written; None: there is nothing to make.
    """
    from wanbatch.jobs.augment.augment import plan_augmentation
    from wanbatch.jobs.augment.manifest_file import require_outside
    from wanbatch.jobs.augment.manifest_lock import locked_manifest
    from wanbatch.jobs.augment.writing import write_augmentation

    with locked_manifest(target, said_on_stderr):
        planned = plan_augmentation(recipe, target, settings, False, drop_removed)
        if planned.is_full:
            return planned, None
        if isinstance(out, Path):
            require_outside(planned.dataset, out, "name a folder elsewhere with --out")
        return planned, write_augmentation(planned, target, out, drop_removed)


def _go_on(
    ctx: click.Context,
    planned: Augmentation,
    written: Written,
    out: str | Path | None,
    submit_to: str | None,
    settings: Settings,
    flags: Collection[str],
    as_json: bool,
) -> None:
    """Say what was written, and make its pictures if there is an output folder for them, here or on a cluster."""
    from wanbatch.jobs.augment.starts import rows_too_low

    target = written.manifest
    problem = rows_too_low(written.rows, settings)
    if problem is not None and out is not None:
        raise UserError(f"{target}: {problem}")
    if not as_json and out is not None:
        print_or_drop("\n".join(_lines(planned, written)), err=True)
    elif not as_json:
        click.echo("\n".join(_lines(planned, written)))
    if out is None:
        told = {"manifest": str(target), "source_fence": written.fence, **planned.as_json()}
        if problem is not None:
            told["warnings"] = [*told["warnings"], problem]
        next_line = f"  next      {_next(written, settings, flags)}" if problem is None else f"  warning   {problem}"
        click.echo(json.dumps(told) if as_json else next_line)
    elif submit_to is not None:
        from wanbatch.jobs.augment.making import further_flags, settings_for
        from wanbatch.jobs.cli.submit_command import submit_manifest

        of_run = settings_for(written, settings)
        submit_manifest(ctx, target, out, of_run, further_flags(written), submit_to, as_json)
    else:
        from wanbatch.jobs.augment.making import make_pictures
        from wanbatch.jobs.cli.run_commands import finish

        finish(ctx, make_pictures(written, out, settings), as_json)


def _say_there_is_nothing(planned: Augmentation, as_json: bool) -> None:
    """Say of a recipe that its classes have all that they are to be filled to."""
    if as_json:
        click.echo(json.dumps({"manifest": None, **planned.as_json()}))
        return
    most = f" (fill = {planned.recipe.fill!r})".replace("'", '"')
    click.echo("".join(_warnings(planned)), err=True, nl=False)
    click.echo(f"{planned.dataset}: every class has enough pictures already{most}: there is nothing to make")


def _preview(recipe: Path, target: Path, count: int, settings: Settings, drop_removed: bool, as_json: bool) -> None:
    """Make and draw some rows, and say where. target: the manifest, which is not written."""
    from wanbatch.jobs.augment.augment import plan_augmentation
    from wanbatch.jobs.augment.preview import preview

    planned = plan_augmentation(recipe, target, settings, True, drop_removed)
    if planned.is_full:
        _say_there_is_nothing(planned, as_json)
        return
    if not as_json:
        click.echo("".join(_warnings(planned)), err=True, nl=False)
    sheet = target.with_name(f"{target.stem}.preview.png")
    shown = preview(planned, count, target, sheet, settings)
    if as_json:
        click.echo(json.dumps({"preview": str(sheet), "shown": shown, **planned.as_json()}))
        return
    click.echo(f"{number_of(shown, 'rows')} of {len(planned.children)} on {sheet}; nothing else was written")


def _measure(
    recipe: Path,
    out: str | Path,
    epochs: int,
    result: Path | None,
    embeddings: Path | None,
    settings: Settings,
    as_json: bool,
) -> None:
    """Train, and say whether it pays. result: the file of it; None: the usual one."""
    from wanbatch.jobs.augment.classifier import SmallNetwork
    from wanbatch.jobs.augment.measuring import Effort, Material, measure_gain, write_result
    from wanbatch.jobs.augment.statistics import table
    from wanbatch.manifests.storage.user_files import require_place

    result = result or Path(f"{recipe.stem}.measured.json")
    require_place(result)
    model = None if embeddings is None else _backbone(embeddings)
    effort, material = Effort(epochs), Material(recipe, out, settings)
    measured = measure_gain(material, SmallNetwork("cuda" if settings.device == "cuda" else "cpu"), effort, _said)
    by_model = None if model is None else measure_gain(material, model, effort, _said)
    facts = {"recipe": str(recipe), "out": str(out), "epochs": epochs, "seeds": effort.seeds}
    write_result(result, measured, facts, None if embeddings is None or by_model is None else (embeddings, by_model))
    if as_json:
        told = measured.as_json()
        click.echo(json.dumps(told if by_model is None else {**told, "embeddings": by_model.as_json()}))
        return
    lines = [measured.verdict(), *table(measured)]
    if by_model is not None:
        lines += [f"By embeddings of {embeddings}: {by_model.verdict()}", *table(by_model)]
    click.echo("\n".join([*lines, f"  written   {result}"]))


def _backbone(model: Path) -> Learner:
    from wanbatch.jobs.augment.backbone import Backbone
    from wanbatch.jobs.augment.embeddings import open_embedder

    return Backbone(open_embedder(model))


def _said(line: str) -> None:
    said_on_stderr(f"  {line}")


def _manifest(recipe: Path, out: str | Path | None, make: bool, manifest: Path | None) -> Path:
    """The manifest to write."""
    from wanbatch.manifests.storage.urls import is_url

    if not make:
        if manifest is not None:
            raise UserError("--manifest is for --run: name the manifest with --out")
        if is_url(out or ""):
            raise UserError(f"{out}: a manifest is written to the disk: give --out a file")
        return Path(out) if out is not None else Path(f"{recipe.stem}.jsonl")
    if manifest is not None:
        return manifest
    from wanbatch.jobs.augment.filled import manifest_for

    return manifest_for(recipe, _output(recipe, out))


def _output(recipe: Path, out: str | Path | None) -> str | Path:
    return out if out is not None else Path("out") / recipe.stem


def _lines(planned: Augmentation, written: Written) -> Iterator[str]:
    count, parents = len(written.rows), len({parent["sha256"] for row in written.rows for parent in row["parents"]})
    new = f", {len(planned.children)} of them new" if planned.earlier else ""
    of_split = f" of split {' and '.join(planned.recipe.split)}" if planned.recipe.split else ""
    rows, pictures = number_of(count, "rows"), number_of(parents, "pictures")
    yield f"{written.manifest}: {rows} from {pictures}{of_split} ({planned.dataset}){new}"
    for each in planned.counts[:CLASSES_SHOWN]:
        name = " ".join(str(part) for part in (each.split, each.label) if part is not None) or "all"
        total = each.originals + each.rows
        yield f"  {name:<16} {each.originals} + {number_of(each.rows, 'rows')} = {total}"
    if len(planned.counts) > CLASSES_SHOWN:
        yield f"  and {number_of(len(planned.counts) - CLASSES_SHOWN, 'more classes')} (--json names them all)"
    if written.renamed:
        renamed = number_of(len(written.renamed), "rows")
        yield f"  paths     {renamed} of before name their pictures by other paths now, {written.renamed[0]} for one"
    if planned.leaving:
        leave = number_of(len(planned.leaving), "rows", "leaves", "leave")
        name = planned.leaving[0]["id"]
        yield f"  leaving   {leave} it, of pictures that are gone, held out or in another class: {name} for one"
    yield from (line.rstrip("\n") for line in _warnings(planned))


def _warnings(planned: Augmentation) -> Iterator[str]:
    """What was left out or could not be done, a line each."""
    return (f"  warning   {message}\n" for message in planned.warnings)


def _next(written: Written, settings: Settings, given: Collection[str]) -> str:
    """The command that makes the pictures, as a shell takes it."""
    from wanbatch.jobs.augment.making import flags_for

    flags = flags_for(written, settings, given)
    return shlex.join(["wanbatch", "run", str(written.manifest), *flags, "--out", f"out/{written.manifest.stem}"])
