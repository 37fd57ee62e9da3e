"""Reading a manifest, of whatever kind (`kinds.py`).

All problems of a manifest are reported at once, before anything else happens. Rows are kept as Arrow columns,
so that a million of them fit in memory; `Manifest.row` makes a `Row` of one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from wanbatch.errors import MachineryError, ManifestError, UserError
from wanbatch.manifests.reading.arrow_rows import DOUBTFUL_SCHEMA, ROWS_SCHEMA, row_of, source_of
from wanbatch.manifests.reading.blend_groups import ID_COLUMNS, lost_groups, merge_groups, merge_passthrough
from wanbatch.manifests.reading.column_map import ColumnMap
from wanbatch.manifests.reading.column_names import UnusedColumn, same_name, suspects, unused_columns
from wanbatch.manifests.reading.kind import CommittedRowsOf, ManifestFiles, ManifestKind, no_output_folder
from wanbatch.manifests.reading.kinds import find_manifest
from wanbatch.manifests.reading.row_ids import check_ids
from wanbatch.manifests.reading.validation import Positions, Problems, RowChecker, location_of
from wanbatch.manifests.records import Row, Source
from wanbatch.manifests.sources.path_policy import PathPolicy, require_source_folder
from wanbatch.manifests.storage.urls import absolute, is_url, local_path


@dataclass(frozen=True, slots=True)
class Manifest:
    """A valid manifest.

    Attributes:
        path: as the user gave it.
        source_root: the folder that relative paths of sources start from, absolute, or its URL.
        source_fence: the folder that no source may leave, absolute, or its URL.
        files: absolute paths (or URLs) of the files read.
        shown: the same as messages name them.
        positions: what positions in them count.
        rows: `ROWS_SCHEMA`, one row for each thing asked, ordered by manifest row.
        passthrough: the other columns of the same rows (of a blend group, the first value given).
        manifest_rows: how many rows the files have, before blend groups are merged.
        digest: changes when the manifest does (see the kinds); hex.
        warnings: what of it is not read or not used, one sentence each.
        unused_columns: passthrough columns that seem to mean another one.
        not_renamed: columns that were to be read as others and are not there, with what to say of each.
    """

    path: str | Path
    source_root: str | Path
    source_fence: str | Path
    files: tuple[str, ...]
    shown: tuple[str, ...]
    positions: Positions
    rows: pa.Table
    passthrough: pa.Table
    manifest_rows: int
    digest: str
    warnings: tuple[str, ...] = ()
    unused_columns: tuple[UnusedColumn, ...] = ()
    not_renamed: Mapping[str, str] = field(default_factory=dict)

    @property
    def all_warnings(self) -> tuple[str, ...]:
        """`warnings`, and one for each of `unused_columns`."""
        return (*self.warnings, *(f"{self.path}: {column.message}" for column in self.unused_columns))

    def __len__(self) -> int:
        """How many things are asked."""
        return self.rows.num_rows

    def row(self, index: int) -> Row:
        """The thing asked at `index`. Raises IndexError."""
        if not 0 <= index < len(self):
            raise IndexError(f"row {index} of {len(self)}")
        return next(self.iter_rows(index, index + 1))

    def sources(self, indices: pa.ChunkedArray | pa.Array) -> list[tuple[Source, ...]]:
        """The sources of the things asked at some indices; quicker than by `row`."""
        found = self.rows["sources"].take(indices).to_pylist()
        return [tuple(source_of(source, self.files) for source in sources or ()) for sources in found]

    def sounds(self, indices: pa.ChunkedArray | pa.Array) -> list[Source | None]:
        """The sounds of the things asked at some indices."""
        found = self.rows["audio"].take(indices).to_pylist()
        return [None if sound is None else source_of(sound, self.files) for sound in found]

    def map_sources(self, indices: pa.ChunkedArray | pa.Array) -> list[Source | None]:
        """Where the creativity maps of the things asked at some indices are; None: they have none."""
        rows = self.rows.select(["creativity_map", "map_source"]).take(indices).to_pylist()
        return [
            source_of(row["map_source"], self.files)
            if row["map_source"] is not None
            else None
            if row["creativity_map"] is None
            else Source(row["creativity_map"])
            for row in rows
        ]

    def iter_rows(self, start: int = 0, stop: int | None = None) -> Iterator[Row]:
        """Rows in order, made on the fly."""
        count = (len(self) if stop is None else stop) - start
        for batch in self.rows.slice(start, count).to_batches(max_chunksize=4096):
            for values in batch.to_pylist():
                yield row_of(values, self.files, self._location(values["file"], values["position"]))

    def _location(self, file: int, position: int) -> str:
        return location_of(self.shown[file], self.positions, position)


Check = Callable[[pa.Table], Iterable[tuple[int, str]]]
"""What else is wrong with rows: pairs of a row's index and what to say of it. The rows are of `ROWS_SCHEMA`, or of
`DOUBTFUL_SCHEMA` if some are wrong already."""

LookAt = Callable[[Sequence[Source], PathPolicy], Mapping[int, str]]
"""What is wrong with sources themselves, by their index; the second argument says where their paths start."""


def look_at_none(sources: Sequence[Source], policy: PathPolicy) -> Mapping[int, str]:
    """Look at no source."""
    return {}


def nothing_else(rows: pa.Table) -> Iterable[tuple[int, str]]:
    """Find nothing else wrong with rows."""
    return ()


def read_manifest(
    path: str | Path,
    source_root: str | Path | None = None,
    allow_http: bool = False,
    check: Check = nothing_else,
    source_fence: str | Path | None = None,
    *,
    renames: Mapping[str, str] | None = None,
    strict: bool = False,
    prompt_of_run: bool = False,
    committed_rows: CommittedRowsOf = no_output_folder,
    split: str | None = None,
    seems_right: Callable[[], None] | None = None,
    look_at: LookAt = look_at_none,
    all_renamed: bool = True,
) -> Manifest:
    """Read and check a manifest.

    Args:
        path: a file or folder of one of the kinds in `kinds.py`, or the URL of one (a string).
        source_root: the folder (or its URL) that relative source paths start from; default: the manifest's own.
        allow_http: take web addresses as sources too. Nothing is fetched here.
        check: what else is wrong with rows: pairs of a row's index and what to say of it.
        source_fence: the folder (or its URL) that no source may leave; default: `source_root`.
        renames: columns of the manifest that are read under another name (`column_map.map_problem` checks them).
        strict: passthrough columns that seem to mean another one are problems.
        prompt_of_run: the run has a prompt for rows that give none.
        committed_rows: says what an output folder of wanbatch holds; without it none is read.
        split: the one to read of a folder that has several; None: all.
        seems_right: called once if a long manifest's first rows are right, before the rest is read; that may still
            be wrong.
        look_at: what is wrong with sources themselves; asked only if something else is wrong, so that it is said too.
        all_renamed: a column of `renames` that is not there is a problem; else it is in `not_renamed`.
    Raises:
        ManifestError: with every problem of the rows and columns, each with its location.
        UserError: if there is no such file, or it is empty, damaged, or of an unknown kind.
        MachineryError: if the object store that holds it does not answer.
    """
    path = path if is_url(path) else local_path(path)
    try:
        named = (renames or {}, strict, prompt_of_run, committed_rows, split, seems_right, look_at, all_renamed)
        return _read(path, _Rules(source_root, source_fence, allow_http, check, *named))
    except OSError as error:
        if is_url(path) and not isinstance(error, FileNotFoundError | PermissionError):
            raise MachineryError(f"{path}: cannot be read ({error.strerror or error})") from error
        which = error.filename if isinstance(error.filename, str) else path
        raise UserError(f"{which}: cannot be read ({error.strerror or error})") from error


@dataclass(frozen=True, slots=True)
class _Rules:
    """How a manifest is read; see `read_manifest`."""

    source_root: str | Path | None
    source_fence: str | Path | None
    allow_http: bool
    check: Check
    renames: Mapping[str, str]
    strict: bool
    prompt_of_run: bool
    committed_rows: CommittedRowsOf
    split: str | None
    seems_right: Callable[[], None] | None
    look_at: LookAt
    all_renamed: bool


def _read(path: str | Path, rules: _Rules) -> Manifest:
    kind, found = find_manifest(path, rules.committed_rows, rules.split)
    root = absolute(rules.source_root if rules.source_root is not None else found.folder)
    policy = PathPolicy(root, rules.allow_http, rules.source_fence)
    require_source_folder(root, "--source-root")
    require_source_folder(policy.fence, "--source-fence")

    problems = Problems(found.shown, kind.positions)
    checker = RowChecker(policy, problems, ColumnMap(_renames(found, rules), found.rename), rules.prompt_of_run)
    if rules.seems_right is not None:
        checker.after_first = partial(_look, checker, rules, rules.seems_right)
    passthrough, digest = _read_rows(kind, found, checker, rules.strict)
    lines = checker.lines()
    members = checker.doubtful_members()
    rows, origins = merge_groups(lines, members, checker.broken_groups, problems.add, problems.location)
    absent = _report_renames(checker.columns, rules.all_renamed, problems)
    lost = lost_groups(lines, checker.doubtful(), members)
    everything = _check_together(rows, checker.doubtful(), lost, rules, problems)
    if problems.found:
        _report_suspects(checker, rules.strict)
        _report_sources(everything, found.files, lambda sources: rules.look_at(sources, policy), problems)
    problems.raise_any()

    if not checker.count:
        raise UserError(f"{path}: has no rows: write one row for each image to make")
    if not passthrough.num_columns:
        passthrough = rows.select([])
    elif origins is not None:
        passthrough = merge_passthrough(passthrough, origins)
    unused = unused_columns(rows, passthrough)
    for column in unused if rules.strict else ():
        problems.add(0, -1, column.strict_message)
    problems.raise_any()
    kept_root, kept_fence = (folder if policy.in_store else Path(folder) for folder in (root, policy.fence))
    return Manifest(
        path,
        kept_root,
        kept_fence,
        found.files,
        found.shown,
        kind.positions,
        rows,
        passthrough,
        checker.count,
        digest,
        (*found.warnings, *problems.warnings),
        unused,
        absent,
    )


def _check_together(
    rows: pa.Table, doubtful: pa.Table, lost: pa.Table, rules: _Rules, problems: Problems
) -> pa.Table:
    """Report what shows when rows are seen together, or beside what the run says.

    Args:
        rows: the good ones (`ROWS_SCHEMA`).
        doubtful: the others, as far as they are right (`DOUBTFUL_SCHEMA`).
        lost: blend groups that none of the good ones is of, as `lost_groups` gives them.
        rules: how the manifest is read.
        problems: takes what is found.
    Returns:
        All rows, ordered by manifest row; `DOUBTFUL_SCHEMA` if there are doubtful ones.
    """
    if len(doubtful):
        nothing = pa.nulls(len(rows), DOUBTFUL_SCHEMA.types[-1])
        rows = pa.concat_tables([rows.append_column(DOUBTFUL_SCHEMA[-1], nothing), doubtful]).sort_by("number")
    with_groups = pa.concat_tables([rows.select(ID_COLUMNS), lost]).sort_by("number") if len(lost) else rows
    check_ids(with_groups, problems)
    for index, message in rules.check(rows):
        problems.add(rows["file"][index].as_py(), rows["position"][index].as_py(), message)
    return rows


def _report_sources(
    rows: pa.Table, files: Sequence[str], look_at: Callable[[Sequence[Source]], Mapping[int, str]], problems: Problems
) -> None:
    """Report sources that are missing or cannot be read, each at the first of its rows.

    Args:
        rows: `ROWS_SCHEMA` or `DOUBTFUL_SCHEMA`.
        files: of the manifest.
        look_at: what is wrong with sources.
        problems: takes what is found.
    """
    places: dict[object, tuple[Source, int, int]] = {}
    for batch in rows.select(["sources", "file", "position"]).to_batches(max_chunksize=4096):
        for row in batch.to_pylist():
            for source in (source_of(values, files) for values in row["sources"] or ()):
                places.setdefault(source.key, (source, row["file"], row["position"]))
    found = list(places.values())
    for index, message in look_at([source for source, _, _ in found]).items():
        _, file, position = found[index]
        problems.add(file, position, message)


def _look(checker: RowChecker, rules: _Rules, seems_right: Callable[[], None]) -> None:
    """Check the rows read so far; members of blend groups, whose others may come later, are left for then."""
    lines, scratch = checker.lines(), Problems(checker.problems.files, checker.problems.positions)
    rows = lines.filter(pc.is_null(lines["blend_group"])).select(ROWS_SCHEMA.names)
    check_ids(rows, scratch)
    if not (checker.problems.found or scratch.found or any(True for _ in rules.check(rows))):
        seems_right()


def _read_rows(kind: ManifestKind, found: ManifestFiles, checker: RowChecker, strict: bool) -> tuple[pa.Table, str]:
    """What `kind.read` returns. Where so many problems end it early, their cause is told with them."""
    try:
        return kind.read(found, checker)
    except ManifestError:
        _report_suspects(checker, strict)
        checker.problems.raise_any()
        raise


def _renames(found: ManifestFiles, rules: _Rules) -> dict[str, str]:
    """The renames of the user, and those of the manifest's kind that do not contradict them."""
    taken = {*rules.renames, *rules.renames.values()}
    return {**{c: target for c, target in found.renames.items() if not {c, target} & taken}, **rules.renames}


def _report_renames(columns: ColumnMap, all_renamed: bool, problems: Problems) -> dict[str, str]:
    """Add what is wrong with columns that are read as others. Returns those that are not there."""
    absent = columns.absent()
    for message in (*(absent.values() if all_renamed else ()), *columns.present_twice()):
        problems.add(0, -1, message)
    return absent


def _report_suspects(checker: RowChecker, strict: bool) -> None:
    """Add columns that may be the cause of other problems: rows ask for nothing, but have a caption, or a `Prompt`.

    strict: all columns that seem to mean another one are problems.
    """
    for column in suspects(checker.columns.names):
        if strict:
            checker.problems.add_cause(column.strict_message)
        elif same_name(column.column, column.meant) or (
            checker.nothing_asked and column.meant in ("prompt", "image", "images")
        ):
            checker.problems.add_cause(column.message)
