"""What creativity boxes do to the small model's pictures, read by its judge.

    python benchmarks/creativity_maps.py --out benchmarks/results/creativity-maps-NAME.json [--pictures 64]

Sources are real renders of one object on a background. In `background` the prompt asks for the same object on another
background, in `object` for another object of the same size and place on the same one. Each arm makes all of them from
the same noise: with one creativity for the whole picture, with the object's mask at another one than the rest, and
with its box. The judge reads the object (which, how large, where) and the background (colour or scene, texture).

`kept`: the share of the object's pixels that are within 16 grey levels of the source's. `around_difference`: mean
difference to the source outside of the object's box, in grey levels.
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
SAME = 16  # grey levels by which a kept pixel may differ


@dataclass(frozen=True)
class Arm:
    """A way to make the pictures of a task.

    Attributes:
        task: `background` or `object`, what is to change.
        around: creativity outside of the object's mask or box.
        inside: creativity in it.
        shape: `mask` or `box`.
        keep_pixels: whether kept pixels come back.
    """

    task: str
    around: float
    inside: float
    shape: str = "mask"
    keep_pixels: bool = False

    def __str__(self) -> str:
        if self.around == self.inside:
            return f"{self.task}: creativity {self.around:g}"
        kept = ", pixels kept" if self.keep_pixels else ""
        return f"{self.task}: {self.around:g} around, {self.inside:g} in the {self.shape}{kept}"


ARMS = (
    *(Arm("background", value, value) for value in (0.6, 0.8, 0.9)),
    *(Arm("background", 1.0, inside) for inside in (0.0, 0.2, 0.3)),
    Arm("background", 1.0, 0.0, keep_pixels=True),
    Arm("background", 1.0, 0.0, "box"),
    *(Arm("object", value, value) for value in (0.7, 0.9)),
    Arm("object", 0.0, 1.0, "box"),
    Arm("object", 0.0, 1.0, "box", keep_pixels=True),
)


@click.command(help=__doc__)
@click.option("--out", type=click.Path(path_type=Path), required=True)
@click.option("--pictures", default=64, show_default=True)
@click.option("--slots", default=8, show_default=True)
@click.option("--seed", default=5, show_default=True)
@click.option("--device", default="cuda" if torch.cuda.is_available() else "cpu")
def main(out: Path, pictures: int, slots: int, seed: int, device: str) -> None:
    info, wan, judge = find(TINY), Wan.load(find(TINY), device, slots=slots), Judge.load(device=device)
    shown, masks, attributes = sources(pictures, seed)
    found = {}
    for arm in ARMS:
        wanted = asked(attributes, arm.task, seed)
        prompts = write_prompts(wanted, seed)
        plain = request_of(info, creativity=max(arm.around, arm.inside))
        requests = [
            replace(plain, id=str(index), prompt=prompt, seed=index, sources=(SourceImage(str(index), shown[index]),),
                    creativity_map=map_of(arm, masks[index]))
            for index, prompt in enumerate(prompts)
        ]  # fmt: skip
        made = generate(wan, requests)
        right = judge.read(stacked(made, device)).cpu().numpy() == wanted.numpy()
        found[str(arm)] = scores(right, made, shown, masks)
        click.echo(f"{arm}: {found[str(arm)]}")
    result = {
        "what": "creativity boxes on the small model, read by its judge",
        "command": " ".join(["python", *sys.argv]),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "hardware": describe_device(device),
        "versions": {"wanbatch": __version__, "torch": version("torch")},
        "model_digest": info.digest,
        "pictures": pictures,
        "steps": info.steps,
        "results": found,
    }
    out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


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


def box_of(mask: np.ndarray) -> tuple[slice, slice]:
    """Rows and columns of a mask, and `MARGIN` more."""
    places = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
    ends = [(max(0, found[0] - MARGIN), min(len(mask), found[-1] + 1 + MARGIN)) for found in places]
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
    values[box_of(mask) if arm.shape == "box" else mask] = arm.inside
    return CreativityMap(values, arm.keep_pixels)


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
