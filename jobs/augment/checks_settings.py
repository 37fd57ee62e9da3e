"""What pictures are checked for: the table `[checks]` of a recipe, and the flags of `wanbatch check`. Pure."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

Distance = Annotated[float, Field(ge=0, le=1)]


class Band(BaseModel):
    """How far from its source a picture may be, for creativities from one to another.

    Attributes:
        creativity: (from, to), both counted in.
        distance: (least, most), as the column `source_distance` has it.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    creativity: Annotated[
        tuple[Distance, Distance], BeforeValidator(lambda v: tuple(v) if isinstance(v, list) else v)
    ]
    distance: Annotated[tuple[Distance, Distance], BeforeValidator(lambda v: tuple(v) if isinstance(v, list) else v)]

    @model_validator(mode="after")
    def _upwards(self) -> Band:
        for name, (first, last) in (("creativity", self.creativity), ("distance", self.distance)):
            if first > last:
                raise ValueError(f"{name} goes from {first:g} down to {last:g}: write {name} = [{last:g}, {first:g}]")
        return self


class Checks(BaseModel):
    """What pictures are checked for, and from where on they are rejected.

    Attributes:
        black: the mean brightness (0 to 255) below which a picture is rejected.
        flat: the standard deviation of brightness (0 to 255) below which it is.
        blur: the share of its source's sharpness below which it is; of the run's median for rows without a source.
        duplicates: which of several alike pictures are rejected but the first: none, exact copies, or near ones too.
        bands: distances allowed by creativity; empty: learnt from the run.
        tolerance: of learnt bands, how many deviations from the median are allowed.
        top_k: of the classes that a classifier finds most likely, how many may hold the picture's own.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    black: Annotated[float, Field(ge=0, le=255)] = 4.0
    flat: Annotated[float, Field(ge=0, le=255)] = 2.0
    blur: Annotated[float, Field(ge=0, le=1)] = 0.1
    duplicates: Literal["none", "exact", "near"] = "exact"
    bands: Annotated[tuple[Band, ...], BeforeValidator(lambda v: tuple(v) if isinstance(v, list) else v)] = ()
    tolerance: Annotated[float, Field(gt=0)] = 5.0
    top_k: Annotated[int, Field(ge=1)] = 1
