"""Source images, loaded safely: path, address or embedded bytes in, RGB pixels out.

Paths are confined to one folder, which may be in an object store. Web addresses are refused unless asked for
(`http.py`). Sizes are checked before anything is decoded, and only the formats of `formats.py` are ever handed to a
decoder.
"""

from __future__ import annotations

import hashlib
import io
import os
import stat
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pyarrow as pa

from wanbatch.errors import RowError
from wanbatch.manifests.digital_source import term_in_file
from wanbatch.manifests.records import Source
from wanbatch.manifests.sources.decoding import decode, header_notes, read_header, upright_size
from wanbatch.manifests.sources.embedded import EmbeddedImages
from wanbatch.manifests.sources.errors import SourceError
from wanbatch.manifests.sources.finder import SourceFinder, is_absent
from wanbatch.manifests.sources.formats import format_of, says_size_at_its_beginning
from wanbatch.manifests.sources.http import Fetcher
from wanbatch.manifests.sources.path_policy import PathPolicy
from wanbatch.manifests.sources.png_file import pixels_begin, without_pixels
from wanbatch.manifests.sources.size_cache import SourceSize
from wanbatch.manifests.sources.store_retries import StoreFailure, StoreRetries, store_failures
from wanbatch.manifests.sources.web_address import is_web_address
from wanbatch.manifests.storage.urls import file_version, is_url, open_file

HEADER_BYTES = 64 << 10
"""What is read at a time of an image's header, from an object store and from the web."""

LOCAL_BUFFER = 512
"""The same of a local file: of a PNG, the few bytes at the beginning of each chunk are read."""


