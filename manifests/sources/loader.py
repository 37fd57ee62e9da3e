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
import re
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from wanbatch.errors import MachineryError, RowError
from wanbatch.manifests.records import Source
from wanbatch.manifests.sources.http import Fetcher, FetchError, target_of
from wanbatch.manifests.storage.parquet_limits import open_parquet
from wanbatch.manifests.storage.urls import absolute, is_url, open_file

FORMATS = ("PNG", "JPEG", "WEBP")
WHOLE_GROUP_BYTES = 256 << 20
"""Row groups whose image column is larger than this are streamed rather than held."""
HEADER_BUFFER = 64 << 10

_SCHEME = re.compile(r"^([A-Za-z][A-Za-z0-9+.-]*)://|^(file|data|http|https):", re.IGNORECASE)
_ORIENTATION = 0x0112
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


@dataclass(frozen=True, slots=True)
class LoadedImage:
    """pixels: uint8 [height, width, 3], RGB, contiguous. sha256: of the encoded bytes, hex."""

    pixels: np.ndarray
    sha256: str


class PathPolicy:
    """Says whether a path is acceptable by its text alone; links are resolved when the file is opened.

    root: a folder or the URL of one. allow_http: web addresses are acceptable too.
    """

    def __init__(self, root: str | Path, allow_http: bool = False):
        self.root, self.allow_http = absolute(root), allow_http
        self.in_store = is_url(self.root)
        real = self.root if self.in_store else os.path.realpath(self.root)
        self._roots = tuple({os.path.join(folder, "") for folder in (self.root, real)})

    def problem(self, path: str) -> str | None:
        """What is wrong with a source's path and what to do, or None."""
        if not path or "\0" in path:
            return "is empty or holds a NUL character: give a relative path"
        if ":" in path and not self._is_below(path) and (scheme := _SCHEME.match(path)):
            return self._scheme_problem(path, (scheme[1] or scheme[2]).lower())
        if ".." in path and ".." in path.split("/"):
            return f"leaves the folder {self.root}: move the file there or set --source-root"
        if path[0] == "/" and not path.startswith(self._roots):
            return f"is outside the folder {self.root}: give a relative path or set --source-root"
        return None

    def _is_below(self, path: str) -> bool:
        return self.in_store and path.startswith(self._roots)

    def _scheme_problem(self, path: str, scheme: str) -> str | None:
        if scheme in ("http", "https"):
            if not self.allow_http:
                return "needs --allow-http: give that, or download it and give a relative path"
            try:
                target_of(path)
            except FetchError as error:
                return f"{error.message}: give a plain http or https address"
            return None
        if is_url(path):
            return f"is outside the folder {self.root}: set --source-root to the folder in the store"
        return f"is a {scheme}: address, which is not read: give a relative path"


