"""Output folders in an object store, against an S3 server on this machine."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from killed_removal import require_all_or_nothing
from killed_run import STATES
from manifest_making import unit_of
from store_folders import publish, put

from wanbatch.errors import MachineryError, UserError
from wanbatch.manifests.dataset.card import CardContent, write_card
from wanbatch.manifests.dataset.folder import OutputFolder
from wanbatch.manifests.dataset.part_files import write_attempt
from wanbatch.manifests.dataset.status import status
from wanbatch.manifests.storage import fsspec_io
from wanbatch.manifests.storage.object_store import ObjectStoreBackend

SUPPORT = Path(__file__).parents[2] / "support"


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
            write_card(bucket, CardContent("tiny", None, {}), status(bucket))
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

    def test_a_folder_whose_address_looks_like_a_pattern_is_gone_on_with(self, bucket):
        url = f"{bucket}/run[1]*?"
        with OutputFolder.open(url, {"model": "tiny"}) as folder:
            publish(folder, 0, ["a"])
            publish(folder, 1, ["b"])
        with OutputFolder.open(url, {"model": "tiny"}) as folder:
            assert set(folder.committed().made) == {"a", "b"}
        assert status(url)["done"] == 2

    def test_parts_are_given_the_columns_of_a_grown_manifest(self, bucket):
        with OutputFolder.open(bucket, {}) as folder:
            old = unit_of(0, ["a"], passthrough=pa.table({"score": [1]}))
            folder.publish(write_attempt(bucket, attempt="t", **old))
        with OutputFolder.open(bucket, {}) as folder:
            folder.change_columns(folder.common_columns(pa.schema([("score", pa.float64()), ("tag", pa.string())])))
        backend = ObjectStoreBackend(bucket)
        with backend.open("data/part-00000.parquet") as file:
            assert pq.read_table(file, columns=["id", "score", "tag"]).to_pylist() == [
                {"id": "a", "score": 1.0, "tag": None}
            ]
        assert backend.sizes("_wanbatch/tmp") == {}
        assert not backend.exists("_wanbatch/columns.json")

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

    @pytest.mark.parametrize("step", [50, pytest.param(5, marks=pytest.mark.slow)])
    def test_killed_before_writing_requests(self, bucket, step):
        command = [sys.executable, SUPPORT / "killed_store_run.py", bucket, str(step)]
        environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
        done = subprocess.run(command, capture_output=True, text=True, timeout=600, env=environment)
        assert done.returncode == 0, done.stderr
        clean, *runs = [json.loads(line) for line in done.stdout.splitlines()]
        assert len(runs) * step >= 40
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

    @pytest.mark.parametrize("step", [18, pytest.param(1, marks=pytest.mark.slow)])
    def test_killed_while_ids_leave(self, bucket, step):
        command = [sys.executable, SUPPORT / "killed_removal.py", bucket, str(step)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, done.stderr
        runs = [json.loads(line) for line in done.stdout.splitlines()]
        assert len(runs) * step >= 20
        require_all_or_nothing(runs)

    @pytest.mark.parametrize("step", [24, pytest.param(1, marks=pytest.mark.slow)])
    def test_killed_while_columns_change(self, bucket, step):
        command = [sys.executable, SUPPORT / "killed_store_columns.py", bucket, str(step)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, done.stderr
        runs = [json.loads(line) for line in done.stdout.splitlines()]
        assert len(runs) * step >= 18
        for killed, found, schemas, left, marked in runs:
            assert killed == found == ["a", "b", "c"], "no image is gone or there twice at any moment"
            assert schemas == ["score double, note string, tag string"]
            assert (left, marked) == ([], False)
