"""What is wrong with a manifest row although each of its values is right: values that do not go together. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from wanbatch.counting import number_of
from wanbatch.manifests.column_types import NAME
from wanbatch.manifests.columns import MAPS
from wanbatch.manifests.reading.column_names import if_own

NOTHING_ASKED = "asks for nothing: give a prompt, image, images, audio or blend_group"
SOURCES = ("image", "images", "blend_group")
"""The columns that say what a row starts from."""

Found = tuple[tuple[str, ...], str]
"""What to say of a row, behind the columns whose absence it rests on: it is not so if one could not be read."""


def contradictions(row: Any, prompt_of_run: bool) -> Iterator[Found]:
    """What only shows when several columns are seen together.

    Args:
        row: a `ManifestRow`.
        prompt_of_run: the run has a prompt for rows that give none.
    """
    sources = row.source_images
    if not prompt_of_run and not sources and (row.prompt, row.blend_group, row.audio) == (None, None, None):
        yield (*SOURCES, "prompt", "audio"), NOTHING_ASKED
    if row.audio_weight is not None and row.audio is None and row.blend_group is None:
        said = "has audio_weight but no audio: give a sound, or drop audio_weight" + if_own("audio_weight")
        yield ("audio", "blend_group"), said
    if row.image and row.images:
        yield (), "has both image and images: put all of them into images"
    for name in ("id", "blend_group"):
        if getattr(row, name) in (".", ".."):
            yield (), f"{name} is {getattr(row, name)!r}: must be {NAME.rule}"
    if (row.width is None) != (row.height is None):
        given, missing = ("width", "height") if row.height is None else ("height", "width")
        said = f"{given} is given without {missing}: give both, or neither to follow the source or the model"
        yield (missing,), said
    if row.creativity is not None and row.creativity < 1 and not sources and row.blend_group is None:
        said = f"creativity is {row.creativity:g} but there is no source image: give an image, or drop creativity"
        yield SOURCES, said
    if row.sigmas is not None:
        for name in ("steps", "shift", "schedule"):
            if getattr(row, name) is not None:
                yield (), f"has both sigmas and {name}: sigmas say every noise level; drop one of the two"
    if row.blend_weights is not None and len(row.blend_weights) != len(sources):
        images = number_of(len(sources), "images")
        said = f"has {len(row.blend_weights)} blend_weights for {images}: give one weight for each image"
        yield ("image", "images"), said
    yield from _map_contradictions(row)
    yield from _blend_group_contradictions(row)


def _map_contradictions(row: Any) -> Iterator[Found]:
    given = [name for name in MAPS if getattr(row, name) is not None]
    if not given:
        for name in ("keep_pixels", "keep_pixels_up_to", "map_softness"):
            if getattr(row, name):
                said = f"has {name} but neither creativity_boxes nor creativity_map: give one of them, or drop it"
                yield MAPS, said + if_own(name)
        return
    if not row.source_images and row.blend_group is None:
        yield SOURCES, f"has {given[0]} but there is no source image: give an image, or drop {given[0]}"
    if len(given) == 2:
        yield (), "has both creativity_boxes and creativity_map: draw the boxes into the map, or drop one of the two"
    if row.creativity_map is not None and row.creativity is not None:
        yield (), "has both creativity_map and creativity: the map says it for every place; drop creativity"
    yield from _kept_pixels_contradictions(row)
    for index, one in enumerate(row.creativity_boxes or ()):
        x, y, width, height = one.box
        if not (width > 0 and height > 0):
            yield (), f"creativity_boxes[{index}].box is {one.box}: its width and height must be above 0"
        elif max(one.box) <= 1 and (x + width > 1 + 1e-9 or y + height > 1 + 1e-9):
            said = (
                f"creativity_boxes[{index}].box is {one.box}: shares of the source that reach over its edge; cut it"
            )
            yield (), said


def _kept_pixels_contradictions(row: Any) -> Iterator[Found]:
    if row.keep_pixels_up_to is None:
        return
    if not row.keep_pixels:
        said = "has keep_pixels_up_to but keep_pixels is not true: set it, or drop keep_pixels_up_to"
        yield ("keep_pixels",), said + if_own("keep_pixels_up_to")
    around = 1.0 if row.creativity is None else row.creativity
    if row.creativity_boxes and row.keep_pixels_up_to >= max(around, *(o.creativity for o in row.creativity_boxes)):
        yield (
            ("creativity", "creativity_boxes"),
            f"keep_pixels_up_to is {row.keep_pixels_up_to:g}, and no place of the picture has a higher creativity, "
            "so all of it would be the source: lower it, or raise a creativity",
        )


def _blend_group_contradictions(row: Any) -> Iterator[Found]:
    if row.blend_group is None:
        if row.blend_weight is not None:
            yield (
                ("blend_group",),
                "has a blend_weight but no blend_group: name the group, or use images and blend_weights",
            )
        return
    if len(row.source_images) != 1:
        count = len(row.source_images)
        said = f"is of blend group {row.blend_group!r} with {count} images: each of its rows needs one"
        yield ("image", "images"), said
    if row.blend_weights is not None:
        yield (), "has both blend_group and blend_weights: use blend_weight, one a row"
    if row.id not in (None, row.blend_group):
        yield (), f"has an id and a blend_group: the blend's id is the group's name, {row.blend_group!r}; drop id"
