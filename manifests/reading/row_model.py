"""What one manifest row may say: types, bounds, and the words for what is wrong with it.

The same model checks rows of JSONL and of Parquet. Types are strict: no text where a number is due, no
`true` for 1, no NaN. A float without a fraction is taken for an integer, because pandas writes integer
columns that have gaps that way.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import ValidationError, create_model

from wanbatch.manifests.column_types import NAME, BoxValue, ImageValue, LoraValue, Strict
from wanbatch.manifests.columns import GIVEN, MAPS
from wanbatch.manifests.reading.column_names import if_own
from wanbatch.manifests.reading.nearest import nearest, shorten

EMBEDDED = b""
"""Stands for the bytes of an embedded image, which are not read with the manifest."""

NOTHING_ASKED = "asks for nothing: give a prompt, image, images, audio or blend_group"

KNOWN = frozenset(GIVEN)
RULES = {name: given.kind.rule for name, given in GIVEN.items()} | {
    f"{name}.{part}": rule for name, given in GIVEN.items() for part, rule in given.kind.parts.items()
}

_fields: dict[str, Any] = {name: (given.kind.check | None, None) for name, given in GIVEN.items()}
_Columns: Any = create_model("_Columns", __base__=Strict, **_fields)


class ManifestRow(_Columns):
    """The columns of one manifest row that wanbatch knows, an attribute each (`columns.GIVEN`). None: not given."""

    @property
    def source_images(self) -> list[ImageValue]:
        """The source images of the row, whichever column they are in."""
        return self.image or self.images or []


def parse_row(values: Mapping[str, Any], prompt_of_run: bool = False) -> tuple[ManifestRow | None, list[str]]:
    """Check the known columns of one row. prompt_of_run: the run has a prompt for rows that give none.

    Returns the row, or None with every problem found, one sentence each.
    """
    try:
        row = ManifestRow.model_validate(values)
    except ValidationError as error:
        return None, [_words(e, values) for e in error.errors(include_url=False)]
    problems = list(_contradictions(row, prompt_of_run))
    return (None, problems) if problems else (row, [])


def _contradictions(row: ManifestRow, prompt_of_run: bool) -> Iterator[str]:
    """What only shows when several columns are seen together."""
    sources = row.source_images
    if not prompt_of_run and not sources and (row.prompt, row.blend_group, row.audio) == (None, None, None):
        yield NOTHING_ASKED
    if row.audio_weight is not None and row.audio is None and row.blend_group is None:
        yield "has audio_weight but no audio: give a sound, or drop audio_weight" + if_own("audio_weight")
    if row.image and row.images:
        yield "has both image and images: put all of them into images"
    for name in ("id", "blend_group"):
        if getattr(row, name) in (".", ".."):
            yield f"{name} is {getattr(row, name)!r}: must be {NAME.rule}"
    if (row.width is None) != (row.height is None):
        given, missing = ("width", "height") if row.height is None else ("height", "width")
        yield f"{given} is given without {missing}: give both, or neither to follow the source or the model"
    if row.creativity is not None and row.creativity < 1 and not sources and row.blend_group is None:
        yield f"creativity is {row.creativity:g} but there is no source image: give an image, or drop creativity"
    if row.sigmas is not None:
        for name in ("steps", "shift", "schedule"):
            if getattr(row, name) is not None:
                yield f"has both sigmas and {name}: sigmas say every noise level; drop one of the two"
    if row.blend_weights is not None and len(row.blend_weights) != len(sources):
        yield f"has {len(row.blend_weights)} blend_weights for {len(sources)} images: give one weight for each image"
    yield from _map_contradictions(row)
    yield from _blend_group_contradictions(row)


def _map_contradictions(row: ManifestRow) -> Iterator[str]:
    given = [name for name in MAPS if getattr(row, name) is not None]
    if not given:
        for name in ("keep_pixels", "keep_pixels_up_to", "map_softness"):
            if getattr(row, name):
                yield (
                    f"has {name} but neither creativity_boxes nor creativity_map: give one of them, or drop it"
                    + if_own(name)
                )
        return
    if not row.source_images and row.blend_group is None:
        yield f"has {given[0]} but there is no source image: give an image, or drop {given[0]}"
    if len(given) == 2:
        yield "has both creativity_boxes and creativity_map: draw the boxes into the map, or drop one of the two"
    if row.creativity_map is not None and row.creativity is not None:
        yield "has both creativity_map and creativity: the map says it for every place; drop creativity"
    yield from _kept_pixels_contradictions(row)
    for index, one in enumerate(row.creativity_boxes or ()):
        x, y, width, height = one.box
        if not (width > 0 and height > 0):
            yield f"creativity_boxes[{index}].box is {one.box}: its width and height must be above 0"
        elif max(one.box) <= 1 and (x + width > 1 + 1e-9 or y + height > 1 + 1e-9):
            yield f"creativity_boxes[{index}].box is {one.box}: shares of the source that reach over its edge; cut it"


def _kept_pixels_contradictions(row: ManifestRow) -> Iterator[str]:
    if row.keep_pixels_up_to is None:
        return
    if not row.keep_pixels:
        yield "has keep_pixels_up_to but keep_pixels is not true: set it, or drop keep_pixels_up_to" + if_own(
            "keep_pixels_up_to"
        )
    around = 1.0 if row.creativity is None else row.creativity
    if row.creativity_boxes and row.keep_pixels_up_to >= max(around, *(o.creativity for o in row.creativity_boxes)):
        yield (
            f"keep_pixels_up_to is {row.keep_pixels_up_to:g}, and no place of the picture has a higher creativity, "
            "so all of it would be the source: lower it, or raise a creativity"
        )


def _blend_group_contradictions(row: ManifestRow) -> Iterator[str]:
    if row.blend_group is None:
        if row.blend_weight is not None:
            yield "has a blend_weight but no blend_group: name the group, or use images and blend_weights"
        return
    if len(row.source_images) != 1:
        count = len(row.source_images)
        yield f"is of blend group {row.blend_group!r} with {count} images: each of its rows needs one"
    if row.blend_weights is not None:
        yield "has both blend_group and blend_weights: use blend_weight, one a row"
    if row.id not in (None, row.blend_group):
        yield f"has an id and a blend_group: the blend's id is the group's name, {row.blend_group!r}; drop id"


def _words(error: Mapping[str, Any], values: Mapping[str, Any]) -> str:
    """One pydantic error as a sentence with the field inside the row and the remedy."""
    where = [part for part in error["loc"] if isinstance(part, str | int)]
    if where[0] in ("image", "images") and len(where) > 1 and not isinstance(values[where[0]], list):
        del where[1]  # one image that was not in a list
    field = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in where)[1:]
    columns = [part for part in where if isinstance(part, str)]
    if error["type"] == "extra_forbidden":
        parts: dict[str, type[Strict]] = {"loras": LoraValue, "creativity_boxes": BoxValue}
        return f"{field} is unknown; known are {', '.join(parts.get(columns[0], ImageValue).model_fields)}"
    if error["type"] == "missing":
        return f"{field} is missing: must be {RULES['.'.join(columns)]}"
    if error["type"] == "lost_digits":
        return f"{field} is {shorten(error['input'])}: {error['msg']}"
    hint = f"; {found}" if (found := nearest(columns[0], error)) else ""
    return f"{field} is {shorten(error['input'])}: must be {RULES['.'.join(columns)]}{hint}{if_own(columns[0])}"
