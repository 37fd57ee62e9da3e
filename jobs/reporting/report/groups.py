"""Images by class, creativity and adapters, and how many there were of each class before and after. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from wanbatch.counting import number_of

CLASS_COLUMNS = ("class", "class_name", "label", "category", "species")
"""Passthrough columns that are taken for the class of an image, the first that is there."""

MOST_CLASSES = 10_000
OF_ONE_PICTURE = "source_id"
"""Passthrough column that names the real picture that an image was made from (`wanbatch augment` writes it)."""

NONE = "(none)"


def class_column(schema: pa.Schema) -> str | None:
    """The column of data parts that has the class of an image; None if there is none."""
    return next((name for name in CLASS_COLUMNS if name in schema.names and is_plain(schema.field(name).type)), None)


def is_plain(kind: pa.DataType) -> bool:
    """Whether a column of a type can be one of classes: text, whole numbers, yes and no."""
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return (
        pa.types.is_string(kind)
        or pa.types.is_large_string(kind)
        or pa.types.is_integer(kind)
        or pa.types.is_boolean(kind)
    )


def class_names(values: pa.ChunkedArray, names: Collection[str] | None) -> list[str]:
    """The class of each image as text. names: those of numbered classes, if the manifest declared them."""
    known = list(names or ())

    def named(value: Any) -> str:
        if value is None:
            return NONE
        if known and isinstance(value, int) and 0 <= value < len(known):
            return known[value]
        return str(value)

    encoded = pc.dictionary_encode(values).combine_chunks() if not pa.types.is_dictionary(values.type) else None
    if encoded is None:
        return [named(value) for value in values.to_pylist()]
    if isinstance(encoded, pa.ChunkedArray):
        encoded = encoded.combine_chunks()
    words = [named(value) for value in encoded.dictionary.to_pylist()]
    return [NONE if index is None else words[index] for index in encoded.indices.to_pylist()]


def creativity_name(value: float | None) -> str:
    """A creativity as text; rounded to hundredths, so that drawn ones fall into groups."""
    return NONE if value is None else f"{round(value, 2):g}"


def adapter_groups(rows: pa.Table) -> list[str] | None:
    """The names of the adapters that each image's row names, as in `flat + night`; None if no row may name any.

    rows: of data parts, with `style` and `loras` as far as they are there.
    """
    there = [name for name in ("style", "loras") if name in rows.column_names]
    return [adapters_name(row) for row in rows.select(there).to_pylist()] if there else None


def adapters_name(row: Mapping[str, Any]) -> str:
    """The names of the adapters of one image, see `adapter_groups`; those that are merged are the same for all."""
    loras = row.get("loras") or ()
    named = [row.get("style"), *(one.get("name") for one in loras if isinstance(one, Mapping))]
    return " + ".join(sorted(str(name) for name in named if name)) or NONE


def counted(values: Collection[str], most: int = MOST_CLASSES) -> list[dict[str, Any]]:
    """How many images have each value, the most common first; what is beyond `most` values is summed up."""
    counts = Counter(values).most_common()
    found = [{"value": value, "images": count} for value, count in counts[:most]]
    if rest := counts[most:]:
        found.append({"value": number_of(len(rest), "others"), "images": sum(count for _, count in rest)})
    return found


def classes_before_and_after(
    classes: Sequence[str],
    sources: Sequence[tuple[str, ...]],
    rejected: Sequence[bool],
    failed: Sequence[str] | None = None,
    most: int = MOST_CLASSES,
) -> list[dict[str, Any]]:
    """For each class: the different source pictures, images made, failed and rejected, and all that count.

    Args:
        classes: the class of each image.
        sources: the names or digests of the source pictures of each image.
        rejected: whether a check rejected it.
        failed: the class of each image that failed; None: not known.
        most: classes at most.
    """
    before: dict[str, set[str]] = {}
    made: Counter[str] = Counter()
    refused: Counter[str] = Counter()
    for name, used, bad in zip(classes, sources, rejected, strict=True):
        before.setdefault(name, set()).update(used)
        made[name] += 1
        refused[name] += int(bad)
    lost = Counter(failed or ())
    found = []
    for name in sorted({*made, *lost}, key=lambda name: (-made[name], -lost[name], name))[:most]:
        own, count, out = len(before.get(name, ())), made[name], refused[name]
        row = {"class": name, "sources": own, "made": count, "failed": None if failed is None else lost[name]}
        found.append({**row, "rejected": out, "after": own + count - out})
    return found


def source_names(table: pa.Table) -> list[tuple[str, ...]]:
    """What tells the source pictures of each image apart: their digests, or the real picture at their beginning."""
    if OF_ONE_PICTURE in table.column_names:
        return [() if value is None else (str(value),) for value in table[OF_ONE_PICTURE].to_pylist()]
    if "sources" not in table.column_names:
        return [()] * len(table)
    return [tuple(_name(source) for source in used or ()) for used in table["sources"].to_pylist()]


def _name(source: Mapping[str, Any]) -> str:
    return source["sha256"] or source["path"] or "?"
