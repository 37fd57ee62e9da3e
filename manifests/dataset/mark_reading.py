"""Reading marks of origin back: what a picture's file says, and the row of an output folder that it was made by."""

from __future__ import annotations

import hashlib
import io
import json
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from PIL import ExifTags, Image, UnidentifiedImageError

from wanbatch.errors import MachineryError, UserError
from wanbatch.manifests.dataset.content_credentials import Credentials, read_credentials
from wanbatch.manifests.dataset.image_formats import PNG_XMP, SUFFIXES
from wanbatch.manifests.dataset.origin_marks import NAMESPACES
from wanbatch.manifests.dataset.part_files import row_groups
from wanbatch.manifests.dataset.status import committed_rows
from wanbatch.manifests.digital_source import VOCABULARY
from wanbatch.manifests.storage.backend import open_backend

MAX_PIXELS = 64_000_000
MAX_BYTES = 256 << 20


@dataclass(frozen=True, slots=True)
class FileMarks:
    """What a picture's file says of its origin; None where it says nothing.

    Attributes:
        format: `png`, `webp` or `jpeg`.
        term: how the picture came to be, of `digital_source`, by its XMP.
        tool: what made the file.
        made_sha256: of the pixels as they were made.
        pixels_sha256: of the pixels that the file has now; those of a lossy file differ from what they were made as.
        prompt, negative_prompt, settings: what it was made with, if that was embedded.
        parameters: the same as the text that A1111 writes.
        credentials: the signed statement.
    """

    format: str
    term: str | None
    tool: str | None
    made_sha256: str | None
    pixels_sha256: str
    prompt: str | None
    negative_prompt: str | None
    settings: dict[str, Any] | None
    parameters: str | None
    credentials: Credentials | None


@dataclass(frozen=True, slots=True)
class FoundRow:
    """A row of an output folder.

    Attributes:
        part: its data part, relative to the folder.
        row: its position there, from 0.
        values: its columns, without the picture.
        by: what it was found by: `pixels` (those that the file has), `file` (the same pixels, in a lossy format), or
            `mark` (what the file says of its pixels, which are others now).
    """

    part: str
    row: int
    values: dict[str, Any]
    by: str


