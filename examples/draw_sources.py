"""Draws the source images of `quickstart.jsonl`: pictures of the small world that `tiny` was trained on.

python examples/draw_sources.py
"""

from pathlib import Path

import torch
from PIL import Image

from wanbatch.pipeline.core.conditioning import to_pixels
from wanbatch.pipeline.training.toy import world

SOURCES = {
    "dog": world.attributes_of(first="dog", layout="center", size="large", background="blue", texture="striped"),
    "owl": world.attributes_of(first="owl", layout="center", size="large", background="meadow"),
    "rocket": world.attributes_of(first="rocket", layout="center", size="large", background="night"),
}


def main() -> None:
    folder = Path(__file__).parent / "images"
    folder.mkdir(exist_ok=True)
    for seed, (name, attributes) in enumerate(SOURCES.items()):
        picture = world.render(attributes, generator=torch.Generator().manual_seed(seed))[0]
        Image.fromarray(to_pixels(picture)).save(folder / f"{name}.png", optimize=True)


if __name__ == "__main__":
    main()
