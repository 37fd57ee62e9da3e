"""The command line: parses, calls, prints. Exit codes are those of `wanbatch.errors` and `run.Summary`."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from wanbatch import __version__
from wanbatch.errors import ManifestError, UserError, WanbatchError
from wanbatch.jobs.config.field_help import accepted
from wanbatch.jobs.config.settings import FILE, Settings, read_settings
from wanbatch.jobs.tuning.search import BUDGET_FORMS
from wanbatch.manifests.storage.urls import is_url, local_path
from wanbatch.pipeline.sampling.schedules import SCHEDULES
from wanbatch.pipeline.sampling.solvers import SOLVERS

if TYPE_CHECKING:
    from wanbatch.jobs.reporting.summary import Summary


class Commands(click.Group):
    """Prints our own errors as one clear message and exits with their code."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except WanbatchError as error:
            click.echo(f"wanbatch: {error}", err=True)
            if isinstance(error, ManifestError) and "--json" in sys.argv:
                click.echo(json.dumps({"problems": [asdict(problem) for problem in error.problems]}))
            ctx.exit(error.exit_code)
        except KeyboardInterrupt:
            click.echo("wanbatch: interrupted; what was committed is kept", err=True)
            ctx.exit(130)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__)
def main() -> None:
    """Image datasets from a manifest, made with Wan2.2 used one frame at a time."""


def settings_options(*names: str) -> Callable:
    """Options for fields of `Settings`, with the field's help; all of them without names."""

    def decorate(command: Callable) -> Callable:
        for name in reversed(names or tuple(Settings.model_fields)):
            field = Settings.model_fields[name]
            flag: dict[str, Any] = {"is_flag": True, "flag_value": True} if field.annotation is bool else {}
            told = field.description if flag else f"{field.description} [{_accepted(name)}]"
            flag = flag or {"metavar": "VALUE"}
            option = click.option(f"--{name.replace('_', '-')}", name, default=None, help=told, **flag)
            command = option(command)
        return command

    return decorate


NAMES_SHOWN = 10


class PathOrUrl(click.ParamType):
    """A path, or the URL of something in an object store, which stays text."""

    name = "path or url"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str | Path:
        return value if is_url(value) else local_path(value)


def _accepted(name: str) -> str:
    """What a setting takes, and its default if it has one of its own."""
    field = Settings.model_fields[name]
    names: dict[str, Iterable[str]] = {"sampler": SOLVERS, "schedule": SCHEDULES}
    takes = ", ".join(names[name]) if name in names else accepted(field)
    return takes if field.default is None else f"{takes}; default: {field.default}"


# Settings that play a part in tuning: what decides the pictures, where they are made, and what a source may be.
TUNE_SETTINGS = (
    *("model", "revision", "seed", "width", "height", "guidance", "shift", "negative_prompt"),
    *(
        "source_root",
        "allow_http",
        "device",
        "preset",
        "precision",
        "compile",
        "compile_cache",
        "offload",
        "text_cache",
    ),
    *("slots", "threads"),
)

manifest_argument = click.argument("manifest", type=PathOrUrl())
folder_argument = click.argument("out", type=PathOrUrl())
json_option = click.option("--json", "as_json", is_flag=True, help="print JSON")


@main.command()
@manifest_argument
@click.option("--out", "-o", type=PathOrUrl(), help="output folder or its URL; default: out/NAME-OF-MANIFEST")
@click.option("--rerun-changed", is_flag=True, help="make rows again that changed since they were made")
@click.option("--new-run", is_flag=True, help="use OUT-2, OUT-3, ... if a run with other settings filled OUT")
@json_option
@settings_options()
@click.pass_context
def run(
    ctx: click.Context,
    manifest: str | Path,
    out: str | Path | None,
    rerun_changed: bool,
    new_run: bool,
    as_json: bool,
    **given: Any,
) -> None:
    """Make the images of MANIFEST (JSONL, Parquet, or a folder of Parquet files) into a dataset.

    The same command again goes on where it stopped. Paths may be URLs of an object store, like s3://bucket/folder.

    \b
    Example:
      wanbatch run examples/quickstart.jsonl --out out/quickstart
      wanbatch run shop.parquet --model Wan-AI/Wan2.2-TI2V-5B-Diffusers --revision 1a2b3c4 --steps 30
    """
    settings = read_settings(**given)
    from wanbatch.jobs.driver.run import run as run_manifest

    target = out or Path("out") / Path(manifest).stem
    _close(ctx, run_manifest(manifest, target, settings, rerun_changed=rerun_changed, new_run=new_run), as_json)