def read_marks(path: Path) -> FileMarks:
    """Read what a picture's file says of its origin.

    Raises:
        UserError: It cannot be read, or is no picture of the formats that wanbatch writes.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error}): give a picture") from error
    if len(data) > MAX_BYTES:
        raise UserError(f"{path}: is larger than {MAX_BYTES >> 20} MiB: give a picture")
    format, image = _opened(path, data)
    said = xmp_values(_xmp(image, format))
    settings = _json(said.get("wanbatch:Settings"))
    term = said.get("Iptc4xmpExt:DigitalSourceType")
    return FileMarks(
        format=format,
        term=None if term is None else term.removeprefix(VOCABULARY),
        tool=said.get("xmp:CreatorTool"),
        made_sha256=said.get("wanbatch:PixelsSHA256"),
        pixels_sha256=_pixels_sha256(image),
        prompt=said.get("Iptc4xmpExt:AIPromptInformation"),
        negative_prompt=said.get("wanbatch:NegativePrompt"),
        settings=settings,
        parameters=_parameters(image, format),
        credentials=read_credentials(data, format),
    )


def find_row(folder: str | Path, marks: FileMarks) -> FoundRow | None:
    """The row of an output folder whose picture a file has; None if there is none.

    Args:
        folder: the output folder, a path or a URL.
        marks: of the file.
    Raises:
        UserError: It is no output folder, or a part is not as it was committed.
        MachineryError: It cannot be read.
    """
    held = committed_rows(str(folder))
    if held is None:
        raise UserError(f"{folder}: is no output folder of wanbatch: give --in the folder that `wanbatch run` filled")
    try:
        by_pixels = _row_with(folder, held.parts, marks.pixels_sha256, "pixels")
        if by_pixels is not None:
            return by_pixels
        if marks.made_sha256 is not None:
            found = _row_with(folder, held.parts, marks.made_sha256, "mark")
            if found is not None:
                return found if not _same_pixels(folder, found, marks) else _by_file(found)
        return _row_of_lossy_file(folder, held.parts, marks) if marks.format != "png" else None
    except (OSError, pa.ArrowException) as error:
        raise MachineryError(f"{folder}: cannot be read ({error})") from error


def xmp_values(packet: bytes | None) -> dict[str, str]:
    """The simple properties of an XMP packet by qualified name, of `NAMESPACES`; none if it cannot be read.

    A packet with a document type is not read: it may be made to fill the memory.
    """
    if not packet or b"<!" in packet:
        return {}
    try:
        root = ElementTree.fromstring(packet.decode().strip("\0").strip())
    except (ElementTree.ParseError, UnicodeDecodeError):
        return {}
    rdf = "{http://www.w3.org/1999/02/22-rdf-syntax-ns#}"
    names = {f"{{{uri}}}": prefix for prefix, uri in NAMESPACES.items()}
    values: dict[str, str] = {}
    for description in root.iter(f"{rdf}Description"):
        found = [*description.attrib.items(), *((child.tag, child.text or "") for child in description)]
        for tag, value in found:
            space, _, local = tag.rpartition("}")
            if (prefix := names.get(space + "}")) is not None:
                values[f"{prefix}:{local}"] = value
    return values


def _opened(path: Path, data: bytes) -> tuple[str, Image.Image]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(data), formats=[name.upper() for name in SUFFIXES])
            if image.width * image.height > MAX_PIXELS:
                raise UserError(f"{path}: has more than {MAX_PIXELS} pixels: give a smaller picture")
            image.load()
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise UserError(f"{path}: has more than {MAX_PIXELS} pixels: give a smaller picture") from error
    except (OSError, SyntaxError, ValueError, UnidentifiedImageError) as error:
        known = ", ".join(name.upper() for name in SUFFIXES)
        why = "" if isinstance(error, UnidentifiedImageError) else f" ({error})"
        raise UserError(f"{path}: is no picture that can be read{why}: give one in {known}") from error
    return str(image.format).lower(), image


def _xmp(image: Image.Image, format: str) -> bytes | None:
    found = image.info.get(PNG_XMP if format == "png" else "xmp")
    return found.encode() if isinstance(found, str) else found


def _parameters(image: Image.Image, format: str) -> str | None:
    if format == "png":
        text = image.info.get("parameters")
        return None if text is None else str(text)
    comment = image.getexif().get_ifd(ExifTags.IFD.Exif).get(ExifTags.Base.UserComment)
    if not isinstance(comment, bytes) or not comment.startswith(b"UNICODE\0"):
        return None
    return comment[8:].decode("utf-16-be", errors="replace")


def _pixels_sha256(image: Image.Image) -> str:
    return hashlib.sha256(np.ascontiguousarray(image.convert("RGB")).tobytes()).hexdigest()


def _json(text: str | None) -> dict[str, Any] | None:
    try:
        value = None if text is None else json.loads(text)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def _row_with(folder: str | Path, parts: tuple[str, ...], sha256: str, by: str) -> FoundRow | None:
    """The row with this value of the column `sha256`."""
    backend = open_backend(folder, reading=True)
    for part in parts:
        first = 0
        for group in row_groups(backend, part, ["sha256"]):
            index = pc.index(group["sha256"], sha256).as_py()
            if index >= 0:
                return FoundRow(part, first + index, _values(folder, part, first + index), by)
            first += len(group)
    return None


def _values(folder: str | Path, part: str, row: int) -> dict[str, Any]:
    """The columns of a row, without its picture."""
    return {name: value for name, value in _whole_row(folder, part, row).items() if name != "image"}


def _whole_row(folder: str | Path, part: str, row: int) -> dict[str, Any]:
    for group in row_groups(open_backend(folder, reading=True), part):
        if row < len(group):
            return group.slice(row, 1).to_pylist()[0]
        row -= len(group)
    raise LookupError(row)


def _same_pixels(folder: str | Path, found: FoundRow, marks: FileMarks) -> bool:
    stored = _whole_row(folder, found.part, found.row)["image"]["bytes"]
    return _pixels_sha256(Image.open(io.BytesIO(stored))) == marks.pixels_sha256


def _by_file(found: FoundRow) -> FoundRow:
    return FoundRow(found.part, found.row, found.values, "file")


def _row_of_lossy_file(folder: str | Path, parts: tuple[str, ...], marks: FileMarks) -> FoundRow | None:
    """The row whose picture decodes to the same pixels: each is decoded, as a lossy format keeps no hash of these."""
    backend = open_backend(folder, reading=True)
    for part in parts:
        first = 0
        for group in row_groups(backend, part, ["image"]):
            for index, value in enumerate(group["image"].to_pylist()):
                of_format = str(value["path"]).endswith(SUFFIXES[marks.format])
                if of_format and _pixels_sha256(Image.open(io.BytesIO(value["bytes"]))) == marks.pixels_sha256:
                    return FoundRow(part, first + index, _values(folder, part, first + index), "file")
            first += len(group)
    return None
