"""`wanbatch adapters`: the adapters that runs may use, what a file holds, and files in another layout."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from wanbatch.errors import UserError
from wanbatch.jobs.cli.options import json_option, settings_options
from wanbatch.jobs.config.settings import Settings, read_settings

if TYPE_CHECKING:
    from wanbatch.pipeline.adapters.files import ModelLayers

MODEL = ("model", "revision")
LAYOUTS = ("diffusers", "comfyui", "kohya")


@click.group()
def adapters() -> None:
    """List adapters (LoRA), look into their files, and write them in another layout."""


@adapters.command("list")
@settings_options("lora", *MODEL)
@json_option
def list_adapters(as_json: bool, **given: Any) -> None:
    """List the adapters that are registered (--lora, [adapters] in wanbatch.toml) or come with the model.

    \b
    Example:
      wanbatch adapters list
    """
    from wanbatch.jobs.planning.adapters import find_adapter, known_adapters

    settings = read_settings(**given)
    model, layers = _model(settings)
    found = []
    for name, text in known_adapters(settings, model).items():
        try:
            found.append(find_adapter(name, text, layers).describe())
        except UserError as error:
            found.append({"name": name, "path": text, "problem": str(error)})
    if as_json:
        click.echo(json.dumps({"model": layers.name, "adapters": found}))
        return
    for one in found:
        weight = f", weight {one['weight']:g}" if one.get("weight", 1.0) != 1.0 else ""
        click.echo(f"{one['name']}: {one.get('problem') or one['coverage'] + weight}")
        click.echo(f"  {one['path']}")
    if not found:
        click.echo("no adapters: register one with --lora NAME=PATH, or in [adapters] of wanbatch.toml")


@adapters.command()
@click.argument("adapter")
@settings_options("lora", *MODEL)
@json_option
def show(adapter: str, as_json: bool, **given: Any) -> None:
    """Say what ADAPTER holds for the model: a registered name, a file, a folder, or a hub id.

    \b
    Example:
      wanbatch adapters show crayon.safetensors
    """
    from wanbatch.jobs.planning.adapters import find_adapter, known_adapters

    settings = read_settings(**given)
    model, layers = _model(settings)
    known = known_adapters(settings, model)
    found = find_adapter(adapter if adapter in known else Path(adapter).stem, known.get(adapter, adapter), layers)
    rows = found.file.only_merged
    said = {**found.describe(), "model": layers.name, "rows": rows is None, "metadata": dict(found.file.metadata)}
    if as_json:
        click.echo(json.dumps(said | ({} if rows is None else {"only_merged": rows})))
        return
    click.echo(f"{found.file.path}")
    click.echo(f"  layout    {found.file.layout}")
    click.echo(f"  changes   {found.file.coverage()} of {layers.name}")
    click.echo(
        "  rows      may name it in style or loras" if rows is None else f"  rows      only with --merge: {rows}"
    )
    click.echo(f"  sha256    {found.file.digest}")
    for name, text in sorted(found.file.metadata.items()):
        click.echo(f"  header    {name}: {text if len(text) <= 100 else text[:99] + '…'}")


@adapters.command()
@click.argument("adapter")
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--to", "layout", type=click.Choice(LAYOUTS), required=True, help="whose names the keys get")
@settings_options(*MODEL)
@json_option
def convert(adapter: str, out: Path, layout: str, as_json: bool, **given: Any) -> None:
    """Write ADAPTER, a file, a folder or a hub id, as OUT in another layout; its numbers stay as they are.

    What changes the two transformers of A14B differently is written as OUT with `_high_noise` and `_low_noise`.

    \b
    Example:
      wanbatch adapters convert crayon.safetensors crayon-comfyui.safetensors --to comfyui
    """
    from wanbatch.jobs.planning.adapters import find_adapter

    _, layers = _model(read_settings(**given))
    found = find_adapter(Path(adapter).stem, adapter, layers)
    from wanbatch.pipeline.adapters.converting import convert as write
    from wanbatch.pipeline.adapters.converting import files_of

    for _, file in files_of(found.file, out):
        if file.exists():
            raise UserError(f"{file}: is there already: choose another path, or remove it")
    files = [str(file) for file in write(found.file, layers, layout, out)]
    if as_json:
        click.echo(json.dumps({"file": files[0], "files": files, "to": layout, "from": found.describe()}))
        return
    click.echo(f"{' and '.join(files)}: {found.file.coverage()}")


def _model(settings: Settings) -> tuple[Any, ModelLayers]:
    """The model that adapters are checked against; only its configuration is read."""
    from wanbatch.jobs.planning.model_copies import find_model
    from wanbatch.pipeline.adapters.files import ModelLayers

    model = find_model(settings.model, settings.revision, weights=False, cache=settings.model_cache)
    return model, ModelLayers.of_folder(model.folder, model.name, model.two_experts)
