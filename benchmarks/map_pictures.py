"""Pictures with creativity maps of the small model, for the benchmarks: scenes, arms, and sheets to look at."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from fnmatch import fnmatch
from importlib.metadata import version
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from model_requests import request_of
from PIL import Image, ImageDraw, ImageFont

from wanbatch import __version__
from wanbatch.jobs.augment.object_words import words_of
from wanbatch.jobs.augment.originals import Box as LabelledBox
from wanbatch.jobs.config.hardware import describe_device
from wanbatch.pipeline.core.conditioning import to_pixels
from wanbatch.pipeline.core.requests import CreativityMap, Failed, Request, SourceImage
from wanbatch.pipeline.evaluation.attributes import FIELDS, NAMES, NONE
from wanbatch.pipeline.evaluation.metrics import bootstrap
from wanbatch.pipeline.generate import Wan
from wanbatch.pipeline.loading.registry import ModelInfo
from wanbatch.pipeline.training.toy import world
from wanbatch.pipeline.training.toy.backdrops import draw_backdrops
from wanbatch.pipeline.training.toy.scores import write_prompts

OBJECT = [FIELDS.index(name) for name in ("first", "layout", "size")]
BACKGROUND = [FIELDS.index(name) for name in ("background", "texture")]
OTHERS = [FIELDS.index(name) for name in ("second", "third")]
SHADOW = 8  # pixels around an object in which its shadow falls
SHOWN = 6  # pictures of a sheet
Box = tuple[slice, slice]


@dataclass(frozen=True, slots=True)
class Scene:
    """A source and what is asked for.

    Attributes:
        pixels: of the source, uint8 [128, 128, 3].
        mask: where its object is, bool [128, 128].
        wanted: the attributes that are asked for, int64 [9].
        prompts: by what they name: `all`; `both`, the object and the background, and neither size nor place; and
            the background `alone`; and `boxed`, the object, the background, and the size and place that
            templates of recipes have from the box.
    """

    pixels: np.ndarray
    mask: np.ndarray
    wanted: torch.Tensor
    prompts: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Arm:
    """A way to make the pictures.

    Attributes:
        around: creativity outside of the object's mask or box.
        inside: creativity in it; None: one number for the whole picture.
        shape: `mask` or `box`.
        margin: pixels by which the box is larger than the object.
        keep_pixels: whether the source's own pixels come back where less may change.
        softness: of the map.
        named: which prompts, of `Scene.prompts`.
        sampler, guidance: None: the model's own.
    """

    around: float
    inside: float | None = None
    shape: str = "mask"
    margin: int = 0
    keep_pixels: bool = False
    softness: float = 0.0
    named: str = "both"
    sampler: str | None = None
    guidance: float | None = None

    def __str__(self) -> str:
        told = f"creativity {self.around:g}"
        if self.inside is not None:
            told = f"{self.around:g} around, {self.inside:g} in the {self.shape}"
            told += f", margin {self.margin}" * bool(self.margin) + f", softness {self.softness:g}" * bool(
                self.softness
            )
            told += ", pixels kept" * self.keep_pixels
        told += f", {self.sampler}" * bool(self.sampler) + f", guidance {self.guidance}" * bool(self.guidance)
        return (
            told
            + {
                "both": "",
                "all": ", all named",
                "alone": ", background alone named",
                "boxed": ", size and place by the box",
            }[self.named]
        )

    def map_of(self, scene: Scene) -> CreativityMap | None:
        """The map of a scene; None where one number says it."""
        if self.inside is None:
            return None
        values = np.full(scene.mask.shape, self.around, np.float32)
        values[grown(tight(scene.mask), self.margin) if self.shape == "box" else scene.mask] = self.inside
        return CreativityMap(values, self.keep_pixels, self.softness, min(self.around, self.inside))

    def requests(self, info: ModelInfo, scenes: Sequence[Scene], steps: int) -> list[Request]:
        """One request for each scene; all arms have the same noise."""
        given = {name: getattr(self, name) for name in ("sampler", "guidance") if getattr(self, name) is not None}
        plain = request_of(info, steps=steps, creativity=max(self.around, self.inside or 0.0), **given)
        return [
            replace(plain, id=str(index), prompt=scene.prompts[self.named], seed=index,
                    sources=(SourceImage(str(index), scene.pixels),), creativity_map=self.map_of(scene))
            for index, scene in enumerate(scenes)
        ]  # fmt: skip


def scenes_of(attributes: torch.Tensor, wanted: torch.Tensor, seed: int) -> list[Scene]:
    """Renders of pictures with one object, and what is asked for in their place."""
    pictures = world.render(attributes, generator=torch.Generator().manual_seed(seed))
    told = world.describe(wanted)
    masks, full = masks_of(attributes, seed), write_prompts(wanted, seed)
    prompts = [
        {"all": words, "alone": backdrop_alone(one), "both": f"a {one['first']} {backdrop_of(one)}",
         "boxed": f"{said_of(mask)[0]} {one['first']} {said_of(mask)[1]} {backdrop_of(one)}"}
        for one, words, mask in zip(told, full, masks, strict=True)
    ]  # fmt: skip
    parts = zip(pictures, masks, wanted, prompts, strict=True)
    return [Scene(to_pixels(picture), *others) for picture, *others in parts]


def objects_alone(count: int, seed: int) -> torch.Tensor:
    """Attributes of pictures with one object that is medium or large, int64 [count, 9]."""
    attributes = world.sample(8 * count + 64, torch.Generator().manual_seed(seed))
    attributes = attributes[attributes[:, OTHERS[0]] == NAMES["second"].index(NONE)][:count].clone()
    attributes[:, FIELDS.index("size")] = torch.arange(len(attributes)) % 2 + 1
    return attributes


def masks_of(attributes: torch.Tensor, seed: int) -> list[np.ndarray]:
    """Where the objects of renders are, bool [128, 128] each, without shadows: what hides half of what is behind.

    Args:
        attributes: of the pictures.
        seed: with which they are rendered.
    """
    jitter = (
        torch.rand(len(attributes), 12, generator=torch.Generator().manual_seed(seed)) * 2 - 1
    )  # as `render` does
    pairs = []
    for colour in ("white", "black"):
        behind = attributes.clone()
        behind[:, BACKGROUND[0]], behind[:, BACKGROUND[1]] = NAMES["background"].index(colour), 0
        bare = draw_backdrops(behind[:, BACKGROUND[0]], behind[:, BACKGROUND[1]], 128, 128, jitter[:, 8:]) * 2 - 1
        pairs.append((world.render(behind, generator=torch.Generator().manual_seed(seed)), bare))
    (light, bare_light), (dark, bare_dark) = pairs
    seen = ((light - dark) / (bare_light - bare_dark)).mean(1)
    return [(one < 0.5).numpy() for one in seen]


def backdrop_of(names: Mapping[str, str]) -> str:
    """The words for a background behind an object."""
    scenes = {"meadow": "in a meadow", "beach": "at the beach", "snow": "in the snow", "desert": "in the desert"}
    scenes |= {"night": "at night"}
    texture = "" if names["texture"] == "plain" else f"{names['texture']} "
    return scenes.get(names["background"], f"on a {texture}{names['background']} background")


def backdrop_alone(names: Mapping[str, str]) -> str:
    """The words for a background without an object."""
    scenes = {"meadow": "a meadow", "beach": "a beach", "snow": "snow", "desert": "a desert", "night": "a night sky"}
    return scenes.get(names["background"], f"a {names['texture']} {names['background']} background")


def said_of(mask: np.ndarray) -> tuple[str, str]:
    """How large an object is and where, as templates of recipes have it from its box: "a large", "on the left"."""
    (rows, columns), (height, width) = tight(mask), mask.shape
    box = [columns.start, rows.start, columns.stop - columns.start, rows.stop - rows.start]
    shares = [value / side for value, side in zip(box, (width, height) * 2, strict=True)]
    words = words_of(LabelledBox("", *shares), width, height)
    return f"a {words['object_size']}", words["object_place"]


def tight(mask: np.ndarray) -> Box:
    """The box of a mask; of nothing an empty one."""
    if not mask.any():
        return slice(0, 0), slice(0, 0)
    rows, columns = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
    return slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)


def grown(box: Box, pixels: int) -> Box:
    """A box with a margin, as far as the picture goes."""
    rows, columns = (slice(max(0, side.start - pixels), side.stop + pixels) for side in box)
    return rows, columns


def generate(wan: Wan, requests: Sequence[Request]) -> list[np.ndarray]:
    """The pictures, in the order of the requests."""
    made = {}
    for outcome in wan.generate(requests):
        if isinstance(outcome, Failed):
            raise click.ClickException(f"{outcome.request.id}: {outcome.error}")
        made[outcome.request.id] = outcome.pixels
    return [made[request.id] for request in requests]


def share(values: np.ndarray) -> list[float]:
    """A mean with its interval of 95 %."""
    return [round(float(value), 3) for value in (values.mean(), *bootstrap(values.astype(float)))]


class Results:
    """A results file, written after every arm; the same command goes on where it stopped.

    Args:
        out: the file.
        what: what it holds, in words.
        device: that the model is on.
        facts: settings that all arms share.
    """

    def __init__(self, out: Path, what: str, device: str, facts: Mapping[str, Any]):
        self.out = out
        self.found = json.loads(out.read_text(encoding="utf-8"))["results"] if out.exists() else {}
        self._head: dict[str, Any] = {
            "what": what,
            "command": " ".join(["python", *sys.argv]),
            "hardware": describe_device(device),
        }
        self._head |= {"versions": {"wanbatch": __version__, "torch": version("torch")}, **facts}

    def is_due(self, name: str, only: Sequence[str], *, drawn: bool) -> bool:
        """Whether an arm is to be made.

        Args:
            name: of the arm.
            only: patterns of names; none: all.
            drawn: whether arms are also made again, for a sheet.
        """
        chosen = not only or any(fnmatch(name, pattern) for pattern in only)
        return chosen and (drawn or name not in self.found)

    def add(self, name: str, found: Mapping[str, Any]) -> None:
        """Add an arm, and write the file."""
        self.found[name] = found
        click.echo(f"{name}: {found}")
        dated = {**self._head, "date": datetime.now(UTC).isoformat(timespec="seconds"), "results": self.found}
        self.out.write_text(json.dumps(dated, indent=1) + "\n", encoding="utf-8")


class Sheet:
    """Sources, maps and results side by side: a row for each arm, a column for each of the first scenes.

    Args:
        scenes: what is shown.
    """

    def __init__(self, scenes: Sequence[Scene]):
        self._scenes = scenes[:SHOWN]
        self._rows: list[tuple[str, list[Image.Image]]] = [
            ("source", [Image.fromarray(scene.pixels) for scene in self._scenes])
        ]

    def add(self, name: str, arm: Arm | None, made: Sequence[np.ndarray]) -> None:
        """Add an arm: its pictures, with the map in the corner above them. arm: None where there is no map."""
        cells = []
        for scene, pixels in zip(self._scenes, made, strict=False):
            told = None if arm is None else arm.map_of(scene)
            cell = Image.new("RGB", (192, 128), "white")
            if told is not None:
                grey = Image.fromarray(np.rint(told.values * 255).astype(np.uint8)).resize((60, 60))
                cell.paste(grey.convert("RGB"), (0, 0))
                ImageDraw.Draw(cell).rectangle((0, 0, 59, 59), outline="grey")
            cell.paste(Image.fromarray(pixels), (64, 0))
            cells.append(cell)
        self._rows.append((name, cells))

    def save(self, file: Path) -> None:
        """Write the sheet, as what its suffix says: PNG or WEBP."""
        font, line = ImageFont.load_default(size=13), 18
        drawn = Image.new("RGB", (200 * len(self._scenes), (132 + line) * len(self._rows)), "white")
        for index, (name, cells) in enumerate(self._rows):
            top = index * (132 + line)
            ImageDraw.Draw(drawn).text((4, top + 1), name, fill="black", font=font)
            for column, cell in enumerate(cells):
                drawn.paste(cell, (200 * column + 192 - cell.width, top + line))
        drawn.save(file, quality=93, method=6)