def is_http(path: str) -> bool:
    """True for a web address."""
    return path[:8].lower().startswith(("http://", "https://"))


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
        allowed_networks: Iterable[str] = (),
    ):
        """root: the folder paths are relative to and may not leave, or its URL. The caps are for one image.

        allow_http: read web addresses too, of public hosts only.
        allowed_networks: like `10.1.0.0/16`: networks that may be reached although they are not public.
        """
        self.max_pixels, self.max_bytes = max_pixels, max_bytes
        self._rules = PathPolicy(root, allow_http)
        self._real_root = self._rules.root if self._rules.in_store else os.path.realpath(self._rules.root)
        self._embedded = EmbeddedImages()
        self._fetcher = Fetcher(max_bytes, allowed_networks)

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
        with self._stream(source) as file:
            data = file.read(self.max_bytes + 1)
        self._require_size(len(data), source)
        image = self._open(io.BytesIO(data), source)
        try:
            pixels = _rgb_pixels(_upright(image))
        except Exception as error:
            # Decoders raise nearly any type on hostile data.
            raise _error("bad_image", source, f"cannot be decoded ({error})") from error
        return LoadedImage(pixels, hashlib.sha256(data).hexdigest())

    def size(self, source: Source) -> tuple[int, int]:
        """(width, height) of the upright image. Reads little more of a file than its header. Raises like `load`."""
        with self._stream(source) as file:
            image = self._open(file, source)
            width, height = image.size
            return (height, width) if _orientation(image) >= 5 else (width, height)

    @contextmanager
    def _stream(self, source: Source) -> Iterator[BinaryIO]:
        """The encoded image as a file that is not too large."""
        if source.embedded:
            yield io.BytesIO(self._embedded_bytes(source))
            return
        path = source.path or ""
        if problem := self._rules.problem(path):
            raise _error("forbidden_source", source, problem)
        if is_http(path):
            yield io.BytesIO(self._web_bytes(path, source))
            return
        try:
            with self._stored(path) if self._rules.in_store else self._local(path, source) as file:
                size = file.seek(0, os.SEEK_END)
                file.seek(0)
                self._require_size(size, source)
                yield file
        except (FileNotFoundError, PermissionError) as error:
            raise _file_error(error, source) from error
        except (OSError, ValueError) as error:
            if self._rules.in_store and isinstance(error, OSError):
                message = f"{source.name}: the store of the sources failed ({error.strerror or error})"
                raise MachineryError(message) from error
            raise _file_error(error, source) from error

    def _embedded_bytes(self, source: Source) -> bytes:
        try:
            data = self._embedded.read(source)
        except (OSError, LookupError, pa.ArrowException) as error:
            message = f"cannot be read out of the manifest ({error}); was it changed during the run?"
            raise _error("unreadable_image", source, message) from error
        self._require_size(len(data), source)
        return data

    def _web_bytes(self, url: str, source: Source) -> bytes:
        try:
            return self._fetcher.fetch(url)
        except FetchError as error:
            raise _error(error.kind, source, error.message) from error

    def _stored(self, path: str) -> BinaryIO:
        below = posixpath.normpath(path.removeprefix(f"{self._real_root}/"))
        return open_file(f"{self._real_root}/{below}", HEADER_BUFFER)

    def _local(self, path: str, source: Source) -> BinaryIO:
        """O_NONBLOCK so that a pipe in the folder cannot hang the run."""
        real = os.path.realpath(os.path.join(self._rules.root, path))
        if os.path.commonpath([real, self._real_root]) != self._real_root:
            raise _error("forbidden_source", source, f"is a link that leaves {self._rules.root}")
        descriptor = os.open(real, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise _error("bad_image", source, "is not a regular file")
        return open(descriptor, "rb")

    def _require_size(self, size: int, source: Source) -> None:
        if size > self.max_bytes:
            raise _error("too_large", source, f"has {size} bytes; at most {self.max_bytes} are read")

    def _open(self, file: BinaryIO, source: Source) -> Image.Image:
        """The image with its header read and its size checked; nothing is decoded yet."""
        if not file.read(1):
            raise _error("bad_image", source, "is empty")
        file.seek(0)
        try:
            image = Image.open(file, formats=FORMATS)
        except Image.DecompressionBombError as error:
            raise _error("too_large", source, f"has too many pixels; at most {self.max_pixels}") from error
        except Exception as error:
            if isinstance(error, OSError) and error.errno is not None:  # of the disk or the store; Pillow's have none
                raise
            raise _error("bad_image", source, "is not a PNG, JPEG or WEBP image") from error
        if image.width * image.height > self.max_pixels:
            message = f"is {image.width}x{image.height}; at most {self.max_pixels} pixels are decoded"
            raise _error("too_large", source, message)
        return image


def _error(kind: str, source: Source, message: str) -> RowError:
    return RowError("source", kind, f"{source.name} {message}")


def _file_error(error: OSError | ValueError, source: Source) -> RowError:
    absent = isinstance(error, FileNotFoundError) or getattr(error, "errno", None) in (
        errno.ENOTDIR,
        errno.ENAMETOOLONG,
        errno.ELOOP,
    )
    if absent:
        return _error("missing_image", source, "does not exist")
    reason = getattr(error, "strerror", None) or error
    return _error("unreadable_image", source, f"cannot be read ({reason})")


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 to 8; damaged EXIF counts as upright. Reads no more than the header."""
    if image.format == "PNG" and "exif" not in image.info:
        return 1  # getexif() would decode the whole image to look behind its pixels
    try:
        value = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # noqa: BLE001  any type, as for images; a bad tag is no reason to lose the image
        return 1
    return value if value in _TURNS else 1


def _upright(image: Image.Image) -> Image.Image:
    turn = _TURNS.get(_orientation(image))
    image.load()
    return image if turn is None else image.transpose(turn)


def _rgb_pixels(image: Image.Image) -> np.ndarray:
    """uint8 [height, width, 3]; 16-bit values are scaled, alpha is laid over white."""
    if image.mode.startswith("I"):
        grey = np.asarray(image).astype(np.float64).clip(0, 65535) / 257.0
        return np.ascontiguousarray(np.repeat(np.rint(grey).astype(np.uint8)[..., None], 3, axis=2))
    if image.mode in ("RGBA", "RGBa", "LA", "La", "PA") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
    return np.ascontiguousarray(np.asarray(image.convert("RGB")))


class EmbeddedImages:
    """Reads image bytes out of Parquet files by place, cheaply when places come in order.

    Holds one file open and one row group's image column, or, where that column is large, a position in it.
    """

    def __init__(self) -> None:
        self._place: tuple[str, int, str] | None = None  # file, row group, column
        self._file: pq.ParquetFile | None = None
        self._batches: Iterator[pa.RecordBatch] = iter(())
        self._batch: pa.RecordBatch | None = None
        self._first = 0  # row of the batch's first value in its row group

    def read(self, source: Source) -> bytes:
        """Raises LookupError if there is no such image, OSError or ArrowException if the file is damaged."""
        assert source.file is not None
        group, row = self._locate(source.file, source.row)
        self._seek((source.file, group, source.column), row)
        assert self._batch is not None
        value = self._batch.column(0)[row - self._first].as_py()
        image = value[source.item] if isinstance(value, list) else value
        if image is None or image["bytes"] is None:
            raise LookupError("there is no image")
        return image["bytes"]

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
        self._file, self._place, self._batch, self._batches = None, None, None, iter(())

    def _locate(self, path: str, row: int) -> tuple[int, int]:
        """(row group, row in it). Opens the file if another one is open."""
        if self._file is None or self._place is None or self._place[0] != path:
            self.close()
            self._file = open_parquet(path)
        for group in range(self._file.metadata.num_row_groups):
            rows = self._file.metadata.row_group(group).num_rows
            if row < rows:
                return group, row
            row -= rows
        raise LookupError("the file has fewer rows")

    def _seek(self, place: tuple[str, int, str], row: int) -> None:
        """Make `_batch` the one that holds this row; start over only to go back."""
        if place != self._place or self._batch is None or row < self._first:
            self._start(place)
        while self._batch is None or row >= self._first + len(self._batch):
            following = next(self._batches, None)  # may raise; nothing has moved then
            if following is None:
                raise LookupError("the row group is shorter than the file says")
            self._first += 0 if self._batch is None else len(self._batch)
            self._batch = following

    def _start(self, place: tuple[str, int, str]) -> None:
        assert self._file is not None
        _, group, column = place
        rows = self._file.metadata.row_group(group).num_rows
        size = 16 if _column_bytes(self._file.metadata.row_group(group), column) > WHOLE_GROUP_BYTES else rows
        self._place, self._batch, self._first = place, None, 0
        self._batches = self._file.iter_batches(batch_size=size, row_groups=[group], columns=[column])


def _column_bytes(group: pq.RowGroupMetaData, column: str) -> int:
    """The size of a column with all its leaves, decoded."""
    chunks = (group.column(i) for i in range(group.num_columns))
    return sum(c.total_uncompressed_size for c in chunks if c.path_in_schema.split(".")[0] == column)
