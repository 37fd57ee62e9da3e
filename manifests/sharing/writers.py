"""The formats of exports: each writes pictures into a folder, and counts what a folder holds of it.

Files are written under another name and renamed, so that a file that has its name is whole. What an interrupted
export left is kept: the same pictures make the same files.
"""

from __future__ import annotations

import io
import json
import os
import tarfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from wanbatch.errors import UserError
from wanbatch.manifests.sharing.contents import Contents
from wanbatch.manifests.sharing.pictures import Picture, groups, pictures
from wanbatch.manifests.storage.arrow_casts import cast_table

SHARD_BYTES = 1_000_000_000
FILES_TOGETHER = 10_000
"""More pictures than this are spread over sub-folders of so many."""

FILE_NAME = "file_name"
"""The column by which an imagefolder names a picture; `datasets` takes columns that end so for files, too."""


class Writer(Protocol):
    """One format."""

    def write(self, contents: Contents, folder: Path) -> None:
        """Write all pictures. Raises OSError, MachineryError."""

    def count(self, folder: Path) -> int:
        """How many pictures with their rows a written folder has. Raises OSError, ValueError."""


class WebDataset:
    """Tar files of about a gigabyte, `shard-000000.tar` and so on: of each picture `NAME.png`, then `NAME.json`."""

    def __init__(self, shard_bytes: int = SHARD_BYTES):
        self.shard_bytes = shard_bytes

    def write(self, contents: Contents, folder: Path) -> None:
        """See `Writer`."""
        for number, shard in enumerate(self._shards(contents)):
            path = folder / f"shard-{number:06d}.tar"
            if not path.exists():
                with new_file(path) as file, tarfile.open(fileobj=file, mode="w", format=tarfile.GNU_FORMAT) as tar:
                    for name, data in shard:
                        member = tarfile.TarInfo(name)
                        member.size, member.mode = len(data), 0o644
                        tar.addfile(member, io.BytesIO(data))
            else:
                for _ in shard:
                    pass

    def count(self, folder: Path) -> int:
        """See `Writer`."""
        pairs = 0
        for path in sorted(folder.glob("shard-*.tar")):
            with tarfile.open(path) as tar:
                names = [member.name for member in tar]
            for image, row in zip(names[::2], names[1::2], strict=True):
                if image.rpartition(".")[0] != row.removesuffix(".json"):
                    raise ValueError(f"{path.name}: {image} has no row after it")
                pairs += 1
        return pairs

    def _shards(self, contents: Contents) -> Iterator[Iterator[tuple[str, bytes]]]:
        """The files of each shard, to be taken in their order."""
        coming = pictures(contents)
        first = next(coming, None)

        def shard() -> Iterator[tuple[str, bytes]]:
            nonlocal first
            size = 0
            while first is not None and size < self.shard_bytes:
                row = to_json(first.row)
                size += len(first.image) + len(row)
                yield first.name + first.suffix, first.image
                yield f"{first.name}.json", row
                first = next(coming, None)

        while first is not None:
            yield shard()


class ImageFolder:
    """`train/NAME.png` and `train/metadata.jsonl`, which `datasets` loads by the name imagefolder."""

    def write(self, contents: Contents, folder: Path) -> None:
        """See `Writer`."""
        _write_files(contents, folder / "train", folder / "train" / "metadata.jsonl", self._lines)

    def count(self, folder: Path) -> int:
        """See `Writer`."""
        with (folder / "train" / "metadata.jsonl").open(encoding="utf-8") as file:
            names = [json.loads(line)["file_name"] for line in file]
        return sum((folder / "train" / name).stat().st_size > 0 for name in names)

    @staticmethod
    def _lines(written: Iterable[tuple[str, Picture]]) -> Iterator[bytes]:
        for name, picture in written:
            yield to_json({FILE_NAME: name, **without_file_names(picture.row)}) + b"\n"


