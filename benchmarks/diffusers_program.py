"""What a good user of diffusers would write for the job: a program that makes a picture file of each row.

    python benchmarks/diffusers_program.py MODEL MANIFEST.jsonl OUT [--batch 8] [--steps 50] [--guidance 5] [--fp8]

`WanPipeline` in bfloat16 (VAE too), lists of prompts, blocks and decoder compiled, files written by threads beside
it. With `--fp8` the blocks' large layers are torchao's row-wise dynamic float8, compiled with them, by the compiler's
usual settings. The last line it prints is JSON: seconds to load, seconds to the first batch's pictures (most of them
the compiler's), and pictures a second after that.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import click
import torch

WRITERS = 8
LARGE = 1024  # inputs and outputs of layers that are worth quantising


@click.command(help=__doc__)
@click.argument("model", type=click.Path(exists=True, path_type=Path))
@click.argument("manifest", type=click.Path(exists=True, path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--batch", default=8, show_default=True)
@click.option("--steps", default=50, show_default=True)
@click.option("--guidance", default=5.0, show_default=True)
@click.option("--size", default="1280x704", show_default=True)
@click.option("--fp8", is_flag=True)
def main(
    model: Path, manifest: Path, out: Path, batch: int, steps: int, guidance: float, size: str, fp8: bool
) -> None:
    begin = time.perf_counter()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    rows = [json.loads(line) for line in manifest.read_text().splitlines()]
    rows = rows[: len(rows) // batch * batch] or rows  # batches of another size would be compiled anew
    pipeline = loaded(model, device, fp8)
    load = time.perf_counter() - begin
    out.mkdir(parents=True, exist_ok=True)
    ends: list[float] = []
    width, height = map(int, size.split("x"))
    asked = {"num_inference_steps": steps, "guidance_scale": guidance, "width": width, "height": height}
    with ThreadPoolExecutor(WRITERS) as writers:
        for group in batches(rows, batch):
            frames = pipeline(
                prompt=[row["prompt"] for row in group],
                num_frames=1,
                generator=[torch.Generator("cpu").manual_seed(row.get("seed", 0)) for row in group],
                output_type="pil",
                **asked,
            ).frames
            for row, frame in zip(group, frames, strict=True):
                writers.submit(frame[0].save, out / f"{row['id']}.png")
            ends.append(time.perf_counter())
            print(f"{len(ends) * batch} of {len(rows)} after {ends[-1] - begin:.1f} s", flush=True)
    rest = time.perf_counter() - ends[0]  # with the last files written
    click.echo(
        json.dumps(
            {
                "pictures": len(rows),
                "load_seconds": round(load, 2),
                "seconds_to_first_batch": round(ends[0] - begin, 2),
                "pictures_per_second": round((len(rows) - len(group)) / rest, 4) if len(ends) > 1 else None,
                "peak_memory_bytes": torch.cuda.max_memory_allocated() if device == "cuda" else None,
            }
        )
    )


def loaded(model: Path, device: str, fp8: bool) -> Any:
    """The pipeline, compiled."""
    from diffusers import WanPipeline

    pipeline: Any = WanPipeline.from_pretrained(model, torch_dtype=torch.bfloat16).to(device)
    pipeline.set_progress_bar_config(disable=True)
    if fp8:
        from torchao.quantization import Float8DynamicActivationFloat8WeightConfig, PerRow, quantize_

        def is_large(module: torch.nn.Module, name: str) -> bool:
            return isinstance(module, torch.nn.Linear) and min(module.weight.shape) >= LARGE

        # By default torchao also has the compiler try tiles of each kernel one after the other, for many minutes.
        how = Float8DynamicActivationFloat8WeightConfig(granularity=PerRow(), set_inductor_config=False)
        quantize_(pipeline.transformer.blocks, how, is_large)
    pipeline.transformer.compile_repeated_blocks(fullgraph=True)
    pipeline.vae.decoder.compile()
    return pipeline


def batches(rows: Sequence[dict[str, Any]], size: int) -> Iterator[Sequence[dict[str, Any]]]:
    for first in range(0, len(rows), size):
        yield rows[first : first + size]


if __name__ == "__main__":
    main()
