"""Object stores that fail, are full or gone, and URLs that are none."""

import os
import socket
import sys
from pathlib import Path

import pytest
from fsspec.registry import _registry
from store_folders import publish

from wanbatch.errors import MachineryError, UserError
from wanbatch.manifests.dataset.folder import OutputFolder
from wanbatch.manifests.reading.manifest import read_manifest
from wanbatch.manifests.records import Source
from wanbatch.manifests.sources import store_retries
from wanbatch.manifests.sources.loader import SourceLoader
from wanbatch.manifests.storage import fsspec_io
from wanbatch.manifests.storage.object_store import ObjectStoreBackend

SUPPORT = Path(__file__).parents[2] / "support"


class TestStoresThatFail:
    def test_an_answer_that_got_lost(self, bucket, server):
        """The commit is written, its answer is an error, and the request made again finds it there."""
        lost = []

        def lose(method, path):
            if method == "PUT" and "/commits/" in path and not lost:
                lost.append(path)
                return "500 Internal Server Error", "InternalError"
            return None

        server.lost = lose
        with OutputFolder.open(bucket, {}) as folder:
            publish(folder, 0, ["a"])
            assert lost
            assert folder.committed().made == {"a"}

    def test_a_store_without_conditional_writes_is_refused(self, bucket, server, tmp_path):
        server.ignores_conditions = True
        with pytest.raises(UserError, match="choose a store that has them, or a local folder"):
            OutputFolder.open(bucket, {})
        OutputFolder.open(tmp_path / "out", {}).close()
        server.ignores_conditions = False
        OutputFolder.open(bucket, {}).close()

    @pytest.mark.parametrize(
        ("answer", "part"),
        [
            (("507 Insufficient Storage", "InsufficientStorage"), "/_wanbatch/tmp/"),
            (("403 Forbidden", "QuotaExceeded"), "/_wanbatch/tmp/"),
            (("403 Forbidden", "QuotaExceeded"), "/data/"),
            pytest.param(("503 Slow Down", "SlowDown"), "/timings/", marks=pytest.mark.slow),
            (("500 Internal Server Error", "InternalError"), "/_wanbatch/commits/"),
            (("403 Forbidden", "AccessDenied"), "/_wanbatch/commits/"),
        ],
    )
    def test_a_full_store_ends_the_run_and_what_is_done_stays(self, bucket, server, answer, part):
        with OutputFolder.open(bucket, {}) as folder:
            publish(folder, 0, ["a"])
            server.fault = lambda method, path: answer if method == "PUT" and part in path else None
            server.log.clear()
            with pytest.raises(MachineryError, match="cannot be written to"):
                publish(folder, 1, ["b"])
            tries = [line for line in server.log if line.startswith("PUT") and part in line]
            assert 1 <= len(tries) <= fsspec_io.TRIES**2
            server.mend()
            assert folder.committed().made == {"a"}
        with OutputFolder.open(bucket, {}) as folder:
            assert folder.committed().made == {"a"}
            publish(folder, 1, ["b"])
        assert set(ObjectStoreBackend(bucket).sizes("data")) == {"data/part-00000.parquet", "data/part-00001.parquet"}

    @pytest.mark.timeout(200)
    @pytest.mark.parametrize("state", ["gone", pytest.param("silent", marks=pytest.mark.slow)])
    def test_a_store_that_is_gone_or_never_answers(self, bucket, monkeypatch, state):
        monkeypatch.setattr(fsspec_io, "CONNECT_SECONDS", 1)
        monkeypatch.setattr(fsspec_io, "READ_SECONDS", 1)
        monkeypatch.setattr(fsspec_io, "TRIES", 1)
        fsspec_io.forget_file_systems()
        with socket.create_server(("127.0.0.1", 0)) as silent:
            monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{silent.getsockname()[1]}")
            if state == "gone":
                silent.close()
            with pytest.raises(MachineryError):
                OutputFolder.open(bucket, {})
            with pytest.raises(MachineryError):
                read_manifest(f"{bucket}/shop.jsonl")
            monkeypatch.setattr(store_retries.time, "sleep", lambda seconds: None)
            with pytest.raises(MachineryError), SourceLoader(bucket) as loader:
                loader.load(Source("a.png"))

    def test_a_bucket_that_is_not_there(self, server):
        with pytest.raises(UserError, match="s3://nothing-there/out: cannot be written to"):
            OutputFolder.open("s3://nothing-there/out", {})

    @pytest.mark.parametrize("url", ["s3://", "s3:///x", "s3://b/../c", "s3://key:secret@b/x", "s3://b/x::file://y"])
    def test_addresses_that_are_none(self, bucket, url):
        with pytest.raises(UserError, match="is not a usable address: write it like s3://bucket/folder"):
            OutputFolder.open(url, {})
        OutputFolder.open(bucket, {}).close()

    @pytest.mark.parametrize(
        "url", ["memory://x", "ftp://h/x", "file:///tmp/x", "http://h/x", "simplecache::s3://b/x"]
    )
    def test_other_schemes(self, url, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        with pytest.raises(UserError):
            OutputFolder.open(url, {})
        with pytest.raises(UserError) as caught:
            read_manifest(url)
        assert os.listdir(tmp_path) == []
        if "give a path, or one of s3://" in str(caught.value):
            OutputFolder.open("out", {}).close()

    def test_s3fs_that_is_not_installed(self, bucket, monkeypatch):
        fsspec_io.forget_file_systems()
        with monkeypatch.context() as patched:
            patched.setitem(sys.modules, "s3fs", None)
            patched.delitem(_registry, "s3", raising=False)
            with pytest.raises(UserError, match=r"needs a package that is missing: pip install 'wanbatch\[s3\]'"):
                OutputFolder.open(bucket, {})
        OutputFolder.open(bucket, {}).close()  # as if it were installed now
