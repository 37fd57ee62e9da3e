"""Object stores, against an S3 server on this machine: outputs, leases, manifests, sources, and stores that fail."""

import io
import json
import os
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fsspec.registry import _registry
from killed_run import STATES
from manifest_making import encoded, unit_of
from s3_server import ENVIRONMENT, running

from wanbatch.errors import FolderHeldError, MachineryError, RowError, UserError
from wanbatch.manifests.dataset.card import write_card
from wanbatch.manifests.dataset.folder import OutputFolder
from wanbatch.manifests.dataset.part_files import write_attempt
from wanbatch.manifests.dataset.status import status
from wanbatch.manifests.reading.manifest import read_manifest
from wanbatch.manifests.records import Source
from wanbatch.manifests.sources.loader import SourceLoader
from wanbatch.manifests.storage import fsspec_io, lease
from wanbatch.manifests.storage.object_store import ObjectStoreBackend

SUPPORT = Path(__file__).parents[2] / "support"


@pytest.fixture(scope="module")
def shared_server():
    with running() as server:
        yield server


@pytest.fixture
def server(shared_server, monkeypatch):
    for name, value in {**ENVIRONMENT, "AWS_ENDPOINT_URL": shared_server.url}.items():
        monkeypatch.setenv(name, value)
    fsspec_io.forget_file_systems()
    yield shared_server
    shared_server.mend()
    fsspec_io.forget_file_systems()


@pytest.fixture
def bucket(server, request):
    """The URL of an empty folder in a bucket."""
    system = fsspec_io.file_system("s3://bucket")
    if not system.exists("bucket"):
        system.mkdir("bucket")
    return f"s3://bucket/{abs(hash(request.node.nodeid)):x}"


def publish(folder: OutputFolder, unit: int, names: list[str], failed: list[str] = (), **options) -> None:  # type: ignore[assignment]
    folder.publish(write_attempt(folder.url, attempt="t", **unit_of(unit, names, failed)), **options)


def put(url: str, data: bytes) -> None:
    fsspec_io.file_system(url).pipe_file(url, data)


