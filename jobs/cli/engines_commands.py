"""`wanbatch engines`: building engines ahead of time, and looking after a store of them."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from wanbatch.errors import UserError
from wanbatch.jobs.cli.flag_types import PathOrUrl, Word
from wanbatch.jobs.cli.options import json_option, settings_options
from wanbatch.jobs.config.settings import AUTO, Settings, read_settings
from wanbatch.suggestions import did_you_mean

if TYPE_CHECKING:
    from wanbatch.engines.building import BuildRequest

store_option = click.option(
    "--store", required=True, type=PathOrUrl("dir"), help="folder of the store, or its URL; made if it is not there"
)
SETTINGS = ("model", "revision", "device", "slots")
FLOAT16 = "fp16"
PRECISIONS = (AUTO, "fp32", "bf16", FLOAT16, "fp8")


class SizeType(click.ParamType):
    """Width and height in pixels, like `1280x704`."""

    name = "WIDTHxHEIGHT"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, int]:
        """Return both as numbers."""
        if isinstance(value, tuple):
            return value
        width, _, height = str(value).lower().partition("x")
        if not (width.isdecimal() and height.isdecimal()):
            self.fail(f"{value!r}: must be width and height in pixels, like 1280x704", param, ctx)
        return int(width), int(height)


def _split(ctx: click.Context, param: click.Parameter, value: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(part.strip() for part in value.split(",") if part.strip()))


@click.group()
def engines() -> None:
    """Build parts of a model ahead of time, and look after a store of such engines.

    \b
    Example:
      wanbatch engines build --store engines --component vae --size 128x128
      wanbatch run examples/quickstart.jsonl --engines engines
    """


@engines.command()
@store_option
@click.option("--component", "components", default="text,dit,vae", show_default=True, callback=_split, help="parts")
@click.option("--size", "sizes", type=SizeType(), multiple=True, help="of pictures, WIDTHxHEIGHT; may be repeated")
@click.option("--backend", default="aot", show_default=True, help="aot, tensorrt-rtx, tensorrt or onnx")
@click.option(
    "--arch",
    "architectures",
    default="native",
    show_default=True,
    callback=_split,
    help="compute capabilities, like 8.9,12.0 (tensorrt-rtx); native: of this machine",
)
@click.option(
    "--workspace", default=0, type=click.IntRange(0), help="MiB that TensorRT may work with; default: no limit"
)
@click.option(
    "--precision",
    type=Word(PRECISIONS),
    help="auto: that of a run here; fp16: onnx and plans alone; fp8: of the large layers, bf16 around them "
    "[default: the setting precision]",
)
@json_option
@settings_options(*SETTINGS)
def build(
    store: Path | str,
    components: tuple[str, ...],
    sizes: tuple[tuple[int, int], ...],
    backend: str,
    architectures: tuple[str, ...],
    workspace: int,
    precision: str | None,
    as_json: bool,
    **given: Any,
) -> None:
    """Build the engines that a store lacks; one that was damaged or changed is built again.

    What is built is compared with the part that it stands for, and is not kept if it computes something else.

    \b
    Example:
      wanbatch engines build --store engines --component text,dit,vae --size 128x128 --slots 4
      wanbatch engines build --store engines --component vae --size 1280x704 --backend tensorrt-rtx --arch 8.9,12.0
      wanbatch engines build --store engines --component vae --size 128x128 --backend onnx --precision fp16
      wanbatch engines build --store s3://shop/engines --component vae --size 128x128
    """
    settings = read_settings(**given, precision=AUTO if precision == FLOAT16 else precision)
    from wanbatch.engines import building
    from wanbatch.jobs.planning.engine_stores import create_engines

    request = _request(settings, components, sizes, backend, architectures, workspace << 20)
    if precision == FLOAT16:
        request = replace(request, dtype=building.FLOAT16, float8=False)
    building.check(request)
    done = []
    for one in building.build(create_engines(str(store)), request, lambda words: click.echo(words, err=True)):
        done.append(asdict(one))
        if not as_json:
            click.echo(_line(one.label, one.what, one.seconds, one.errors, one.why))
    if not as_json and (refused := next((one["refused"] for one in done if one["refused"]), "")):
        click.echo(f"built in another way, since engines of the usual one do not run here ({refused})", err=True)
    if as_json:
        click.echo(json.dumps({"engines": done}))


@engines.command(name="list")
@store_option
@json_option
def list_engines(store: Path | str, as_json: bool) -> None:
    """List the engines of a store, and what must not be loaded.

    \b
    Example:
      wanbatch engines list --store engines
    """
    from wanbatch.engines.stored_engine import BadEngine
    from wanbatch.jobs.planning.engine_stores import open_engines

    found = open_engines(str(store)).engines()
    if as_json:
        rows = [
            asdict(one) if isinstance(one, BadEngine) else {**asdict(one.key), "digest": one.digest, **one.files}
            for one in found
        ]
        click.echo(json.dumps({"engines": rows}))
        return
    for one in found:
        if isinstance(one, BadEngine):
            click.echo(f"{one.name}: not usable: {one.reason}")
        else:
            key = one.key
            click.echo(
                f"{key.label}: {key.dtype}, {key.backend} ({key.version}) for {key.architecture}, "
                f"{one.bytes / 1e6:.1f} MB, model {key.weights[:12]}"
            )
    if not found:
        click.echo(f"{store}: no engines")


@engines.command()
@store_option
@json_option
@settings_options("model", "revision")
@click.pass_context
def verify(ctx: click.Context, store: Path | str, as_json: bool, **given: Any) -> None:
    """Compare every engine of a store that runs on this machine with the part of the model that it stands for.

    Exit codes: 0 all engines that run here are right; 2 one is not, or must not be loaded.

    \b
    Example:
      wanbatch engines verify --store engines
    """
    settings = read_settings(**given)
    from wanbatch.engines.verifying import verify_store
    from wanbatch.jobs.planning.engine_stores import open_engines
    from wanbatch.pipeline.loading.registry import find

    checks = verify_store(open_engines(str(store)), find(settings.model, settings.revision))
    found = []
    for one in checks:
        found.append(asdict(one))
        if not as_json:
            click.echo(f"{one.label}: {one.verdict}: {one.words}")
    if as_json:
        click.echo(json.dumps({"engines": found}))
    elif not found:
        click.echo(f"{store}: no engines")
    ctx.exit(2 if any(one["verdict"] == "wrong" for one in found) else 0)


@engines.command()
@store_option
@click.option("--model", "models", multiple=True, help="keep engines of these models only; may be repeated")
@json_option
def prune(store: Path | str, models: tuple[str, ...], as_json: bool) -> None:
    """Remove engines that must not be loaded, and those of another version of PyTorch or of other models.

    Of a store at a URL, copies on this host that it has not used for 30 days, too.

    \b
    Example:
      wanbatch engines prune --store engines
    """
    from wanbatch.engines.verifying import prune_store
    from wanbatch.jobs.planning.engine_stores import open_engines
    from wanbatch.pipeline.loading.registry import find

    kept = frozenset(find(name).digest for name in models) if models else None
    removed = prune_store(open_engines(str(store)), kept)
    if as_json:
        click.echo(json.dumps({"removed": [{"name": name, "why": why} for name, why in removed]}))
        return
    for name, why in removed:
        click.echo(f"{name}: removed: {why}")
    if not removed:
        click.echo(f"{store}: nothing to remove")


def _request(
    settings: Settings,
    components: tuple[str, ...],
    sizes: tuple[tuple[int, int], ...],
    backend: str,
    architectures: tuple[str, ...],
    workspace: int,
) -> BuildRequest:
    """What is to be built, with the device and the precision that a run with these settings has."""
    from wanbatch.engines.building import BACKENDS, BuildRequest
    from wanbatch.engines.labels import COMPONENTS
    from wanbatch.jobs.config.hardware import detect_hardware, resolve_execution
    from wanbatch.pipeline.loading.registry import find

    if unknown := sorted(set(components) - set(COMPONENTS)):
        near = did_you_mean(unknown[0], COMPONENTS)
        raise UserError(f"--component {unknown[0]}: must be some of {', '.join(COMPONENTS)}{near}")
    if backend not in BACKENDS:
        raise UserError(f"--backend {backend}: must be one of {', '.join(BACKENDS)}{did_you_mean(backend, BACKENDS)}")
    if settings.precision not in PRECISIONS:  # of the file or a variable
        raise UserError(
            f"setting precision: engines are not built in {settings.precision}: give --precision bf16, which runs in "
            f"{settings.precision} take for the parts around the transformer"
        )
    if settings.slots == AUTO:
        raise UserError("--slots auto: engines are for one number of slots: give it, as the runs will")
    execution = resolve_execution(settings, detect_hardware())
    return BuildRequest(
        model=find(settings.model, settings.revision),
        components=components,
        sizes=tuple(dict.fromkeys(sizes)),
        slots=int(settings.slots),
        backend=backend,
        architectures=architectures,
        device=execution.device,
        dtype=execution.dtype,
        workspace=workspace,
        float8=execution.precision == "fp8",
    )


def _line(label: str, what: str, seconds: float, errors: str, why: str) -> str:
    parts = [f"{label}: {what}"]
    if seconds:
        parts.append(f"in {seconds:.1f} s")
    return " ".join(parts) + (f"; {errors}" if errors else "") + (f" ({why})" if why else "")