@main.command()
@folder_argument
@click.option(
    "--class", "classes", multiple=True, help="only rows that failed with this error class; may be repeated"
)
@json_option
@click.pass_context
def retry(ctx: click.Context, out: str | Path, classes: tuple[str, ...], as_json: bool) -> None:
    """Make the quarantined rows of the output folder OUT again, as its last run was started.

    \b
    Example:
      wanbatch retry out/quickstart --class missing_image
    """
    from wanbatch.jobs.driver.run import retry as retry_failures

    _close(ctx, retry_failures(out, classes), as_json)


def _close(ctx: click.Context, summary: Summary, as_json: bool) -> None:
    """Print how a run ended and exit with its code."""
    from wanbatch.jobs.reporting.text_summary import summary_text

    fields = {**asdict(summary), "pending": summary.pending}
    click.echo(json.dumps(fields) if as_json else summary_text(summary))
    ctx.exit(summary.exit_code)


@main.command()
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
        return
    counts = (_count(described[name], name) for name in ("rows", "images", "units"))
    click.echo("{}: {}, {} in {}".format(manifest, *counts))
    click.echo(f"  model     {model.name}, {model.sampler}, {described['model_evaluations']} evaluations in all")
    for size, count in described["sizes"].items():
        click.echo(f"  {size:<9} {_count(count, 'images')}")
    click.echo(f"  sources   {_count(described['with_sources'], 'images')} start from one or more")
    if names := described["passthrough"]:
        click.echo(f"  columns   passed through unchanged: {', '.join(names[:NAMES_SHOWN])}{_more(names)}")
    if unreadable := list(described["unreadable_sources"].values()):
        click.echo(f"  warning   {_count(len(unreadable), 'sources')} cannot be read; their rows will fail:")
        for message in unreadable[:NAMES_SHOWN]:
            click.echo(f"            {message}")
        if _more(unreadable):
            click.echo(f"            {_more(unreadable).lstrip(', ')} (--json names them all)")


def _count(number: int, things: str) -> str:
    return f"{number} {things if number != 1 else things.removesuffix('s')}"


def _more(names: list[str]) -> str:
    return f", and {len(names) - NAMES_SHOWN} more" if len(names) > NAMES_SHOWN else ""


@main.command()
@folder_argument
@json_option
def status(out: str | Path, as_json: bool) -> None:
    """Say how far the output folder OUT is; also while a run goes on.

    \b
    Example:
      wanbatch status out/quickstart
    """
    from wanbatch.jobs.reporting.run_log import speed
    from wanbatch.manifests.dataset.status import status as read_status

    found = read_status(out)
    rate = speed(out)
    found["pictures_per_second"] = rate
    found["seconds_left"] = (
        found["pending"] / rate if rate and found["holder"] and found["pending"] is not None else None
    )
    if as_json:
        click.echo(json.dumps(found))
        return
    total = "?" if found["rows"] is None else found["rows"]
    click.echo(
        f"{out}: {found['done']} of {total} pictures made, {found['quarantined']} failed, {found['pending']} left"
    )
    for name, count in found["failures"].items():
        click.echo(f"  failed    {count} {name}")
    holder = found["holder"]
    state = f"a run goes on (pid {holder['pid']} on {holder['host']} since {holder['since']})" if holder else "no run"
    click.echo(f"  state     {state}")
    if rate is not None:
        left = f", {found['seconds_left']:.0f} s left" if found["seconds_left"] is not None else ""
        click.echo(f"  speed     {rate:.2f} pictures/s{left}")


@main.command()
@folder_argument
@click.option("--sheet", type=click.Path(path_type=Path), help="PNG to write; default: OUT/contact-sheet.png")
@click.option("--columns", default=4, show_default=True, type=click.IntRange(1, 50), help="pictures side by side")
@click.option("--limit", default=64, show_default=True, type=click.IntRange(1, 10_000), help="pictures at most")
def report(out: str | Path, sheet: Path | None, columns: int, limit: int) -> None:
    """Draw the pictures of the output folder OUT on a contact sheet; that of a URL is written to this folder.

    \b
    Example:
      wanbatch report out/quickstart --sheet sheet.png
    """
    from wanbatch.jobs.reporting.contact_sheet import contact_sheet

    target = sheet or (out / "contact-sheet.png" if isinstance(out, Path) else Path("contact-sheet.png"))
    count = contact_sheet(out, target, columns=columns, limit=limit)
    click.echo(f"{count} pictures on {target}")


