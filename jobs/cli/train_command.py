"""`wanbatch train`: making adapters."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from wanbatch.counting import number_of
from wanbatch.jobs.cli.flag_types import NumberRange, PathOrUrl
from wanbatch.jobs.cli.options import json_option

if TYPE_CHECKING:
    from wanbatch.jobs.training.lora import LoraRequest

BASE_PRECISION = click.option(
    "--base-precision", type=click.Choice(["bf16", "fp8"]), default="bf16", show_default=True,
    help="of the frozen layers; fp8: half their memory; bf16: fp32 for small models and on a CPU",
)  # fmt: skip


def _pairs_of_columns(
    context: click.Context, parameter: click.Parameter, texts: tuple[str, ...]
) -> Mapping[str, str]:
    from wanbatch.jobs.config.field_texts import column_pairs, possible_pairs

    try:
        return possible_pairs(dict(column_pairs(texts)))  # type: ignore[call-overload]
    except ValueError as error:
        raise click.BadParameter(str(error)) from error


def _map_option(help: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """`--map`, with what its help calls a column."""
    return click.option(
        "--map", "renames", multiple=True, metavar="COLUMN=COLUMN", callback=_pairs_of_columns,
        help=f"{help} that is read as another one, like caption=prompt; repeatable",
    )  # fmt: skip


MAP = _map_option(help="a column")


@click.group()
def train() -> None:
    """Train adapters: styles and subjects that rows can then ask for."""


@train.command()
@click.option("--images", required=True, type=PathOrUrl(), help="folder with captions, Parquet, or output folder")
@click.option("--name", required=True, help="of the adapter, and of its file")
@click.option("--out", type=click.Path(path_type=Path), help="folder of the training; default: adapters/NAME")
@click.option("--model", default="tiny", show_default=True, help="tiny, a folder, or a hub id")
@click.option("--revision", help="of a hub model")
@click.option("--trigger", help="word that calls for the adapter; {trigger} in --template says where it goes")
@click.option("--template", default="{caption}", show_default=True, help="what captions are put into")
@click.option("--caption", help="of pictures that have none")
@click.option("--steps", type=click.IntRange(1), default=1500, show_default=True)
@click.option("--rank", type=click.IntRange(1), default=16, show_default=True)
@click.option("--alpha", type=NumberRange(0, min_open=True), help="scale, times the rank; default: the rank")
@click.option("--rate", type=NumberRange(0, min_open=True), default=1e-4, show_default=True, help="learning rate")
@click.option(
    "--warm-up", type=click.IntRange(0), default=20, show_default=True, help="steps in which the rate rises"
)
@click.option("--optimizer", type=click.Choice(["adamw", "adamw8bit"]), default="adamw", show_default=True,
              help="adamw8bit: moments of 8 bits, less memory; needs wanbatch[train]")  # fmt: skip
@click.option("--weight-decay", type=NumberRange(0), default=0.01, show_default=True, help="of AdamW")
@click.option("--batch", type=click.IntRange(1), default=1, show_default=True, help="pictures in a step")
@click.option("--accumulate", type=click.IntRange(1), default=1, show_default=True, help="batches in a step")
@click.option("--resolution", type=click.IntRange(1), help="side of a square of as many pixels; default: the model's")
@click.option("--shift", type=NumberRange(0, min_open=True), help="of the noise levels; default: the model's")
@click.option("--levels", type=click.Choice(["logit_normal", "uniform"]), default="logit_normal", show_default=True)
@click.option("--dropout", type=NumberRange(0, 1, max_open=True), default=0.05, show_default=True,
              help="part of the captions left empty")  # fmt: skip
@click.option("--held-out", type=NumberRange(0, 0.5), default=0.1, show_default=True,
              help="part of the pictures kept to measure on")  # fmt: skip
@click.option("--average", type=NumberRange(0, 1, max_open=True), default=0.99, show_default=True,
              help="decay of the average of the weights that is saved; 0: none")  # fmt: skip
@click.option("--save-every", type=click.IntRange(1), default=250, show_default=True, help="steps")
@click.option("--sample-every", type=click.IntRange(0), default=250, show_default=True, help="steps; 0: in the end")
@click.option("--sample-steps", type=click.IntRange(1), default=20, show_default=True, help="of a sample picture")
@click.option("--sample-prompt", "prompts", multiple=True, help="of sample pictures; repeatable; default: captions")
@click.option("--unrelated", multiple=True, help="prompt by which damage is measured; repeatable")
@click.option("--prior", type=PathOrUrl(), metavar="IMAGES",
              help="pictures with captions of what the model shall go on making, such as its own")  # fmt: skip
@click.option("--prior-weight", type=NumberRange(0, min_open=True), help="of their loss [default: 1]")
@click.option("--masks", metavar="FOLDER|COLUMN|beside",
              help="white is learned from; beside: NAME_mask.png beside NAME.png")  # fmt: skip
@click.option("--unmasked-weight", type=NumberRange(0, 1), help="of the loss where masks are black [default: .1]")
@click.option(
    "--expert", type=click.Choice(["high", "low", "both"]), help="of A14B, by noise levels: what is trained"
)
@click.option("--start-from", metavar="FILE", type=click.Path(path_type=Path),
              help="adapter to begin with, of the same rank")  # fmt: skip
@click.option("--checkpointing", is_flag=True, help="less memory, a third slower")
@BASE_PRECISION
@_map_option(help="a column of --images, --prior or both")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@click.option("--license", help="of the adapter, for its card [default: apache-2.0]")
@click.option("--rights", help="whose the pictures are, for the card")
@click.option("--author", help="for the card")
@click.option("--device", type=click.Choice(["cpu", "cuda"]), help="default: a GPU if there is one")
@click.option("--gpus", type=click.IntRange(1), default=1, show_default=True, help="that train one adapter together")
@click.option("--sweep", multiple=True, metavar="NAME=VALUE,...",
              help="train with each of several values, such as 'rank=8,16 rate=1e-4,3e-4'")  # fmt: skip
@json_option
def lora(
    images: str | Path, name: str, out: Path | None, gpus: int, as_json: bool, sweep: tuple[str, ...], **given: Any
) -> None:
    """Train an adapter (LoRA) on the pictures of IMAGES and their captions.

    Captions are NAME.txt beside NAME.png, the prompts of a metadata.jsonl or of any other manifest, or those of an
    output folder of wanbatch. The folder of the training holds the adapter, its card with what it brings and what it
    breaks in numbers, samples, and the state: the same command goes on where it ended.

    \b
    Example:
      wanbatch train lora --images drawings/ --name crayon --trigger crayon --template "{trigger} {caption}"
    """
    from dataclasses import fields

    from wanbatch.jobs.training.asked import memory_explained
    from wanbatch.jobs.training.lora import LoraRequest
    from wanbatch.jobs.training.lora import train as train_adapter
    from wanbatch.jobs.training.several_gpus import train_on_gpus
    from wanbatch.pipeline.training.lora.settings import LoraSettings

    numbers = {field.name: given.pop(field.name) for field in fields(LoraSettings)}
    request = LoraRequest(images, name, out or Path("adapters") / name, settings=LoraSettings(**numbers), **given)
    if sweep:
        if gpus > 1:
            raise click.UsageError("--gpus: a sweep has one trial on each GPU already: drop it")
        _sweep(request, sweep, as_json)
        return

    def say(text: str) -> None:
        click.echo(text, err=True)

    with memory_explained():
        found = train_adapter(request, say) if gpus == 1 else train_on_gpus(request, gpus, say)
    if os.environ.get("RANK", "0") != "0":
        return  # the first of those that `accelerate launch` started tells it
    if as_json:
        click.echo(json.dumps(found))
        return
    own = found["held_out_pictures"] and number_of(found["held_out_pictures"], "pictures")
    click.echo(
        f"{found['file']}: {found['coverage']}. Loss on {own or 'its own pictures'} "
        f"{found['loss_without']:.4f} without it, {found['loss_with']:.4f} with it ({-found['gain']:+z.1%}); on the "
        f"model's own pictures of unrelated prompts {found['damage']:+z.1%}. Its card and samples are beside it.\n"
        f"Use it: wanbatch run MANIFEST --lora {name}={found['file']}"
    )


def _sweep(request: LoraRequest, texts: tuple[str, ...], as_json: bool) -> None:
    """Train with all combinations of some settings, whose values are checked as the flags are."""
    from wanbatch.jobs.driver.tasks import run_tasks
    from wanbatch.jobs.training.sweep import Trial, named_lists, table
    from wanbatch.jobs.training.sweep_run import sweep

    flags = {parameter.name: parameter for parameter in lora.params}
    context = click.get_current_context()
    values = {
        setting: [flags[setting].type.convert(text, flags[setting], context) for text in given]
        for setting, given in named_lists(texts).items()
    }
    found = sweep(request, values, run_tasks, lambda text: click.echo(text, err=True))
    if as_json:
        click.echo(json.dumps(found))
        return
    trials = [
        Trial(each["settings"], each.get("measures"), each.get("failed"), each.get("seconds"))
        for each in found["trials"]
    ]
    file = found["file"]
    click.echo(
        "\n".join([*table(trials, found["rule"]), f"{file}: the trial with {found['rule']}, {found['best']}."])
    )
    click.echo(f"Use it: wanbatch run MANIFEST --lora {request.name}={file}")


@train.command()
@click.argument("manifest", type=PathOrUrl())
@click.option("--out", type=click.Path(path_type=Path), default=Path("adapters/sound.safetensors"), show_default=True,
              help="file of the adapter; what is needed to go on lies beside it")  # fmt: skip
@click.option("--model", default="tiny", show_default=True, help="tiny, a folder, or a hub id")
@click.option("--revision", help="of a hub model")
@click.option("--minutes", type=NumberRange(0, min_open=True), default=30.0, show_default=True, help="in all")
@click.option("--steps", type=click.IntRange(1), default=100_000, show_default=True, help="at most")
@click.option("--batch", type=click.IntRange(1), default=32, show_default=True, help="sounds in a step")
@click.option("--tokens", type=click.IntRange(1, 64), default=8, show_default=True, help="of each sound")
@click.option("--encoder", metavar="CLAP", help="a folder or a hub id of a CLAP that hears, frozen; default: a small "
              "encoder of its own, which is trained, too")  # fmt: skip
@MAP
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@click.option("--device", type=click.Choice(["cpu", "cuda"]), help="default: a GPU if there is one")
@json_option
def sound(manifest: str | Path, as_json: bool, **given: Any) -> None:
    """Train an adapter that gives the model sounds, from the rows of MANIFEST that have audio and a prompt.

    No pictures are needed: the model's own attention to the prompts is what the adapter learns to bring about. The
    same command goes on where it ended.

    \b
    Example:
      wanbatch train sound birds.jsonl --out birds.safetensors
    """
    from wanbatch.jobs.training.asked import memory_explained
    from wanbatch.jobs.training.sound import SoundRequest
    from wanbatch.jobs.training.sound import train as train_adapter

    with memory_explained("a smaller --batch"):
        found = train_adapter(SoundRequest(manifest, **given), lambda text: click.echo(text, err=True))
    if as_json:
        click.echo(json.dumps(found))
        return
    names = ("sounds", "captions", "steps")
    sounds, captions, steps = (number_of(found[name], name) for name in names)
    click.echo(
        f"{found['file']}: trained on {sounds} with {captions}, {steps}.\nUse it: wanbatch run MANIFEST --sound "
        f"{found['file']}" + (f" --sound-model {given['encoder']}" if given["encoder"] else "")
    )


@train.command("few-step")
@click.argument("manifest", type=PathOrUrl())
@click.option("--name", default="few-step", show_default=True, help="of the adapter, and of its file")
@click.option("--out", type=click.Path(path_type=Path), help="folder of the training; default: adapters/NAME")
@click.option("--model", default="tiny", show_default=True, help="tiny, a folder, or a hub id")
@click.option("--revision", help="of a hub model")
@click.option("--steps", type=click.IntRange(1), default=2000, show_default=True, help="of training, over all calls")
@click.option("--minutes", type=NumberRange(0, min_open=True), default=math.inf,
              help="of training, over all calls, if they end before the steps")  # fmt: skip
@click.option(
    "--main-steps", type=click.IntRange(1, 16), default=4, show_default=True, help="that a picture will take"
)
@click.option("--guidance", type=NumberRange(1), help="of the teacher, folded in; default: the model's")
@click.option("--shift", type=NumberRange(0, min_open=True), help="of the noise levels; default: the model's")
@click.option("--width", type=click.IntRange(1), help="of a picture; default: the model's")
@click.option("--height", type=click.IntRange(1), help="of a picture; default: the model's")
@click.option("--batch", type=click.IntRange(1), default=8, show_default=True, help="pictures in a step")
@click.option("--rank", type=click.IntRange(1), default=32, show_default=True)
@click.option("--checkpointing", is_flag=True, help="less memory, a third slower")
@BASE_PRECISION
@MAP
@click.option("--seed", type=click.IntRange(0), default=31, show_default=True)
@click.option("--set", "more", multiple=True, metavar="NAME=VALUE",
              help="another number of those in the folder's settings.json; repeatable")  # fmt: skip
@click.option("--sample-prompt", "prompts", multiple=True, help="of sample pictures; repeatable; default: the first")
@click.option("--license", help="of the adapter, for its card [default: apache-2.0]")
@click.option("--author", help="for the card")
@click.option("--device", type=click.Choice(["cpu", "cuda"]), help="default: a GPU if there is one")
@click.option("--gpus", type=click.IntRange(1), default=1, show_default=True, help="that train one adapter together")
@json_option
def few_step(
    manifest: str | Path, name: str, out: Path | None, gpus: int, as_json: bool, more: tuple[str, ...], **given: Any
) -> None:
    """Distil a model into an adapter that makes pictures in a few steps without guidance.

    Only the prompts of MANIFEST are used, no pictures: the model itself is the teacher. The folder of the training
    holds the adapter, its card with what it does in numbers, samples, and the state: the same command goes on where
    it ended.

    \b
    Example:
      wanbatch train few-step prompts.jsonl --name four-steps --steps 3000
    """
    from wanbatch.jobs.training.asked import memory_explained
    from wanbatch.jobs.training.few_step import FewStepRequest
    from wanbatch.jobs.training.few_step import train as train_adapter
    from wanbatch.jobs.training.several_gpus import train_on_gpus

    numbers = {key: given.pop(key) for key in OF_FEW_STEP if given[key] is not None} | _named_values(more)
    for key in OF_FEW_STEP:
        given.pop(key, None)
    request = FewStepRequest(manifest, name, out or Path("adapters") / name, changed=numbers, **given)

    def say(text: str) -> None:
        click.echo(text, err=True)

    with memory_explained():
        found = train_adapter(request, say) if gpus == 1 else train_on_gpus(request, gpus, say)
    if os.environ.get("RANK", "0") != "0":
        return  # as of `lora`
    if as_json:
        click.echo(json.dumps(found))
        return
    click.echo(
        f"{found['file']}: {found['coverage']}. Pictures in {number_of(found['steps'], 'steps')} without "
        f"guidance are {found['distance_with']:.3f} from the teacher's with it, {found['distance_without']:.3f} "
        f"without; two of "
        f"one prompt are {found['diversity_with']:.3f} apart, the teacher's {found['diversity_of_teacher']:.3f}. Its "
        "card and samples are beside it.\n"
        f"Use it: wanbatch run MANIFEST --lora {name}={found['file']} --merge {name} --preset fast"
    )


OF_FEW_STEP = ("main_steps", "guidance", "shift", "batch", "rank", "checkpointing", "base_precision", "seed")
"""Flags that are settings of the distillation."""


def _named_values(texts: tuple[str, ...]) -> dict[str, Any]:
    """The settings of `--set`, whose values are JSON."""
    found = {}
    for text in texts:
        name, _, value = text.partition("=")
        try:
            found[name] = json.loads(value)
        except ValueError as error:
            raise click.BadParameter(
                f"{text!r} must be NAME=VALUE with a number, true, false or a list of numbers, like "
                "student_rate=2e-4 or step_counts=[1,2,4]",
                param_hint="--set",
            ) from error
    return found
