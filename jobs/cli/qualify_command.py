"""`wanbatch qualify`: whether a model runs as it should on this machine."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import click

from wanbatch.jobs.cli.options import json_option, settings_options
from wanbatch.jobs.config.settings import read_settings

SETTINGS = (
    *("model", "revision", "steps", "guidance", "width", "height"),
    *("device", "precision", "compile", "compile_cache"),
)
FAULT = 2


@click.command()
@click.option(
    "--out",
    "-o",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("qualification"),
    show_default=True,
    help="folder for qualify.json and qualify.html",
)
@click.option("--prompts", default=6, show_default=True, type=click.IntRange(1, 64), help="pictures a comparison")
@click.option(
    "--reference-steps", default=100, show_default=True, type=click.IntRange(1), help="what presets are held against"
)
@click.option("--batch", default=4, show_default=True, type=click.IntRange(1, 64), help="rows denoised together")
@click.option("--rounds", default=5, show_default=True, type=click.IntRange(1), help="figures are their medians")
@json_option
@settings_options(*SETTINGS)
@click.pass_context
def qualify(
    context: click.Context,
    out: Path,
    prompts: int,
    reference_steps: int,
    batch: int,
    rounds: int,
    as_json: bool,
    **given: Any,
) -> None:
    """Try a model on this machine: diffusers' pictures, bits, presets, speed; a page to attach to an issue.

    Ends with 2 if something is wrong.

    \b
    Example:
      wanbatch qualify --model Wan-AI/Wan2.2-TI2V-5B-Diffusers --out qualified
      wanbatch qualify --prompts 2 --reference-steps 20
    """
    settings = read_settings(**given)
    from wanbatch.jobs.benchmark import qualify as qualifying
    from wanbatch.jobs.benchmark.compare import write
    from wanbatch.jobs.benchmark.qualification_page import qualification_page, qualification_text
    from wanbatch.jobs.config.hardware import detect_hardware
    from wanbatch.manifests.storage.user_files import require_place, write_file
    from wanbatch.pipeline.loading.registry import find

    model = find(settings.model, settings.revision)
    model.check_scheduler()
    require_place(out, folder=True)
    options = qualifying.QualifyOptions(prompts, reference_steps, batch, rounds)
    command = " ".join(["wanbatch", *sys.argv[1:]])
    found = qualifying.qualify(model, settings, detect_hardware(), options, command)
    click.echo(json.dumps(found.data) if as_json else qualification_text(found.data))
    write(found.data, out / "qualify.json")
    write_file(out / "qualify.html", qualification_page(found).encode())
    if not as_json:
        click.echo(f"  page: {out / 'qualify.html'}")
    context.exit(0 if found.good else FAULT)
