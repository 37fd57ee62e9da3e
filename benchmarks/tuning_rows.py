"""Rows for tuning the presets of the small model: what its world holds, from text, from a source, from two.

    python benchmarks/tuning_rows.py FOLDER [--rows 96]
    wanbatch tune FOLDER/manifest.jsonl --budget "psnr>=40" --sample 96 --preset exact --precision fp32

Writes FOLDER/manifest.jsonl and the pictures that it names. Of each four rows two are text alone, one has a source
and one two sources, at creativity 0.5, 0.65, 0.8 in turn.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
import torch
from PIL import Image

from wanbatch.pipeline.core.conditioning import to_pixels
from wanbatch.pipeline.training.toy import world
from wanbatch.pipeline.training.toy.scores import renders, write_prompts

SIZE = 128
CREATIVITIES = (0.5, 0.65, 0.8)


@click.command(help=__doc__)
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--rows", default=96, show_default=True)
@click.option("--seed", default=21, show_default=True)
def main(folder: Path, rows: int, seed: int) -> None:
    prompts = write_prompts(world.sample(rows, torch.Generator().manual_seed(seed)), seed)
    shown = renders(world.sample(2 * rows, torch.Generator().manual_seed(seed + 1)), SIZE, SIZE, seed=seed)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "manifest.jsonl").open("w", encoding="utf-8") as file:
        for index, prompt in enumerate(prompts):
            row: dict[str, Any] = {"id": f"{index:03}", "prompt": prompt, "seed": index}
            names = [f"{index:03}-{number}.png" for number in range(max(0, index % 4 - 1))]
            for number, name in enumerate(names):
                Image.fromarray(to_pixels(shown[2 * index + number])).save(folder / name)
            if names:
                row |= {"images": names, "creativity": CREATIVITIES[index % len(CREATIVITIES)]}
            file.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