@dataclass(frozen=True, slots=True)
class LoadedImage:
    """A decoded source.

    Attributes:
        pixels: uint8 [height, width, 3], RGB, contiguous.
        sha256: of the encoded bytes, hex.
        notes: what the user should know of it, of `notes.WORDS`.
        term: how the file says that it came to be, of `digital_source`; None: it does not say.
    """

    pixels: np.ndarray
    sha256: str
    notes: frozenset[str] = frozenset()
    term: str | None = None


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
        fence: str | Path | None = None,
    ):
        """
        Args:
            root: the folder that relative paths start from, or its URL.
            max_pixels, max_bytes: the most that one image may have.
            allow_http: read web addresses too, of public hosts only.
            fetcher: what reads web addresses; default: one that takes files of up to `max_bytes`.
            fence: the folder that no source may leave, or its URL; default: the root.
        """
        self.max_pixels, self.max_bytes = max_pixels, max_bytes
        self._policy = PathPolicy(root, allow_http, fence)
        self._finder = SourceFinder(self._policy)
        self._embedded: dict[str, EmbeddedImages] = {}  # by column, so that each is read in its order
        self._store_retries = StoreRetries()
        self._manifest_versions: dict[str, str | None] = {}
        self._fetcher = fetcher or Fetcher(max_bytes)

    def __enter__(self) -> SourceLoader:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    @property
    def root(self) -> str:
        """The folder that relative paths start from, absolute, or its URL."""
        return self._policy.root

    @property
    def retried(self) -> int:
        """How many requests to web servers and reads of an object store were made again so far."""
        return self._fetcher.retried + self._store_retries.retried

    def close(self) -> None:
        """Close the manifest file that embedded images were read from."""
        for images in self._embedded.values():
            images.close()

    def load(self, source: Source) -> LoadedImage:
        """Read and decode one source: upright, in sRGB, on white where it was transparent, 8 bits a channel.

        Raises:
            RowError: of stage `source` and kind `missing_image`, `forbidden_source`, `too_large`,
                `unreadable_image` (permissions, a damaged disk or manifest), `unreachable` (a web server that
                does not answer) or `bad_image`.
            MachineryError: if the object store that holds the sources does not answer, however often it is asked.
        """
        with _row_errors(source):
            data = self._store_retries.call(source.name, lambda: self._read(source))
            self._check_size(len(data))
            opened = read_header(io.BytesIO(data), self.max_pixels)
            pixels = decode(opened)
        return LoadedImage(pixels, hashlib.sha256(data).hexdigest(), frozenset(opened.notes), term_in_file(data))

    def encoded(self, source: Source) -> bytes:
        """The bytes of one source as they are; nothing is decoded. Raises like `load`."""
        with _row_errors(source):
            data = self._store_retries.call(source.name, lambda: self._read(source))
            self._check_size(len(data))
        return data

    def size(self, source: Source) -> tuple[int, int]:
        """(width, height) of the upright image. Reads little more of a file than its header. Raises like `load`."""
        measured = self.measure(source)
        return measured.width, measured.height

    def measure(self, source: Source, known: SourceSize | None = None) -> SourceSize:
        """The size of a source.

        Args:
            source: what to look at.
            known: what was measured of it before; returned if its storage says that it is still the same.
        Raises:
            RowError, MachineryError: as `load` does.
        """
        with _row_errors(source):
            return self._store_retries.call(source.name, lambda: self._measure(source, known))

    def cache_key(self, source: Source) -> str:
        """The name of a source in a `SizeCache`: equal for two that are the same bytes, of any manifest."""
        if source.embedded:
            return "\0".join((str(source.file), str(source.row), source.column, str(source.item)))
        path = source.path or ""
        return path if is_web_address(path) else self._policy.location(path)

    def _read(self, source: Source) -> bytes:
        with self._open(source) as file:
            return file.read(self.max_bytes + 1)

    def _measure(self, source: Source, known: SourceSize | None) -> SourceSize:
        path = source.path or ""
        if not source.embedded and (problem := self._policy.problem(path)):
            raise SourceError("forbidden_source", problem)
        if not source.embedded and is_web_address(path):
            return self._measure_on_the_web(path, known)
        version = self._version(source)
        if known is not None and version is not None and known.version == version:
            return known
        with self._open(source) as file:
            return self._look_at(file, version)

    def _look_at(self, file: BinaryIO, version: str | None) -> SourceSize:
        remote = self._policy.in_store and not isinstance(file, io.BytesIO)
        if remote:
            file = self._enough_of_stored(file)
        opened = read_header(file, self.max_pixels, with_pixels=False)
        width, height = upright_size(opened)
        return SourceSize(width, height, version, header_notes(opened, look_for_frames=not remote))

    def _measure_on_the_web(self, url: str, known: SourceSize | None) -> SourceSize:
        """By the first bytes, where they are enough; else by the whole file."""
        found = self._fetcher.fetch_beginning(url, HEADER_BYTES, known.version if known else None)
        if found.data is None:
            assert known is not None
            return known
        try:
            data = found.data if found.whole else self._enough_of(url, found.data, found.validator)
            size = None if data is None else self._look_at(io.BytesIO(data), found.validator)
        except SourceError as error:
            if found.whole or error.kind != "bad_image":
                raise
            size = None
        return size or self._look_at(io.BytesIO(self._fetcher.fetch(url)), found.validator)

    def _enough_of(self, url: str, start: bytes, validator: str | None) -> bytes | None:
        """As much of a file on the web as its size needs, besides its beginning; None: all of it."""
        if says_size_at_its_beginning(start):
            return start
        if format_of(start) != "PNG" or pixels_begin(start) is None:
            return None
        end = self._fetcher.fetch_end(url, HEADER_BYTES)
        if end.data is None or end.validator != validator:
            return None
        return end.data if end.whole else without_pixels(start, end.data)

    def _enough_of_stored(self, file: BinaryIO) -> BinaryIO:
        """As much of a file of a store as its size needs, read by few requests, not by many small ones."""
        start = file.read(HEADER_BYTES)
        if says_size_at_its_beginning(start):
            return file
        size = file.seek(0, os.SEEK_END)
        if format_of(start) == "PNG" and size > 2 * HEADER_BYTES:
            file.seek(size - HEADER_BYTES)
            if (data := without_pixels(start, file.read(HEADER_BYTES))) is not None:
                return io.BytesIO(data)
        file.seek(0)
        return io.BytesIO(file.read(self.max_bytes + 1))

    def _version(self, source: Source) -> str | None:
        """Of a source's file; of an embedded image's manifest it is asked for once."""
        if not source.embedded:
            with self._errors_of(source):
                return self._finder.first(source.path or "", file_version)
        assert source.file is not None
        if source.file not in self._manifest_versions:
            with _embedded_errors(source):
                self._manifest_versions[source.file] = file_version(source.file)
        return self._manifest_versions[source.file]

    def _errors_of(self, source: Source) -> AbstractContextManager[None]:
        return _store_errors(source) if self._policy.in_store else _file_errors()

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
        else:
            opened = partial(open_file, buffer=HEADER_BYTES) if self._policy.in_store else self._open_local
            with self._errors_of(source), self._finder.first(path, opened) as file:
                yield self._checked(file)

    def _embedded_bytes(self, source: Source) -> bytes:
        images = self._embedded.setdefault(source.column, EmbeddedImages())
        try:
            with _embedded_errors(source):
                data = images.read(source)
        except StoreFailure:
            images.close()  # what was being read cannot be gone on with
            raise
        self._check_size(len(data))
        return data

    def _open_local(self, location: str) -> BinaryIO:
        """O_NONBLOCK so that a pipe in the folder cannot hang the run."""
        real = os.path.realpath(location)
        if os.path.commonpath([real, self._policy.real_fence]) != self._policy.real_fence:
            raise SourceError(
                "forbidden_source",
                f"is a link to {real}, which leaves the folder {self._policy.fence}: copy the file into it, or set "
                f"--source-fence {self._policy.fence_around(real)} if sources may be read from there",
            )
        descriptor = os.open(real, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise SourceError("bad_image", "is not a regular file")
        return open(descriptor, "rb", buffering=LOCAL_BUFFER)

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
def _embedded_errors(source: Source) -> Iterator[None]:
    try:
        with store_failures(source.name) if is_url(source.file or "") else nullcontext():
            yield
    except (OSError, LookupError, pa.ArrowException) as error:
        message = f"cannot be read out of the manifest ({error}); was it changed during the run?"
        raise SourceError("unreadable_image", message) from error


@contextmanager
def _store_errors(source: Source) -> Iterator[None]:
    """A file that is missing costs its row; a store that fails is asked again, and then ends the run."""
    with _file_errors(), store_failures(source.name):
        yield


@contextmanager
def _file_errors() -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError) as error:
        if isinstance(error, OSError) and is_absent(error):
            raise SourceError("missing_image", "does not exist") from error
        reason = getattr(error, "strerror", None) or error
        raise SourceError("unreadable_image", f"cannot be read ({reason})") from error
