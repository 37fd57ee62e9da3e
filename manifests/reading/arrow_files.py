"""Arrow files as manifests: datasets that `datasets.save_to_disk` wrote, and single files or folders of them.

As with Parquet, embedded images stay in the file, and extension types are refused.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pyarrow as pa

from wanbatch.errors import UserError
from wanbatch.manifests.reading.arrow_columns import FileColumns
from wanbatch.manifests.reading.arrow_types import has_bytes, plain_batch
from wanbatch.manifests.reading.arrow_values import IMAGES, image_flags, image_paths, known_values
from wanbatch.manifests.reading.damage import readable
from wanbatch.manifests.reading.kind import ManifestFiles, ManifestPath
from wanbatch.manifests.reading.nearest import shorten
from wanbatch.manifests.reading.other_files import warning
from wanbatch.manifests.reading.partitions import with_inferred_types
from wanbatch.manifests.reading.splits import SPLIT, constants_by_name
from wanbatch.manifests.reading.unified import unified
from wanbatch.manifests.reading.validation import Positions, RowChecker
from wanbatch.manifests.storage.arrow_ipc import SUFFIXES, ArrowFile
from wanbatch.manifests.storage.parquet_limits import MAX_ROWS, Budget
from wanbatch.manifests.storage.urls import open_file

BATCH = 4096


class ArrowFiles:
    """Files in Arrow's IPC format, or a folder of such files, read in the order of their names."""

    takes = f"Arrow ({', '.join(SUFFIXES)})"
    positions: Positions = "row"

    def find(self, path: ManifestPath) -> ManifestFiles | None:
        """See `ManifestKind.find`. What `datasets` keeps of transformations is left out."""
        if not path.is_folder:
            return path.alone() if path.ends_in(SUFFIXES) else None
        names = [name for name in path.names if name.lower().endswith(SUFFIXES)]
        names = [name for name in names if not name.rpartition("/")[2].startswith("cache-")]
        if not names:
            return None
        warnings = warning(str(path.given), path.names, names)
        return replace(path.folder_of(names, warnings), constants=constants_by_name(names))

    def read(self, found: ManifestFiles, checker: RowChecker) -> tuple[pa.Table, str]:
        """See `ManifestKind.read`. The digest is of all but the bytes of images, of which only the size counts."""
        digest = hashlib.sha256()
        budget = Budget()
        tables = []
        for index, path in enumerate(found.files):
            with readable(path, "Arrow"):
                file = ArrowFile(path)
            with file:
                digest.update(f"{file.size}".encode())
                with readable(path, "Arrow"):
                    columns = FileColumns(index, file.schema, checker, found.constants_of(index))
                    columns.report()
                batches = _read(path, file, columns, checker, budget, digest)
                tables.append(pa.Table.from_batches(batches, schema=columns.passthrough_schema()))
        rows = unified(tables, checker.problems) if tables else pa.table({})
        partitions = {checker.name_of(name) for constants in found.constants for name in constants if name != SPLIT}
        return with_inferred_types(rows, partitions), digest.hexdigest()


class SavedDataset(ArrowFiles):
    """A folder that `save_to_disk` of `datasets` wrote: one split, or several in folders of their own."""

    takes = "a folder that `save_to_disk` of `datasets` wrote"

    def find(self, path: ManifestPath) -> ManifestFiles | None:
        """See `ManifestKind.find`."""
        names = set(path.names)
        if "dataset_dict.json" in names:
            splits = _json(path, "dataset_dict.json").get("splits")
            if not isinstance(splits, list) or not splits:
                raise UserError(f"{path.given}/dataset_dict.json: names no splits: save the dataset again")
            splits = [_inside(path, "dataset_dict.json", split) for split in splits]
            files = [(name, split) for split in splits for name in _data_files(path, f"{split}/")]
            found = path.folder_of([name for name, _ in files])
            return replace(found, constants=tuple({SPLIT: split} for _, split in files))
        if {"state.json", "dataset_info.json"} <= names:
            return path.folder_of(_data_files(path, ""))
        return None


def _data_files(path: ManifestPath, below: str) -> list[str]:
    """The files of one split, in their order. below: its folder, with a slash at its end, or nothing."""
    state = _json(path, f"{below}state.json")
    if state.get("_indices_data_files"):
        remedy = "with the version of datasets that wrote it, save dataset.flatten_indices() again"
        raise UserError(f"{path.given}/{below}: is a selection of rows that are stored elsewhere: {remedy}")
    try:
        names = [entry["filename"] for entry in state["_data_files"]]
    except (KeyError, TypeError) as error:
        raise UserError(f"{path.given}/{below}state.json: names no data files: save the dataset again") from error
    return [below + _inside(path, f"{below}state.json", name) for name in names]


def _inside(path: ManifestPath, file: str, name: object) -> str:
    """A name that a file of the dataset gives, if it is of something right beside that file. Raises UserError."""
    if not isinstance(name, str) or not name or name[0] == "." or "/" in name or "\0" in name:
        raise UserError(f"{path.given}/{file}: names {shorten(name)}, which is not beside it: save the dataset again")
    return name


def _json(path: ManifestPath, name: str) -> dict[str, Any]:
    with open_file(f"{path.absolute}/{name}") as file:
        raw = file.read(16 << 20)
    try:
        value = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path.given}/{name}: is damaged ({error}): save the dataset again") from error
    return value if isinstance(value, dict) else {}


def _read(
    path: str, file: ArrowFile, columns: FileColumns, checker: RowChecker, budget: Budget, digest: Any
) -> Iterator[pa.RecordBatch]:
    """Check all rows of a file; yields the columns that pass through."""
    embedded = [n for n in columns.known if n in IMAGES and has_bytes(columns.schema.field(n).type)]
    held = [name for name in columns.schema.names if name not in embedded and name not in columns.refused]
    position = 0
    for batch in _batches(path, file, columns, checker):
        digest.update(batch.select(held).serialize())
        budget.spend(path, columns.check_sizes(batch, position, held))
        values = {name: known_values(name, batch.column(name)) for name in columns.known if name in held}
        values |= {name: image_paths(batch.column(name)) for name in embedded}
        with readable(path, "Arrow"):
            flags = {name: image_flags(batch.column(name)) for name in embedded}
            columns.check(values, flags, len(batch), position)
        position += len(batch)
        if position > MAX_ROWS:
            raise UserError(f"{path}: has more than {MAX_ROWS} rows: split it")
        yield columns.passthrough(batch)


def _batches(path: str, file: ArrowFile, columns: FileColumns, checker: RowChecker) -> Iterator[pa.RecordBatch]:
    """Batches in plain types, not too large, with the names under which their columns are read."""
    batches = file.batches()
    while True:
        with readable(path, "Arrow"):
            whole = next(batches, None)
            if whole is None:
                return
            names = [checker.name_of(name) for name in whole.schema.names]
            if columns.refused:
                whole = whole.select([at for at, name in enumerate(names) if name not in columns.refused])
                names = [name for name in names if name not in columns.refused]
            whole.validate(full=True)
            whole = plain_batch(whole).rename_columns(names)
        for start in range(0, len(whole), BATCH):
            yield whole.slice(start, BATCH)
