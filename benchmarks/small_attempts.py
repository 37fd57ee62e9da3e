"""Attempts of many units, made fast: all rows have one small picture, and no file is forced to the disk.

The files are what a worker writes (same columns, compression and checksums), but all that differs between two units
is the column `id`, so the rest of each table is made once.
"""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Iterable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from small_records import record, timing

from wanbatch.jobs.planning.plan import Plan
from wanbatch.jobs.planning.units import Unit
from wanbatch.manifests.dataset.part_files import ROW_GROUP, TMP, Attempt, column_options
from wanbatch.manifests.records import data_table, timing_table


def write_attempts(out: Path, plan: Plan, units: Iterable[Unit]) -> dict[int, Attempt]:
    """Write an attempt of each unit to an output folder, and have the system write all of it to the disk.

    Args:
        out: the output folder.
        plan: whose rows the units hold; it has no passthrough columns.
        units: what is written.

    Returns:
        The attempts by the number of their unit.
    """
    ids, digests = plan.ids(), plan.images["digest"].to_pylist()
    templates: dict[int, dict[str, pa.Table]] = {}
    attempts = {}
    for unit in units:
        names = tuple(ids[index] for index in unit.indices)
        count = len(names)
        if count not in templates:
            templates[count] = {
                "data": data_table([record(name) for name in names]),
                "timings": timing_table([timing(name) for name in names]),
            }
        files, hashes = {}, {}
        for kind, table in templates[count].items():
            files[kind] = f"{unit.number:05d}-t-{kind}.parquet"
            content = _part(table, names)
            (out / TMP / files[kind]).write_bytes(content)
            hashes[kind] = hashlib.sha256(content).hexdigest()
        its = {ids[index]: digests[index] for index in unit.indices}
        attempts[unit.number] = Attempt(unit.number, "t", files, hashes, names, (), its)
    os.sync()
    return attempts


def _part(table: pa.Table, names: tuple[str, ...]) -> bytes:
    """A part's bytes: a table with other ids."""
    index = table.schema.get_field_index("id")
    table = table.set_column(index, table.schema.field(index), pa.array(names))
    buffer = io.BytesIO()
    with pq.ParquetWriter(buffer, table.schema, **column_options(table.schema), write_page_checksum=True) as writer:
        writer.write_table(table, row_group_size=ROW_GROUP)
    return buffer.getvalue()
