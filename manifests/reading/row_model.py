"""What one manifest row may say: types, bounds, and the words for what is wrong with it.

The same model checks rows of JSONL and of Parquet. Types are strict: no text where a number is due, no
`true` for 1, no NaN. A float without a fraction is taken for an integer, because pandas writes integer
columns that have gaps that way.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

ID_PATTERN = r"[A-Za-z0-9._-]{1,128}"
EMBEDDED = b""
"""Stands for the bytes of an embedded image, which are not read with the manifest."""


def _whole(value: object) -> object:
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _images(value: object) -> object:
    """One image or a list, paths or structs -> a list of structs."""
    items = value if isinstance(value, list) else [value]
    return [{"path": item} if isinstance(item, str) else item for item in items]


Name = Annotated[str, Field(pattern=rf"^{ID_PATTERN}$")]
Text = Annotated[str, Field(max_length=32_768, pattern=r"^[^\x00]*$")]
PathText = Annotated[str, Field(max_length=4096, pattern="")]  # any, but a pattern also refuses what is not Unicode
Label = Annotated[str, Field(min_length=1, max_length=256, pattern=r"^[^\x00]*$")]
Size = Annotated[int, BeforeValidator(_whole), Field(ge=32, le=4096, multiple_of=32)]
Mark = Annotated[bytes, Field(max_length=0)]
Weight = Annotated[float, Field(gt=0, le=1e9)]
SMALLEST_FALL = 1e-5  # between noise levels; the model's own 1000 times are 100 of these apart


def _falling(levels: list[float]) -> list[float]:
    if any(after > before - SMALLEST_FALL for before, after in pairwise([*levels, 0.0])):
        raise ValueError("must fall")
    return levels


Sigmas = Annotated[
    list[Annotated[float, Field(gt=0, le=1)]], Field(min_length=1, max_length=1000), AfterValidator(_falling)
]


class Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)


class Image(Strict):
    path: PathText | None = None
    bytes: Mark | None = None


class LoraEntry(Strict):
    name: Label
    weight: Annotated[float, Field(ge=-100, le=100)] = 1.0


class ManifestRow(Strict):
    """The manifest columns that wanbatch knows, of one row. None: not given."""

    id: Name | None = None
    prompt: Text | None = None
    negative_prompt: Text | None = None
    image: Annotated[list[Image], BeforeValidator(_images)] | None = None
    images: Annotated[list[Image], BeforeValidator(_images)] | None = None
    creativity: Annotated[float, Field(ge=0, le=1)] | None = None
    blend_weights: list[Weight] | None = None
    blend_group: Name | None = None
    blend_weight: Weight | None = None
    seed: Annotated[int, BeforeValidator(_whole), Field(ge=0, lt=2**63)] | None = None
    width: Size | None = None
    height: Size | None = None
    steps: Annotated[int, BeforeValidator(_whole), Field(ge=1, le=1000)] | None = None
    guidance: Annotated[float, Field(ge=0)] | None = None
    shift: Annotated[float, Field(ge=0.01, le=100)] | None = None
    sampler: Label | None = None
    schedule: Label | None = None
    sigmas: Sigmas | None = None
    style: Label | None = None
    loras: list[LoraEntry] | None = None
    num_images: Annotated[int, BeforeValidator(_whole), Field(ge=1, le=1000)] | None = None
    audio: PathText | None = None

    @property
    def sources(self) -> list[Image]:
        return self.image or self.images or []


KNOWN = frozenset(ManifestRow.model_fields)

_NAME_RULE = "1 to 128 of the characters A-Z a-z 0-9 . _ -, and neither . nor .."
_IMAGE_RULE = "a path, or a struct of bytes and path, or a list of these"
_SIZE_RULE = "a multiple of 32 from 32 to 4096"
RULES = {
    "id": _NAME_RULE,
    "prompt": "Unicode text of at most 32768 characters, without NUL",
    "negative_prompt": "Unicode text of at most 32768 characters, without NUL",
    "image": _IMAGE_RULE,
    "images": _IMAGE_RULE,
    "image.path": "text of at most 4096 characters or null",
    "images.path": "text of at most 4096 characters or null",
    "image.bytes": "null here: embedded images need a Parquet manifest; give a path",
    "images.bytes": "null here: embedded images need a Parquet manifest; give a path",
    "creativity": "a number from 0 (keep the source) to 1 (the prompt alone)",
    "blend_weights": "a list of numbers above 0 (to leave an image out, drop it from images)",
    "blend_group": _NAME_RULE,
    "blend_weight": "a number above 0 (to leave an image out, drop its row)",
    "seed": "an integer from 0 to 2**63 - 1",
    "width": _SIZE_RULE,
    "height": _SIZE_RULE,
    "steps": "an integer from 1 to 1000",
    "guidance": "a finite number, 0 or more",
    "shift": "a number from 0.01 to 100",
    "sampler": "a name",
    "schedule": "a name",
    "sigmas": "a list of noise levels in (0, 1], each at least 0.00001 below the one before, without the final 0",
    "style": "the name of an adapter",
    "loras": "a list of {name, weight}",
    "loras.name": "the name of an adapter",
    "loras.weight": "a number from -100 to 100",
    "num_images": "an integer from 1 to 1000",
    "audio": "a path of at most 4096 characters",
}


def parse_row(values: Mapping[str, Any]) -> tuple[ManifestRow | None, list[str]]:
    """Check the known columns of one row.

    Returns the line, or None with every problem found, one sentence each.
    """
    try:
        line = ManifestRow.model_validate(values)
    except ValidationError as error:
        return None, [_words(e, values) for e in error.errors(include_url=False, include_context=False)]
    problems = list(_contradictions(line))
    return (None, problems) if problems else (line, [])


def _contradictions(line: ManifestRow) -> Iterator[str]:
    """What only shows when several columns are seen together."""
    sources = line.sources
    if line.prompt is None and not sources and line.blend_group is None:
        yield "asks for nothing: give a prompt, image, images or blend_group"
    if line.image and line.images:
        yield "has both image and images: put all of them into images"
    for name in ("id", "blend_group"):
        if getattr(line, name) in (".", ".."):
            yield f"{name} is {getattr(line, name)!r}: must be {_NAME_RULE}"
    if (line.width is None) != (line.height is None):
        given, missing = ("width", "height") if line.height is None else ("height", "width")
        yield f"{given} is given without {missing}: give both, or neither to follow the source or the model"
    if line.creativity is not None and line.creativity < 1 and not sources and line.blend_group is None:
        yield f"creativity is {line.creativity:g} but there is no source image: give an image, or drop creativity"
    if line.sigmas is not None:
        for name in ("steps", "shift", "schedule"):
            if getattr(line, name) is not None:
                yield f"has both sigmas and {name}: sigmas say every noise level; drop one of the two"
    if line.blend_weights is not None and len(line.blend_weights) != len(sources):
        yield f"has {len(line.blend_weights)} blend_weights for {len(sources)} images: give one weight for each image"
    yield from _blend_group_contradictions(line)


def _blend_group_contradictions(line: ManifestRow) -> Iterator[str]:
    if line.blend_group is None:
        if line.blend_weight is not None:
            yield "has a blend_weight but no blend_group: name the group, or use images and blend_weights"
        return
    if len(line.sources) != 1:
        yield f"is of blend group {line.blend_group!r} with {len(line.sources)} images: each of its rows needs one"
    if line.blend_weights is not None:
        yield "has both blend_group and blend_weights: use blend_weight, one a row"
    if line.id not in (None, line.blend_group):
        yield f"has an id and a blend_group: the blend's id is the group's name, {line.blend_group!r}; drop id"


def _words(error: Mapping[str, Any], values: Mapping[str, Any]) -> str:
    """One pydantic error as a sentence with the place inside the row and the remedy."""
    where = [part for part in error["loc"] if isinstance(part, str | int)]
    if where[0] in ("image", "images") and len(where) > 1 and not isinstance(values[where[0]], list):
        del where[1]  # one image that was not in a list
    place = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in where)[1:]
    columns = [part for part in where if isinstance(part, str)]
    if error["type"] == "extra_forbidden":
        known = LoraEntry if columns[0] == "loras" else Image
        return f"{place} is unknown; known are {', '.join(known.model_fields)}"
    if error["type"] == "missing":
        return f"{place} is missing: must be {RULES['.'.join(columns)]}"
    return f"{place} is {shorten(error['input'])}: must be {RULES['.'.join(columns)]}"


def shorten(value: object, limit: int = 60) -> str:
    """A value as a message shows it: one line, not long."""
    start = value[: 2 * limit] if isinstance(value, str | bytes) else value  # repr of megabytes takes its time
    text = re.sub(r"\s+", " ", repr(start))
    return text if len(text) <= limit else f"{text[: limit - 3]}..."
