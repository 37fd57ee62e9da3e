"""Sources in a store that fails: for a while, for ever, or because nobody may read it."""

from __future__ import annotations

import io
import math
import socket

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from job_making import wait_until
from manifest_making import encoded
from store_folders import put

from wanbatch.errors import MachineryError, RowError
from wanbatch.manifests.reading.manifest import read_manifest
from wanbatch.manifests.records import Source
from wanbatch.manifests.sources import store_retries
from wanbatch.manifests.sources.loader import SourceLoader
from wanbatch.manifests.storage import fsspec_io

BUSY = "503 Slow Down", "SlowDown"


@pytest.fixture
def pauses(monkeypatch):
    """The pauses between tries, which are not waited for; the store's client makes no tries of its own."""
    found: list[float] = []
    monkeypatch.setattr(store_retries.time, "sleep", found.append)
    monkeypatch.setattr(fsspec_io, "TRIES", 1)
    fsspec_io.forget_file_systems()
    yield found
    fsspec_io.forget_file_systems()


def fail(server, name: str, pauses: list[float], until: float) -> None:
    """Requests for a file's content are answered with an error until there were so many pauses."""
    server.fault = lambda method, path: (
        BUSY if method == "GET" and path.endswith(name) and len(pauses) < until else None
    )


def test_a_store_that_is_busy_for_a_while_costs_no_row(bucket, server, pauses):
    """It was asked twice, a moment apart, and then ended the run."""
    put(f"{bucket}/a.png", encoded(8, 4))
    with SourceLoader(bucket) as loader:
        fail(server, "a.png", pauses, 2)
        assert loader.load(Source("a.png")).pixels.shape == (4, 8, 3)
        assert (loader.retried, pauses) == (2, [0.5, 1.0])
        fail(server, "a.png", pauses, 3)
        assert loader.size(Source("a.png")) == (8, 4)
        assert loader.retried == 3


def test_a_store_that_stays_away_ends_the_run_and_costs_no_row(bucket, server, pauses):
    put(f"{bucket}/a.png", encoded())
    fail(server, "a.png", pauses, math.inf)
    with SourceLoader(bucket) as loader, pytest.raises(MachineryError, match=r"a\.png: the store .* tried 5 times"):
        loader.load(Source("a.png"))
    assert pauses == [0.5, 1.0, 2.0, 4.0]
    server.mend()  # "see that it can be reached, then give the same command again"
    with SourceLoader(bucket) as loader:
        assert loader.load(Source("a.png")).pixels.any()


def test_embedded_images_of_a_manifest_in_a_store(bucket, server, pauses):
    """They were quarantined as unreadable, one after the other, while the store was away."""
    buffer = io.BytesIO()
    images = [{"bytes": encoded(8, 4), "path": None}, {"bytes": encoded(4, 8), "path": None}]
    pq.write_table(pa.table({"image": images}), buffer, row_group_size=1)
    put(f"{bucket}/shop.parquet", buffer.getvalue())
    manifest = read_manifest(f"{bucket}/shop.parquet")
    first, second = (row.sources[0] for row in manifest.iter_rows())
    with SourceLoader(bucket) as loader:
        fail(server, "shop.parquet", pauses, 1)
        assert loader.load(first).pixels.shape == (4, 8, 3)
        assert loader.retried == 1
    with SourceLoader(bucket) as loader:
        fail(server, "shop.parquet", pauses, math.inf)
        with pytest.raises(MachineryError, match=r"shop\.parquet row 1 image\[0\]: the store of the sources failed"):
            loader.load(second)
        server.mend()
        assert loader.load(second).pixels.shape == (8, 4, 3)


def test_a_missing_file_is_not_asked_for_again(bucket, server, pauses):
    with SourceLoader(bucket) as loader, pytest.raises(RowError) as caught:
        loader.load(Source("none.png"))
    assert (caught.value.kind, pauses) == ("missing_image", [])


def test_missing_credentials_are_no_row_s_fault(bucket, server, pauses, monkeypatch):
    """Every row was quarantined as unreadable."""
    put(f"{bucket}/a.png", encoded())
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    fsspec_io.forget_file_systems()
    with SourceLoader(bucket) as loader, pytest.raises(MachineryError, match="credentials are missing: set them"):
        loader.load(Source("a.png"))
    assert pauses == []
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    fsspec_io.forget_file_systems()
    with SourceLoader(bucket) as loader:
        assert loader.load(Source("a.png")).pixels.any()


def test_what_tells_a_file_of_a_store_from_a_later_one(bucket, pauses):
    put(f"{bucket}/a.png", encoded(8, 4))
    with SourceLoader(bucket) as loader:
        known = loader.measure(Source("a.png"))
        assert loader.measure(Source("a.png"), known) is known
        put(f"{bucket}/a.png", encoded(4, 8))
        assert (loader.measure(Source("a.png"), known).width, loader.size(Source("a.png"))) == (4, (4, 8))


def test_a_client_that_is_stopped_in_the_middle_of_a_request_stops_nobody_else(bucket, server):
    """The tests' own server, which does one request after the other; tests stop workers while they write."""
    address = server.url.removeprefix("http://").split(":")
    with socket.create_connection((address[0], int(address[1]))) as stopped:
        stopped.sendall(b"PUT /bucket/half HTTP/1.1\r\nHost: bucket\r\nContent-Length: 10\r\n\r\nhalf")
        wait_until(lambda: "PUT /bucket/half" in server.log, 60, "the half request")
        put(f"{bucket}/a.png", encoded(8, 4))
        assert not fsspec_io.file_system(bucket).exists("bucket/half")
        stopped.sendall(b"whole!")
        assert stopped.recv(15) == b"HTTP/1.1 200 OK"
    assert fsspec_io.file_system(bucket).cat_file("bucket/half") == b"halfwhole!"
