"""An imagefolder of `datasets`: pictures, with `metadata.jsonl` or `.csv`, which name them by `file_name`."""

from __future__ import annotations

import posixpath
from dataclasses import replace

import pyarrow as pa
import pyarrow.compute as pc

from wanbatch.counting import number_of
from wanbatch.errors import UserError
from wanbatch.manifests.reading.csv_table import Csv
from wanbatch.manifests.reading.jsonl import JsonLines
from wanbatch.manifests.reading.kind import ManifestFiles, ManifestKind, ManifestPath
from wanbatch.manifests.reading.other_files import warning
from wanbatch.manifests.reading.pictures import is_picture
from wanbatch.manifests.reading.splits import constants_by_name
from wanbatch.manifests.reading.validation import Positions, RowChecker

READERS: dict[str, ManifestKind] = {"metadata.jsonl": JsonLines(), "metadata.csv": Csv()}
"""By the name of the file that says what there is to know of the pictures in its folder and below."""

FILE_NAME = "file_name"


class ImageFolder:
    """A folder of pictures with a table of them in it, or one in each of its sub-folders."""

    takes = f"a folder of pictures with {' or '.join(READERS)}"
    positions: Positions = "line"

    def find(self, path: ManifestPath) -> ManifestFiles | None:
        """See `ManifestKind.find`."""
        names = [name for name in path.names if posixpath.basename(name) in READERS]
        pictures = tuple(name for name in path.names if is_picture(name))
        if not names or not pictures:
            return None
        if len({posixpath.basename(name) for name in names}) > 1:
            raise UserError(f"{path.given}: has {' and '.join(sorted(names)[:4])}: keep one kind of table")
        found = path.folder_of(names, warning(str(path.given), path.names, names))
        return replace(found, renames={FILE_NAME: "image"}, pictures=pictures, constants=constants_by_name(names))

    def read(self, found: ManifestFiles, checker: RowChecker) -> tuple[pa.Table, str]:
        """See `ManifestKind.read`. Pictures that no row names are warned of."""
        tables = [found.relative(index) for index in range(len(found.files))]
        checker.image_folders = [posixpath.dirname(name) for name in tables]
        passthrough, digest = READERS[posixpath.basename(tables[0])].read(found, checker)
        paths = pc.struct_field(pc.list_flatten(checker.lines()["sources"]), "path")
        named = {posixpath.normpath(path) for path in paths.to_pylist() if path}
        folders = tuple(f"{folder}/" if folder else "" for folder in checker.image_folders)
        if left := [name for name in found.pictures if name not in named and name.startswith(folders)]:
            there = number_of(len(left), "pictures", "is", "are")
            checker.problems.warn(0, f"{there} in no row and left out, {left[0]!r} for one")
        return passthrough, digest
