"""What creativity maps do to the small model's pictures, read by its judge.

    python benchmarks/creativity_maps.py --out benchmarks/results/creativity-maps-NAME.json [--pictures 32]

Sources are real renders of one object on a background. In `background` the prompt asks for the same object on another
background, in `object` for another object of the same size and place on the same one. Each arm makes all of them from
the same noise: with one creativity for the whole picture, with the object's mask at another one than the rest, and
with its box. `pasted` lays the object's own pixels over a picture of the background alone. The judge reads the object
(which, how large, where) and the background (colour or scene, texture).

`kept`: the share of the object's pixels that are within 16 grey levels of the source's. `around_difference`: mean
difference to the source outside of the object's box, in grey levels. `seam`: how much larger the step across the
edges of the map is than in a render of what was asked for, in grey levels: the mean over the edges between places of
the latent that differ in creativity, of the two pixels on each side. Arms of one creativity have it at the edges of
the box. The same command goes on where it stopped.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import click
import numpy as np
import torch
from model_requests import request_of

from wanbatch import __version__
from wanbatch.jobs.config.hardware import describe_device
from wanbatch.pipeline.core.conditioning import to_pixels
from wanbatch.pipeline.core.creativity_map import latent_levels
from wanbatch.pipeline.core.requests import CreativityMap, Failed, Request, SourceImage
from wanbatch.pipeline.evaluation.attributes import FIELDS, NAMES, NONE, NOUNS
from wanbatch.pipeline.evaluation.judge import Judge
from wanbatch.pipeline.evaluation.metrics import bootstrap
from wanbatch.pipeline.evaluation.quality import stacked
from wanbatch.pipeline.generate import Wan
from wanbatch.pipeline.loading.registry import TINY, find
from wanbatch.pipeline.training.toy import world
from wanbatch.pipeline.training.toy.backdrops import draw_backdrops
from wanbatch.pipeline.training.toy.scores import write_prompts

OBJECT = [FIELDS.index(name) for name in ("first", "layout", "size")]
BACKGROUND = [FIELDS.index(name) for name in ("background", "texture")]
MARGIN = 8  # pixels around an object, for its shadow
STRIDE = 16  # pixels of a place of the latent
SAME = 16  # grey levels by which a kept pixel may differ


@dataclass(frozen=True)
class Arm:
    """A way to make the pictures of a task.

    Attributes:
        task: `background` or `object`, what is to change.
        around: creativity outside of the object's mask or box.
        inside: creativity in it.
        shape: `mask` or `box`, or `pasted`.
        keep_pixels: whether kept pixels come back.
        margin: pixels by which a box is larger than the object with its shadow.
        softness: of the map.
    """

    task: str
    around: float
    inside: float
    shape: str = "mask"
    keep_pixels: bool = False
    margin: int = 0
    softness: float = 0.0

    def __str__(self) -> str:
        if self.shape == "pasted":
            return f"{self.task}: pasted"
        if self.around == self.inside:
            return f"{self.task}: creativity {self.around:g}"
        told = f"{self.task}: {self.around:g} around, {self.inside:g} in the {self.shape}"
        told += f", margin {self.margin}" if self.margin else ""
        told += f", softness {self.softness:g}" if self.softness else ""
        return told + (", pixels kept" if self.keep_pixels else "")


ARMS = (
    *(Arm("background", value, value) for value in (0.6, 0.8, 0.9)),
    Arm("background", 1.0, 1.0, "pasted"),
    *(Arm("background", 1.0, inside) for inside in (0.0, 0.2, 0.3)),
    *(Arm("background", 1.0, 0.2, softness=softness) for softness in (0.2, 0.4)),
    *(Arm("background", around, 0.0, keep_pixels=True) for around in (1.0, 0.9, 0.8)),
    Arm("background", 1.0, 0.0, "box"),
    *(Arm("object", value, value) for value in (0.7, 0.9)),
    *(Arm("object", 0.0, 1.0, "box", margin=margin) for margin in (0, 8, 16)),
    Arm("object", 0.0, 1.0, "box", keep_pixels=True, margin=16),
    *(Arm("object", 0.2, 1.0, "box", margin=8, softness=softness) for softness in (0.0, 0.2, 0.4)),
)


@click.command(help=__doc__)
@click.option("--out", type=click.Path(path_type=Path), required=True)
@click.option("--pictures", default=32, show_default=True)
@click.option("--steps", default=20, show_default=True)
@click.option("--slots", default=8, show_default=True)
@click.option("--seed", default=5, show_default=True)
@click.option("--device", default="cuda" if torch.cuda.is_available() else "cpu")
def main(out: Path, pictures: int, steps: int, slots: int, seed: int, device: str) -> None:
    info, wan, judge = find(TINY), Wan.load(find(TINY), device, slots=slots), Judge.load(device=device)
    shown, masks, attributes = sources(pictures, seed)
    found = json.loads(out.read_text(encoding="utf-8"))["results"] if out.exists() else {}
    for arm in ARMS:
        if str(arm) in found:
            continue
        wanted = asked(attributes, arm.task, seed)
        made = pictures_of(arm, wan, request_of(info, steps=steps), wanted, shown, masks, seed)
        right = judge.read(stacked(made, device)).cpu().numpy() == wanted.numpy()
        ideal = [to_pixels(one) for one in world.render(wanted, generator=torch.Generator().manual_seed(seed))]
        found[str(arm)] = scores(right, made, shown, masks) | {"seam": seam(arm, made, ideal, masks)}
        click.echo(f"{arm}: {found[str(arm)]}")
        result = {
            "what": "creativity maps on the small model, read by its judge",
            "command": " ".join(["python", *sys.argv]),
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "hardware": describe_device(device),
            "versions": {"wanbatch": __version__, "torch": version("torch")},
            "model_digest": info.digest,
            "pictures": pictures,
            "steps": steps,
            "results": found,
        }
        out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def pictures_of(
    arm: Arm,
    wan: Wan,
    plain: Request,
    wanted: torch.Tensor,
    shown: Sequence[np.ndarray],
    masks: Sequence[np.ndarray],
    seed: int,
) -> list[np.ndarray]:
    """The pictures of an arm, uint8 [128, 128, 3] each.

    Args:
        arm: how they are made.
        wan: the model.
        plain: the request that all of them are like.
        wanted: what is asked for.
        shown, masks: the sources, and where their objects are.
        seed: of the words of the prompts.
    """
    if arm.shape == "pasted":
        prompts = enumerate(backgrounds_alone(wanted))
        backdrops = generate(wan, [replace(plain, id=str(index), prompt=one, seed=index) for index, one in prompts])
        return [np.where(mask[..., None], *both) for mask, *both in zip(masks, shown, backdrops, strict=True)]
    requests = [
        replace(plain, id=str(index), prompt=prompt, seed=index, creativity=max(arm.around, arm.inside),
                sources=(SourceImage(str(index), shown[index]),), creativity_map=map_of(arm, masks[index]))
        for index, prompt in enumerate(write_prompts(wanted, seed))
    ]  # fmt: skip
    return generate(wan, requests)


def sources(count: int, seed: int) -> tuple[list[np.ndarray], list[np.ndarray], torch.Tensor]:
    """Pictures of one object, uint8 [128, 128, 3]; where the objects are, bool [128, 128]; attributes [count, 9]."""
    attributes = world.sample(8 * count, torch.Generator().manual_seed(seed))
    attributes = attributes[(attributes[:, 1] == NAMES["second"].index(NONE))][:count]
    attributes[:, FIELDS.index("size")] = torch.arange(count) % 2 + 1  # small ones have too little of a background
    pictures = world.render(attributes, generator=torch.Generator().manual_seed(seed))
    jitter = torch.rand(count, 12, generator=torch.Generator().manual_seed(seed)) * 2 - 1  # as `render` draws it
    bare = draw_backdrops(attributes[:, 6], attributes[:, 7], 128, 128, jitter[:, 8:]) * 2 - 1
    masks = [((one - other).abs().amax(0) > 0.1).numpy() for one, other in zip(pictures, bare, strict=True)]
    return [to_pixels(picture) for picture in pictures], masks, attributes


def backgrounds_alone(wanted: torch.Tensor) -> list[str]:
    """Prompts of backgrounds without an object."""
    told = world.describe(wanted)
    scenes = {"meadow": "a meadow", "beach": "a beach", "snow": "snow", "desert": "a desert", "night": "a night sky"}
    return [scenes.get(one["background"], f"a {one['texture']} {one['background']} background") for one in told]


def box_of(mask: np.ndarray, margin: int = MARGIN) -> tuple[slice, slice]:
    """Rows and columns of a mask, and a margin more."""
    places = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
    ends = [(max(0, found[0] - margin), min(len(mask), found[-1] + 1 + margin)) for found in places]
    return slice(*ends[0]), slice(*ends[1])


def asked(attributes: torch.Tensor, task: str, seed: int) -> torch.Tensor:
    """What the prompts ask for: the sources' attributes with another background, or another object."""
    others, wanted = world.sample(len(attributes), torch.Generator().manual_seed(seed + 1)), attributes.clone()
    if task == "background":
        wanted[:, BACKGROUND] = others[:, BACKGROUND]
    else:
        wanted[:, 0] = (wanted[:, 0] + 1 + others[:, 0] % (len(NOUNS) - 1)) % len(NOUNS)
    return wanted


