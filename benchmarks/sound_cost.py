"""What the tokens of a sound cost a denoising step, and what hearing a sound costs, on random weights of TI2V-5B.

    python benchmarks/sound_cost.py --out benchmarks/results/sound-cost-NAME.json [--precision bf16 --precision fp8]

Needs no Ray, and some 2 minutes on a GPU. Guided rows of 1280x704 (on a CPU: of 64x64, on a model of the same form
with 6 small blocks) go through whole schedules in the slots, rows with the tokens of a sound and rows
without in turn. `ratio` is the median over the rounds of the time of a step with sounds by that of the one without
beside it; `low` and `high` are the lowest and the highest round. `hearing` is the time of a sound of 2 s in an
untrained adapter of the model's width: one alone on the CPU, as a worker hears it, and in batches of 16.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import click
import numpy as np
import torch
from call_times import milliseconds
from circumstances import circumstances
from map_cost import compared

from wanbatch.pipeline.core.samples import Sample
from wanbatch.pipeline.core.sound_tokens import with_sound
from wanbatch.pipeline.loading.random_model import TRANSFORMER
from wanbatch.pipeline.sound.adapter import SoundAdapter

TOKENS, CLIPS = 8, 16


@click.command(help=__doc__)
@click.option("--steps", default=8, show_default=True)
@click.option("--slots", default=8, show_default=True)
@click.option("--rounds", default=5, show_default=True)
@click.option("--precision", "precisions", type=click.Choice(["fp32", "bf16", "fp8"]), multiple=True)
@click.option("--out", type=click.Path(path_type=Path))
def main(steps: int, slots: int, rounds: int, precisions: tuple[str, ...], out: Path | None) -> None:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    found = []
    for precision in precisions or ("bf16", "fp8"):
        times, _ = compared(device, precision, steps, slots, rounds, "sounding", sounding)
        found.append({"precision": precision, **times})
        click.echo("  ".join(f"{name} {value}" for name, value in found[-1].items()))
    where = torch.cuda.get_device_name() if device.type == "cuda" else None
    result = {
        "what": "milliseconds a guided step and picture, without and with the tokens of a sound; hearing one",
        **circumstances(("torch", "diffusers"), gpu=where),
        "settings": {"steps": steps, "slots": slots, "rounds": rounds, "tokens": TOKENS},
        "results": found,
        "hearing": hearing(device),
    }
    click.echo(json.dumps(result["hearing"]))
    if out is not None:
        out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def sounding(row: Sample) -> Sample:
    """The same row with the tokens of a sound after its prompt."""
    tokens = np.random.default_rng(row.seed).standard_normal((TOKENS, row.prompt.shape[1]), dtype=np.float32)
    return replace(row, prompt=with_sound(row.prompt, tokens))


def hearing(device: torch.device) -> dict[str, float]:
    """Milliseconds a sound of an adapter of the model's width, and the size of its weights."""
    torch.manual_seed(0)
    adapter = SoundAdapter.new(TRANSFORMER["text_dim"], TOKENS, resampler={"gate": True}).eval()
    samples = torch.randn(CLIPS, round(adapter.encoder.rate * adapter.encoder.seconds))
    alone = samples[0].numpy()
    found = {"parameters": float(sum(one.numel() for one in adapter.parameters()))}
    found["alone_on_the_cpu_ms"] = milliseconds(lambda: adapter.hear(alone), torch.device("cpu"))
    with torch.inference_mode():
        found["batched_on_the_cpu_ms"] = milliseconds(lambda: adapter(samples), torch.device("cpu")) / CLIPS
        if device.type == "cuda":
            adapter, samples = adapter.to(device), samples.to(device)
            found["batched_on_the_gpu_ms"] = milliseconds(lambda: adapter(samples), device) / CLIPS
    return {name: round(value, 3) for name, value in found.items()}


if __name__ == "__main__":
    main()
