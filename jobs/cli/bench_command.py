"""`wanbatch bench`: this runtime against diffusers."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from wanbatch.jobs.cli.options import json_option, settings_options
from wanbatch.jobs.config.settings import read_settings

if TYPE_CHECKING:
    from wanbatch.pipeline.loading.random_model import Size

SETTINGS = (
    *("model", "revision", "steps", "guidance", "width", "height"),
    *("device", "preset", "precision", "compile", "compile_cache"),
)


@click.command()
@click.option("--out", "-o", type=click.Path(path_type=Path), help="JSON file to write")
@click.option("--random-5b", "random", flag_value="5b", help="TI2V-5B with random weights, instead of --model")
@click.option("--random-a14b", "random", flag_value="a14b", help="the same of A14B: both experts, 68 GB in bf16")
@click.option("--random-1.3b", "random", flag_value="1.3b", help="the same of Wan2.1 T2V-1.3B")
@click.option("--images", default=8, show_default=True, type=click.IntRange(0), help="pictures a round; 0: none")
@click.option("--batch", default=4, show_default=True, type=click.IntRange(1), help="slots, and prompts a list")
@click.option("--rounds", default=3, show_default=True, type=click.IntRange(1), help="figures are their medians")
@click.option("--compiled/--no-compiled", default=True, help="also measure compiled diffusers")
@click.option("--stages/--no-stages", default=True, help="also measure each stage by itself")
@json_option
@settings_options(*SETTINGS)
def bench(
    out: Path | None,
    random: Size | None,
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
    from wanbatch.jobs.benchmark import compare
    from wanbatch.jobs.config.hardware import detect_hardware, resolve_execution
    from wanbatch.manifests.storage.user_files import require_place
    from wanbatch.pipeline.loading.random_model import random_info
    from wanbatch.pipeline.loading.registry import find

    model = random_info(random) if random else find(settings.model, settings.revision)
    model.check_scheduler()
    execution = resolve_execution(settings, detect_hardware())
    if out is not None:
        require_place(out)
    measured = compare.BenchSettings(
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
    result = compare.bench(model, execution, execution.runtime(settings), measured, command)
    click.echo(json.dumps(result) if as_json else compare.table(result))  # first: a disk that refuses loses nothing
    if out is not None:
        compare.write(result, out)
