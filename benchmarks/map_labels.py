"""Whether boxes stay true when backgrounds are varied: the whole picture against `[objects] keep = "boxes"`.

    python benchmarks/map_labels.py --out benchmarks/results/map-labels-NAME.json [--pictures 24]

Scenes of the small world with one object on a plain background. The prompt names the object and another plain
background, as the template of a recipe would, and neither place nor size. Each arm makes all scenes from the same
noise. An object's box is found by colours, in the source and in the picture alike: around what is farther than 60
grey levels from the source's background, from the picture's own, and from all mixtures of the two. Scenes are left
out in which a render of what is asked for has another box than the source, by more than 2 %: colours do not tell.

`iou` is of the box in the source and the one in the picture: its mean with an interval of 95 %, and the share of
pictures above 0.9. `background`: the share in which the judge reads the new background. The same command goes on
where it stopped.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import click
import numpy as np
import torch
from creativity_maps import BACKGROUND, generate
from model_requests import request_of

from wanbatch import __version__
from wanbatch.jobs.config.hardware import describe_device
from wanbatch.pipeline.core.conditioning import to_pixels
from wanbatch.pipeline.core.requests import CreativityMap, SourceImage
from wanbatch.pipeline.evaluation.attributes import COLOURS, FIELDS, NAMES, NONE, NOUNS
from wanbatch.pipeline.evaluation.judge import Judge
from wanbatch.pipeline.evaluation.metrics import bootstrap
from wanbatch.pipeline.evaluation.quality import stacked
from wanbatch.pipeline.generate import Wan
from wanbatch.pipeline.loading.registry import TINY, find
from wanbatch.pipeline.training.toy import world

FAR = 60  # grey levels
Box = tuple[slice, slice]


@dataclass(frozen=True)
class Arm:
    """A way to make the pictures. inside: creativity in the box; None: one number for the whole picture."""

    around: float
    inside: float | None = None
    margin: int = 0
    keep_pixels: bool = False

    def __str__(self) -> str:
        if self.inside is None:
            return f"creativity {self.around:g}"
        more = f", margin {self.margin}" if self.margin else ""
        return f"{self.around:g} around, {self.inside:g} in the box{more}{', pixels kept' * self.keep_pixels}"


ARMS = (
    Arm(1.0),
    Arm(1.0, 0.0),
    Arm(0.8),
    Arm(1.0, 0.1),
    Arm(1.0, 0.0, keep_pixels=True),
    Arm(0.6),
    Arm(0.9),
    Arm(1.0, 0.3),
    Arm(0.8, 0.1),
    Arm(1.0, 0.0, margin=4),
)


@dataclass(frozen=True)
class Scene:
    """A source and what is asked for. box: of the object, rows and columns."""

    pixels: np.ndarray
    box: Box
    prompt: str
    wanted: torch.Tensor


@click.command(help=__doc__)
@click.option("--out", type=click.Path(path_type=Path), required=True)
@click.option("--pictures", default=24, show_default=True)
@click.option("--steps", default=20, show_default=True)
@click.option("--slots", default=8, show_default=True)
@click.option("--seed", default=7, show_default=True)
@click.option("--device", default="cuda" if torch.cuda.is_available() else "cpu")
def main(out: Path, pictures: int, steps: int, slots: int, seed: int, device: str) -> None:
    info, wan, judge = find(TINY), Wan.load(find(TINY), device, slots=slots), Judge.load(device=device)
    scenes, seen = scenes_of(pictures, seed)
    found = json.loads(out.read_text(encoding="utf-8"))["results"] if out.exists() else {}
    wanted = torch.stack([scene.wanted for scene in scenes]).numpy()
    for arm in ARMS:
        if str(arm) in found:
            continue
        plain = request_of(info, steps=steps, creativity=arm.around)
        requests = [
            replace(plain, id=str(index), prompt=scene.prompt, seed=index,
                    sources=(SourceImage(str(index), scene.pixels),), creativity_map=map_of(arm, scene))
            for index, scene in enumerate(scenes)
        ]  # fmt: skip
        made = generate(wan, requests)
        right = (judge.read(stacked(made, device)).cpu().numpy() == wanted)[:, BACKGROUND].all(1)
        overlaps = np.array([overlap(s.box, found_box(s.pixels, one)) for s, one in zip(scenes, made, strict=True)])
        found[str(arm)] = {
            "iou": [round(float(value), 3) for value in (overlaps.mean(), *bootstrap(overlaps))],
            "above_0.9": round(float((overlaps > 0.9).mean()), 3),
            "background": round(float(right.mean()), 3),
        }
        click.echo(f"{arm}: {found[str(arm)]}")
        result = {
            "what": "overlap of an object's box before and after its background is varied, on the small model",
            "command": " ".join(["python", *sys.argv]),
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "hardware": describe_device(device),
            "versions": {"wanbatch": __version__, "torch": version("torch")},
            "model_digest": info.digest,
            "pictures": len(scenes),
            "scenes_looked_at": seen,
            "steps": steps,
            "results": found,
        }
        out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def scenes_of(count: int, seed: int) -> tuple[list[Scene], int]:
    """Scenes in which objects can be found by their colours, and how many were looked at."""
    generator = torch.Generator().manual_seed(seed)
    attributes = world.sample(8 * count, generator)
    attributes = attributes[(attributes[:, 1] == NAMES["second"].index(NONE)) & (attributes[:, 4] > 0)]
    attributes[:, BACKGROUND[0]] = torch.randint(len(COLOURS), (len(attributes),), generator=generator)
    attributes[:, FIELDS.index("texture")] = 0
    wanted = attributes.clone()
    others = 1 + torch.randint(len(COLOURS) - 1, (len(attributes),), generator=generator)
    wanted[:, BACKGROUND[0]] = (wanted[:, BACKGROUND[0]] + others) % len(COLOURS)
    shown, asked = (
        world.render(each, generator=torch.Generator().manual_seed(seed)) for each in (attributes, wanted)
    )
    found: list[Scene] = []
    for index, (one, other) in enumerate(zip(shown, asked, strict=True)):
        source, ideal = to_pixels(one), to_pixels(other)
        box = found_box(source, source)
        if overlap(box, found_box(source, ideal)) >= 0.98:
            colour = COLOURS[int(wanted[index, BACKGROUND[0]])]
            prompt = f"a {NOUNS[int(attributes[index, 0])]} on a {colour} background"
            found.append(Scene(source, box, prompt, wanted[index]))
        if len(found) == count:
            break
    return found, index + 1


def tight(mask: np.ndarray) -> Box:
    """The box of a mask; of nothing an empty one."""
    if not mask.any():
        return slice(0, 0), slice(0, 0)
    rows, columns = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
    return slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)


def found_box(source: np.ndarray, made: np.ndarray) -> Box:
    """Where the object of a picture is: what has neither the colour of a background nor one between the two."""
    first, second = (colour_of_border(one) for one in (source, made))
    line = second - first
    offsets = made.astype(float) - first
    share = (offsets @ line / max(float(line @ line), 1.0)).clip(0, 1)
    far = np.abs(offsets - share[..., None] * line).max(2) > FAR
    padded = np.pad(far, 1).astype(int)  # a speck of one or two pixels is no object
    around = sum(padded[y : y + far.shape[0], x : x + far.shape[1]] for y in range(3) for x in range(3))
    return tight(far & (around >= 4))


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


def map_of(arm: Arm, scene: Scene) -> CreativityMap | None:
    """The map of a scene; None where one number says it."""
    if arm.inside is None:
        return None
    values = np.full(scene.pixels.shape[:2], arm.around, np.float32)
    rows, columns = (slice(max(0, side.start - arm.margin), side.stop + arm.margin) for side in scene.box)
    values[rows, columns] = arm.inside
    return CreativityMap(values, arm.keep_pixels)


if __name__ == "__main__":
    main()
