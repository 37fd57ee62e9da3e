"""Distils the small model into an adapter that makes pictures in one to four steps without guidance.

On one GPU, about ten minutes with all that is measured; given again with more, it goes on: `--minutes` is the sum of
training over all calls.

    PYTHONPATH=src python -m wanbatch.pipeline.training.toy.few_step --out DIR --minutes 5.5

DIR then has `few-step.safetensors`, `settings.json` (other numbers: edit it, or `--set student_rate=2e-4`),
`log.jsonl` (losses and the judge's reading every minute), `scores.json`, and `state.pt`, from which the training is
gone on with. `--scores-only` measures the adapter again. It needs torch, diffusers, transformers, ftfy and what they
need.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import time
from pathlib import Path
from typing import Any

import torch

from wanbatch.pipeline.training.experts import Experts
from wanbatch.pipeline.training.few_step.distillation import (
    ADAPTER_FILE,
    SETTINGS_FILE,
    Distillation,
)
from wanbatch.pipeline.training.few_step.losses import Prompts
from wanbatch.pipeline.training.few_step.settings import FewStepSettings
from wanbatch.pipeline.training.few_step.teacher import STUDENT, PromptBank, with_latents
from wanbatch.pipeline.training.loop import Budget
from wanbatch.pipeline.training.low_rank import IMAGE_LAYERS, LowRankAdapters, read_state
from wanbatch.pipeline.training.toy import captions, world
from wanbatch.pipeline.training.toy.denoiser import embed
from wanbatch.pipeline.training.toy.few_step_scores import Contest
from wanbatch.pipeline.training.toy.scores import Studio

TINY = Path(__file__).resolve().parents[2] / "tiny"
CAPTION_TOKENS = 40
LATENT = (8, 8)  # of pictures of 128x128
SCORES_FILE = "scores.json"


def write_bank(studio: Studio, settings: FewStepSettings) -> PromptBank:
    """Prompts of the world in all their wordings; no picture of it is looked at. Without latents.

    Args:
        studio: With the teacher and its text encoder.
        settings: How many prompts, and the seed.
    """
    chooser, rng = torch.Generator().manual_seed(settings.seed * 1000), random.Random(settings.seed * 1000)
    attributes = world.sample(settings.prompts, chooser)
    attributes = attributes[~world.held_out(attributes)]
    texts = [captions.write(names, rng) for names in world.describe(attributes)]
    prompts, negative = _encode(studio, texts), _encode(studio, [""])
    return PromptBank(prompts, negative, torch.zeros(0, len(studio.vae.mean), *LATENT, device=studio.device))


@torch.no_grad()
def _encode(studio: Studio, texts: list[str]) -> Prompts:
    """Text states of prompts, half precision on a GPU, padded or cut to `CAPTION_TOKENS`."""
    rows = [encoding.ids for encoding in studio.pipeline.tokenizer.backend_tokenizer.encode_batch(texts)]
    rows = [ids if len(ids) <= CAPTION_TOKENS else [*ids[: CAPTION_TOKENS - 1], 1] for ids in rows]
    lengths = torch.tensor([len(ids) for ids in rows], device=studio.device)
    tokens = torch.tensor([ids + [0] * (CAPTION_TOKENS - len(ids)) for ids in rows], device=studio.device)
    dtype = torch.float16 if studio.device.type == "cuda" else torch.float32
    parts = zip(tokens.split(1024), lengths.split(1024), strict=True)
    return Prompts(torch.cat([embed(studio.encoder, *part).to(dtype) for part in parts]), lengths)


def main(arguments: list[str] | None = None) -> None:
    """Train and evaluate, as the module's docstring says."""
    given = _arguments(arguments)
    given.out.mkdir(parents=True, exist_ok=True)
    device = torch.device(given.device)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    settings = FewStepSettings.load(given.out / SETTINGS_FILE, **_changed(given.set))
    torch.manual_seed(settings.seed)
    begin = time.monotonic()
    studio = Studio(given.model, device)
    contest = Contest(studio, settings, given.out)
    print(
        f"{time.monotonic() - begin:.0f} s: model loaded; teacher {json.dumps(contest.teacher(given.look))}",
        flush=True,
    )
    adapters = LowRankAdapters(studio.dit, IMAGE_LAYERS)
    if not given.scores_only:
        experts = Experts(studio.dit)
        bank = with_latents(experts, adapters, write_bank(studio, settings), settings, given.out)
        print(f"{time.monotonic() - begin:.0f} s: {len(bank.latents)} latents", flush=True)
        budget = Budget(given.minutes, given.steps, given.stop_after)
        training = Distillation(experts, adapters, bank, settings, budget, given.out, _say)
        _say(json.dumps(training.run(lambda: contest.glance(adapters, given.look), given.every)))
        adapters.load(STUDENT, read_state(given.out / ADAPTER_FILE)[0])
    else:
        adapters.add(STUDENT, settings.rank)
        adapters.load(STUDENT, read_state(given.out / ADAPTER_FILE)[0])
    scores = contest.measure(adapters, given.pictures)
    (given.out / SCORES_FILE).write_text(json.dumps(scores, indent=1) + "\n")
    for name, score in scores.items():
        print(f"{name}: {json.dumps(score)}")
    print(f"{time.monotonic() - begin:.0f} s in all", flush=True)


def _arguments(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="wanbatch.pipeline.training.toy.few_step", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of the training")
    parser.add_argument("--model", type=Path, default=TINY, help="the small model (default: the one of the package)")
    parser.add_argument("--minutes", type=float, default=5.5, help="of training, over all calls (default: 5.5)")
    parser.add_argument("--steps", type=int, default=10**9, help="of training, over all calls")
    parser.add_argument("--stop-after", type=float, default=math.inf, metavar="MINUTES",
                        help="leave the rest of the training to the same command, given again")  # fmt: skip
    parser.add_argument("--every", type=float, default=1.0, help="minutes between looks (default: 1)")
    parser.add_argument("--look", type=int, default=256, help="pictures at each look (default: 256)")
    parser.add_argument("--pictures", type=int, default=1024, help="for each score in the end (default: 1024)")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="a setting; repeatable")
    parser.add_argument("--scores-only", action="store_true", help="only measure the adapter of the folder")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    return parser.parse_args(arguments)


def _changed(given: list[str]) -> dict[str, Any]:
    return {name: json.loads(value) for name, value in (part.split("=", 1) for part in given)}


def _say(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    main()
