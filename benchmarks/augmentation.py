"""Whether pictures of the small model help a classifier of the small world: 10 classes, 5 and 25 pictures a class.

    python benchmarks/augmentation.py WORK [--shots 5,25] [--test 60] [--epochs 30] [--steps 12]

It needs Ray, as `wanbatch run` does, so it is for a machine with a whole installation. From the small model's speed
all of it should take some 20 minutes on two quiet cores, and this small version a few:

    python benchmarks/augmentation.py WORK --shots 5 --test 30 --steps 8 --epochs 20

Draws a dataset of the small world (single objects of ten nouns, all else at random) into WORK/shots-N, writes a
recipe beside it, makes its pictures with `wanbatch augment --run`, checks them with `wanbatch check`, and measures
them with `wanbatch augment --measure`, whose results are WORK/augmentation-N-shots.json. The same command goes on
where it stopped: pictures that are made stay, and a table that is written is not measured again.

The model was trained on pictures of this world, and so knows the ten nouns from far more pictures than the classifier
sees: what is measured is what a model brings that knows the domain.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import click
import torch
from circumstances import circumstances

from wanbatch.pipeline.core.conditioning import to_pixels
from wanbatch.pipeline.evaluation.attributes import ALONE, COLOURS, NAMES, NOUNS, SCENES, SIZES, STYLES, TEXTURES
from wanbatch.pipeline.training.toy import world

CLASSES = ("dog", "cat", "mouse", "rabbit", "fox", "bear", "panda", "tiger", "lion", "cow")
RECIPE = """dataset = "set"
split = "train"
template = "a {{label}} {{place}}"
creativity = [0.6, 0.8]
variants = {variants}

[choices]
place = [{places}]

[settings]
steps = {steps}
creativity_steps = "respace"
"""
PLACES = [*(f"on a {colour} background" for colour in COLOURS), "on the beach", "in the snow", "in a meadow"]


def draw_split(folder: Path, count: int, seed: int) -> None:
    """Draw `count` pictures of each class, 128 by 128 pixels, into a folder by class."""
    from PIL import Image

    generator = torch.Generator().manual_seed(seed)
    for label in CLASSES:
        target = folder / label
        if target.is_dir() and len(list(target.iterdir())) == count:
            continue
        target.mkdir(parents=True, exist_ok=True)

        def pick(high: int) -> torch.Tensor:
            return torch.randint(high, (count,), generator=generator)

        scenic = torch.rand(count, generator=generator) < 0.35
        attributes = torch.stack(
            [
                torch.full((count,), NOUNS.index(label)),
                torch.full((count,), len(NOUNS)),
                torch.full((count,), len(NOUNS)),
                pick(len(ALONE)),
                pick(2),
                torch.full((count,), len(SIZES)),
                torch.where(scenic, len(COLOURS) + pick(len(SCENES)), pick(len(COLOURS))),
                torch.where(scenic, 0, pick(len(TEXTURES))),
                pick(len(STYLES)),
            ],
            dim=1,
        )
        assert attributes.shape[1] == len(NAMES)
        pictures = world.render(attributes, generator=torch.Generator().manual_seed(seed + NOUNS.index(label)))
        for index, picture in enumerate(pictures):
            Image.fromarray(to_pixels(picture)).save(target / f"{index:03d}.png")


def call(*arguments: object) -> None:
    """Run a command of wanbatch; end with it if it fails."""
    subprocess.run([sys.executable, "-m", "wanbatch.jobs.cli", *map(str, arguments)], check=True)


@click.command()
@click.argument("work", type=click.Path(path_type=Path))
@click.option("--shots", default="5,25", show_default=True, help="pictures a class in the train split")
@click.option("--test", default=60, show_default=True, help="pictures a class in the test split")
@click.option("--steps", default=12, show_default=True, help="denoising steps of each picture")
@click.option("--epochs", default=30, show_default=True, help="passes over the pictures in each training")
@click.option("--only-make", is_flag=True, help="make the pictures and stop")
def main(work: Path, shots: str, test: int, steps: int, epochs: int, only_make: bool) -> None:
    """Draw, make, check and measure."""
    for count in map(int, shots.split(",")):
        folder = work / f"shots-{count}"
        draw_split(folder / "set/train", count, seed=count)
        draw_split(folder / "set/test", test, seed=10_000)
        recipe = folder / "recipe.toml"
        places = ", ".join(f'"{place}"' for place in PLACES)
        recipe.write_text(RECIPE.format(variants=2 if count < 10 else 1, places=places, steps=steps))
        call("augment", recipe, "--run", "--out", folder / "made")
        result = work / f"augmentation-{count}-shots.json"
        if only_make or result.exists():
            continue
        call("check", folder / "made", "--recipe", recipe)
        call("augment", recipe, "--measure", folder / "made", "--result", result, "--epochs", epochs)
        gpu = torch.cuda.get_device_name(0) if torch.cuda.is_available() else "none"
        measured = {**circumstances(("torch", "ray"), gpu=gpu), **json.loads(result.read_text())}
        result.write_text(json.dumps(measured, indent=1) + "\n")


if __name__ == "__main__":
    main()
