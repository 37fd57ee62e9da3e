"""A folder of pictures as a manifest: one row a picture, whose prompt is in a `.txt` file of the same name."""

from __future__ import annotations

import errno
import hashlib
import os
import posixpath
import re
import stat
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pyarrow as pa

from wanbatch.counting import number_of
from wanbatch.manifests.column_types import ID_PATTERN
from wanbatch.manifests.reading.kind import ManifestFiles, ManifestPath
from wanbatch.manifests.reading.row_model import KNOWN
from wanbatch.manifests.reading.validation import Positions, RowChecker
from wanbatch.manifests.sources.formats import PICTURE_SUFFIXES
from wanbatch.manifests.storage.urls import is_url, open_file

CAPTION = ".txt"
MAX_CAPTION = 1 << 20
OF_A_STORE = 16
"""Captions in an object store that are read at the same time."""

_UNSAFE = re.compile(r"[^A-Za-z0-9._-]+")
_LONGEST = 128


class Pictures:
    """A folder of pictures with its sub-folders, in the order of their names."""

    takes = f"a folder of pictures ({', '.join(PICTURE_SUFFIXES)})"
    positions: Positions = "file"

    def find(self, path: ManifestPath) -> ManifestFiles | None:
        """See `ManifestKind.find`."""
        names = [name for name in path.names if is_picture(name)]
        if not names:
            return None
        captions = {_stem(name): name for name in path.names if name.lower().endswith(CAPTION)}
        beside = tuple(captions.get(_stem(name)) for name in names)
        taken = {*names, *beside}
        others = [name for name in path.names if name not in taken]
        warnings = [f"{path.given}: {_not_read(others)}"] if others else []
        return replace(path.folder_of(names, warnings), beside=beside)

    def read(self, found: ManifestFiles, checker: RowChecker) -> tuple[pa.Table, str]:
        """See `ManifestKind.read`. The digest is of the names and the captions, not of the pictures."""
        names = [found.relative(index) for index in range(len(found.files))]
        ids, digest = picture_ids(names), hashlib.sha256()
        passed: dict[str, list[str]] = {}
        for index, (name, caption) in enumerate(zip(names, _captions(found, checker), strict=True)):
            digest.update(f"{name}\0".encode(errors="surrogatepass") + (caption or b"") + b"\0")
            if caption is None and found.beside[index] is not None:
                said = (
                    f"its caption {found.beside[index]} is a link out of the folder: set --source-fence to one around"
                )
                checker.problems.add(index, -1, f"{said} both, or copy it")
                checker.skip()
                continue
            try:
                prompt = (caption or b"").decode("utf-8-sig").strip()
            except UnicodeDecodeError:
                said = f"its caption {found.beside[index]} is not UTF-8 text: save it as UTF-8"
                checker.problems.add(index, -1, said)
                checker.skip()
                continue
            row = {"id": ids[name], "image": name, "file_name": name, **({"prompt": prompt} if prompt else {})}
            values = checker.renamed(row)
            if checker.add({each: value for each, value in values.items() if each in KNOWN}, index, 0):
                for each in values.keys() - KNOWN:
                    passed.setdefault(each, []).append(values[each])
        return pa.table({each: pa.array(values, pa.string()) for each, values in passed.items()}), digest.hexdigest()


def is_picture(name: str) -> bool:
    """Whether a file is a picture, by its name."""
    return name.lower().endswith(PICTURE_SUFFIXES)


def picture_ids(names: Sequence[str]) -> dict[str, str]:
    """An id for each picture, from its path without the ending: `cats/one.png` is `cats-one`.

    Paths with other characters than ids have, long ones, and those that would get the same id, are told apart by a
    hash of the path.

    Args:
        names: paths below the manifest's folder.
    """
    plain = {name: _stem(name).replace("/", "-") for name in names}
    taken = Counter(plain.values())
    return {
        name: stem if taken[stem] == 1 and re.fullmatch(ID_PATTERN, stem) else _with_hash(stem, name)
        for name, stem in plain.items()
    }


def _with_hash(stem: str, name: str) -> str:
    told = hashlib.blake2b(name.encode(errors="surrogatepass"), digest_size=4).hexdigest()
    return f"{_UNSAFE.sub('-', stem).strip('-')[: _LONGEST - 9]}-{told}".lstrip("-")


def _captions(found: ManifestFiles, checker: RowChecker) -> Iterator[bytes | None]:
    """What the caption of each picture holds; None where there is none, or none that may be read. Raises OSError."""
    named = (None if name is None else f"{found.folder}/{name}" for name in found.beside)
    paths = [None if path is None or checker.leaves_fence(path) else path for path in named]
    if not is_url(found.folder):
        yield from map(_content, paths)
        return
    with ThreadPoolExecutor(OF_A_STORE) as pool:
        for first in range(0, len(paths), 64 * OF_A_STORE):
            yield from pool.map(_content, paths[first : first + 64 * OF_A_STORE])


def _content(path: str | None) -> bytes | None:
    if path is None:
        return None
    if not is_url(path) and not stat.S_ISREG(os.stat(path).st_mode):
        raise OSError(errno.EINVAL, "it is not a regular file", path)
    with open_file(path) as file:
        return file.read(MAX_CAPTION)


def _not_read(others: Sequence[str]) -> str:
    """What to say of files that are no pictures and no captions."""
    kinds = Counter(posixpath.splitext(name)[1].lower() or "without ending" for name in others)
    told = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common(6))
    more = f", {number_of(len(kinds) - 6, 'other kinds')}" if len(kinds) > 6 else ""
    count = number_of(len(others), "files", "is", "are")
    return f"{count} not read, neither pictures ({', '.join(PICTURE_SUFFIXES)}) nor captions of these: {told}{more}"


def _stem(name: str) -> str:
    return posixpath.splitext(name)[0]
