"""Whether boxes stay true when backgrounds are varied: the whole picture against objects kept by boxes or masks.

    python benchmarks/map_labels.py --out benchmarks/results/map-labels-NAME.json [--scenes 24] [--only TEXT ...]
        [--sheet FILE.png]

Needs no Ray, and a GPU if there is one. Scenes of the small world with one object on a plain background. The prompt
names the object and another plain background, and neither place nor size; where an arm says so it names them, too, or
what `object_size` and `object_place` say of the box, or the background alone. Each arm makes all scenes from the same
noise.

An object is found by colours, in the source and in the picture alike: pixels that are farther than 60 grey levels
from the background of the source, from that of the picture, and from all mixtures of the two. Of their connected
pieces it is the one with the most pixels in the label's box. Scenes are left out in which the object found in the
source, or in a render of what is asked for, has another box than the label, by more than 2 %: there colours do not
tell. `iou` is of the boxes found in source and picture: its mean with an interval of 95 %, and the share of pictures
above 0.95. `second_thing`: the share of pictures with another piece that holds a square of 5x5 pixels, which a label
of the source knows nothing of. `background`, `object`, `alone`: the shares in which the judge reads the new
background, the same object in the same place and size, and no other object. The same command goes on where it
stopped.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click
import numpy as np
import torch
from map_pictures import (
    BACKGROUND,
    OBJECT,
    OTHERS,
    Arm,
    Box,
    Results,
    Scene,
    Sheet,
    generate,
    objects_alone,
    scenes_of,
    share,
    tight,
)
from scipy import ndimage

from wanbatch.pipeline.core.conditioning import to_pixels
from wanbatch.pipeline.evaluation.attributes import COLOURS
from wanbatch.pipeline.evaluation.judge import Judge
from wanbatch.pipeline.evaluation.quality import stacked
from wanbatch.pipeline.generate import Wan
from wanbatch.pipeline.loading.registry import TINY, find
from wanbatch.pipeline.training.toy import world

FAR = 60  # grey levels
SAME_BOX = 0.98
WORDS = ("all", "alone")
ARMS = (
    Arm(0.0),
    *(Arm(0.7, 0.1, "box", keep_pixels=kept, named="boxed") for kept in (True, False)),
    *(Arm(around, 0.2, keep_pixels=True, named="boxed") for around in (0.7, 1.0)),
    *(Arm(around, named="boxed") for around in (0.7, 1.0)),
    *(Arm(0.7, 0.1, "box", keep_pixels=kept, named=named) for named in WORDS for kept in (True, False)),
    *(Arm(0.7, 0.2, keep_pixels=True, named=named) for named in WORDS),
    Arm(0.7),
    Arm(0.7, named="all"),
    *(Arm(0.7, inside, "box") for inside in (0.1, 0.0)),
    *(Arm(0.7, inside, "box", keep_pixels=True) for inside in (0.1, 0.0)),
    *(Arm(0.7, inside, keep_pixels=True) for inside in (0.2, 0.1, 0.0)),
    *(Arm(value) for value in (0.5, 0.6, 0.8, 0.9, 1.0)),
    *(Arm(around, 0.1, "box", keep_pixels=kept) for around in (0.5, 0.6, 0.8, 0.9, 1.0) for kept in (True, False)),
    *(Arm(around, 0.1, "box", keep_pixels=True, named=named) for named in WORDS for around in (0.5, 0.9, 1.0)),
    *(Arm(around, 0.2, keep_pixels=True, named=named) for named in ("both", *WORDS) for around in (0.5, 0.9, 1.0)),
    *(Arm(0.7, 0.0, "box", keep_pixels=True, named=named) for named in WORDS),
    *(Arm(around, named="all") for around in (0.5, 0.6, 0.8, 0.9, 1.0)),
    *(Arm(0.7, inside, "box") for inside in (0.05, 0.2, 0.3)),
    *(Arm(0.7, 0.1, "box", margin=margin) for margin in (4, 8)),
    *(Arm(around, 0.1, "box", sampler="euler_ancestral") for around in (0.7, 1.0)),
    *(Arm(around, 0.1, "box", guidance=1.0) for around in (0.7, 1.0)),
)


@click.command(help=__doc__)
@click.option("--out", type=click.Path(path_type=Path), required=True)
@click.option("--scenes", "count", default=24, show_default=True)
@click.option("--steps", default=20, show_default=True)
@click.option("--slots", default=8, show_default=True)
@click.option("--seed", default=7, show_default=True)
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
    scenes, seen = labelled_scenes(count, seed)
    facts = {"model_digest": info.digest, "scenes": len(scenes), "looked_at": seen, "steps": steps, "seed": seed}
    what = "overlap of an object's box before and after its background is varied, on the small model"
    results, sheet = Results(out, what, device, facts), Sheet(scenes)
    for arm in ARMS:
        if not results.is_due(str(arm), only, drawn=sheet_file is not None):
            continue
        made = generate(wan, arm.requests(info, scenes, steps))
        sheet.add(str(arm), arm, made)
        results.add(str(arm), scores(judge, device, made, scenes))
        if sheet_file is not None:
            sheet.save(sheet_file)


def labelled_scenes(count: int, seed: int) -> tuple[list[Scene], int]:
    """Scenes in which objects can be found by their colours, and how many were looked at."""
    attributes, generator = objects_alone(8 * count, seed), torch.Generator().manual_seed(seed)
    attributes[:, BACKGROUND[0]] = torch.randint(len(COLOURS), (len(attributes),), generator=generator)
    attributes[:, BACKGROUND[1]] = 0
    wanted = attributes.clone()
    others = 1 + torch.randint(len(COLOURS) - 1, (len(attributes),), generator=generator)
    wanted[:, BACKGROUND[0]] = (wanted[:, BACKGROUND[0]] + others) % len(COLOURS)
    ideals = world.render(wanted, generator=torch.Generator().manual_seed(seed))
    found: list[Scene] = []
    seen = 0
    for scene, ideal in zip(scenes_of(attributes, wanted, seed), ideals, strict=True):
        seen += 1
        boxes = [box for box, _ in found_boxes(scene, to_pixels(ideal))]
        if min(overlap(tight(scene.mask), box) for box in boxes) >= SAME_BOX:
            found.append(scene)
        if len(found) == count:
            break
    return found, seen


def scores(judge: Judge, device: str, made: Sequence[np.ndarray], scenes: Sequence[Scene]) -> dict[str, object]:
    """What the labels are worth in the pictures of an arm, and what the judge reads in them."""
    boxes = [found_boxes(scene, pixels) for scene, pixels in zip(scenes, made, strict=True)]
    overlaps = np.array([overlap(before, after) for (before, _), (after, _) in boxes])
    wanted = torch.stack([scene.wanted for scene in scenes]).numpy()
    right = judge.read(stacked(made, device)).cpu().numpy() == wanted
    named = {"background": BACKGROUND, "object": OBJECT, "alone": OTHERS}
    return {
        "iou": share(overlaps),
        "above_0.95": round(float((overlaps > 0.95).mean()), 3),
        "second_thing": round(float(np.mean([more for _, (_, more) in boxes])), 3),
        **{name: round(float(right[:, fields].all(1).mean()), 3) for name, fields in named.items()},
    }


def found_boxes(scene: Scene, made: np.ndarray) -> tuple[tuple[Box, bool], tuple[Box, bool]]:
    """The object's box in a scene and in what was made of it, each with whether there is a second thing."""
    ends = colour_of_border(scene.pixels), colour_of_border(made)
    before, after = (_located(far_from(pixels, *ends), tight(scene.mask)) for pixels in (scene.pixels, made))
    return before, after


