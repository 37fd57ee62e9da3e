"""Run by test_fuzz.py: damaged manifests and images, in processes of limited memory.

    python fuzz_run.py COUNT FOLDER KIND...      (each a KIND of `KINDS`, in a process forked for it)

Each case is a good file with some bytes changed, dropped, doubled or put in. Only UserError and RowError may come
of it. Prints the number of cases, how many were still read, the slowest one and the growth of memory, as a line
of JSON for each kind. Cases are derived from a fixed seed.
"""

import gzip
import io
import json
import resource
import sys
import time
import warnings
from contextlib import suppress
from pathlib import Path

import numpy as np
import pillow_heif
import pillow_jxl  # noqa: F401  teaches Pillow the format
import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from icc_profiles import cmyk_profile, rgb_profile
from killed_run import forked
from manifest_making import encoded
from PIL import Image

from wanbatch.errors import RowError, UserError
from wanbatch.manifests.reading.manifest import read_manifest
from wanbatch.manifests.records import Source
from wanbatch.manifests.sources.loader import SourceLoader

MEMORY = 6 << 30  # of addresses; what is really used is reported

ROW = {
    "id": "a",
    "prompt": "a heart ♥ \u0000",
    "images": ["a.png", {"path": "b.png", "bytes": None}, "http://127.0.0.1/x"],
    "blend_weights": [0.5, 1e-300],
    "loras": [{"name": "x", "weight": -1}],
    "seed": 12345678901234567890,
    "meta": {"a": [1, {"b": None}], "c": "😀"},
    "creativity": 1e308,
}
TOKENS = [
    b"{",
    b"}",
    b"[",
    b"]",
    b'"',
    b",",
    b":",
    b"\\",
    b"\\ud800",
    b"1e999",
    b"NaN",
    b"null",
    b"\x00",
    b"\xff",
    b"\n",
]
TOKENS += [b"../", b"//", b"file://", b"PAR1", b"IHDR", b"\xff\xff\xff\x7f", b"\x80\x80\x80\x80\x08"]
TOKENS += [
    b"9" * 30,
    b"\xff\xff",
    b"\x00\x00",
    b"\x00\x01\x01\x12",
    b"\x12\x01\x03\x00",
    b"ftyp",
    b"acsp",
    b"\x21\xf9",
]

changes = st.lists(
    st.tuples(
        st.sampled_from(("set", "drop", "put", "double", "cut")),
        st.integers(0, 1 << 20),
        st.one_of(st.binary(min_size=1, max_size=6), st.sampled_from(TOKENS)),
        st.integers(1, 40),
    ),
    min_size=1,
    max_size=6,
)


def changed(data: bytes, todo) -> bytes:
    out = bytearray(data)
    for action, place, piece, length in todo:
        at = place % (len(out) + 1)
        if action == "set":
            out[at : at + len(piece)] = piece
        elif action == "drop":
            del out[at : at + length]
        elif action == "put":
            out[at:at] = piece
        elif action == "double":
            out[at:at] = out[at : at + length]
        elif length == 1:  # seldom, since nothing is left of the others then
            del out[at:]
    return bytes(out)


def good_lines() -> list[bytes]:
    plain = {"prompt": "a", "image": "a.png", "creativity": 0.5, "width": 64, "height": 64, "x": {"y": [1, None]}}
    return [json.dumps(row, ensure_ascii=ascii).encode() for row in (ROW, plain) for ascii in (True, False)]


def good_parquets() -> list[bytes]:
    image = pa.array([{"bytes": encoded(8, 8), "path": None}, {"bytes": None, "path": "a.png"}] * 3)
    tables = [
        pa.table(
            {"prompt": ["a", "b"], "seed": [1, None], "x": [[1], None], "d": pa.array(["u", "u"]).dictionary_encode()}
        ),
        pa.table({"image": image, "creativity": [0.5] * 6, "meta": [{"a": {"b": [n]}} for n in range(6)]}),
    ]
    files = []
    for table, options in zip(
        tables, ({"compression": "snappy"}, {"compression": "zstd", "row_group_size": 2}), strict=True
    ):
        buffer = io.BytesIO()
        pq.write_table(table, buffer, write_page_checksum=len(files) == 0, **options)
        files.append(buffer.getvalue())
    return files


def good_csvs() -> list[bytes]:
    rows = ',"x ""y"", z",7,0.5\n,"b\nb",,\n' * 3
    return [f"id,prompt,seed,n\n{rows}".encode(), f"sep=;\nid;prompt;seed;n\n{rows.replace(',', ';')}".encode()]


def good_packed() -> list[bytes]:
    lines = (good_lines()[-1] + b"\n") * 60
    return [gzip.compress(lines), gzip.compress(lines[:500]) + gzip.compress(lines[500:])]


