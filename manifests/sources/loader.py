"""Source images, loaded safely: path, address or embedded bytes in, RGB pixels out.

Paths are confined to one folder, which may be in an object store. Web addresses are refused unless asked for
(`http.py`). Sizes are checked before anything is decoded, and only PNG, JPEG and WEBP are ever handed to a
decoder.
"""

from __future__ import annotations

import errno
import hashlib
import io
import os
import posixpath
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pyarrow as pa

from wanbatch.errors import MachineryError, RowError
from wanbatch.manifests.records import Source
from wanbatch.manifests.sources.decoding import decode, read_header, upright_size
from wanbatch.manifests.sources.embedded import EmbeddedImages
from wanbatch.manifests.sources.errors import SourceError
from wanbatch.manifests.sources.http import Fetcher
from wanbatch.manifests.sources.path_policy import PathPolicy
from wanbatch.manifests.sources.web_address import is_web_address
from wanbatch.manifests.storage.urls import open_file

HEADER_BUFFER = 64 << 10


@dataclass(frozen=True, slots=True)
class LoadedImage:
    """A decoded source.

    Attributes:
        pixels: uint8 [height, width, 3], RGB, contiguous.
        sha256: of the encoded bytes, hex.
    """

    pixels: np.ndarray
    sha256: str


class SourceLoader:
    """Loads sources below one folder, and embedded ones out of their Parquet manifest.

    Not for use by several threads at once: give each its own.
    """

    def __init__(
        self,
        root: str | Path,
        max_pixels: int = 64_000_000,
        max_bytes: int = 64 << 20,
        allow_http: bool = False,
        fetcher: Fetcher | None = None,
    ):
        """
        Args:
            root: the folder paths are relative to and may not leave, or its URL.
            max_pixels, max_bytes: the most that one image may have.
            allow_http: read web addresses too, of public hosts only.
            fetcher: what reads web addresses; default: one that takes files of up to `max_bytes`.
        """
        self.max_pixels, self.max_bytes = max_pixels, max_bytes
        self._policy = PathPolicy(root, allow_http)
        self._real_root = self._policy.root if self._policy.in_store else os.path.realpath(self._policy.root)
        self._embedded = EmbeddedImages()
        self._fetcher = fetcher or Fetcher(max_bytes)

    def __enter__(self) -> SourceLoader:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the manifest file that embedded images were read from."""
        self._embedded.close()

    def load(self, source: Source) -> LoadedImage:
        """Read and decode one source: upright, on white where it was transparent, 8 bits a channel.

        Raises:
            RowError: of stage `source` and kind `missing_image`, `forbidden_source`, `too_large`,
                `unreadable_image` (permissions, a damaged disk or manifest), `unreachable` (a web server that
                does not answer) or `bad_image`.
            MachineryError: if the object store that holds the sources does not answer.
        """
        with _row_errors(source):
            with self._open(source) as file:
                data = file.read(self.max_bytes + 1)
            self._check_size(len(data))
            pixels = decode(read_header(io.BytesIO(data), self.max_pixels))
        return LoadedImage(pixels, hashlib.sha256(data).hexdigest())

    def size(self, source: Source) -> tuple[int, int]:
        """(width, height) of the upright image. Reads little more of a file than its header. Raises like `load`."""
        with _row_errors(source), self._open(source) as file:
            return upright_size(read_header(file, self.max_pixels))

    @contextmanager
    def _open(self, source: Source) -> Iterator[BinaryIO]:
        """The encoded image as a file that is not too large."""
        path = source.path or ""
        if source.embedded:
            yield io.BytesIO(self._embedded_bytes(source))
        elif problem := self._policy.problem(path):
            raise SourceError("forbidden_source", problem)
        elif is_web_address(path):
            yield io.BytesIO(self._fetcher.fetch(path))
        elif self._policy.in_store:
            with _store_errors(source), self._open_stored(path) as file:
                yield self._checked(file)
        else:
            with _file_errors(), self._open_local(path) as file:
                yield self._checked(file)

    def _embedded_bytes(self, source: Source) -> bytes:
        try:
            data = self._embedded.read(source)
        except (OSError, LookupError, pa.ArrowException) as error:
            message = f"cannot be read out of the manifest ({error}); was it changed during the run?"
            raise SourceError("unreadable_image", message) from error
        self._check_size(len(data))
        return data

    def _open_stored(self, path: str) -> BinaryIO:
        below = posixpath.normpath(path.removeprefix(f"{self._real_root}/"))
        return open_file(f"{self._real_root}/{below}", HEADER_BUFFER)

    def _open_local(self, path: str) -> BinaryIO:
        """O_NONBLOCK so that a pipe in the folder cannot hang the run."""
        real = os.path.realpath(os.path.join(self._policy.root, path))
        if os.path.commonpath([real, self._real_root]) != self._real_root:
            raise SourceError("forbidden_source", f"is a link that leaves {self._policy.root}")
        descriptor = os.open(real, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise SourceError("bad_image", "is not a regular file")
        return open(descriptor, "rb")

    def _checked(self, file: BinaryIO) -> BinaryIO:
        self._check_size(file.seek(0, os.SEEK_END))
        file.seek(0)
        return file

    def _check_size(self, size: int) -> None:
        if size > self.max_bytes:
            raise SourceError("too_large", f"has {size} bytes; at most {self.max_bytes} are read")


@contextmanager
def _row_errors(source: Source) -> Iterator[None]:
    try:
        yield
    except SourceError as error:
        raise RowError("source", error.kind, f"{source.name} {error.message}") from error


@contextmanager
def _store_errors(source: Source) -> Iterator[None]:
    """A file that is missing costs its row; a store that fails ends the run."""
    with _file_errors():
        try:
            yield
        except (FileNotFoundError, PermissionError):
            raise
        except OSError as error:
            message = f"{source.name}: the store of the sources failed ({error.strerror or error})"
            raise MachineryError(message) from error


@contextmanager
def _file_errors() -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError) as error:
        absent = (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP)
        if isinstance(error, FileNotFoundError) or getattr(error, "errno", None) in absent:
            raise SourceError("missing_image", "does not exist") from error
        reason = getattr(error, "strerror", None) or error
        raise SourceError("unreadable_image", f"cannot be read ({reason})") from error
