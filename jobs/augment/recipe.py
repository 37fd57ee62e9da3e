"""Recipes: what a TOML file says about how a dataset grows. Pure; nothing of the dataset is looked at."""

from __future__ import annotations

import hashlib
import json
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from wanbatch.jobs.augment.checks_settings import Checks

MOST_OF_A_SOURCE = 1000
"""Rows of one source at most, whatever a recipe asks."""


class Part(BaseModel):
    """Base of all parts of a recipe: no unknown keys, no conversion of types."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False, populate_by_name=True)


def _weighted(value: object) -> object:
    """One text, or a list of texts and tables, as a list of tables."""
    items = value if isinstance(value, list) else [value]
    return [{"text": item} if isinstance(item, str) else item for item in items]


class Text(Part):
    """One of several texts, and how often it is drawn in proportion to the others."""

    text: Annotated[str, Field(min_length=1, max_length=32_768)]
    weight: Annotated[float, Field(gt=0, le=1e9)] = 1.0


Texts = Annotated[tuple[Text, ...], BeforeValidator(lambda value: tuple(_weighted(value))), Field(min_length=1)]
Strength = Annotated[float, Field(gt=0, le=1)]
Share = Annotated[float, Field(gt=0, le=1)]
Name = Annotated[str, Field(min_length=1, pattern=r"^[^\x00]+$")]


class Range(Part):
    """A range that numbers are drawn from."""

    first: Strength = Field(alias="from")
    last: Strength = Field(alias="to")

    @model_validator(mode="after")
    def _upwards(self) -> Range:
        if self.first > self.last:
            raise ValueError(
                f"goes from {self.first:g} down to {self.last:g}: "
                f"write {{ from = {self.last:g}, to = {self.first:g} }}"
            )
        return self


def _strengths(value: object) -> object:
    return value if isinstance(value, dict) else tuple(value) if isinstance(value, list) else (value,)


Strengths = Annotated[Annotated[tuple[Strength, ...], Field(min_length=1)] | Range, BeforeValidator(_strengths)]


class Columns(Part):
    """What the dataset calls its columns; None: by their usual names."""

    image: Name | None = None
    id: Name | None = None
    label: Name | None = None
    split: Name | None = None
    group: Name | None = None
    boxes: Name | None = None
    mask: Name | None = None


class Blend(Part):
    """Rows that start from several pictures of a class.

    Attributes:
        share: of the rows, how many are blends.
        parents: how many pictures a blend is of; one of these numbers is drawn.
        weights: `drawn`, or `equal`.
        creativity: of blends, if they have another one than other rows.
    """

    share: Share = 0.25
    parents: Annotated[
        tuple[Annotated[int, Field(ge=2, le=8)], ...],
        BeforeValidator(lambda value: tuple(value) if isinstance(value, list) else (value,)),
        Field(min_length=1),
    ] = (2,)
    weights: Literal["drawn", "equal"] = "drawn"
    creativity: Strengths | None = None


class Hard(Part):
    """Only the hardest pictures of each class are augmented.

    Attributes:
        column: of the dataset, with a number for each picture.
        share: of the pictures of each class.
        hardest: whether a high score is hard, as of a loss, or a low one, as of a confidence.
    """

    column: Name
    share: Share = 0.35
    hardest: Literal["high", "low"] = "high"


KEPT_AT = 0.1
"""Creativity of objects that are kept, if a recipe does not say: they stay what they are, and fit what is around."""


class Objects(Part):
    """What stays of each picture while the rest of it is varied.

    Attributes:
        keep: `boxes` or `masks`: by which of the dataset's annotations.
        around: creativity of all that is not kept, in place of the recipe's `creativity`.
        inside: creativity of what is kept.
        margin: pixels of the source around what is kept that are kept with it.
        feather: pixels of the source over which `inside` passes into `around` after the margin.
        softness: the rows' `map_softness`.
        keep_pixels: whether the source's own pixels come back in what is kept; None: with masks they do.
    """

    keep: Literal["boxes", "masks"]
    around: Strengths | None = None
    inside: Annotated[float, Field(ge=0, le=1)] = KEPT_AT
    margin: Annotated[int, Field(ge=0, le=4096)] = 0
    feather: Annotated[int, Field(ge=0, le=4096)] = 0
    softness: Annotated[float, Field(ge=0, le=1)] = 0.0
    keep_pixels: bool | None = None

    @property
    def pixels_kept(self) -> bool:
        """Whether rows get `keep_pixels`."""
        return self.keep == "masks" if self.keep_pixels is None else self.keep_pixels


def _names(value: object) -> object:
    return tuple(value) if isinstance(value, list) else (value,)


Names = Annotated[tuple[Name, ...], BeforeValidator(_names)]


def _distinct(names: tuple[str, ...]) -> tuple[str, ...]:
    if twice := [name for index, name in enumerate(names) if name in names[:index]]:
        raise ValueError(f"names {twice[0]!r} twice: name it once")
    return names


class Recipe(Part):
    """How a dataset grows. `docs/augmentation.md` tells what each key means.

    Attributes:
        base: a shipped recipe whose keys hold where this one gives none.
        dataset: path of the dataset, from the recipe's folder, or URL.
        images: the folder that paths in the dataset start from, if not its own.
        split: the part or parts of the dataset that are augmented.
        held_out: other datasets that no picture may be a near-copy of.
        near_copies: what becomes of pictures that look like one of another split.
        annotations_below: the creativity below which boxes and masks are copied.
        objects: what stays of each picture, by its boxes or masks.
        settings: columns that all rows get, such as `steps`.
    """

    base: Name | None = None
    dataset: Name
    images: Name | None = None
    split: Annotated[Names, Field(min_length=1), AfterValidator(_distinct)] | None = None
    classes: Annotated[Names, Field(min_length=1), AfterValidator(_distinct)] | None = None
    held_out: Names = ()
    near_copies: Literal["drop", "refuse", "keep"] = "drop"
    template: Texts
    creativity: Strengths
    variants: Annotated[int, Field(ge=1, le=MOST_OF_A_SOURCE)] | None = None
    fill: Annotated[int, Field(ge=1)] | Literal["largest"] | None = None
    per_source: Annotated[int, Field(ge=1, le=MOST_OF_A_SOURCE)] | None = None
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    keep: Annotated[Names, AfterValidator(_distinct)] = ()
    columns: Columns = Columns()
    synonyms: dict[str, Texts] = {}
    choices: dict[str, Texts] = {}
    blend: Blend | None = None
    hard: Hard | None = None
    objects: Objects | None = None
    annotations_below: Annotated[float, Field(ge=0, le=1)] = 0.4
    settings: dict[str, Any] = {}
    checks: Checks = Checks()

    @model_validator(mode="before")
    @classmethod
    def _objects_first(cls, values: Any) -> Any:
        """With `around` in [objects] as the creativity, if it is given."""
        if isinstance(values, dict) and (kept := values.get("keep")) in ("boxes", "masks"):
            raise ValueError(
                f'keep = "{kept}": keep names columns to take along; to keep objects write [objects] and below it '
                f'keep = "{kept}"'
            )
        around = _around(values)
        if around is None:
            return values
        if "creativity" in values:
            raise ValueError("has both creativity and objects.around: they mean the same; drop one of the two")
        return {**values, "creativity": around}

    @model_validator(mode="after")
    def _no_objects_of_blends(self) -> Recipe:
        if self.objects is not None and self.blend is not None:
            raise ValueError("has both [objects] and [blend]: a blend has no objects of its own; drop one of the two")
        return self

    @model_validator(mode="after")
    def _pixels_change_around(self) -> Recipe:
        objects, around = self.objects, self.creativity
        lowest = around.first if isinstance(around, Range) else min(around)
        if objects is not None and objects.pixels_kept and objects.inside >= lowest:
            raise ValueError(
                f"objects.inside is {objects.inside:g} and around {lowest:g}, so all of the picture would be the "
                "source's own pixels: lower inside, raise around, or write keep_pixels = false"
            )
        return self

    @model_validator(mode="after")
    def _one_way_to_count(self) -> Recipe:
        if self.fill is not None and self.variants is not None:
            raise ValueError("has both fill and variants: fill says how many rows there are; drop one of the two")
        return self

    @property
    def digest(self) -> str:
        """What tells this recipe from others, wherever its dataset is: SHA-256, hex."""
        places = {"base", "dataset", "images", "held_out", "checks"}
        told = self.model_dump(mode="json", exclude=places, exclude_defaults=True)
        return hashlib.sha256(json.dumps(told, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


def _around(values: Any) -> Any:
    objects = values.get("objects") if isinstance(values, dict) else None
    return objects.get("around") if isinstance(objects, dict) else None


def shipped() -> list[str]:
    """The names of the recipes that come with the package."""
    folder = resources.files("wanbatch.jobs.augment") / "recipes"
    return sorted(Path(file.name).stem for file in folder.iterdir() if file.name.endswith(".toml"))


def shipped_text(name: str) -> str:
    """The text of a recipe that comes with the package."""
    return (resources.files("wanbatch.jobs.augment") / "recipes" / f"{name}.toml").read_text(encoding="utf-8")
