"""What a kind of manifest is: which paths it takes, how it reads their files, and how it names positions in them."""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Protocol

import pyarrow as pa

from wanbatch.manifests.reading.other_files import warning
from wanbatch.manifests.reading.splits import constants_by_name
from wanbatch.manifests.reading.validation import Positions, RowChecker
from wanbatch.manifests.storage.urls import files_below


class CommittedRows(Protocol):
    """What an output folder of wanbatch holds.

    Attributes:
        parts: its committed data parts, relative to the folder, in their order.
        images: how many images are made.
        quarantined: how many could not be made.
        rows: how many were planned in all.
    """

    @property
    def parts(self) -> Sequence[str]: ...
    @property
    def images(self) -> int: ...
    @property
    def quarantined(self) -> int: ...
    @property
    def rows(self) -> int: ...


CommittedRowsOf = Callable[[str], CommittedRows | None]


def no_output_folder(path: str) -> CommittedRows | None:
    """Take no folder for an output folder."""
    return None


@dataclass(frozen=True)
class ManifestPath:
    """A path or URL that is there, before it is known what kind of manifest it is.

    Attributes:
        given: as the user wrote it.
        absolute: the same as an absolute path, or as a URL in its plain form.
        is_folder: it is a folder, not a file.
        committed_rows: says what an output folder of wanbatch holds; None if a path or URL is not one.
    """

    given: str | Path
    absolute: str
    is_folder: bool
    committed_rows: CommittedRowsOf = no_output_folder

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The files in a folder and its sub-folders, relative to it, sorted; listed once.

        Names that begin with `.` or `_` are left out. Raises OSError.
        """
        return tuple(files_below(self.absolute)) if self.is_folder else ()

    def alone(self) -> ManifestFiles:
        """A file as the whole manifest; its own folder is where sources start from."""
        return ManifestFiles((self.absolute,), (str(self.given),), posixpath.dirname(self.absolute))

    def folder_of(self, names: Sequence[str], warnings: Sequence[str] = ()) -> ManifestFiles:
        """Some files of a folder as the manifest; the folder is where sources start from. names: relative to it."""
        shown = str(self.given).rstrip("/")
        files = tuple(f"{self.absolute}/{name}" for name in names)
        return ManifestFiles(files, tuple(f"{shown}/{name}" for name in names), self.absolute, tuple(warnings))

    def alone_or_all(self, suffixes: tuple[str, ...], in_folders: tuple[str, ...] = ()) -> ManifestFiles | None:
        """A file with one of some endings, or all such files of a folder, in the order of their names; None: neither.

        Sub-folders may be partitions, as in `kind=cup/part-0.csv`, or splits, as in `train/part-0.csv`.

        Args:
            suffixes: the endings, in lower case.
            in_folders: of files in folders, if fewer of them count.
        """
        if not self.is_folder:
            return self.alone() if self.ends_in(suffixes) else None
        names = [name for name in self.names if name.lower().endswith(in_folders or suffixes)]
        if not names:
            return None
        found = self.folder_of(names, warning(str(self.given), self.names, names))
        return replace(found, constants=constants_by_name(names))

    def ends_in(self, suffixes: tuple[str, ...]) -> bool:
        """Whether it is a file with one of some endings, in either case."""
        return not self.is_folder and self.absolute.lower().endswith(suffixes)


@dataclass(frozen=True, slots=True)
class ManifestFiles:
    """The files that a manifest consists of.

    Attributes:
        files: absolute paths or URLs, in the order in which they are read.
        shown: the same as messages name them, as the user would write them.
        folder: where relative paths of sources start from, unless the user says otherwise.
        warnings: what beside these files is not read, one sentence each.
        rename: what the kind calls a column of these files, before any is read as another one.
        renames: columns that are read as others, unless the user says otherwise.
        beside: of each file, one that goes with it, like a picture's caption, or None; empty: no file has any.
        constants: for each file, columns that have one value in all its rows, as text; none for no file if empty.
        pictures: those that are in the folder, relative to it, if its files are tables of them.
    """

    files: tuple[str, ...]
    shown: tuple[str, ...]
    folder: str
    warnings: tuple[str, ...] = ()
    rename: Callable[[str], str] = str
    renames: Mapping[str, str] = field(default_factory=dict)
    beside: tuple[str | None, ...] = ()
    constants: tuple[Mapping[str, str | None], ...] = ()
    pictures: tuple[str, ...] = ()

    def constants_of(self, index: int) -> Mapping[str, str | None]:
        """The columns that have one value in all rows of a file. index: into `files`."""
        return self.constants[index] if self.constants else {}

    def relative(self, index: int) -> str:
        """A file's path below the manifest's folder, or its name. index: into `files`."""
        return self.files[index].removeprefix(f"{self.folder}/")


class ManifestKind(Protocol):
    """A kind of manifest. The kinds are listed, in the order in which they are asked, in `kinds.py`.

    Attributes:
        takes: the paths that it takes, in words, as in "give {takes}".
        positions: what a position in one of its files counts.
    """

    takes: str
    positions: Positions

    def find(self, path: ManifestPath) -> ManifestFiles | None:
        """The files to read if the path is of this kind, else None.

        Raises:
            UserError: It is of this kind, but cannot be read, for a reason that shows before it is opened.
            OSError: It cannot be looked at.
        """

    def read(self, found: ManifestFiles, checker: RowChecker) -> tuple[pa.Table, str]:
        """Check every row of the files, all through `checker`, which keeps the known columns of the good ones.

        Args:
            found: what `find` gave. Problems name its files by their index.
            checker: takes the rows and the problems.
        Returns:
            The passthrough columns of the rows that `checker` kept, and a digest (SHA-256, hex) that changes when the
            manifest does.
        Raises:
            UserError: A file as a whole cannot be read as this kind. OSError: It cannot be read at all.
        """
