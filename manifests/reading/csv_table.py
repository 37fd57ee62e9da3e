"""CSV manifests: a line of column names, then a line a row. Cells are text; `text_values.py` says what they mean."""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from typing import Any

import pyarrow as pa

from wanbatch.counting import number_of
from wanbatch.errors import UserError
from wanbatch.manifests.reading.inferred_columns import MAX_COLUMNS
from wanbatch.manifests.reading.kind import ManifestFiles, ManifestPath
from wanbatch.manifests.reading.nearest import shorten
from wanbatch.manifests.reading.partitions import with_inferred_types
from wanbatch.manifests.reading.row_model import KNOWN
from wanbatch.manifests.reading.text_lines import MAX_LINE, not_utf8, numbered_lines, with_compressions
from wanbatch.manifests.reading.text_values import BadTextError, known_value
from wanbatch.manifests.reading.unified import unified
from wanbatch.manifests.reading.validation import RESERVED, Positions, RowChecker, reserved_name
from wanbatch.manifests.sources.formats import PICTURE_SUFFIXES

SUFFIXES = with_compressions((".csv", ".tsv"))
SEPARATORS = (",", ";", "\t", "|")
CHUNK = 8192


class Csv:
    """CSV and TSV files, or a folder of such files, read in the order of their names."""

    takes = "CSV (.csv, .tsv)"
    positions: Positions = "line"

    def find(self, path: ManifestPath) -> ManifestFiles | None:
        """See `ManifestKind.find`."""
        return path.alone_or_all(SUFFIXES)

    def read(self, found: ManifestFiles, checker: RowChecker) -> tuple[pa.Table, str]:
        """See `ManifestKind.read`. The digest is the SHA-256 of all that the files hold, unpacked."""
        digest = hashlib.sha256()
        tables = []
        for index, (path, shown) in enumerate(zip(found.files, found.shown, strict=True)):
            reader = _Reader(index, shown, checker, found.constants_of(index))
            tables.append(reader.read(_texts(path, shown, digest)))
        rows = unified(tables, checker.problems)
        return with_inferred_types(rows, rows.schema.names), digest.hexdigest()


def _texts(path: str, shown: str, digest: Any) -> Iterator[str]:
    """The lines of a file as text; all of them are added to a digest. Raises UserError if one cannot be."""
    for number, raw in numbered_lines(path, shown):
        digest.update(raw)
        if len(raw) > MAX_LINE:
            raise UserError(f"{shown}:{number}: is longer than {MAX_LINE >> 20} MiB: keep images in files")
        try:
            yield raw.decode()
        except UnicodeDecodeError as error:
            raise UserError(f"{shown}:{number}: {not_utf8(shown, raw, error.start)}") from error


