"""What the table in `column_table.py` is made of: columns, and the kinds of values that rows give."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Annotated, Any, Literal

import pyarrow as pa
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field
from pydantic_core import PydanticCustomError

ID_PATTERN = r"[A-Za-z0-9._-]{1,128}"
SMALLEST_FALL = 1e-5  # between explicit noise levels; the model was trained on levels that are 100 of these apart
FIRST_VERSION = 1
"""The digest version of release 0.1.0. A column of a later version plays no part where no row and no run uses it, and
a folder that was begun without it goes on without it."""

Role = Literal["id", "source", "sound", "group", "setting"]


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of values.

    Attributes:
        check: pydantic's annotation of a value that is not null.
        rule: the same in words, as in "must be {rule}".
        type: the Arrow type of a Parquet manifest's column; other types that hold such values are taken, too. None
            for images and sounds, which may be text or structs, and images lists of these, too.
        parts: the rules of the fields inside a value, in words.
    """

    check: Any
    rule: str
    type: pa.DataType | None
    parts: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Given:
    """How a manifest row gives a column.

    Attributes:
        kind: what its values must be.
        default: what holds where neither the row nor the run says otherwise, in words.
        role: `setting` columns are kept as they are, and the members of a blend group must agree on them, as on
            `sound` columns; `id`, `source` and `group` columns decide a row's name, sources and blend.
        run: the run may set a default for all rows, by a settings field (and so a flag and a variable) of the same
            name. This text is the field's description.
        run_since: the digest version since which the run may do so; a later default is part of a fingerprint only
            where it is set.
        aliases: what other tools call the column; a column of such a name that passes through is warned of.
        differs: where the values of other tools mean something else, what that is.
    """

    kind: Kind
    default: str
    role: Role = "setting"
    run: str | None = None
    run_since: int = FIRST_VERSION
    aliases: tuple[str, ...] = ()
    differs: str | None = None


@dataclass(frozen=True, slots=True)
class Column:
    """One column.

    Attributes:
        name: in manifests, datasets, settings and code.
        meaning: one phrase for the dataset card and the documentation.
        given: how manifest rows give it; None: only a run writes it.
        written: its Arrow type in `data/`; None: it is not written there.
        pixels: it decides pixels, so it is part of a row's digest and, as a setting, of a run's fingerprint.
        since: the digest version that it came with. A later one stands in `data/` where a row or the run uses it; one
            that rows cannot give stands there from the first run of a folder on.
        rare: only a run writes it, and it stands in `data/` only if an image has a value.
    """

    name: str
    meaning: str
    given: Given | None = None
    written: pa.DataType | None = None
    pixels: bool = False
    since: int = FIRST_VERSION
    rare: bool = False


class Strict(BaseModel):
    """Base of all that is checked in a manifest row: no conversion of types, no unknown fields, no NaN."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)


_Mark = Annotated[bytes, Field(max_length=0)]  # named here, as the field below hides the type's own name


class ImageValue(Strict):
    """A source image or a sound of a row. `bytes` is only a mark: what is inside a manifest is read when needed."""

    path: Annotated[str, Field(max_length=4096, pattern="")] | None = None  # the pattern refuses what is not Unicode
    bytes: _Mark | None = None


class LoraValue(Strict):
    """One adapter of a row, by its registered name."""

    name: Annotated[str, Field(min_length=1, max_length=256, pattern=r"^[^\x00]*$")]
    weight: Annotated[float, Field(ge=-100, le=100)] = 1.0


class BoxValue(Strict):
    """A box of a row's source and the creativity in it."""

    box: Annotated[list[Annotated[float, Field(ge=0, le=1e6)]], Field(min_length=4, max_length=4)]
    creativity: Annotated[float, Field(ge=0, le=1)]


class LostDigits(float):
    """A whole number out of a float type that cannot tell it from its neighbours."""


def _whole(value: object) -> object:
    """A float without a fraction as an integer: pandas writes integer columns with gaps that way.

    From 2**53 on a float cannot tell a whole number from the next, so it may be another one than was meant.
    """
    if not isinstance(value, float) or not value.is_integer():
        return value
    if isinstance(value, LostDigits) or abs(value) >= 2**53:
        raise PydanticCustomError(
            "lost_digits",
            "it came through a column of floats, which keeps too few digits: keep the column as integers "
            "(in pandas read it with the type Int64, which may have gaps)",
        )
    return int(value)


def _name(value: object) -> object:
    """Whole numbers as text: ids are often numbers."""
    number = _whole(value)
    return str(number) if isinstance(number, int) and not isinstance(number, bool) else value


def _image_list(value: object) -> object:
    """One image or a list, paths or structs -> a list of structs."""
    items = value if isinstance(value, list) else [value]
    return [{"path": item} if isinstance(item, str) else item for item in items]


def _one_image(value: object) -> object:
    """A path as a struct."""
    return {"path": value} if isinstance(value, str) else value