@main.command()
@click.option("--out", "-o", type=click.Path(path_type=Path), help="JSON file to write")
@click.option("--random-5b", is_flag=True, help="the full-size model with random weights, instead of --model")
@click.option("--images", default=8, show_default=True, type=click.IntRange(0), help="pictures a round; 0: none")
@click.option("--batch", default=4, show_default=True, type=click.IntRange(1), help="slots, and prompts a list")
@click.option("--rounds", default=3, show_default=True, type=click.IntRange(1), help="figures are their medians")
@click.option("--compiled/--no-compiled", default=True, help="also measure compiled diffusers")
@click.option("--stages/--no-stages", default=True, help="also measure each stage by itself")
@json_option
@settings_options(
    "model",
    "revision",
    "steps",
    "guidance",
    "width",
    "height",
    "device",
    "preset",
    "precision",
    "compile",
    "compile_cache",
)
def bench(
    out: Path | None,
    random_5b: bool,
    images: int,
    batch: int,
    rounds: int,
    compiled: bool,
    stages: bool,
    as_json: bool,
    **given: Any,
) -> None:
    """Measure this runtime against diffusers on this machine, in one process and in turn.

    \b
    Example:
      wanbatch bench --images 16 --out bench.json
      wanbatch bench --random-5b --batch 8 --preset balanced --images 0
    """
    settings = read_settings(**given)
    from wanbatch.jobs.benchmark import compare as benching
    from wanbatch.jobs.config.hardware import choose, look
    from wanbatch.pipeline.loading.random_model import random_info
    from wanbatch.pipeline.loading.registry import find

    model = random_info() if random_5b else find(settings.model, settings.revision)
    machine = choose(settings, look())
    chosen = benching.BenchSettings(
        images=images,
        batch=batch,
        rounds=rounds,
        compiled=compiled,
        stages=stages,
        steps=settings.steps or model.steps,
        guidance=model.guidance if settings.guidance is None else settings.guidance,
        width=settings.width or model.width,
        height=settings.height or model.height,
    )
    command = " ".join(["wanbatch", *sys.argv[1:]])
    result = benching.bench(model, machine, machine.runtime(settings), chosen, command)
    if out is not None:
        benching.write(result, out)
    click.echo(json.dumps(result) if as_json else benching.table(result))


@main.command()
@manifest_argument
@click.option("--budget", "budgets", multiple=True, help=f"what the pictures must reach: {BUDGET_FORMS}; repeatable")
@click.option("--speedup", type=float, help="instead: the best that is this many times as fast as the default")
@click.option("--sample", default=16, show_default=True, type=click.IntRange(1, 4096), help="pictures to measure on")
@click.option("--sheet", type=click.Path(path_type=Path), default="wanbatch-tune.png", show_default=True,
              help="PNG to write, settings side by side")  # fmt: skip
@click.option("--force", is_flag=True, help=f"replace the {FILE} of this folder")
@json_option
@settings_options(*TUNE_SETTINGS)
def tune(
    manifest: str | Path,
    budgets: tuple[str, ...],
    speedup: float | None,
    sample: int,
    sheet: Path,
    force: bool,
    as_json: bool,
    **given: Any,
) -> None:
    """Choose steps, sampler and step cache for the rows of MANIFEST by measuring, and write them to wanbatch.toml.

    Makes a sample of the rows with 100 steps and compares what cheaper settings make of the same noise. --budget
    takes the fastest settings that reach it, --speedup the best that are so much faster than the model's own.

    \b
    Example:
      wanbatch tune shop.parquet --budget "psnr>=30"
      wanbatch tune shop.parquet --speedup 2 --sample 32
    """
    from wanbatch.jobs.tuning import settings_file
    from wanbatch.jobs.tuning.search import parse_goal

    goal = parse_goal(budgets, speedup)
    target = Path(FILE)
    if target.exists() and not force:
        raise UserError(f"{target} is there already: --force replaces it and keeps the fields that are not tuned")
    settings = read_settings(**given)
    from wanbatch.jobs.config.hardware import choose, look
    from wanbatch.jobs.tuning import tune as tuning

    result = tuning.tune(manifest, settings, goal, choose(settings, look()), sample, sheet)
    settings_file.write(target, settings_file.toml(result, tuning.kept(settings)))
    if as_json:
        click.echo(json.dumps({**result.as_json(), "file": str(target), "sheet": str(sheet)}))
        return
    click.echo("\n".join([*settings_file.summary(result), *settings_file.table(result)]))
    click.echo(f"chosen for {goal}: {result.chosen.candidate}; written to {target}, side by side on {sheet}")


if __name__ == "__main__":
    sys.exit(main())
