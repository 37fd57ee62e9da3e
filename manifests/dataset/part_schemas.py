"""The columns of a folder's data parts: all have the same, but while parts are given others.

Readers of `data/*.parquet` differ in what they make of parts with other columns: some refuse them, some leave columns
out. So when a manifest has grown, the parts that there are get the new columns, before new ones are made. A file in
`_wanbatch/` stands there meanwhile: while it does, each part is asked for its columns.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import reduce

import pyarrow as pa

from wanbatch.errors import UserError
from wanbatch.manifests.columns import LATER
from wanbatch.manifests.dataset.commit_log import FORMAT, to_json
from wanbatch.manifests.dataset.part_files import read_schema
from wanbatch.manifests.dataset.rewrite import damage_is_to_be_repaired, require_castable
from wanbatch.manifests.dataset.schema_changes import (
    ColumnsDifferError,
    columns_to_check,
    common_schema,
    require_none_gone,
    require_own,
)
from wanbatch.manifests.records import DATA_SCHEMA
from wanbatch.manifests.storage.backend import StorageBackend

CHANGING = "_wanbatch/columns.json"
"""Is there while data parts may have different columns."""

TOGETHER = 16  # parts whose columns are changed by one commit: so many are there twice meanwhile


class PartSchemas:
    """The schemas of the data parts of a folder that this process holds."""

    def __init__(self, backend: StorageBackend, parts: Iterable[str]):
        """
        Args:
            backend: the folder.
            parts: the names of its committed parts.
        Raises:
            UserError: if a part is gone or damaged. OSError: if the disk or the store refuses.
        """
        self._backend = backend
        self._names = sorted(name for name in parts if name.startswith("data/"))
        self._changing = backend.exists(CHANGING)
        read = self._names if self._changing else self._names[:1]
        with ThreadPoolExecutor(backend.max_concurrency) as pool:
            schemas = list(pool.map(self._schema_of, read))
        self._schemas: Mapping[str, pa.Schema] = dict(zip(read, schemas, strict=True))

    def _schema_of(self, name: str) -> pa.Schema:
        with damage_is_to_be_repaired(self._backend, name):
            return read_schema(self._backend, name)

    @property
    def common(self) -> pa.Schema | None:
        """What holds the rows of all parts; None if there are none."""
        return reduce(common_schema, self._schemas.values()) if self._schemas else None

    @property
    def later(self) -> tuple[str, ...] | None:
        """Which of `columns.LATER` the parts have; None if there are no parts."""
        common = self.common
        return None if common is None else tuple(name for name in LATER if name in common.names)

    def with_added(self, added: pa.Schema) -> pa.Schema:
        """The schema that both its parts and new ones with these columns can have; nothing is changed.

        Args:
            added: the columns of new parts after those of `records.DATA_SCHEMA`.
        Returns:
            Of the whole part; see `schema_changes.common_schema`.
        Raises:
            UserError: naming each column that differs, if there is none.
            OSError: if the disk or the store refuses.
        """
        common = self.common
        if common is None:
            return pa.schema([*DATA_SCHEMA, *added], metadata=added.metadata)
        try:
            require_own(common)
            require_none_gone(common, added)
            schema = common_schema(common, added)
            for name, old in self._not_of(schema):
                if columns := columns_to_check(old, schema):
                    require_castable(self._backend, name, columns, schema)
        except ColumnsDifferError as error:
            raise UserError(
                f"{self._backend.root}: has columns that the manifest's do not go with: {error}. "
                "Make the manifest's columns like they were, or choose another output folder"
            ) from error
        return schema

    def groups_to_change(self, schema: pa.Schema) -> Iterator[list[str]]:
        """Names of the parts that lack a schema, some at a time; to be given it before the next are asked for."""
        names = [name for name, _ in self._not_of(schema)]
        if names and not self._changing:
            self._backend.ensure_writer()
            columns = {field.name: str(field.type) for field in schema}
            self._backend.write_atomic(CHANGING, to_json({"format": FORMAT, "columns": columns}, indent=1))
            self._changing = True
        for first in range(0, len(names), TOGETHER):
            yield names[first : first + TOGETHER]
        if self._changing:
            self._backend.ensure_writer()
            self._backend.remove(CHANGING)
            self._changing = False
        self._schemas = dict.fromkeys(self._names[:1], schema)

    def forget(self, gone: Collection[str]) -> None:
        """Leave out parts that are not there any more."""
        schemas = {name: schema for name, schema in self._schemas.items() if name not in gone}
        self._names = [name for name in self._names if name not in gone]
        if not schemas and self._names:  # the one that was read spoke for all
            schemas = dict.fromkeys(self._names[:1], next(iter(self._schemas.values())))
        self._schemas = schemas

    def _not_of(self, schema: pa.Schema) -> list[tuple[str, pa.Schema]]:
        """The parts that have another schema, with it."""
        if not self._names:
            return []
        known = self._schemas if self._changing else dict.fromkeys(self._names, next(iter(self._schemas.values())))
        return [(name, old) for name, old in known.items() if not old.equals(schema)]