def _falling(levels: list[float]) -> list[float]:
    if any(after > before - SMALLEST_FALL for before, after in pairwise([*levels, 0.0])):
        raise ValueError("must fall")
    return levels


_INTEGER = Annotated[int, BeforeValidator(_whole)]
_WEIGHT = Annotated[float, Field(gt=0, le=1e9)]
_LABEL = Annotated[str, Field(min_length=1, max_length=256, pattern=r"^[^\x00]*$")]
_LEVEL = Annotated[float, Field(gt=0, le=1)]

NAME = Kind(
    Annotated[str, BeforeValidator(_name), Field(pattern=rf"^{ID_PATTERN}$")],
    "1 to 128 of the characters A-Z a-z 0-9 . _ -, and neither . nor ..",
    pa.string(),
)
TEXT = Kind(
    Annotated[str, Field(max_length=32_768, pattern=r"^[^\x00]*$")],
    "Unicode text of at most 32768 characters, without NUL",
    pa.string(),
)
LABEL = Kind(_LABEL, "a name", pa.string())
LABELS = Kind(Annotated[list[_LABEL], Field(max_length=100)], "a list of at most 100 names", pa.list_(pa.string()))
PATH = Kind(Annotated[str, Field(max_length=4096, pattern="")], "a path of at most 4096 characters", pa.string())
IMAGES = Kind(
    Annotated[list[ImageValue], BeforeValidator(_image_list)],
    "a path, or a struct of bytes and path, or a list of these",
    None,
    {
        "path": "text of at most 4096 characters or null",
        "bytes": "null here: embedded images need a Parquet manifest; give a path",
    },
)
IMAGE = Kind(
    Annotated[ImageValue, BeforeValidator(_one_image)],
    "a path, or a struct of bytes and path",
    pa.string(),  # as rows keep it: its path; where embedded bytes are stands beside it
    IMAGES.parts,
)
SOUND = Kind(
    Annotated[ImageValue, BeforeValidator(_one_image)],
    "a path, or a struct of bytes and path",
    None,
    {
        "path": "text of at most 4096 characters or null",
        "bytes": "null here: embedded sounds need a Parquet manifest; give a path",
    },
)
SHARE = Kind(Annotated[float, Field(ge=0, le=1)], "a number from 0 (as without) to 1 (in full)", pa.float64())
IMAGE_KINDS = (IMAGES, IMAGE, SOUND)
WEIGHT = Kind(_WEIGHT, "a number above 0 (to leave an image out, drop its row)", pa.float64())
WEIGHTS = Kind(
    list[_WEIGHT], "a list of numbers above 0 (to leave an image out, drop it from images)", pa.list_(pa.float64())
)
CREATIVITY = Kind(
    Annotated[float, Field(ge=0, le=1)], "a number from 0 (keep the source) to 1 (the prompt alone)", pa.float64()
)
BOXES = Kind(
    Annotated[list[BoxValue], Field(min_length=1, max_length=1000)],
    "a list of 1 to 1000 {box, creativity}",
    pa.list_(pa.struct([("box", pa.list_(pa.float64())), ("creativity", pa.float64())])),
    {
        "box": "[x, y, width, height], four numbers from 0: pixels of the source, or shares of it if none is above 1",
        "creativity": CREATIVITY.rule,
    },
)
SOFTNESS = Kind(Annotated[float, Field(ge=0, le=1)], "a number from 0 (a place starts at once) to 1", pa.float64())
FLAG = Kind(bool, "true or false", pa.bool_())
SEED = Kind(Annotated[_INTEGER, Field(ge=0, lt=2**63)], "an integer from 0 to 2**63 - 1", pa.int64())
SIZE = Kind(
    Annotated[_INTEGER, Field(ge=16, le=4096, multiple_of=16)], "a multiple of 16 from 16 to 4096", pa.int32()
)
COUNT = Kind(Annotated[_INTEGER, Field(ge=1, le=1000)], "an integer from 1 to 1000", pa.int32())
GUIDANCE = Kind(Annotated[float, Field(ge=0, allow_inf_nan=False)], "a finite number, 0 or more", pa.float64())
CREATIVITY_STEPS = Kind(Literal["keep", "respace"], "keep or respace", pa.string())
SHIFT = Kind(Annotated[float, Field(ge=0.01, le=100)], "a number from 0.01 to 100", pa.float64())
SIGMAS = Kind(
    Annotated[list[_LEVEL], Field(min_length=1, max_length=1000), AfterValidator(_falling)],
    "a list of noise levels in (0, 1], each at least 0.00001 below the one before, without the final 0",
    pa.list_(pa.float64()),
)
ADAPTER = Kind(LABEL.check, "the name of an adapter", pa.string())
ADAPTERS = Kind(
    list[LoraValue],
    "a list of {name, weight}",
    pa.list_(pa.struct([("name", pa.string()), ("weight", pa.float64())])),
    {"name": "the name of an adapter", "weight": "a number from -100 to 100"},
)
