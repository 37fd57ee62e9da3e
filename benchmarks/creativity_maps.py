"""What creativity maps do to the small model's pictures, read by its judge.

    python benchmarks/creativity_maps.py --out benchmarks/results/creativity-maps-NAME.json [--scenes 32]
        [--only TEXT ...] [--sheet FILE.png]

Needs no Ray, and a GPU if there is one. Sources are renders of one object on a background. In `background` the prompt
asks for the same object on another background, in `object` for another object of the same size and place on the same
one. It names object and background alone, or, where the arm says so, size and place too. Each arm makes all of them
from the same noise: with one creativity for the whole picture, with the object's mask at another one than the rest,
and with its box. `pasted` lays the object's own pixels over a picture of the background alone. The judge reads the
object (which, how large, where) and the background (colour or scene, texture).

`kept`: the share of the object's pixels that are within 16 grey levels of the source's. `around_difference`: mean
difference to the source outside of the object and its shadow, in grey levels. `seam`: how much larger the step across
the edges of the map is than in a render of what was asked for, in grey levels: the mean over the edges between places
of the latent that differ in creativity, of the two pixels on each side. Arms of one creativity have it at the edges
of the box. The same command goes on where it stopped; a sheet shows the arms that it makes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import click
import numpy as np
import torch
from map_pictures import (
    BACKGROUND,
    OBJECT,
    SHADOW,
    Arm,
    Results,
    Scene,
    Sheet,
    generate,
    grown,
    objects_alone,
    scenes_of,
    share,
    tight,
)
from model_requests import request_of

from wanbatch.pipeline.core.conditioning import to_pixels
from wanbatch.pipeline.core.creativity_map import latent_levels
from wanbatch.pipeline.evaluation.attributes import NOUNS
from wanbatch.pipeline.evaluation.judge import Judge
from wanbatch.pipeline.evaluation.quality import stacked
from wanbatch.pipeline.generate import Wan
from wanbatch.pipeline.loading.registry import TINY, ModelInfo, find
from wanbatch.pipeline.training.toy import world

STRIDE = 16  # pixels of a place of the latent
SAME = 16  # grey levels by which a kept pixel may differ
PASTED = "background: pasted"
VARY_BACKGROUND = (
    *(Arm(value) for value in (0.5, 0.6, 0.7, 0.8, 0.9, 1.0)),
    *(Arm(value, named="all") for value in (0.6, 0.8, 0.9)),
    *(Arm(1.0, inside) for inside in (0.0, 0.1, 0.2, 0.3)),
    *(Arm(1.0, inside, keep_pixels=True) for inside in (0.0, 0.1, 0.2, 0.3)),
    *(Arm(around, 0.2, keep_pixels=kept) for around in (0.6, 0.8) for kept in (False, True)),
    *(Arm(1.0, 0.2, keep_pixels=kept, named="all") for kept in (False, True)),
    *(Arm(1.0, 0.2, keep_pixels=kept, named="alone") for kept in (False, True)),
    *(Arm(1.0, 0.2, softness=softness) for softness in (0.2, 0.4)),
    *(Arm(1.0, inside, "box") for inside in (0.0, 0.1, 0.2)),
    Arm(1.0, 0.1, "box", keep_pixels=True),
)
VARY_OBJECT = (
    *(Arm(value) for value in (0.7, 0.8, 0.9, 1.0)),
    *(Arm(value, named="all") for value in (0.7, 0.9)),
    *(Arm(0.0, 1.0, "box", margin=margin) for margin in (8, 16, 24)),
    *(Arm(0.0, 1.0, "box", margin=margin, named="all") for margin in (8, 16, 24, 32)),
    *(Arm(0.0, 1.0, "box", margin=margin, keep_pixels=True, named="all") for margin in (16, 24, 32)),
    Arm(0.2, 1.0, "box", margin=16, keep_pixels=True, named="all"),
    *(Arm(0.2, 1.0, "box", margin=16, softness=softness, named="all") for softness in (0.0, 0.2, 0.4)),
)


@click.command(help=__doc__)
@click.option("--out", type=click.Path(path_type=Path), required=True)
@click.option("--scenes", "count", default=32, show_default=True)
@click.option("--steps", default=20, show_default=True)
@click.option("--slots", default=8, show_default=True)
@click.option("--seed", default=5, show_default=True)
@click.option("--only", multiple=True, help="Arms by name, also with * in it; may be repeated.")
@click.option(
    "--sheet", "sheet_file", type=click.Path(path_type=Path), help="Sources, maps and results, as PNG or WEBP."
)
@click.option("--device", default="cuda" if torch.cuda.is_available() else "cpu")
def main(
    out: Path,
    count: int,
    steps: int,
    slots: int,
    seed: int,
    only: tuple[str, ...],
    sheet_file: Path | None,
    device: str,
) -> None:
    info, wan, judge = find(TINY), Wan.load(find(TINY), device, slots=slots), Judge.load(device=device)
    facts = {"model_digest": info.digest, "scenes": count, "steps": steps, "seed": seed}
    results = Results(out, "creativity maps on the small model, read by its judge", device, facts)
    for task, arms in (("background", (None, *VARY_BACKGROUND)), ("object", VARY_OBJECT)):
        attributes = objects_alone(count, seed)
        scenes = scenes_of(attributes, asked(attributes, task, seed), seed)
        sheet = Sheet(scenes)
        for arm in arms:
            name = PASTED if arm is None else f"{task}: {arm}"
            if not results.is_due(name, only, drawn=sheet_file is not None):
                continue
            made = (
                pasted(wan, info, scenes, steps) if arm is None else generate(wan, arm.requests(info, scenes, steps))
            )
            sheet.add(name, arm, made)
            results.add(name, scores(judge, device, made, scenes) | {"seam": seam(arm, made, scenes, seed)})
            if sheet_file is not None:
                sheet.save(sheet_file.with_stem(f"{sheet_file.stem}-{task}"))


def asked(attributes: torch.Tensor, task: str, seed: int) -> torch.Tensor:
    """What the prompts ask for: the sources' attributes with another background, or another object."""
    others, wanted = world.sample(len(attributes), torch.Generator().manual_seed(seed + 1)), attributes.clone()
    if task == "background":
        wanted[:, BACKGROUND] = others[:, BACKGROUND]
    else:
        wanted[:, 0] = (wanted[:, 0] + 1 + others[:, 0] % (len(NOUNS) - 1)) % len(NOUNS)
    return wanted


