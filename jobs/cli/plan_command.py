"""`wanbatch plan`: checking a manifest without making anything."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from wanbatch.counting import made_and_failed, number_of
from wanbatch.jobs.cli.flag_types import PathOrUrl
from wanbatch.jobs.cli.options import default_output, json_option, run_arguments, settings_options
from wanbatch.jobs.config.settings import read_settings
from wanbatch.jobs.reporting.report.charts import duration, size
from wanbatch.manifests.sources.notes import WORDS

if TYPE_CHECKING:
    from wanbatch.jobs.config.settings import Settings
    from wanbatch.jobs.driver.planned_folder import PlannedFolder
    from wanbatch.jobs.planning.estimates import Estimate
    from wanbatch.jobs.planning.plan import Plan
    from wanbatch.manifests.reading.column_names import UnusedColumn
    from wanbatch.pipeline.loading.registry import ModelInfo

NAMES_SHOWN = 10


@click.command()
@run_arguments
@click.option(
    "--like", type=PathOrUrl("dir"), help="estimate time and disk as an earlier run in this folder took them"
)
@click.option("--gpu", type=click.Choice(["h100", "h200"]), help="estimate the time by benchmarks of Wan's models")
@json_option
@settings_options()
def plan(
    manifest: str | Path,
    out: str | Path | None,
    rerun_changed: bool,
    drop_removed: bool,
    new_run: bool,
    like: str | Path | None,
    gpu: str | None,
    as_json: bool,
    **given: Any,
) -> None:
    """Check MANIFEST and say what a run would do, and what it would take. Loads no model and writes nothing.

    What a run with the same flags would refuse is refused, with the same exit code; so is an output folder, --out,
    that it could not go on with; where a run is at work in it, that is said. Time
    and disk are estimated from what that folder has already, or as --like or --gpu say.

    \b
    Example:
      wanbatch plan shop.parquet --model tiny
      wanbatch plan shop.parquet --like out/quickstart
    """
    _require_one_estimate(like, gpu)
    from wanbatch.jobs.planning.presets import with_preset

    settings = with_preset(read_settings(**given))
    earlier = rerun_changed, drop_removed, new_run
    found = _found(manifest, out or default_output(manifest), settings, earlier, like, gpu)
    click.echo(json.dumps(found.as_json()) if as_json else "\n".join(found.lines()))


@dataclass(frozen=True, slots=True)
class _Found:
    """What is said of a run.

    Attributes:
        manifest: as the user gave it.
        plan: of it.
        model: that it is for.
        settings: of the run.
        folder: its output folder, as far as there is one.
        described: the plan in numbers and words.
        foreseen: what it would take.
        precision: on a GPU.
        memory: bytes of a GPU, by which parts are on it at a time.
    """

    manifest: str | Path
    plan: Plan
    model: ModelInfo
    settings: Settings
    folder: PlannedFolder
    described: dict[str, Any]
    foreseen: Estimate
    precision: str
    memory: Mapping[str, int]

    def as_json(self) -> dict[str, Any]:
        """For scripts."""
        from wanbatch.jobs.planning.first_rows import first_rows

        return {
            "manifest": str(self.manifest),
            "model": self.model.name,
            **self.described,
            "made_again": len(self.folder.again),
            "removed": len(self.folder.leaving),
            "removed_failed": self.folder.leaving_failed,
            "folder": self.folder.as_json(),
            "estimate": self.foreseen.as_json(),
            "first_rows": first_rows(self.plan),
            "gpu_memory_bytes": self.memory,
        }

    def lines(self) -> Iterator[str]:
        """For people."""
        from wanbatch.jobs.planning.first_rows import first_rows, table_lines

        shown, workers = first_rows(self.plan), self.settings.workers
        yield from _lines(self.manifest, self.model, self.described, self.plan)
        yield from _holder_lines(self.folder.as_json())
        yield from _again_lines(self.folder)
        yield from _estimate_lines(self.foreseen, workers if isinstance(workers, int) else None)
        yield from _memory_lines(self.memory, self.precision)
        yield f"  {'first' if len(shown) < len(self.plan) else 'all'} rows"
        yield from (f"    {row}" for row in table_lines(shown))
        yield from _warning_lines(self.described, self.plan.manifest.unused_columns)


def _found(
    manifest: str | Path,
    out: str | Path,
    settings: Settings,
    earlier: tuple[bool, bool, bool],
    like: str | Path | None,
    gpu: str | None,
) -> _Found:
    """Look at everything. earlier: what is done about rows that changed, that are gone, and about other settings."""
    from wanbatch.jobs.driver.fingerprint import model_location
    from wanbatch.jobs.driver.planned_folder import device_warnings, look_at_folder
    from wanbatch.jobs.planning.estimates import supposed
    from wanbatch.jobs.planning.forecast import forecast
    from wanbatch.jobs.planning.gpu_memory import needed_memory, transformer_form
    from wanbatch.jobs.planning.preparation import prepare
    from wanbatch.jobs.planning.run_units import units_of_run
    from wanbatch.pipeline.loading.runtime import MERGED

    planned, model = prepare(manifest, settings, weights=False, every_source=True)
    folder = look_at_folder(manifest, out, settings, (planned, model), *earlier)
    described = planned.describe(len(units_of_run(planned, (), *supposed(settings, None), settings.unit_rows)))
    described["warnings"] = [*described["warnings"], *device_warnings(settings)]
    precision, form = _precision_on_a_gpu(settings), transformer_form(model)
    of_model = model_location(model), folder.out
    parts = None if folder.seen is None else folder.seen.parts
    foreseen = forecast(planned, settings, *of_model, like, gpu, precision, form, folder.again, parts)
    slots, text_fp8 = supposed(settings, foreseen.rates)[1], settings.text_precision == "fp8"
    memory = needed_memory(model, planned, precision, slots, text_fp8, settings.row_adapters == MERGED)
    return _Found(manifest, planned, model, settings, folder, described, foreseen, precision, memory)


def _require_one_estimate(like: str | Path | None, gpu: str | None) -> None:
    if like is not None and gpu is not None:
        raise click.UsageError("--like and --gpu are two ways to estimate the time: give one of them")


def _precision_on_a_gpu(settings: Settings) -> str:
    """What a run with these settings takes on a GPU that has FP8."""
    from wanbatch.jobs.config.hardware import PRESETS

    return PRESETS[settings.preset][True]["precision"] if settings.precision == "auto" else settings.precision


def _holder_lines(folder: Mapping[str, Any] | None) -> Iterator[str]:
    """Who is at work in the output folder."""
    if folder is not None and (holder := folder["holder"]) is not None:
        who = f"pid {holder['pid']} on {holder['host']} since {holder['since']}"
        so_far = f"{number_of(folder['done'], 'images')} made so far, {folder['quarantined']} failed"
        yield f"  folder    a run is at work in {folder['out']} ({who}): {so_far}"
        yield "            until it has ended, another run with this folder ends with 4"


def _again_lines(folder: PlannedFolder) -> Iterator[str]:
    """How many rows of an output folder --rerun-changed makes again, and --drop-removed takes out of it."""
    if folder.leaving:
        made = len(folder.leaving) - folder.leaving_failed
        yield f"  removed   {made_and_failed(made, folder.leaving_failed, 'images')} of {folder.out} would leave it"
    if count := len(folder.again):
        rows = number_of(count, "rows")
        yield f"  again     {rows} of {folder.out} changed; made again, and counted in the estimate"


def _estimate_lines(foreseen: Estimate, workers: int | None) -> Iterator[str]:
    """What is left to make and what it takes."""
    done = f"{number_of(foreseen.images, 'images')} left, {foreseen.evaluations} evaluations"
    yield f"  estimate  {done}"
    seconds, rates = foreseen.seconds, foreseen.rates
    if seconds is None or rates is None:
        yield "            time: not known; --like OUT takes it from an earlier run, --gpu h100 from benchmarks"
    elif foreseen.images:
        least, middle, most = (duration(value) for value in (seconds.least, seconds.middle, seconds.most))
        whole = f"{middle} of a {'GPU' if rates.is_gpu else 'worker'}"
        if seconds.middle >= 3600:
            what = "GPU hours" if rates.is_gpu else "hours of a worker"
            whole = f"{seconds.middle / 3600:.3g} {what}: {middle}"
        yield f"            {whole} ({least} to {most}), loading the model aside"
        if workers:
            those = number_of(workers, "workers")
            yield f"            {duration(seconds.middle / workers)} with {those}, if none waits"
        yield f"            on {rates.device}, by {rates.origin}"
    least, middle, most = (size(getattr(foreseen.bytes, name)) for name in ("least", "middle", "most"))
    yield f"            {middle} on the disk ({least} to {most})"
    for note in foreseen.notes:
        yield f"            {note}"


def _memory_lines(memory: Mapping[str, int], precision: str) -> Iterator[str]:
    """What a GPU needs."""
    for number, (how, needed) in enumerate(memory.items()):
        yield f"  {'memory' if number == 0 else '':<9} {needed / 1e9:.1f} GB of a GPU in {precision} where {how}"


def _warning_lines(described: dict[str, Any], unused: Sequence[UnusedColumn]) -> Iterator[str]:
    """Warnings of all kinds."""
    for message in described["warnings"]:
        yield f"  warning   {message}"
    yield from _unused_lines(unused)
    if unreadable := list(described["unreadable_sources"].values()):
        yield f"  warning   {number_of(len(unreadable), 'sources')} cannot be read; their rows will fail:"
        for message in unreadable[:NAMES_SHOWN]:
            yield f"            {message}"
        if _more(unreadable):
            yield f"            {_more(unreadable).lstrip(', ')} (--json names them all)"


def _lines(manifest: str | Path, model: ModelInfo, described: dict[str, Any], plan: Plan) -> Iterator[str]:
    counts = (number_of(described[name], name) for name in ("rows", "images", "units"))
    yield "{}: {}, {} in {}".format(manifest, *counts)
    least, most = (described["evaluations_of_an_image"][name] for name in ("least", "most"))
    each = f"{least} an image" if least == most else f"{least} to {most} an image"
    evaluations = f"{described['model_evaluations']} evaluations in all, {each}"
    yield f"  model     {model.name}, {_samplers(described['samplers'])}, {evaluations}"
    for shape, count in described["sizes"].items():
        yield f"  {shape:<9} {number_of(count, 'images')}"
    yield f"  sources   {number_of(described['with_sources'], 'images')} start from one or more"
    for adapter in plan.adapters.values():
        yield f"  adapter   {adapter.words()}"
    for name, noted in described["source_notes"].items():
        first = " ".join(noted["example"].split())
        yield f"  note      {number_of(noted['sources'], 'sources')} {WORDS[name]}; {first} for one"
    if names := described["passthrough"]:
        yield f"  columns   passed through unchanged: {', '.join(names[:NAMES_SHOWN])}{_more(names)}"


def _samplers(images: Mapping[str, int]) -> str:
    """The samplers of a run, and of several for how many images each. images: by sampler."""
    if len(images) == 1:
        return next(iter(images))
    return ", ".join(f"{name} for {number_of(count, 'images')}" for name, count in images.items())


def _unused_lines(unused: Sequence[UnusedColumn]) -> Iterator[str]:
    """What to do about columns that seem to mean others, as a table and one line to copy."""
    if not unused:
        return
    count = number_of(len(unused), "columns", "passes", "pass")
    yield f"  warning   {count} through without being used; did you mean another?"
    width = max(len(column.column) for column in unused)
    for column in unused:
        note = f"  ({column.note})" if column.note else ""
        yield f"            {column.column:<{width}}  {column.meant}{note}"
    if options := [column.option for column in unused if column.can_be_mapped]:
        yield f"            take {'them' if len(options) > 1 else 'it'}: {' '.join(options)}"
    yield f"            or keep one under another name, without this warning: {unused[0].keeping}"


def _more(names: list[str]) -> str:
    return f", and {len(names) - NAMES_SHOWN} more" if len(names) > NAMES_SHOWN else ""
