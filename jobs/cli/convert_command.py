"""`wanbatch convert`: a model as runs read it fastest."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import click

from wanbatch.jobs.cli.options import json_option, settings_options
from wanbatch.jobs.config.settings import read_settings

PRECISIONS = ("bf16", "fp8", "fp32")


@click.command()
@click.argument("model")
@click.argument("folder", type=click.Path(path_type=Path))
@click.option(
    "--precision",
    type=click.Choice(PRECISIONS),
    default="bf16",
    show_default=True,
    help="what weights are rounded to; runs have no more than that from then on",
)
@settings_options("revision", "device", "model_cache")
@json_option
def convert(model: str, folder: Path, precision: str, as_json: bool, **given: Any) -> None:
    """Write MODEL into FOLDER in the form that workers read fastest: joined and rounded, one file a part.

    MODEL is `tiny`, a folder in diffusers layout, also in an object store, or a hub id. `--model FOLDER` then makes
    the pictures of MODEL in that precision, to the bit, and goes on with output folders that MODEL began. FP8 is
    rounded on the device that is here: that of the runs, best. Other tools do not read the folder.

    \b
    Example:
      wanbatch convert tiny tiny-bf16
      wanbatch convert Wan-AI/Wan2.2-TI2V-5B-Diffusers wan-fp8 --precision fp8
    """
    from wanbatch.jobs.config.hardware import detect_hardware, resolve_execution
    from wanbatch.jobs.planning.model_copies import find_model
    from wanbatch.pipeline.loading.converting import check_before

    settings = read_settings(**{**given, "model": model})
    check_before(find_model(settings.model, settings.revision, weights=False, cache=settings.model_cache), folder)
    execution = resolve_execution(settings.model_copy(update={"precision": precision}), detect_hardware())
    info = find_model(settings.model, settings.revision, cache=settings.model_cache)
    import torch

    from wanbatch.jobs.driver.fingerprint import model_location
    from wanbatch.pipeline.loading.converting import convert as write

    begin = time.perf_counter()
    device = execution.device if precision == "fp8" else "cpu"
    size = write(info, model_location(info), folder, precision, torch.device(device))
    said = {
        "folder": str(folder),
        "precision": precision,
        "rounded_on": device if precision == "fp8" else None,
        "bytes": size,
        "seconds": round(time.perf_counter() - begin, 2),
    }
    if as_json:
        click.echo(json.dumps(said))
        return
    click.echo(f"{folder}: {precision}, {size / 1e9:.2f} GB, in {said['seconds']} s")
    if said["rounded_on"] == "cpu":
        click.echo("  rounded on the CPU: on a GPU its pictures are not quite those of the model itself")
