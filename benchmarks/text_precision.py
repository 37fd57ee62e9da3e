"""What weights in FP8 do to the small model's text encoder: to embeddings, and to pictures as the judge reads them.

    python benchmarks/text_precision.py [--prompts 64] [--steps 20] [--out benchmarks/results/NAME.json] [--sheet PNG]

Embeddings of the same prompts with the weights as they are (fp32) and with `--text-precision fp8`, in fp32 and bf16:
the difference as a share of the norm, mean and worst prompt, beside that of bf16 alone. Then pictures of the same
seeds with either: PSNR between them, and the share of pictures in which the judge reads all that was asked for.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from circumstances import circumstances, print_result
from model_requests import request_of
from PIL import Image
from torch import Tensor

from wanbatch.pipeline.core.conditioning import to_model
from wanbatch.pipeline.core.requests import Failed
from wanbatch.pipeline.evaluation.judge import Judge
from wanbatch.pipeline.evaluation.metrics import psnr_of
from wanbatch.pipeline.generate import Wan
from wanbatch.pipeline.loading.registry import find
from wanbatch.pipeline.loading.runtime import Runtime
from wanbatch.pipeline.training.toy import world
from wanbatch.pipeline.training.toy.scores import write_prompts

SHOWN = 8  # pictures of each kind on the sheet


@click.command(help=__doc__)
@click.option("--prompts", default=64, show_default=True)
@click.option("--steps", default=20, show_default=True)
@click.option("--out", type=click.Path(path_type=Path))
@click.option("--sheet", type=click.Path(path_type=Path), help="PNG of the first pictures: as they are, and with FP8")
def main(prompts: int, steps: int, out: Path | None, sheet: Path | None) -> None:
    info, judge = find(), Judge.load()
    attributes = world.sample(prompts, torch.Generator().manual_seed(81))
    texts = write_prompts(attributes, 82)
    plain, rounded = (Wan.load(info, "cpu", "float32", 8, Runtime(text_fp8=fp8)) for fp8 in (False, True))
    exact = plain.text.encode(texts)
    found: dict[str, Any] = {"embeddings": {"fp8 weights, fp32": errors(exact, rounded.text.encode(texts))}}
    for name, fp8 in (("fp8 weights, bf16", True), ("bf16", False)):
        other = Wan.load(info, "cpu", "bfloat16", 8, Runtime(text_fp8=fp8))
        found["embeddings"][name] = errors(exact, other.text.encode(texts))
    pictures = {name: made(wan, texts, steps) for name, wan in (("as they are", plain), ("fp8 weights", rounded))}
    between = [psnr_of(one, two) for one, two in zip(*pictures.values(), strict=True)]
    found["psnr_between"] = {"mean": round(float(np.mean(between)), 2), "worst": round(min(between), 2)}
    for name, own in pictures.items():
        found[f"read right, {name}"] = judge.score(torch.cat([to_model(one) for one in own]), attributes)["all"]
    if sheet is not None:
        rows = [np.concatenate(own[:SHOWN], axis=1) for own in pictures.values()]
        Image.fromarray(np.concatenate(rows)).save(sheet)
    result = {
        "what": "the text encoder of the small model with weights in FP8",
        **circumstances(("torch",)),
        "prompts": prompts,
        "steps": steps,
        "results": found,
    }
    print_result(result, out)


def errors(exact: dict[str, Tensor], found: dict[str, Tensor]) -> dict[str, float]:
    """Differences of embeddings, in shares of their norm."""
    shares = [float((found[text].float() - exact[text]).norm() / exact[text].norm()) for text in exact]
    return {"mean": round(float(np.mean(shares)), 4), "worst": round(max(shares), 4)}


def made(wan: Wan, texts: list[str], steps: int) -> list[np.ndarray]:
    """A picture of each text, guided, with its place as the seed."""
    requests = [
        request_of(find(), id=str(number), seed=number, prompt=text, width=128, height=128, steps=steps, guidance=2.0)
        for number, text in enumerate(texts)
    ]
    pictures = {}
    for outcome in wan.generate(requests):
        assert not isinstance(outcome, Failed), outcome
        pictures[outcome.request.id] = outcome.pixels
    return [pictures[request.id] for request in requests]


if __name__ == "__main__":
    main()
