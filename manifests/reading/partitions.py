"""Partition columns: values that stand in the names of folders, as in `kind=cup/part-0.parquet`."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any
from urllib.parse import unquote

import pyarrow as pa

from wanbatch.manifests.reading.text_values import inferred

NULL = "__HIVE_DEFAULT_PARTITION__"
"""What Hive, Spark and pyarrow call the folder of rows that have no value."""


def partitions_of(name: str) -> dict[str, str | None]:
    """The partition columns of a file and their values; None for no value.

    Args:
        name: of the file, relative to the manifest's folder.
    """
    pairs = (part.split("=", 1) for part in name.split("/")[:-1] if part.find("=") > 0)
    return {unquote(column): None if value == NULL else unquote(value) for column, value in pairs}


def typed_partitions(files: Sequence[Mapping[str, str | None]]) -> list[dict[str, Any]]:
    """The partition columns of all files of a manifest, in the types that the values of all of them spell.

    Args:
        files: for each file, its columns with their values as text.
    """
    names = list(dict.fromkeys(name for columns in files for name in columns))
    typed: list[dict[str, Any]] = [{} for _ in files]
    for name in names:
        texts = pa.chunked_array([pa.array([columns.get(name) for columns in files], pa.string())])
        for columns, own, value in zip(files, typed, inferred(texts).to_pylist(), strict=True):
            if name in columns:
                own[name] = value
    return typed


def with_inferred_types(table: pa.Table, names: Collection[str]) -> pa.Table:
    """A table whose partition columns have the types that their values spell. names: these columns."""
    for index, name in enumerate(table.schema.names):
        if name in names and pa.types.is_string(table.schema.field(name).type):
            table = table.set_column(index, name, inferred(table[name]))
    return table
