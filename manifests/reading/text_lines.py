"""Lines of text files, compressed or not: read one by one, with a limit; what is no UTF-8 text is refused by name."""

from __future__ import annotations

import codecs
import io
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO, cast

import pyarrow as pa

from wanbatch.errors import UserError
from wanbatch.manifests.storage.urls import open_file

MAX_LINE = 8 << 20
MAX_SKIPPED = 1 << 30
"""Of one line beyond `MAX_LINE`: a few bytes of a compressed file may stand for a line without an end."""

MAX_UNPACKED = 8 << 30
"""Of a compressed file, unpacked: as much as fits into the memory of a machine that reads it."""

COMPRESSIONS = {".gz": "gzip", ".zst": "zstd"}
"""What a compressed file's name ends in, after the ending of its kind."""

_MAGIC = {
    b"\x1f\x8b": ("gzip data", ".gz"),
    b"\x28\xb5\x2f\xfd": ("Zstandard data", ".zst"),
    b"PAR1": ("a Parquet file", ".parquet"),
}
_NOT_TEXT = {
    b"PK\x03\x04": "a zip file, as Excel workbooks are: unpack it, or save it as CSV or Parquet",
    b"BZh": "bzip2 data",
    b"\xfd7zXZ\0": "xz data",
    b"ARROW1": "an Arrow file: name it so that it ends in .arrow",
}
_UNPACK = {b"BZh": "bunzip2", b"\xfd7zXZ\0": "unxz"}
_UTF16 = {codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}


def with_compressions(suffixes: tuple[str, ...]) -> tuple[str, ...]:
    """Endings of files, and the same with those of compressed files."""
    return tuple(f"{suffix}{ending}" for ending in ("", *COMPRESSIONS) for suffix in suffixes)


def numbered_lines(path: str, shown: str) -> Iterator[tuple[int, bytes]]:
    """The lines of a text file with their numbers from 1, without the mark that UTF-8 files may begin with.

    A line beyond `MAX_LINE` comes as its first `MAX_LINE + 1` bytes.

    Args:
        path: absolute, or a URL; compressed if its name ends so.
        shown: the same as the user would write it, for messages and remedies.
    Raises:
        UserError: It is no UTF-8 text as a whole: UTF-16, compressed data under another name, or damaged.
        OSError: It cannot be read.
    """
    with open_file(path) as file:
        start = file.read(64)
        file.seek(0)
        packed = compression_of(path)
        _check_start(shown, start, packed)
        lines = file if packed is None else _unpacked(file, packed)
        number = 0
        for number, raw in enumerate(_limited(shown, lines), 1):
            if number == 1:
                if encoding := _utf16(raw):
                    raise UserError(f"{shown}: is UTF-16 text: save it as UTF-8, {_recoding(shown, encoding)}")
                if b"\r" in raw.strip() and b"\n" not in raw:
                    raise UserError(f"{shown}: has old Mac line ends (CR): save it with line feeds")
            yield number, raw.removeprefix(codecs.BOM_UTF8)


def compression_of(path: str) -> str | None:
    """What a file is compressed with by its name, as pyarrow calls it, or None."""
    return next((name for ending, name in COMPRESSIONS.items() if path.lower().endswith(ending)), None)


def not_utf8(shown: str, raw: bytes, position: int) -> str:
    """What to say of a line that is not UTF-8.

    Args:
        shown: the file as the user would write it.
        raw: the line.
        position: of the byte that is wrong, from 0.
    """
    said = f"is not UTF-8 text (byte {position + 1})"
    try:
        around = raw[max(0, position - 10) : position + 10].decode("cp1252")
    except UnicodeDecodeError:
        return f"{said}: save the file as UTF-8"
    return (
        f"{said}; as Windows text (cp1252) it reads {around!r}: save the file as UTF-8, {_recoding(shown, 'cp1252')}"
    )