def map_of(arm: Arm, mask: np.ndarray) -> CreativityMap | None:
    """The map of one picture; None where one number says it."""
    if arm.around == arm.inside:
        return None
    values = np.full(mask.shape, arm.around, np.float32)
    values[box_of(mask, MARGIN + arm.margin) if arm.shape == "box" else mask] = arm.inside
    return CreativityMap(values, arm.keep_pixels, arm.softness)


def seam(arm: Arm, made: Sequence[np.ndarray], ideal: Sequence[np.ndarray], masks: Sequence[np.ndarray]) -> float:
    """The mean step across the edges of the maps, less that of the ideal pictures, in grey levels."""
    steps = []
    for ours, theirs, mask in zip(made, ideal, masks, strict=True):
        told = map_of(arm, mask) or map_of(Arm("", 0.0, 1.0, "box"), mask)
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


def generate(wan: Wan, requests: Sequence[Request]) -> list[np.ndarray]:
    """The pictures, in the order of the requests."""
    made = {}
    for outcome in wan.generate(requests):
        if isinstance(outcome, Failed):
            raise click.ClickException(f"{outcome.request.id}: {outcome.error}")
        made[outcome.request.id] = outcome.pixels
    return [made[request.id] for request in requests]


def scores(
    right: np.ndarray, made: Sequence[np.ndarray], shown: Sequence[np.ndarray], masks: Sequence[np.ndarray]
) -> dict[str, object]:
    """Shares of the pictures in which object and background are right, and what of the sources is left."""
    named = {"object": right[:, OBJECT].all(1), "background": right[:, BACKGROUND].all(1), "all": right.all(1)}
    found: dict[str, object] = {
        name: [round(float(value), 3) for value in (values.mean(), *bootstrap(values.astype(float)))]
        for name, values in named.items()
    }
    kept, around = zip(*_differences(made, shown, masks), strict=True)
    return found | {"kept": round(float(np.mean(kept)), 3), "around_difference": round(float(np.mean(around)), 1)}


def _differences(
    made: Sequence[np.ndarray], shown: Sequence[np.ndarray], masks: Sequence[np.ndarray]
) -> Iterator[tuple[float, float]]:
    """Of each picture the share of the object's pixels that are kept, and the mean difference around it."""
    for ours, theirs, mask in zip(made, shown, masks, strict=True):
        difference = np.abs(ours.astype(float) - theirs).max(2)
        outside = np.ones(difference.shape, bool)
        outside[box_of(mask)] = False
        yield float((difference[mask] <= SAME).mean()), float(difference[outside].mean())


if __name__ == "__main__":
    main()
