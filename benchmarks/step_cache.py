"""What step caches do to the small model's pictures, and what they save.

    python benchmarks/step_cache.py [--prompts 32] [--rounds 3] [--out benchmarks/results/NAME.json] [CACHE ...]

Pictures of new prompts, from the same noise: 100 steps without a cache are the reference; then the model's own
number of steps with each cache, and fewer steps without one. A CACHE may end in `@STEPS`. Printed: PSNR against
the reference (mean and worst), the part of pictures that the judge reads right, blocks that ran (of those that
the model's own number of steps without a cache runs), and seconds of denoising a picture: the median of some
rounds, each of which runs every cache once. `core_seconds` are what the processor's cores spent on a picture from
text to pixels, which what else the machine does hardly moves (without spinning: `OMP_WAIT_POLICY=passive`).
"""

from __future__ import annotations

import json
import platform
import sys
import time
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import click
import numpy as np
import torch
from model_requests import request_of

from wanbatch.pipeline.core.conditioning import to_model
from wanbatch.pipeline.core.requests import Failed, Result
from wanbatch.pipeline.evaluation.judge import Judge
from wanbatch.pipeline.evaluation.metrics import psnr_of
from wanbatch.pipeline.generate import Wan
from wanbatch.pipeline.loading import registry
from wanbatch.pipeline.training.toy import world
from wanbatch.pipeline.training.toy.scores import write_prompts

REFERENCE_STEPS = 100
CACHES = (
    "none",
    "none@20",
    "none@15",
    "none@12",
    "none@10",
    "deepcache:interval=2,blocks=3",  # 10 of 30 blocks, in proportion
    "deepcache:interval=2,blocks=5",  # 20 of 30
    "taylor:interval=2,order=1,blocks=3",
    "taylor:interval=2,order=1,blocks=5",
    "taylor:interval=2,order=1",
    "taylor:interval=2,order=2",
    "taylor:interval=3,order=1,along=sigma",
    "taylor:interval=3,order=1",
    "taylor:interval=3,order=1@40",
    "taylor:interval=4,order=1",
    "adaptive:threshold=0.02",
    "adaptive:threshold=0.03",
    "adaptive:threshold=0.05",
    "adaptive:threshold=0.1",
    "adaptive:threshold=0.05,along=sigma",
    "none+gate:interval=2",
    "none+gate:mode=skip,below=0.2",
    "none+gate:mode=skip,below=0.5",
    "taylor:interval=2,order=1+gate:interval=4",
)


@click.command(help=__doc__)
@click.argument("caches", nargs=-1)
@click.option("--prompts", default=32, help="pictures a cache")
@click.option("--rounds", default=3, help="of timing")
@click.option("--slots", default=8)
@click.option("--threads", default=2)
@click.option("--out", type=click.Path(path_type=Path))
def main(caches: tuple[str, ...], prompts: int, rounds: int, slots: int, threads: int, out: Path | None) -> None:
    torch.set_num_threads(threads)
    info = registry.find("tiny")
    wan, judge = Wan.load(info, slots=slots), Judge.load()
    attributes = world.sample(prompts, torch.Generator().manual_seed(51))
    texts = write_prompts(attributes, seed=52)

    def make(cache: str, steps: int) -> list[Result]:
        wan.use_step_cache(cache)
        made = {}
        requests = [
            request_of(info, id=str(index), prompt=text, seed=index, steps=steps) for index, text in enumerate(texts)
        ]
        for outcome in wan.generate(requests):
            if isinstance(outcome, Failed):
                raise outcome.error
            made[outcome.request.id] = outcome
        return [made[str(index)] for index in range(prompts)]

    reference = make("none", REFERENCE_STEPS)
    whole = info.steps * info.layers * 2
    rows: dict[str, dict] = {}
    times: dict[str, list[tuple[float, float]]] = {}
    for number in range(rounds):
        for given in caches or CACHES:
            text, _, steps = given.partition("@")
            begin = time.process_time()
            made = make(text, int(steps or info.steps))
            cores = (time.process_time() - begin) / prompts
            times.setdefault(given, []).append((float(np.mean([one.seconds.denoise for one in made])), cores))
            if number == 0:
                right = judge.score(torch.cat([to_model(one.pixels) for one in made]), attributes)["all"]
                scores = _scores(made, reference) | {"judge": right}
                blocks = float(np.mean([one.work.blocks_full for one in made])) / whole
                cache = {"cache": str(wan.step_cache), "steps": int(steps or info.steps)}
                rows[given] = cache | scores | {"blocks": round(blocks, 3)}
            for name, value in zip(("seconds", "core_seconds"), np.median(times[given], axis=0), strict=True):
                rows[given][name] = round(float(value), 4)
            click.echo(f"round {number + 1}  " + "  ".join(f"{name} {value}" for name, value in rows[given].items()))
        if out is not None:
            settings = {"model": info.name, "prompts": prompts, "rounds": number + 1, "slots": slots}
            _write(out, list(rows.values()), settings | {"reference_steps": REFERENCE_STEPS}, threads)


def _scores(made: list[Result], reference: list[Result]) -> dict[str, float]:
    psnr = [psnr_of(ours.pixels, theirs.pixels) for ours, theirs in zip(made, reference, strict=True)]
    return {"psnr": round(float(np.mean(psnr)), 2), "worst_psnr": round(float(np.min(psnr)), 2)}


def _write(out: Path, rows: list[dict], settings: dict, threads: int) -> None:
    result = {
        "command": " ".join(["python", *sys.argv]),
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "hardware": {"device": f"CPU, {threads} threads", "machine": platform.machine()},
        "versions": {name: version(name) for name in ("wanbatch", "torch", "diffusers", "transformers")},
        "settings": settings,
        "caches": rows,
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