def whole_text(path: str, most: int) -> str | None:
    """All that a text file holds, or None if it is more than `most` bytes or no UTF-8. Raises as `numbered_lines`."""
    with open_file(path) as file, _unpacking(path):
        packed = compression_of(path)
        raw = (file if packed is None else _unpacked(file, packed)).read(most + 1)
    try:
        return None if len(raw) > most else raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        return None


def _limited(path: str, file: BinaryIO) -> Iterator[bytes]:
    packed, size = compression_of(path) is not None, 0
    with _unpacking(path):
        while raw := file.readline(MAX_LINE + 1):
            size += len(raw)
            if packed and size > MAX_UNPACKED:
                raise UserError(
                    f"{path}: holds more than {MAX_UNPACKED} bytes when it is unpacked: split the manifest"
                )
            yield raw
            whole, skipped = raw.endswith(b"\n") or len(raw) <= MAX_LINE, 0
            while not whole:
                rest = file.readline(MAX_LINE)
                whole, skipped = not rest or rest.endswith(b"\n"), skipped + len(rest)
                if skipped > MAX_SKIPPED:
                    raise UserError(f"{path}: has a line of more than {MAX_SKIPPED >> 30} GiB: is it a manifest?")


@contextmanager
def _unpacking(path: str) -> Iterator[None]:
    """Turns what a damaged compressed file raises into a UserError; errors of the disk and the store stay."""
    try:
        yield
    except (OSError, pa.ArrowException) as error:
        if compression_of(path) is None or getattr(error, "errno", None) is not None:
            raise
        reason = str(error).splitlines()[0] if str(error) else "damaged"
        raise UserError(f"{path}: cannot be unpacked ({reason}): is it whole? Write it again") from error


def _unpacked(file: BinaryIO, packed: str) -> BinaryIO:
    stream = pa.CompressedInputStream(pa.PythonFile(file, "r"), packed)
    return cast(BinaryIO, io.BufferedReader(stream, 1 << 20))


def _check_start(shown: str, start: bytes, packed: str | None) -> None:
    """Raises UserError if a file begins like one of another kind than its name says."""
    for magic, (what, ending) in _MAGIC.items():
        if start.startswith(magic):
            if packed == COMPRESSIONS.get(ending, ""):
                return
            right = f"{shown}{ending}" if ending in COMPRESSIONS else f"{_stem(shown)}{ending}"
            raise UserError(f"{shown}: is {what}: rename it, mv {shlex.quote(shown)} {shlex.quote(right)}")
    for magic, what in _NOT_TEXT.items():
        if start.startswith(magic):
            unpack = _UNPACK.get(magic)
            remedy = f": unpack it, {unpack} < {shlex.quote(shown)} > {_beside(shown, 'unpacked')}" if unpack else ""
            raise UserError(f"{shown}: is {what}{remedy}")
    if packed and start:
        remedy = f"rename it, mv {shlex.quote(shown)} {shlex.quote(shown[: shown.rindex('.')])}"
        raise UserError(f"{shown}: is not {packed} data, though its name says so: {remedy}")


def _stem(shown: str) -> str:
    """A path without the endings of its file's name."""
    folder, slash, name = shown.rpartition("/")
    return f"{folder}{slash}{name.partition('.')[0]}"


def _utf16(raw: bytes) -> str | None:
    """The UTF-16 encoding of a first line, or None. Without a mark, every other byte of plain text is a NUL."""
    for mark, name in _UTF16.items():
        if raw.startswith(mark):
            return name
    start = raw[:64]
    for odd, name in ((1, "utf-16le"), (0, "utf-16be")):
        half, other = start[odd::2], start[1 - odd :: 2]
        if len(half) >= 4 and half.count(0) > len(half) * 0.7 and other.count(0) == 0:
            return name
    return None


def _recoding(shown: str, encoding: str) -> str:
    return f"iconv -f {encoding} -t utf-8 {shlex.quote(shown)} > {_beside(shown, 'utf8')}"


def _beside(shown: str, added: str) -> str:
    """A name for another form of a file, beside it, as a shell takes it."""
    stem, _, ending = shown.rpartition(".")
    return shlex.quote(f"{stem}-{added}.{ending}")
