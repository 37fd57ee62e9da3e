"""The cache of sizes: an entry holds while its file is the same, and a damaged cache is told of."""

from __future__ import annotations

import io
import os

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from manifest_making import encoded

from wanbatch.manifests.records import Source
from wanbatch.manifests.sources import loader as loading
from wanbatch.manifests.sources.loader import SourceLoader
from wanbatch.manifests.sources.size_cache import SizeCache, SourceSize

A, B = SourceSize(30, 20, "10 bytes of 5"), SourceSize(5, 6, 'ETag: "x"')


def test_what_was_put_in_is_found_again_after_a_round_trip():
    cache = SizeCache().with_sizes({"/pictures/ä.png": A, "https://shop/b": B, "untold": SourceSize(1, 1, None)})
    again = SizeCache.from_bytes(cache.to_bytes())
    assert again.find(["https://shop/b", "none", "/pictures/ä.png", "untold"]) == [B, None, A, None]
    assert len(again) == 2


def test_a_later_size_replaces_an_earlier_one_and_one_without_a_version_removes_it():
    cache = SizeCache().with_sizes({"a": A, "b": A})
    cache = cache.with_sizes({"a": B}).with_sizes({"b": SourceSize(9, 9, None)})
    assert cache.find(["a", "b"]) == [B, None]


def test_a_damaged_cache_is_refused_wherever_it_is_damaged():
    data = SizeCache().with_sizes({f"/pictures/{n}.png": A for n in range(50)}).to_bytes()
    for wrong in (b"", b"PAR1", data[: len(data) // 2], data[:-1]):
        with pytest.raises(ValueError, match=r"."):
            SizeCache.from_bytes(wrong)
    good = SizeCache.from_bytes(data).find(["/pictures/7.png"])
    for place in range(0, len(data), 13):
        damaged = data[:place] + bytes([data[place] ^ 0x55]) + data[place + 1 :]
        try:
            cache = SizeCache.from_bytes(damaged)
        except ValueError:
            continue
        assert cache.find(["/pictures/7.png"]) in (good, [None]), f"byte {place}"


def test_a_file_of_other_columns_is_refused():
    other = SizeCache(pa.table({"key": ["a"], "version": ["1"]})).to_bytes()
    with pytest.raises(ValueError, match="columns"):
        SizeCache.from_bytes(other)


def test_sizes_of_release_0_1_0_are_measured_again():
    """It did not see all ways to say how an image is turned."""
    cache = SizeCache().with_sizes({"/a.png": SourceSize(8, 4, "1 bytes of 1")})
    table = pq.read_table(io.BytesIO(cache.to_bytes()))
    buffer = io.BytesIO()
    pq.write_table(table.replace_schema_metadata({"wanbatch": "source sizes 1"}), buffer)
    assert len(SizeCache.from_bytes(buffer.getvalue())) == 0
    assert len(SizeCache.from_bytes(cache.to_bytes())) == 1


def test_a_local_file_is_read_again_only_if_it_changed(tmp_path, monkeypatch):
    """Without the cache each file is opened at each start of a run."""
    path = tmp_path / "a.png"
    path.write_bytes(encoded(8, 4))
    read = []
    real = loading.read_header
    monkeypatch.setattr(loading, "read_header", lambda *given, **more: read.append(1) or real(*given, **more))
    with SourceLoader(tmp_path) as loader:
        known = loader.measure(Source("a.png"))
        assert loader.measure(Source("a.png"), known) is known
        assert len(read) == 1
        path.write_bytes(encoded(4, 8))
        os.utime(path, ns=(1, 1))
        assert loader.measure(Source("a.png"), known) == SourceSize(4, 8, f"{path.stat().st_size} bytes of 1")
        assert loader.cache_key(Source("a.png")) == str(path)
