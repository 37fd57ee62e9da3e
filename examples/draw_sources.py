"""Draws the source images of `quickstart.jsonl`: pictures of the small world that `tiny` was trained on.

python examples/draw_sources.py
"""

from pathlib import Path

import torch
from PIL import Image

from wanbatch.pipeline.core.conditioning import to_pixels
from wanbatch.pipeline.evaluation.attributes import FIELDS, NAMES
from wanbatch.pipeline.training.toy import world

SOURCES = {
    "heart": ("heart", "red", "large", "center", "blue", "striped"),
    "star": ("star", "yellow", "large", "center", "purple", "plain"),
    "moon": ("moon", "white", "large", "center", "green", "dotted"),
}


def main() -> None:
    folder = Path(__file__).parent / "images"
    folder.mkdir(exist_ok=True)
    for seed, (name, attributes) in enumerate(SOURCES.items()):
        indices = [NAMES[field].index(value) for field, value in zip(FIELDS, attributes, strict=True)]
        generator = torch.Generator().manual_seed(seed)
        picture = world.render(torch.tensor([indices]), generator=generator)[0]
        Image.fromarray(to_pixels(picture)).save(folder / f"{name}.png", optimize=True)


if __name__ == "__main__":
    main()