class Coco:
    """`images/NAME.png` and `annotations.json`: COCO's form for captions, with the prompts and each image's row."""

    def write(self, contents: Contents, folder: Path) -> None:
        """See `Writer`."""
        _write_files(contents, folder / "images", folder / "annotations.json", self._document)

    def count(self, folder: Path) -> int:
        """See `Writer`."""
        found = json.loads((folder / "annotations.json").read_bytes())["images"]
        if len({image["id"] for image in found}) != len(found):
            raise ValueError("annotations.json: an id is there twice")
        return sum((folder / "images" / image["file_name"]).stat().st_size > 0 for image in found)

    @staticmethod
    def _document(written: Iterable[tuple[str, Picture]]) -> Iterator[bytes]:
        captions: list[bytes] = []
        yield b'{"info": {"description": "made by wanbatch"}, "licenses": [], "images": ['
        for number, (name, picture) in enumerate(written, 1):
            size = {"width": picture.row["width"], "height": picture.row["height"]}
            image = {"id": number, "file_name": name, **size, "wanbatch": picture.row}
            yield (b",\n" if number > 1 else b"\n") + to_json(image)
            if prompt := picture.row["prompt"]:
                captions.append(to_json({"id": len(captions) + 1, "image_id": number, "caption": prompt}))
        yield b'\n], "annotations": [\n' + b",\n".join(captions) + b"\n]}\n"


class Lance:
    """A Lance dataset with the columns of the output folder; the picture's file is in `image.bytes`."""

    def write(self, contents: Contents, folder: Path) -> None:
        """See `Writer`."""
        import pyarrow as pa

        lance = _lance()
        tables = groups(contents)
        first = next(tables)
        schema = first.schema.remove_metadata()

        def batches() -> Iterator[pa.RecordBatch]:
            yield from cast_table(first, schema).to_batches()
            for table in tables:
                yield from cast_table(table, schema).to_batches()

        reader = pa.RecordBatchReader.from_batches(schema, batches())
        lance.write_dataset(reader, str(folder / "data.lance"), schema=schema, mode="overwrite")

    def count(self, folder: Path) -> int:
        """See `Writer`."""
        return _lance().dataset(str(folder / "data.lance")).count_rows()


def _lance() -> Any:
    try:
        import lance
    except ImportError as error:
        raise UserError("--format lance needs pylance: pip install 'wanbatch[lance]'") from error
    return lance


WRITERS: Mapping[str, Callable[[], Writer]] = {
    "webdataset": WebDataset,
    "imagefolder": ImageFolder,
    "coco": Coco,
    "lance": Lance,
}


def without_file_names(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row for an imagefolder: its own columns that would name files there get `_of_row` at their ends."""
    found: dict[str, Any] = {}
    for name, value in row.items():
        if any(name == each or name.endswith(f"_{each}") for each in (FILE_NAME, f"{FILE_NAME}s")):
            name += "_of_row"
            while name in row or name in found:
                name += "_of_row"
        found[name] = value
    return found


def to_json(value: Mapping[str, Any]) -> bytes:
    """A row as JSON."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False).encode()


@contextmanager
def new_file(path: Path) -> Iterator[BinaryIO]:
    """A file to write, which has its name once it is whole and on the disk."""
    unfinished = path.with_name(f".{path.name}.part")
    with unfinished.open("wb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())
    unfinished.replace(path)


def _write_files(
    contents: Contents,
    folder: Path,
    index: Path,
    lines: Callable[[Iterable[tuple[str, Picture]]], Iterable[bytes]],
) -> None:
    """Write each picture as a file, and then a file about all of them."""
    folder.mkdir(exist_ok=True)
    spread = contents.images > FILES_TOGETHER

    def written() -> Iterator[tuple[str, Picture]]:
        for number, picture in enumerate(pictures(contents)):
            below = f"{number // FILES_TOGETHER:05d}/" if spread else ""
            name = f"{below}{picture.name}{picture.suffix}"
            path = folder / name
            path.parent.mkdir(exist_ok=True)
            if not (path.is_file() and path.stat().st_size == len(picture.image)):
                unfinished = path.with_name(f".{path.name}.part")
                unfinished.write_bytes(picture.image)
                unfinished.replace(path)
            yield name, picture

    with new_file(index) as file:
        for line in lines(written()):
            file.write(line)
