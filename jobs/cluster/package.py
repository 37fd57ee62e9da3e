"""This package as a folder that Ray ships to a cluster, the same from a checkout and from an installed wheel.

A wheel takes longer, and needs a `pip` on every node: Ray installs one there, with all that it depends on unless that
was taken out of it before (docs/decisions/0011-a-folder-not-a-wheel.md).
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import wanbatch
from wanbatch.errors import UserError

NAME = "wanbatch"
LEFT_OUT = ("__pycache__",)


def shipped_package(source: Path | None = None, cache: Path | None = None) -> Path:
    """Return a folder `wanbatch` that holds the files of this package and nothing else; it is kept by their digest.

    Args:
        source: the package's folder, of a checkout, where parts of it are links, or of site-packages; default: that
            of this process.
        cache: where it is kept; default: in the user's cache folder.

    Raises:
        UserError: It cannot be written.
    """
    source = source or Path(wanbatch.__file__).parent
    cache = cache or _cache()
    files = sorted(_files(source))
    target = cache / _digest(source, files) / NAME
    if target.is_dir():
        return target
    try:
        target.parent.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache, prefix="new-") as folder:
            _copy(source, files, Path(folder) / "whole" / NAME)
            _rename(Path(folder) / "whole", target.parent)
    except OSError as error:
        raise UserError(
            f"{cache}: cannot keep the package for the cluster ({error.strerror or error}): set XDG_CACHE_HOME to a "
            "folder that can be written to"
        ) from error
    return target


def _cache() -> Path:
    home = os.environ.get("XDG_CACHE_HOME")
    return (Path(home) if home else Path("~/.cache").expanduser()) / NAME / "shipped"


def _files(source: Path) -> Iterator[str]:
    """The files of the package, relative to its folder. Links are followed."""
    for folder, names, files in os.walk(source, followlinks=True):
        names[:] = [name for name in names if name not in LEFT_OUT]
        yield from (
            os.path.relpath(os.path.join(folder, name), source) for name in files if not name.endswith(".pyc")
        )


def _digest(source: Path, files: list[str]) -> str:
    whole = hashlib.sha256()
    for name in files:
        whole.update(f"{name}\0{hashlib.sha256((source / name).read_bytes()).hexdigest()}\n".encode())
    return whole.hexdigest()[:24]


def _copy(source: Path, files: list[str], target: Path) -> None:
    for name in files:
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / name, target / name)


def _rename(folder: Path, target: Path) -> None:
    try:
        folder.rename(target)
    except OSError:  # another process was first; it has the same files
        if not (target / NAME).is_dir():
            raise