class _Reader:
    """One file of a manifest.

    Attributes:
        names: of its columns, as they are read; None for one without a name.
    """

    def __init__(self, index: int, shown: str, checker: RowChecker, constants: Mapping[str, str | None]):
        """constants: columns that the file does not have and that have one value in all its rows."""
        self._index, self._shown, self._checker = index, shown, checker
        self._constants = dict(constants)
        self._fixed: list[str] = []  # the cells of these columns, which stand after the file's own
        self.names: list[str | None] = []
        self._refused: frozenset[str] = frozenset()  # columns that are there twice
        self._known: list[tuple[int, str]] = []  # columns that wanbatch knows: position and name
        self._others: list[tuple[int, str]] = []  # passthrough columns, likewise
        self._rows: list[list[str]] = []
        self._chunks: list[pa.RecordBatch] = []

    def read(self, lines: Iterator[str]) -> pa.Table:
        """Check all rows. Returns the passthrough columns of the good ones, as text."""
        first, header = 1, next(lines, "")
        separator = separator_of(header)
        if header.lower().startswith("sep=") and len(header.strip()) == 5:  # Excel's way to name the separator
            separator, first, header = header[4], 2, next(lines, "")
        if not header.strip():
            return self._table()
        spaced = all(cell[:1] == " " for cell in header.split(separator)[1:])
        records = csv.reader(chain((header,), lines), delimiter=separator, strict=True, skipinitialspace=spaced)
        for number, cells in self._records(records, first):
            if not self.names:
                self._begin([cell.strip() for cell in cells], number)
            elif cells:
                self._add(cells, number, separator)
        return self._table()

    def _records(self, records: Any, first: int) -> Iterator[tuple[int, list[str]]]:
        """(line that it begins on, cells) of each record. first: the line of the column names."""
        number = first
        while True:
            try:
                cells = next(records, None)
            except csv.Error as error:
                said = f"is not CSV from here on ({error}): close each double quote, and double those inside a cell"
                raise UserError(f"{self._shown}:{number}: {said}") from error
            if cells is None:
                return
            yield number, cells
            number = first + records.line_num

    def _begin(self, header: Sequence[str], number: int) -> None:
        """Take the names of the columns."""
        if len(header) > MAX_COLUMNS:
            raise UserError(
                f"{self._shown}: has {number_of(len(header), 'columns')}; at most {MAX_COLUMNS} are read: drop some"
            )
        for position, cell in enumerate(header, 1):
            if not cell:
                said = f"column {position} has no name, as an index that pandas writes: it is not used"
                self._checker.problems.warn(self._index, said)
        fixed = {name: text or "" for name, text in self._constants.items() if name not in header}
        self._fixed = list(fixed.values())
        self.names = [self._checker.name_of(cell) if cell else None for cell in (*header, *fixed)]
        if not KNOWN.intersection(filter(None, self.names)) and any(_is_value(cell) for cell in header):
            known = "id,prompt,seed"
            said = f"begins with {shorten(','.join(header))}: the first line must name the columns, like {known}"
            raise UserError(f"{self._shown}:{number}: {said}")
        for name in dict.fromkeys(filter(None, self.names)):
            if self.names.count(name) > 1:
                said = f"column {name!r} is there {self.names.count(name)} times: keep one"
                self._checker.problems.add(self._index, number, said)
            elif name in RESERVED:
                self._checker.problems.add(self._index, number, reserved_name(name))
        named = [(at, name) for at, name in enumerate(self.names) if name]
        self._refused = frozenset(name for _, name in named if self.names.count(name) > 1)
        self._known = [(at, name) for at, name in named if name in KNOWN and name not in self._refused]
        self._others = [(at, name) for at, name in named if name not in KNOWN]

    def _add(self, cells: list[str], number: int, separator: str) -> None:
        """Check one row."""
        problems = self._checker.problems
        named = len(self.names) - len(self._fixed)
        if len(cells) != named:
            said = f"has {number_of(len(cells), 'cells')}, but the first line names {named} columns"
            problems.add(self._index, number, f"{said}: put a cell that holds {separator!r} in double quotes")
            self._checker.skip()
            return
        cells = [*cells, *self._fixed]
        known, unread = {}, self._refused
        for at, name in self._known:
            try:
                value = known_value(name, cells[at])
            except BadTextError as error:
                problems.add(self._index, number, str(error))
                unread |= {name}
            else:
                known.update({} if value is None else {name: value})
        if self._checker.add(known, self._index, number, unread):
            self._rows.append([cells[at] for at, _ in self._others])
            if len(self._rows) >= CHUNK:
                self._flush()

    def _flush(self) -> None:
        columns = list(zip(*self._rows, strict=True)) or [()] * len(self._others)
        arrays = [pa.array(values, pa.string()) for values in columns]
        self._chunks.append(pa.RecordBatch.from_arrays(arrays, [name for _, name in self._others]))
        self._rows = []

    def _table(self) -> pa.Table:
        names = [name for _, name in self._others]
        if len(set(names)) < len(names):
            return pa.table({})  # the problem is noted
        self._flush()
        return pa.Table.from_batches(self._chunks)


def separator_of(header: str) -> str:
    """What separates the cells of a file: what gives its first line the most known names, then the most cells."""

    def found(separator: str) -> tuple[int, int]:
        cells = [cell.strip().strip('"') for cell in header.split(separator)]
        return len(KNOWN.intersection(cells)), len(cells)

    return max(SEPARATORS, key=found)


def _is_value(cell: str) -> bool:
    """Whether a cell of the first line is rather a value than the name of a column."""
    number = cell.replace(".", "", 1).replace("-", "", 1).isdigit()
    return number or len(cell.split()) > 3 or cell.lower().endswith(PICTURE_SUFFIXES)
