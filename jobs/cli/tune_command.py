"""`wanbatch tune`: choosing settings by measuring."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from wanbatch.errors import UserError
from wanbatch.jobs.cli.flag_types import NumberRange
from wanbatch.jobs.cli.options import json_option, manifest_argument, settings_options
from wanbatch.jobs.config.settings import FILE, read_settings
from wanbatch.jobs.tuning.goals import BUDGET_FORMS, parse_goal

# Settings that play a part in tuning: what decides the pictures, where they are made, and what a source may be.
SETTINGS = (
    *("model", "revision", "seed", "width", "height", "guidance", "guidance_2", "shift", "negative_prompt"),
    *("prompt", "creativity", "map", "strict", "split", "source_root", "source_fence", "allow_http"),
    *("device", "preset", "precision", "compile", "compile_cache", "offload"),
    *("text_cache", "slots", "threads"),
)


@click.command()
@manifest_argument
@click.option("--budget", "budgets", multiple=True, help=f"what the pictures must reach: {BUDGET_FORMS}; repeatable")
@click.option(
    "--speedup", type=NumberRange(), help="instead: the best that is this many times as fast as the default"
)
@click.option("--sample", default=16, show_default=True, type=click.IntRange(1, 4096), help="pictures to measure on")
@click.option(
    "--sheet",
    type=click.Path(path_type=Path),
    default="wanbatch-tune.png",
    show_default=True,
    help="PNG to write, settings side by side",
)
@click.option("--force", is_flag=True, help=f"update the {FILE} of this folder, whose other fields are kept")
@json_option
@settings_options(*SETTINGS)
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
    goal = parse_goal(budgets, speedup)
    target = Path(FILE)
    if target.exists() and not force:
        raise UserError(f"{target} is there already: --force updates it and keeps its comments and its other fields")
    settings = read_settings(**given)
    from wanbatch.jobs.config.hardware import detect_hardware, resolve_execution
    from wanbatch.jobs.tuning import settings_file
    from wanbatch.jobs.tuning import tune as tuning
    from wanbatch.manifests.storage.user_files import require_place

    require_place(Path.cwd(), folder=True)
    require_place(sheet)
    execution = resolve_execution(settings, detect_hardware())
    options = tuning.TuningOptions(sample_size=sample, sheet=sheet)
    result = tuning.tune(manifest, settings, goal, execution, options)
    fields = settings_file.file_fields(settings, result.chosen.candidate)
    settings_file.update_settings_file(target, fields, settings_file.evidence_comments(result))
    if as_json:
        click.echo(json.dumps({**result.as_json(), "file": str(target), "sheet": str(sheet)}))
        return
    click.echo("\n".join([*result.summary(), *result.table()]))
    click.echo(f"chosen for {goal}: {result.chosen.candidate}; written to {target}, side by side on {sheet}")
