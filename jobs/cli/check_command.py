"""`wanbatch check`: what the pictures of an output folder are like, and which of them to leave out."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from wanbatch.counting import number_of
from wanbatch.jobs.cli.flag_types import NumberRange
from wanbatch.jobs.cli.options import folder_argument, json_option
from wanbatch.jobs.cli.process_start import said_on_stderr

if TYPE_CHECKING:
    from wanbatch.jobs.augment.checking import CheckReport, Reader
    from wanbatch.jobs.augment.embeddings import Embedder

CLASSES_SHOWN = 12


@click.command()
@folder_argument
@click.option("--recipe", type=click.Path(path_type=Path), help="recipe whose [checks] and held-out pictures count")
@click.option(
    "--duplicates",
    type=click.Choice(["none", "exact", "near"]),
    help="which duplicates are rejected [default: exact]",
)
@click.option("--tolerance", type=NumberRange(0, min_open=True), help="deviations of a learnt band [default: 5]")
@click.option("--classifier", type=click.Path(path_type=Path), help="ONNX file or folder of transformers")
@click.option("--classes", help="names of its outputs in their order, like a,b,c; default: as it says, else sorted")
@click.option(
    "--top-k", type=click.IntRange(1), help="of its likeliest classes, how many may hold the own [default: 1]"
)
@click.option(
    "--embeddings",
    type=click.Path(path_type=Path),
    help="ONNX file or folder of transformers that the pictures are compared with the recipe's originals by",
)
@click.option(
    "--regenerate", type=click.IntRange(0, 100), default=0, help="make rejected pictures again so many times"
)
@json_option
def check(
    out: str | Path,
    recipe: Path | None,
    duplicates: str | None,
    tolerance: float | None,
    classifier: Path | None,
    classes: str | None,
    top_k: int | None,
    embeddings: Path | None,
    regenerate: int,
    as_json: bool,
) -> None:
    """Measure the pictures of the output folder OUT, and say which are rejected and why.

    With --regenerate, those that a recipe asked for are made again from other seeds, beside the rejected ones.
    Nothing is deleted: OUT/checks has a row for each picture, with a column for each measure and the names of the
    checks that reject it in rejected_by.

    \b
    Example:
      wanbatch check out/grown --recipe recipe.toml
    """
    from wanbatch.jobs.augment.augment import read_reference
    from wanbatch.jobs.augment.checking import check_folder, with_flags
    from wanbatch.jobs.augment.checks_settings import Checks
    from wanbatch.jobs.augment.embeddings import EmbeddingsReader
    from wanbatch.jobs.config.settings import read_settings

    reference = None if recipe is None else read_reference(recipe, read_settings())
    checks = Checks() if reference is None else reference.recipe.checks
    held_out = [] if reference is None else [one.fingerprint for one in reference.held_out if one.fingerprint]
    said = with_flags(checks, duplicates=duplicates, tolerance=tolerance, top_k=top_k)

    embedder = None if embeddings is None else _embedder(embeddings, recipe)

    def check_all() -> CheckReport:
        readers = _readers(classifier, classes)
        if embedder is not None and reference is not None:
            readers.append(EmbeddingsReader(embedder, reference.augmented))
        return check_folder(out, said, held_out, readers, None if reference is None else reference.classes)

    report = check_all()
    if regenerate:
        from wanbatch.jobs.augment.regeneration import regenerate as make_again
        from wanbatch.jobs.augment.regeneration import run_again

        report = make_again(out, report, regenerate, check_all, run_again, said_on_stderr)
    click.echo(json.dumps({"out": str(out), **report.as_json()}) if as_json else "\n".join(lines_of(report)))


def _embedder(model: Path, recipe: Path | None) -> Embedder:
    from wanbatch.errors import UserError
    from wanbatch.jobs.augment.embeddings import open_embedder

    if recipe is None:
        raise UserError("--embeddings compares with the pictures that a recipe augments: name it with --recipe")
    return open_embedder(model)


def _readers(classifier: Path | None, classes: str | None) -> list[Reader]:
    """The user's own models."""
    from wanbatch.errors import UserError

    if classifier is None:
        if classes is not None:
            raise UserError("--classes names the outputs of a --classifier: give that, too")
        return []
    from wanbatch.jobs.augment.user_models import ClassifierReader, open_classifier

    names = None if classes is None else [name.strip() for name in classes.split(",")]
    return [ClassifierReader(open_classifier(classifier), names)]


def lines_of(report: CheckReport) -> Iterator[str]:
    """What a person is told of checks."""
    from wanbatch.jobs.augment.verdicts import REASONS

    count = report.pictures
    verb = "is" if report.rejected == 1 else "are"
    good = count - report.rejected
    passing = f"{good} of {number_of(count, 'pictures')} {'passes' if good == 1 else 'pass'}"
    yield f"{report.out}: {passing}, {report.rejected} {verb} rejected"
    for reason, number in report.rejected_by.items():
        yield f"  {reason:<16} {number}: {REASONS[reason]}"
    classes = report.classes
    for each in classes[:CLASSES_SHOWN] if len(classes) > 1 else ():
        yield f"  class {each.label or 'none':<10} {each.made - each.rejected} of {each.made} pass"
    if len(classes) > CLASSES_SHOWN:
        yield f"  and {number_of(len(classes) - CLASSES_SHOWN, 'more classes')} (--json names them all)"
    for name, value in report.folder.items():
        yield f"  {name:<16} {value:.4f}"
    for message in report.warnings:
        yield f"  warning   {message}"