def good_arrows() -> list[bytes]:
    image = pa.array([{"bytes": encoded(8, 8), "path": None}, {"bytes": None, "path": "a.png"}] * 3)
    kind = pa.array(["a", "b"] * 3).dictionary_encode()
    table = pa.table({"image": image, "prompt": ["a"] * 6, "kind": kind, "meta": [[{"a": n}] for n in range(6)]})
    files = []
    for form, compression in ((pa.ipc.new_stream, None), (pa.ipc.new_file, None), (pa.ipc.new_stream, "zstd")):
        sink = pa.BufferOutputStream()
        with form(sink, table.schema, options=pa.ipc.IpcWriteOptions(compression=compression)) as writer:
            writer.write_table(table, max_chunksize=2)
        files.append(sink.getvalue().to_pybytes())
    return files


def good_images() -> list[bytes]:
    """Two of most formats, with what files may have besides their pixels: turned, with a profile, several frames."""
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (24, 16, 3), dtype=np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6
    profile = rgb_profile()
    several = {"save_all": True, "append_images": [noise.rotate(180), noise.rotate(90, expand=True)]}
    pillow_heif.register_heif_opener()
    kinds: list[tuple[str, str, dict]] = [
        ("PNG", "RGB", {"exif": exif, "icc_profile": profile}),
        ("PNG", "P", several),
        ("JPEG", "RGB", {"exif": exif, "icc_profile": profile}),
        ("JPEG", "CMYK", {"icc_profile": cmyk_profile()}),
        ("WEBP", "RGB", {"exif": exif, "icc_profile": profile}),
        ("GIF", "RGB", several),
        ("BMP", "P", {}),
        ("TIFF", "RGB", {"exif": exif, "icc_profile": profile, **several}),
        ("TIFF", "LAB", {"compression": "tiff_lzw"}),
        ("TIFF", "F", {"compression": "tiff_adobe_deflate"}),
        ("AVIF", "RGB", {"exif": exif, "icc_profile": profile}),
        ("HEIF", "RGB", {"icc_profile": profile}),
        ("JXL", "RGB", {"effort": 1, "use_container": True}),
    ]
    files = []
    for kind, mode, options in kinds:
        picture = Image.new("LAB", noise.size, (90, 140, 120)) if mode == "LAB" else noise.convert(mode)
        buffer = io.BytesIO()
        picture.save(buffer, kind, **options)
        files.append(buffer.getvalue())
    return files


KINDS = {
    "lines": ("shop.jsonl", good_lines),
    "packed": ("shop.jsonl.gz", good_packed),
    "csv": ("shop.csv", good_csvs),
    "parquet": ("shop.parquet", good_parquets),
    "arrow": ("shop.arrow", good_arrows),
    "images": ("a.png", good_images),
}


def read_and_load(path: Path) -> None:
    """A manifest, and what sources it has."""
    manifest = read_manifest(path, allow_http=True)
    with SourceLoader(manifest.source_root) as loader:
        for row in manifest.iter_rows():
            for source in row.sources:
                with suppress(RowError):
                    loader.load(source)


def measure_and_load(path: Path) -> None:
    """An image. One that is decoded has the size that was measured, if there was one: else its row would fail."""
    with SourceLoader(path.parent) as loader:
        pixels = loader.load(Source(path.name)).pixels
        assert loader.size(Source(path.name)) == pixels.shape[1::-1]


def main(kind: str, count: int, folder: Path) -> None:
    name, make = KINDS[kind]
    good, path = make(), folder / name
    found = {"cases": 0, "read": 0, "slowest_seconds": 0.0, "longest_message": 0}

    def case(base: bytes, todo) -> None:
        path.write_bytes(changed(base, todo))
        begin = time.process_time()  # what else the machine does shall not count
        found["cases"] += 1
        try:
            if kind == "images":
                measure_and_load(path)
            else:
                read_and_load(path)
            found["read"] += 1
        except (UserError, RowError) as error:
            found["longest_message"] = max(found["longest_message"], len(str(error)))
        found["slowest_seconds"] = max(found["slowest_seconds"], round(time.process_time() - begin, 3))

    for data in good:
        path.write_bytes(data)  # imports what is imported late
        with suppress(UserError, RowError):
            read_and_load(path) if kind != "images" else measure_and_load(path)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    before = peak()
    rules = settings(
        max_examples=count, derandomize=True, database=None, deadline=None, suppress_health_check=list(HealthCheck)
    )
    rules(given(st.sampled_from(good), changes)(case))()
    print(json.dumps({**found, "kind": kind, "grown_megabytes": peak() - before}))


def peak() -> int:
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) // 1024


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    for each in sys.argv[3:]:
        if forked(main, each, int(sys.argv[1]), Path(sys.argv[2])) != 0:
            sys.exit(f"{each}: a case ended otherwise")
