"""Remedies for source images: where they are, and what they are."""

from __future__ import annotations

import io
import re
import shutil
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from job_making import picture
from PIL import Image
from remedy_scenes import At, raised, scene

from wanbatch.manifests.reading.manifest import read_manifest
from wanbatch.manifests.sources import formats
from wanbatch.manifests.sources.loader import SourceLoader
from wanbatch.manifests.sources.path_policy import PathPolicy


def unreadable(at: At, *flags: str) -> str:
    """What `plan` says of a manifest with a source that cannot be read."""
    said = at.planned("m.jsonl", *flags)["unreadable_sources"].values()
    assert said
    return "\n".join(said)


@scene
def paths_that_are_not_taken(at: At) -> Iterator[str]:
    wrong = ["a\0.png", r"C:\pictures\a.png", "ftp://shop/a.png", "s3://bucket/a.png", "http://user@/a.png"]
    for path in wrong:
        at.rows({"image": path})
        yield at.refused("plan", "m.jsonl", "--allow-http")
        at.rows({"image": "a.png"})
        at.works("plan", "m.jsonl")
    at.rows({"image": "https://example.com/a.png", "width": 64, "height": 64})
    at.works("plan", "m.jsonl", "--allow-http")
    (at.folder / "images").mkdir()
    shutil.copy("a.png", "images/1.png")
    at.rows({"image": r"images\1.png"}, {"image": "images/1.png"})
    at.works("plan", "m.jsonl")


@scene
def paths_out_of_a_store(at: At) -> Iterator[str]:
    policy = PathPolicy("s3://bucket/shop")
    yield f"{policy.problem('/tmp/a.png')}\n{policy.problem('s3://other/a.png')}"
    assert policy.problem("a.png") is None
    assert PathPolicy("s3://other").problem("s3://other/a.png") is None
    assert PathPolicy("/tmp").problem("/tmp/a.png") is None
    yield raised(lambda: PathPolicy("s3://bucket/shop", fence="/tmp"))
    assert PathPolicy("/tmp/shop", fence="/tmp").problem("../a.png") is None
    assert PathPolicy("s3://bucket/shop", fence="s3://bucket").problem("../a.png") is None


@scene
def sources_that_are_elsewhere(at: At) -> Iterator[str]:
    at.picture("pictures/c.png")
    at.rows({"image": "pictures/c.png"}, name="lists/m.jsonl")
    said = at.works_with_warnings("plan", "lists/m.jsonl")
    yield said
    at.works("plan", "lists/m.jsonl", *re.search(r"set (--source-root \S+)", said)[1].split())  # type: ignore[index]
    outside = at.folder.parent / "elsewhere"
    outside.mkdir()
    picture(outside / "c.png", 32, 32)
    (at.folder / "linked.png").symlink_to(outside / "c.png")
    at.rows({"image": "linked.png"})
    said = unreadable(at)
    yield said
    flag = re.search(r"set (--source-fence \S+)", said)[1]  # type: ignore[index]
    at.works("plan", "m.jsonl", *flag.split())
    (at.folder / "linked.png").unlink()
    shutil.copy(outside / "c.png", "linked.png")
    at.works("plan", "m.jsonl")


@scene
def files_that_are_no_pictures(at: At) -> Iterator[str]:
    """`magick` is not needed: Pillow makes the PNG that it would make."""
    raw = io.BytesIO()
    Image.new("RGB", (8, 8)).save(raw, "TIFF", tiffinfo={254: 1})
    files = {
        b"<!DOCTYPE html><html></html>": "a page",
        b"version https://git-lfs.github.com/spec/v1\n": "a pointer",
        b"8BPS\0\x01": "a PSD",
        raw.getvalue(): "a camera raw file",
        b"\x89PNG\r\n\x1a\n\0\0": "a damaged PNG",
    }
    for data, what in files.items():
        at.write("x.png", data)
        at.rows({"image": "x.png"})
        said = unreadable(at)
        assert "x.png" in said, what
        yield said
        shutil.copy("a.png", "x.png")
        at.works("plan", "m.jsonl")


@scene
def pixels_without_a_meaning(at: At) -> Iterator[str]:
    Image.fromarray(np.arange(64, dtype=np.int32).reshape(8, 8)).save("x.tiff")
    at.rows({"image": "x.tiff"})
    with SourceLoader(at.folder) as loader:
        source = read_manifest("m.jsonl").row(0).sources[0]
        yield raised(lambda: loader.load(source))
        Image.fromarray(np.arange(64, dtype=np.uint16).reshape(8, 8)).save("x.tiff")
        assert loader.load(source).pixels.shape == (8, 8, 3)


@scene
def pixels_that_are_cut_off(at: At) -> Iterator[str]:
    whole = at.picture("x.png").read_bytes()
    at.write("x.png", whole[:-40])
    at.rows({"image": "x.png"})
    with SourceLoader(at.folder) as loader:
        source = read_manifest("m.jsonl").row(0).sources[0]
        yield raised(lambda: loader.load(source))
        at.write("x.png", whole)
        assert loader.load(source).pixels.shape == (32, 32, 3)


@scene
def formats_of_an_extra(at: At) -> Iterator[str]:
    at.write("x.jxl", bytes.fromhex("ff0a") + bytes(30))

    def missing() -> None:
        raise ImportError

    with at.monkeypatch.context() as patched:
        wanted = formats.OPTIONAL["JXL"]
        patched.setitem(formats.OPTIONAL, "JXL", type(wanted)(wanted.name, wanted.extra, missing))
        at.rows({"image": "x.jxl"})
        yield unreadable(at)
    Image.new("RGB", (32, 32)).save("x.jxl", "PNG")
    at.works("plan", "m.jsonl")


@scene
def embedded_images_that_change(at: At) -> Iterator[str]:
    data = [(at.folder / name).read_bytes() for name in ("a.png", "b.png")]

    def write(*order: int) -> None:
        images = [{"bytes": data[index], "path": f"{index}.png"} for index in order]
        pq.write_table(pa.table({"image": images}), "m.parquet")

    write(0, 1)
    before = read_manifest("m.parquet").row(0).sources[0]
    write(1, 0)
    with SourceLoader(at.folder) as loader:
        yield raised(lambda: loader.load(before))
        assert loader.load(read_manifest("m.parquet").row(0).sources[0]).pixels.shape == (32, 64, 3)
