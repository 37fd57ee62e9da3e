"""Rows of several styles and plain rows in one batch of the small model, read by the judge.

    python benchmarks/styles.py --out benchmarks/results/styles-tiny-NAME.json [--sheet docs/styles.png]

Each prompt is made plain and in each style that ships with the small model, with the same seed, all shuffled into one
queue of the slots; and once more in four steps without guidance, where all have the few-step adapter, too. `style` is
the share in which the judge reads the style (of plain rows: any style), `content` that in which everything that the
style leaves alone is as asked, and `wrong` the share in which each attribute is not. On two cores some minutes with
the default number of prompts.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from circumstances import circumstances, print_result
from model_requests import request_of
from PIL import Image
from torch import Tensor

from wanbatch.pipeline.adapters.files import ModelLayers, read_adapter
from wanbatch.pipeline.core.conditioning import to_model
from wanbatch.pipeline.core.requests import Failed, Request
from wanbatch.pipeline.evaluation.attributes import FIELDS
from wanbatch.pipeline.evaluation.judge import Judge
from wanbatch.pipeline.generate import Wan
from wanbatch.pipeline.loading.registry import ADAPTERS, find
from wanbatch.pipeline.training.toy import world
from wanbatch.pipeline.training.toy.scores import write_prompts
from wanbatch.pipeline.training.toy.styles import STYLES

FEW = "few-step"
PLAIN = "plain"
SHOWN = 6  # prompts of the sheet
WAYS: dict[str, dict[str, Any]] = {
    "20 steps, guidance 2": {"steps": 20, "guidance": 2.0},
    "4 steps, no guidance, with few-step": {"steps": 4, "guidance": 1.0, "sampler": "euler"},
}


@click.command(help=__doc__)
@click.option("--prompts", default=64, show_default=True)
@click.option("--slots", default=12, show_default=True)
@click.option("--file", "others", multiple=True, metavar="STYLE=FILE", help="another adapter than the one that ships")
@click.option("--way", "ways", multiple=True, type=click.Choice(list(WAYS)), default=list(WAYS))
@click.option("--out", type=click.Path(path_type=Path))
@click.option("--sheet", type=click.Path(path_type=Path), help="PNG of the first prompts: plain and in each style")
def main(
    prompts: int,
    slots: int,
    others: Sequence[str],
    ways: Sequence[str],
    out: Path | None,
    sheet: Path | None,
) -> None:
    info = find()
    files = {name: Path(info.folder) / ADAPTERS / f"{name}.safetensors" for name in (*STYLES, FEW)}
    files |= {name: Path(file) for name, _, file in (other.partition("=") for other in others)}
    device = "cuda" if torch.cuda.is_available() else "cpu"
    layers = ModelLayers.of_folder(info.folder, info.name)
    of_rows = {name: (read_adapter(file, layers), 1.0) for name, file in files.items()}
    wan = Wan.load(info, device, "float32", slots, adapters=of_rows)
    attributes = world.sample(4 * prompts, torch.Generator().manual_seed(71))
    shown = torch.stack([style.shown(attributes) for style in STYLES.values()]).any(0)
    attributes = attributes[~shown][:prompts]  # none asks for a style itself
    judge, found = Judge.load(), {}
    for way in ways:
        pictures = made(wan, attributes, WAYS[way])
        found[way] = {kind: scores(judge, kind, pictures[kind], attributes) for kind in pictures}
        click.echo(json.dumps({way: found[way]}))
        if sheet is not None and way == ways[0]:
            Image.fromarray(np.concatenate([_row(pictures[kind][:SHOWN]) for kind in pictures])).save(sheet)
    result = {
        "what": "rows of several styles and plain ones in one batch of the small model, read by the judge",
        **circumstances(("torch",), device=device),
        "prompts": len(attributes),
        "slots": slots,
        "results": found,
    }
    print_result(result, out)


def made(wan: Wan, attributes: Tensor, values: dict[str, Any]) -> dict[str, Tensor]:
    """Pictures `[B, 3, 128, 128]` in [-1, 1] of each kind, plain first, all made in one shuffled queue."""
    texts = write_prompts(attributes, 72)
    few = ((FEW, 1.0),) if values["guidance"] <= 1 else ()
    requests: list[Request] = []
    for kind in (PLAIN, *STYLES):
        own = few if kind == PLAIN else (*few, (kind, 1.0))
        for number, text in enumerate(texts):
            plain = request_of(find(), id=f"{kind} {number}", seed=number, prompt=text, width=128, height=128)
            requests.append(replace(plain, adapters=own, **values))
    random.Random(73).shuffle(requests)
    pictures = {}
    for outcome in wan.generate(requests):
        if isinstance(outcome, Failed):
            raise outcome.error
        pictures[outcome.request.id] = to_model(outcome.pixels)
    return {
        kind: torch.cat([pictures[f"{kind} {number}"] for number in range(len(texts))]) for kind in (PLAIN, *STYLES)
    }


def scores(judge: Judge, kind: str, pictures: Tensor, attributes: Tensor) -> dict[str, Any]:
    """What the judge reads in the pictures of one kind."""
    read, wanted = judge.read(pictures), attributes
    if kind == PLAIN:
        style = torch.stack([one.shown(read) for one in STYLES.values()]).any(0)
        content = (read == attributes).all(1)
    else:
        style, content = STYLES[kind].shown(read), STYLES[kind].content_right(read, attributes)
        wanted = STYLES[kind].applied(attributes)
    wrong = dict(zip(FIELDS, (read != wanted).float().mean(0).tolist(), strict=True))
    return {
        "style": round(float(style.float().mean()), 4),
        "content": round(float(content.float().mean()), 4),
        "wrong": {name: round(share, 4) for name, share in wrong.items() if share},
    }


def _row(pictures: Tensor) -> np.ndarray:
    pixels = ((pictures / 2 + 0.5).clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).numpy()
    return np.concatenate(list(pixels), axis=1)


if __name__ == "__main__":
    main()
