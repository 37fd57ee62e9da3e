"""The columns of one Arrow or Parquet file: which are known, which pass through, what is wrong with them as such."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from wanbatch.manifests.reading.arrow_types import (
    has_extension,
    plain_type,
    type_rule,
    unknown_to_datasets,
    unused_fields,
)
from wanbatch.manifests.reading.arrow_values import IMAGES, Flags, check_rows, marked_images
from wanbatch.manifests.reading.column_names import if_own
from wanbatch.manifests.reading.row_model import KNOWN
from wanbatch.manifests.reading.text_values import BadTextError, known_value
from wanbatch.manifests.reading.validation import RESERVED, RowChecker, bad_type, reserved_name
from wanbatch.manifests.records import feature_metadata, huggingface_features
from wanbatch.manifests.storage.parquet_limits import MAX_CELL_BYTES, value_lengths


class FileColumns:
    """The columns of one file of a manifest.

    Attributes:
        schema: in plain types, with the names under which the columns are read.
        stored: by these names, those that they have in the file.
        known: the columns that wanbatch knows, of those that are there once.
        others: those that pass through, likewise.
        refused: those that are not read, since something is wrong with them as such; in none of the above.
    """

    def __init__(
        self, index: int, schema: pa.Schema, checker: RowChecker, constants: Mapping[str, str | None] | None = None
    ):
        """Look at the columns of a file.

        Args:
            index: of the file in the manifest.
            schema: as the file has it.
            checker: takes problems and rows.
            constants: columns that are not in the file and have one value in all its rows, as text.
        """
        self._index, self._checker = index, checker
        self.stored = {checker.name_of(name): name for name in schema.names}
        self.schema = _renamed(schema, checker)
        once = [name for name, count in Counter(self.schema.names).items() if count == 1]
        self.known = [name for name in once if name in KNOWN]
        self.others = [name for name in once if name not in KNOWN]
        self.refused: frozenset[str] = frozenset()
        self._constants = {checker.name_of(name): value for name, value in (constants or {}).items()}
        for name in self.schema.names:
            self._constants.pop(name, None)  # some tools write these columns into the files, too

    def report(self) -> None:
        """Report what is wrong with the columns as such, and what of them is not used; leave out those that are."""
        wrong = list(dict.fromkeys(self._problems()))
        for _, message in wrong:
            self._checker.problems.add(self._index, -1, message)
        self.refused = frozenset(name for name, _ in wrong)
        self.known = [name for name in self.known if name not in self.refused]
        self.others = [name for name in self.others if name not in self.refused]
        self._constants = {n: value for n, value in self._constants.items() if n not in self.refused}
        for name in (name for name in self.known if name in IMAGES):
            if unused := unused_fields(self.schema.field(name).type):
                said = f"only bytes and path of column {name!r} are used, not {', '.join(unused)}"
                self._checker.problems.warn(self._index, said)
        for name in self.others:
            if kind := unknown_to_datasets(self.schema.field(name).type):
                how = "a list of structs of key and value" if pa.types.is_map(kind) else "decimal128"
                self._checker.problems.warn(
                    self._index,
                    f"column {name!r} is or holds {kind}, for which the library `datasets` has no type: for "
                    f"`load_dataset` to read the output, store it as {how}",
                )

    def passthrough_schema(self) -> pa.Schema:
        """Without file-specific metadata; Hugging Face features of these columns are kept."""
        fields = [self.schema.field(name).remove_metadata() for name in self.others]
        fields += [pa.field(name, pa.string()) for name in self._passed_constants()]
        return pa.schema(fields, metadata=self.schema.metadata if huggingface_features(self.schema) else None)

    def passthrough(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """The columns of a batch that pass through. batch: in plain types, with the names that are read."""
        columns = [batch.column(name) for name in self.others]
        columns += [pa.repeat(value, len(batch)) for value in self._passed_constants().values()]
        return pa.RecordBatch.from_arrays(columns, schema=self.passthrough_schema())

    def check_sizes(self, batch: pa.RecordBatch, position: int, names: Sequence[str]) -> int:
        """Report values that are too large, before anything is decoded.

        Args:
            batch: in plain types, with the names that are read.
            position: of its first row.
            names: of the columns to look at.
        Returns:
            What these columns take, in bytes.
        """
        columns = [batch.column(name) for name in names]
        size = sum(column.nbytes for column in columns)
        for name, column in zip(names, columns, strict=True):
            lengths = value_lengths(column)
            if lengths is None or not len(lengths):
                continue
            size += pc.sum(lengths).as_py()
            if (largest := pc.max(lengths).as_py()) > MAX_CELL_BYTES:
                row = position + pc.index(lengths, largest).as_py()
                message = f"{name} has {largest} bytes; at most {MAX_CELL_BYTES} are taken: keep them in a file"
                self._checker.problems.add(self._index, row, message)
        return size

    def check(
        self, values: Mapping[str, Sequence[Any]], embedded: Mapping[str, Sequence[Flags]], count: int, position: int
    ) -> None:
        """Check some rows.

        Args:
            values: of known columns, without the bytes of images, by `known_values`.
            embedded: for columns of images that have bytes, which of them.
            count: of the rows.
            position: of the first row.
        Raises:
            OSError: images do not fit together, as in a damaged file.
        """
        columns: dict[str, Sequence[Any]] = {}
        for name in self.known:
            given = values.get(name) or [None] * count
            columns[name] = marked_images(given, embedded[name]) if name in embedded else given
        for name, value in self._constants.items():
            if name in KNOWN:
                columns[name] = [None if value is None else known_value(name, value)] * count
        check_rows(columns, count, self._checker, self._index, position, self.refused)

    def _passed_constants(self) -> dict[str, pa.Scalar]:
        """The constant columns that pass through, as text."""
        return {n: pa.scalar(v, pa.string()) for n, v in self._constants.items() if n not in KNOWN}

    def _problems(self) -> Iterator[tuple[str, str]]:
        """Pairs of a column and what is wrong with it."""
        names = self.schema.names
        for name in dict.fromkeys(name for name in names if names.count(name) > 1):
            yield name, f"column {name!r} is there {names.count(name)} times: keep one"
        for field in self.schema:
            name = field.name
            if has_extension(field):
                yield name, f"column {name!r} has the extension type {field.type}: store it as a plain type"
            elif name in KNOWN and (rule := type_rule(name, field.type)):
                yield name, f"column {name!r} is {field.type}: must be {rule}; cast the column{if_own(name)}"
            elif name in RESERVED:
                yield name, reserved_name(name)
            elif name not in KNOWN and (why := bad_type(field.type)):
                yield name, f"column {name!r} {why}: simplify it"
        for name, value in self._constants.items():
            if name in RESERVED:
                yield name, reserved_name(name)
            elif name in KNOWN and value is not None:
                try:
                    known_value(name, value)
                except BadTextError as error:
                    yield name, str(error)


def _renamed(schema: pa.Schema, checker: RowChecker) -> pa.Schema:
    """A file's schema in plain types, with the names under which its columns are read, features of `datasets` too."""
    fields = [field.with_name(checker.name_of(field.name)).with_type(plain_type(field.type)) for field in schema]
    noted = {checker.name_of(name): feature for name, feature in huggingface_features(schema).items()}
    return pa.schema(fields, feature_metadata(noted) if noted else None)
