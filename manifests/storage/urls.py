"""Paths and URLs: what is local, what is in an object store, and how each is opened and listed."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from wanbatch.errors import UserError
from wanbatch.manifests.storage.atomic_files import is_there
from wanbatch.manifests.storage.fsspec_io import StoreFile, file_system, os_errors

SCHEMES = ("s3", "s3a", "gs", "gcs", "az", "abfs")
"""Of object stores with conditional writes. Tested: s3."""

HUB = "hf"
"""Of the Hugging Face Hub, which is only read."""

INTERNAL = "_wanbatch"
"""The folder inside an output folder that readers of datasets skip."""

READ_BUFFER = 4 << 20

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/?/")


def is_url(path: str | Path) -> bool:
    """True for the URL of something in an object store or on the Hub."""
    found = _SCHEME.match(path) if isinstance(path, str) else None
    return found is not None and found[1].lower() in (*SCHEMES, HUB)


def is_hub(url: str) -> bool:
    """True for the URL of something on the Hugging Face Hub."""
    return url[: len(HUB) + 1].lower() == f"{HUB}:"


def local_path(path: str | Path) -> Path:
    """A local path. Raises UserError for a URL of another kind than `SCHEMES` and `HUB`.

    `~` at the begin of a text is a home folder: shells leave it as it is in `--out=~/shop`, and so do variables and
    settings files. A folder of that name is `./~`.
    """
    if isinstance(path, str) and (_SCHEME.match(path) or "://" in path):
        known = ", ".join(f"{scheme}://" for scheme in (*SCHEMES, HUB))
        raise UserError(f"{path}: such addresses are not supported here: give a path, or one of {known}")
    return Path(os.path.expanduser(path) if isinstance(path, str) else path)


def absolute(path: str | Path) -> str:
    """An absolute path, or a URL in its plain form."""
    if is_url(path):
        return plain_url(str(path))
    return os.path.abspath(local_path(path))


def plain_url(url: str) -> str:
    """A URL without a slash at its end. Raises UserError if it names no bucket or holds odd parts."""
    scheme, _, rest = url.partition("://")
    rest = rest.rstrip("/")
    bucket, *keys = rest.split("/")
    if not bucket or "@" in bucket or "::" in url or any(key in ("", ".", "..") for key in keys) or "\0" in url:
        raise UserError(f"{url}: is not a usable address: write it like s3://bucket/folder")
    return f"{scheme.lower()}://{rest}"


def open_file(path: str, buffer: int = READ_BUFFER) -> BinaryIO:
    """A file by absolute path or URL, to read. Raises OSError."""
    if is_url(path):
        return StoreFile.open(file_system(path), path, buffer)
    return open(path, "rb")


def file_version(path: str) -> str | None:
    """What tells the content of a file from what it was before: its bytes and its time of change, or a store's tag.

    None: the store says neither.

    Args:
        path: absolute, or a URL.
    Raises:
        OSError: if it cannot be told; FileNotFoundError if there is no such file.
    """
    if is_url(path):
        return StoreFile(file_system(path), path).version
    found = os.stat(path)
    return f"{found.st_size} bytes of {found.st_mtime_ns}"


def kind_of(path: str) -> str | None:
    """`file`, `folder`, `other`, or None if there is nothing. path: absolute or URL. Raises OSError."""
    if is_url(path):
        try:
            with os_errors(path):
                return "file" if file_system(path).info(path)["type"] == "file" else "folder"
        except FileNotFoundError:
            return None
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        return "other" if is_there(path) else None  # a link that leads nowhere
    except (NotADirectoryError, ValueError):  # it would be inside a file; no file has a NUL in its name
        return None
    return "folder" if stat.S_ISDIR(mode) else "file" if stat.S_ISREG(mode) else "other"


def files_below(folder: str) -> list[str]:
    """The files in a folder and its sub-folders, as paths relative to it, sorted.

    Files and folders whose names begin with `.` or `_` are left out, and so are folders inside that have a folder
    `_wanbatch`: they are output of wanbatch. Links to folders are followed, each folder once.

    Args:
        folder: absolute path or URL.
    Raises:
        OSError: A folder cannot be listed.
    """
    if not is_url(folder):
        return sorted(_local_files(folder, "", set()))
    system = file_system(folder)
    with os_errors(folder):
        system.invalidate_cache()
        found = system.find(folder, detail=True)
        start = len(system._strip_protocol(folder).rstrip("/")) + 1
    names = (name[start:] for name, info in found.items() if info["type"] == "file")
    parts = [name.split("/") for name in names]
    outputs = {tuple(its[: its.index(INTERNAL)]) for its in parts if INTERNAL in its[1:-1]}
    return sorted(
        "/".join(its)
        for its in parts
        if not any(part[:1] in ("", ".", "_") for part in its)
        and not any(tuple(its[:depth]) in outputs for depth in range(1, len(its)))
    )


def _local_files(folder: str, below: str, seen: set[tuple[int, int]]) -> Iterator[str]:
    """seen: the folders listed so far, by device and inode, since links may lead in a circle."""
    status = os.stat(folder)
    if (status.st_dev, status.st_ino) in seen:
        return
    seen.add((status.st_dev, status.st_ino))
    with os.scandir(folder) as entries:
        every = sorted(entries, key=lambda entry: entry.name)
    if below and any(entry.name == INTERNAL and entry.is_dir() for entry in every):
        return
    inside = [entry for entry in every if entry.name[0] not in "._"]
    for entry in inside:
        if entry.is_dir():
            yield from _local_files(entry.path, f"{below}{entry.name}/", seen)
        else:
            yield f"{below}{entry.name}"