def _located(far: np.ndarray, label: Box) -> tuple[Box, bool]:
    """The box of the piece that is most in the label's box, and whether there is another of some size."""
    joined = ndimage.binary_dilation(far, np.ones((3, 3)))  # pieces a pixel or two apart are one
    pieces = ndimage.label(joined, np.ones((3, 3)))[0] * far
    sizes = np.bincount(pieces[label].ravel(), minlength=2)
    if not sizes[1:].any():
        sizes = np.bincount(pieces.ravel(), minlength=2)
    ours = pieces == 1 + sizes[1:].argmax()
    others = ndimage.binary_erosion(far & ~ours, np.ones((5, 5)))
    return tight(ours), bool(others.any())


def far_from(picture: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Pixels that have neither of two colours nor a mixture of them, without specks, bool [height, width]."""
    line, offsets = second - first, picture.astype(float) - first
    part = (offsets @ line / max(float(line @ line), 1.0)).clip(0, 1)
    far = np.abs(offsets - part[..., None] * line).max(2) > FAR
    around = ndimage.convolve(far.astype(int), np.ones((3, 3), int), mode="constant")
    return far & (around >= 4)


def colour_of_border(picture: np.ndarray) -> np.ndarray:
    """The median colour of a picture's outermost pixels, float [3]."""
    edges = [picture[0], picture[-1], picture[:, 0], picture[:, -1]]
    return np.median(np.concatenate(edges), axis=0).astype(float)


def overlap(one: Box, other: Box) -> float:
    """Intersection over union of two boxes."""

    def area(box: Box) -> int:
        return max(0, box[0].stop - box[0].start) * max(0, box[1].stop - box[1].start)

    both = tuple(slice(max(a.start, b.start), min(a.stop, b.stop)) for a, b in zip(one, other, strict=True))
    shared = area((both[0], both[1]))
    return shared / max(area(one) + area(other) - shared, 1)


if __name__ == "__main__":
    main()