def pasted(wan: Wan, info: ModelInfo, scenes: Sequence[Scene], steps: int) -> list[np.ndarray]:
    """The objects' own pixels over pictures of the backgrounds alone, uint8 [128, 128, 3] each."""
    plain = request_of(info, steps=steps)
    named = enumerate(scene.prompts["alone"] for scene in scenes)
    made = generate(wan, [replace(plain, id=str(index), prompt=prompt, seed=index) for index, prompt in named])
    return [np.where(scene.mask[..., None], scene.pixels, one) for scene, one in zip(scenes, made, strict=True)]


def seam(arm: Arm | None, made: Sequence[np.ndarray], scenes: Sequence[Scene], seed: int) -> float:
    """The mean step across the edges of the maps, less that of the ideal pictures, in grey levels."""
    wanted = torch.stack([scene.wanted for scene in scenes])
    ideal = [to_pixels(one) for one in world.render(wanted, generator=torch.Generator().manual_seed(seed))]
    steps = []
    for ours, theirs, scene in zip(made, ideal, scenes, strict=True):
        told = (arm.map_of(scene) if arm else None) or Arm(0.0, 1.0, "box").map_of(scene)
        assert told is not None
        levels = latent_levels(told.values, STRIDE)
        for axis in (0, 1):
            places = np.argwhere(np.diff(levels, axis=axis) != 0)
            steps += [_step(ours, place, axis) - _step(theirs, place, axis) for place in places]
    return round(float(np.mean(steps)), 2)


def _step(picture: np.ndarray, place: np.ndarray, axis: int) -> float:
    """The step from one place of the latent to the next one along an axis."""
    turned = picture if axis == 0 else picture.swapaxes(0, 1)
    row, column = (place if axis == 0 else place[::-1]) * STRIDE
    block = turned[row : row + 2 * STRIDE, column : column + STRIDE]
    before, after = (block[start : start + 2].astype(float).mean(0) for start in (STRIDE - 2, STRIDE))
    return float(np.abs(after - before).max(1).mean())


def scores(judge: Judge, device: str, made: Sequence[np.ndarray], scenes: Sequence[Scene]) -> dict[str, object]:
    """Shares of the pictures in which object and background are right, and what of the sources is left."""
    wanted = torch.stack([scene.wanted for scene in scenes]).numpy()
    right = judge.read(stacked(made, device)).cpu().numpy() == wanted
    named = {"object": right[:, OBJECT].all(1), "background": right[:, BACKGROUND].all(1), "all": right.all(1)}
    found: dict[str, object] = {name: share(values) for name, values in named.items()}
    kept, around = zip(*_differences(made, scenes), strict=True)
    return found | {"kept": round(float(np.mean(kept)), 3), "around_difference": round(float(np.mean(around)), 1)}


def _differences(made: Sequence[np.ndarray], scenes: Sequence[Scene]) -> Iterator[tuple[float, float]]:
    """Of each picture the share of the object's pixels that are kept, and the mean difference around it."""
    for ours, scene in zip(made, scenes, strict=True):
        difference = np.abs(ours.astype(float) - scene.pixels).max(2)
        outside = np.ones(difference.shape, bool)
        outside[grown(tight(scene.mask), SHADOW)] = False
        yield float((difference[scene.mask] <= SAME).mean()), float(difference[outside].mean())


if __name__ == "__main__":
    main()
