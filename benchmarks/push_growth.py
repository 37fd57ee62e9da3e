"""How much of a dataset goes up again when it has grown or rows of it were made again.

Files are written as `wanbatch push` writes them, before and after, with and without content-defined chunking. Counted
is what the store does not have yet: whole files, as Git LFS takes them, and chunks of about 64 KiB that are cut by
their content, as the Hub's Xet storage takes them (Gear hash with the limits of 8 and 128 KiB that Xet documents; the
table of the hash is our own, so single figures differ a little from Xet's).

    python benchmarks/push_growth.py --rows 20000 --out benchmarks/results/push-growth.json
"""

from __future__ import annotations

import argparse
import hashlib
import json
import platform
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa

from wanbatch.manifests.sharing import shards
from wanbatch.manifests.sharing.contents import Contents

LEAST, TARGET, MOST = 8 << 10, 64 << 10, 128 << 10
WINDOW = 64  # bytes that a Gear hash of 64 bits remembers
GEAR = np.random.default_rng(0).integers(0, 2**64, 256, dtype=np.uint64)
SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
        ("prompt", pa.string()),
        ("seed", pa.int64()),
        ("creativity", pa.float64()),
        ("sha256", pa.string()),
    ]
)


def table(rows: np.ndarray, picture_bytes: int) -> pa.Table:
    """Rows by number, with pictures that do not compress and are about so large."""
    pictures = []
    for number in rows.tolist():
        noise = np.random.default_rng(number)
        pictures.append(noise.bytes(int(picture_bytes * noise.uniform(0.7, 1.3))))
    names = [f"{number:08d}" for number in rows.tolist()]
    columns = [
        names,
        [{"bytes": data, "path": f"{name}.png"} for name, data in zip(names, pictures, strict=True)],
        [f"a photo of thing {number % 97}, number {number}" for number in rows.tolist()],
        [number * 7919 for number in rows.tolist()],
        [0.6] * len(names),
        [hashlib.sha256(data).hexdigest() for data in pictures],
    ]
    return pa.Table.from_arrays(
        [pa.array(values, each.type) for values, each in zip(columns, SCHEMA, strict=True)], schema=SCHEMA
    )


def chunks(data: bytes) -> Iterator[bytes]:
    """A file in chunks that are cut where the Gear hash of the last bytes says so."""
    gear = GEAR[np.frombuffer(data, np.uint8)]
    hashes = np.zeros(len(gear), np.uint64)
    for back in range(WINDOW):
        hashes[back:] += gear[: len(gear) - back] << np.uint64(back)
    mask = np.uint64((TARGET - 1) << 48)
    cuts = np.flatnonzero((hashes & mask) == 0) + 1
    start = 0
    while start < len(data):
        later = cuts[np.searchsorted(cuts, start + LEAST) :]
        end = min(len(data), start + MOST, int(later[0]) if len(later) else len(data))
        yield data[start:end]
        start = end


def files(rows: np.ndarray, folder: Path, shard_bytes: int, picture_bytes: int) -> dict[str, bytes]:
    """The files of a dataset with these rows."""
    parts = [rows[first : first + 16] for first in range(0, len(rows), 16)]
    shards.groups = lambda contents: (table(part, picture_bytes) for part in parts)
    contents = Contents("here", (), len(rows), 0, 0, "")
    written = {}
    for shard in shards.write_shards(contents, folder, shard_bytes):
        written[shard.name] = shard.path.read_bytes()
        shard.path.unlink()
    return written


def changes(count: int) -> dict[str, np.ndarray]:
    """What may become of rows 0 to `count`."""
    rows = np.arange(count)
    random = np.random.default_rng(1)
    again = np.sort(random.choice(count, count // 100, replace=False))
    return {
        "pushed again, unchanged": rows,
        "grown by 5 %": np.arange(count + count // 20),
        "1 % of the rows made again (they move to the end)": np.concatenate([np.delete(rows, again), again + 10**6]),
        "one row removed at the beginning": rows[1:],
    }


def sent(before: dict[str, bytes], after: dict[str, bytes], cut: Callable[[bytes], Iterator[bytes]]) -> float:
    """The share of the bytes of `after` that a store with `before` does not have."""
    known = {hashlib.sha256(piece).digest() for data in before.values() for piece in cut(data)}
    pieces = {hashlib.sha256(piece).digest(): len(piece) for data in after.values() for piece in cut(data)}
    return sum(size for key, size in pieces.items() if key not in known) / sum(map(len, after.values()))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--picture-bytes", type=int, default=60_000)
    parser.add_argument("--shard-bytes", type=int, default=40_000_000)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    found = []
    real = shards.pq.ParquetWriter
    for defined in (True, False):

        def writer(*positional, **named):
            return real(*positional, **{**named, "use_content_defined_chunking": defined})  # noqa: B023

        shards.pq.ParquetWriter = writer
        with tempfile.TemporaryDirectory() as folder:
            before = files(np.arange(given.rows), Path(folder), given.shard_bytes, given.picture_bytes)
            for name, rows in changes(given.rows).items():
                after = files(rows, Path(folder), given.shard_bytes, given.picture_bytes)
                share = {
                    "files": sent(before, after, lambda data: iter([data])),
                    "chunks": sent(before, after, chunks),
                }
                found.append({"change": name, "content_defined_chunking": defined, **share})
                print(
                    f"{name:<50} CDC {'on ' if defined else 'off'}", {n: f"{100 * s:.1f} %" for n, s in share.items()}
                )
    result = {
        "command": f"python benchmarks/push_growth.py --rows {given.rows}",
        "rows": given.rows,
        "picture_bytes": given.picture_bytes,
        "shard_bytes": given.shard_bytes,
        "pyarrow": pa.__version__,
        "machine": platform.machine(),
        "sent_again": found,
    }
    if given.out:
        given.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