class TestOutput:
    def test_a_folder_is_filled_left_and_gone_on_with(self, bucket, server):
        with OutputFolder.open(f"{bucket}/", {"model": "tiny"}, {"command": "run"}) as folder:
            assert folder.url == bucket
            with pytest.raises(ValueError, match="is no local folder"):
                _ = folder.path
            folder.set_plan({"rows": 5})
            publish(folder, 0, ["a", "b"], ["c"])
            copies = [line for line in server.log if line.startswith("PUT") and "/data/" in line]
            assert len(copies) == 1
            assert status(bucket)["holder"]["pid"] == os.getpid()
            folder.publish_many([write_attempt(bucket, attempt="t", **unit_of(n, [f"d{n}"])) for n in (1, 2)])
            write_attempt(bucket, attempt="orphan", **unit_of(3, ["x"]))
            folder.append_internal_file("log.jsonl", b"{}\n")
            write_card(bucket, "tiny", None, {}, status(bucket))
        with OutputFolder.open(bucket, {"model": "tiny"}) as folder:
            assert folder.committed().made == {"a", "b", "d1", "d2"}
            publish(folder, 4, ["c"])
            publish(folder, 5, ["a"], replace=True)
        found = status(bucket)
        assert (found["done"], found["quarantined"], found["pending"], found["holder"]) == (5, 0, 0, None)
        backend = ObjectStoreBackend(bucket)
        assert set(backend.sizes("")) == {"README.md"}
        assert set(backend.sizes("data")) == {f"data/part-0000{n}.parquet" for n in (0, 1, 2, 4, 5)}
        assert set(backend.sizes("_wanbatch/commits")) == {f"_wanbatch/commits/0000{n}.json" for n in (0, 1, 4, 5)}
        assert backend.sizes("_wanbatch/tmp") == backend.sizes("failures") == {}
        with backend.open("data/part-00000.parquet") as file:
            assert pq.read_table(file)["id"].to_pylist() == ["b"]

    def test_another_fingerprint_other_files_and_lost_parts(self, bucket):
        put(f"{bucket}/other/notes.txt", b"mine")
        with pytest.raises(UserError, match="holds other files"):
            OutputFolder.open(f"{bucket}/other", {})
        with OutputFolder.open(f"{bucket}/out", {"steps": 4}) as folder:
            publish(folder, 0, ["a"])
        with pytest.raises(UserError, match="steps was 4, now 5"):
            OutputFolder.open(f"{bucket}/out", {"steps": 5})
        put(f"{bucket}/out/data/part-00000.parquet", b"cut")
        with pytest.raises(UserError, match=r"s3://.*part-00000.parquet: has 3 bytes instead of"):
            OutputFolder.open(f"{bucket}/out", {"steps": 4})
        with pytest.raises(UserError, match="is not an output folder of wanbatch"):
            status(f"{bucket}/none")

    def test_a_damaged_upload_is_not_published(self, bucket):
        with OutputFolder.open(bucket, {}) as folder:
            attempt = write_attempt(bucket, attempt="t", **unit_of(0, ["a"]))
            url = f"{bucket}/_wanbatch/tmp/{attempt.names['data']}"
            raw = bytearray(fsspec_io.file_system(url).cat_file(url))
            raw[len(raw) // 5] ^= 1
            put(url, bytes(raw))
            with pytest.raises(MachineryError, match="is not what was written"):
                folder.publish(attempt, verify_checksums=True)
            put(url, bytes(raw[:-9]))
            with pytest.raises(MachineryError, match="is not what was written"):
                folder.publish(attempt)
            assert folder.committed().units == set()

    @pytest.mark.parametrize("step", [60, pytest.param(5, marks=pytest.mark.slow)])
    def test_killed_before_writing_requests(self, bucket, step):
        command = [sys.executable, SUPPORT / "killed_store_run.py", bucket, str(step)]
        environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
        done = subprocess.run(command, capture_output=True, text=True, timeout=280, env=environment)
        assert done.returncode == 0, done.stderr
        clean, *runs = [json.loads(line) for line in done.stdout.splitlines()]
        assert len(runs) * step >= 50
        for run in runs:
            found = run["found"]
            assert found["units"] == list(range(len(found["units"])))
            made, failed, data_parts, failure_parts = STATES[len(found["units"])]
            assert (found["made"], found["failed"]) == (list(made), list(failed))
            assert found["data_ids"] == found["timings_ids"] == list(made)
            assert found["failures_ids"] == list(failed)
            expected = {f"_wanbatch/commits/{unit:05d}.json" for unit in found["units"]}
            expected |= {f"{kind}/part-{unit:05d}.parquet" for kind in ("data", "timings") for unit in data_parts}
            expected |= {f"failures/part-{unit:05d}.parquet" for unit in failure_parts}
            assert set(found["files"]) == expected, f"killed before operation {run['at']}"
            assert found["tmp"] == []
            assert run["final"] == clean["final"]
            assert run["counts"] == {"done": 3, "quarantined": 2, "pending": 0}


class TestLease:
    def test_a_second_run_is_told_who_holds_it(self, bucket):
        with OutputFolder.open(bucket, {}) as folder:
            with pytest.raises(FolderHeldError, match=rf"\(pid {os.getpid()} on .* since 20"):
                OutputFolder.open(bucket, {})
            publish(folder, 0, ["a"])
        OutputFolder.open(bucket, {}).close()

    def test_a_stale_one_is_taken_over_and_its_holder_cannot_commit(self, bucket, monkeypatch):
        monkeypatch.setattr(lease, "HEARTBEAT_SECONDS", 1000.0)  # as if its process were frozen
        first = OutputFolder.open(bucket, {})
        monkeypatch.setattr(lease, "EXPIRY_SECONDS", 1.0)
        time.sleep(2.5)
        with OutputFolder.open(bucket, {}):
            monkeypatch.setattr(lease, "VALID_SECONDS", 1.0)
            attempt = write_attempt(bucket, attempt="t", **unit_of(0, ["a"]))
            with pytest.raises(MachineryError, match="lease of the folder was lost"):
                first.publish(attempt)
        assert not ObjectStoreBackend(bucket).exists("data/part-00000.parquet")
        first.close()
        assert status(bucket)["done"] == 0

    def test_a_holder_that_is_gone_is_taken_over_at_once(self, bucket):
        code = (
            "import os, signal, sys\n"
            "from wanbatch.manifests.dataset.folder import OutputFolder\n"
            "OutputFolder.open(sys.argv[1], {})\n"
            "os.kill(os.getpid(), signal.SIGKILL)\n"
        )
        subprocess.run([sys.executable, "-c", code, bucket], check=False, timeout=60)
        assert ObjectStoreBackend(bucket).exists("_wanbatch/lease/00000001.json")
        assert status(bucket)["holder"] is None
        OutputFolder.open(bucket, {}).close()

    def test_the_holder_of_another_machine_is_believed(self, bucket):
        note = {"host": "elsewhere", "pid": 1, "since": "2030-01-01", "released": False, "process": "x/y"}
        put(f"{bucket}/_wanbatch/lease/00000007.json", json.dumps(note).encode())
        with pytest.raises(FolderHeldError, match="pid 1 on elsewhere since 2030-01-01"):
            OutputFolder.open(bucket, {})

    def test_of_many_at_once_one_gets_it(self, bucket):
        start = threading.Barrier(6)

        def attempt(_: int) -> OutputFolder | None:
            start.wait()
            try:
                return OutputFolder.open(bucket, {})
            except FolderHeldError:
                return None

        with ThreadPoolExecutor(6) as pool:
            opened = [folder for folder in pool.map(attempt, range(6)) if folder is not None]
        assert len(opened) == 1
        opened[0].close()

    def test_heartbeats(self, bucket, monkeypatch):
        monkeypatch.setattr(lease, "HEARTBEAT_SECONDS", 0.2)
        monkeypatch.setattr(lease, "EXPIRY_SECONDS", 1.5)
        with OutputFolder.open(bucket, {}):
            time.sleep(3)
            with pytest.raises(FolderHeldError):
                OutputFolder.open(bucket, {})


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

    def test_a_store_without_conditional_writes_is_refused(self, bucket, server):
        server.ignores_conditions = True
        with pytest.raises(UserError, match="ignores conditional writes"):
            OutputFolder.open(bucket, {})

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
            start = time.monotonic()
            with pytest.raises(MachineryError, match="cannot be written to"):
                publish(folder, 1, ["b"])
            assert time.monotonic() - start < 60
            server.mend()
            assert folder.committed().made == {"a"}
        with OutputFolder.open(bucket, {}) as folder:
            assert folder.committed().made == {"a"}
            publish(folder, 1, ["b"])
        assert set(ObjectStoreBackend(bucket).sizes("data")) == {"data/part-00000.parquet", "data/part-00001.parquet"}

    @pytest.mark.parametrize("state", ["gone", pytest.param("silent", marks=pytest.mark.slow)])
    def test_a_store_that_is_gone_or_never_answers(self, bucket, monkeypatch, state):
        monkeypatch.setattr(fsspec_io, "CONNECT_SECONDS", 1)
        monkeypatch.setattr(fsspec_io, "READ_SECONDS", 1)
        fsspec_io.forget_file_systems()
        with socket.create_server(("127.0.0.1", 0)) as silent:
            monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{silent.getsockname()[1]}")
            if state == "gone":
                silent.close()
            start = time.monotonic()
            with pytest.raises(MachineryError):
                OutputFolder.open(bucket, {})
            with pytest.raises(MachineryError):
                read_manifest(f"{bucket}/shop.jsonl")
            with pytest.raises(MachineryError), SourceLoader(bucket) as loader:
                loader.load(Source("a.png"))
            assert time.monotonic() - start < 60

    def test_a_bucket_that_is_not_there(self, server):
        with pytest.raises(UserError, match="s3://nothing-there/out: cannot be written to"):
            OutputFolder.open("s3://nothing-there/out", {})

    @pytest.mark.parametrize("url", ["s3://", "s3:///x", "s3://b/../c", "s3://key:secret@b/x", "s3://b/x::file://y"])
    def test_addresses_that_are_none(self, server, url):
        with pytest.raises(UserError, match="is not a usable address"):
            OutputFolder.open(url, {})

    @pytest.mark.parametrize(
        "url", ["memory://x", "ftp://h/x", "file:///tmp/x", "http://h/x", "simplecache::s3://b/x"]
    )
    def test_other_schemes(self, url, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        with pytest.raises(UserError):
            OutputFolder.open(url, {})
        with pytest.raises(UserError):
            read_manifest(url)
        assert os.listdir(tmp_path) == []

    def test_s3fs_that_is_not_installed(self, server, monkeypatch):
        monkeypatch.setitem(sys.modules, "s3fs", None)
        monkeypatch.delitem(_registry, "s3", raising=False)
        with pytest.raises(UserError, match=r"pip install 'wanbatch\[s3\]'"):
            OutputFolder.open("s3://bucket/x", {})


class TestInputs:
    def test_a_manifest_of_lines(self, bucket):
        put(f"{bucket}/shop.jsonl", b'{"prompt": "a", "image": "a.png"}\n{"prompt": 1}\n')
        with pytest.raises(UserError, match=r"shop\.jsonl:2: prompt is 1"):
            read_manifest(f"{bucket}/shop.jsonl")
        put(f"{bucket}/shop.jsonl", f'{{"image": "{bucket}/img/a.png", "x": 1}}\n{{"image": "img/a.png"}}\n'.encode())
        manifest = read_manifest(f"{bucket}/shop.jsonl")
        assert (manifest.source_root, manifest.path) == (bucket, f"{bucket}/shop.jsonl")
        assert manifest.row(1).place == f"{bucket}/shop.jsonl:2"
        put(f"{bucket}/img/a.png", encoded(8, 4))
        with SourceLoader(manifest.source_root) as loader:
            assert [loader.size(row.sources[0]) for row in manifest.iter_rows()] == [(8, 4), (8, 4)]

    def test_parquet_with_embedded_images(self, bucket):
        table = pa.table({"image": [{"bytes": encoded(8, 4), "path": None}, {"bytes": encoded(4, 8), "path": "x"}]})
        for name in ("a.parquet", "b.parquet"):
            buffer = io.BytesIO()
            pq.write_table(table, buffer)
            put(f"{bucket}/shop/{name}", buffer.getvalue())
        manifest = read_manifest(f"{bucket}/shop")
        assert len(manifest) == 4
        assert manifest.row(3).place == f"{bucket}/shop/b.parquet row 1"
        with SourceLoader(manifest.source_root) as loader:
            assert [loader.size(row.sources[0]) for row in manifest.iter_rows()] == [(8, 4), (4, 8)] * 2
        with pytest.raises(UserError, match="there is no such manifest"):
            read_manifest(f"{bucket}/none.jsonl")
        put(f"{bucket}/bad.parquet", b"nothing of the kind")
        with pytest.raises(UserError, match="cannot be read as Parquet"):
            read_manifest(f"{bucket}/bad.parquet")

    def test_a_local_manifest_with_sources_in_a_store(self, bucket, jsonl, problems):
        path = jsonl({"image": "deep/a.png"})
        put(f"{bucket}/deep/a.png", encoded())
        manifest = read_manifest(path, source_root=bucket)
        with SourceLoader(bucket) as loader:
            assert loader.load(manifest.row(0).sources[0]).pixels.shape == (32, 32, 3)
        (found,) = problems(jsonl({"image": f"{bucket}/deep/a.png"}))
        assert "set --source-root to the folder in the store" in found

    @pytest.mark.parametrize(
        "path",
        [
            "../a.png",
            "x/../../a.png",
            "/etc/hostname",
            "s3://bucket/secret.png",
            "s3://other/a.png",
            "file:///etc/passwd",
        ],
    )
    def test_paths_that_leave(self, bucket, path, server):
        put("s3://bucket/secret.png", encoded())
        server.log.clear()
        with SourceLoader(bucket) as loader, pytest.raises(RowError) as caught:
            loader.load(Source(path))
        assert caught.value.kind == "forbidden_source"
        assert server.log == []

    def test_what_is_missing_or_too_large(self, bucket, server):
        put(f"{bucket}/a.png", encoded())
        with SourceLoader(bucket, max_bytes=50) as loader:
            for path, kind in (("none.png", "missing_image"), ("a.png", "too_large")):
                server.log.clear()
                with pytest.raises(RowError) as caught:
                    loader.load(Source(path))
                assert caught.value.kind == kind
                assert not any(line.startswith("GET") and "a.png" in line for line in server.log)
