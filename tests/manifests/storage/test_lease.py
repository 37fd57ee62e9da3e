"""The lease of a folder in an object store: one writer, also after one is gone or frozen."""

import json
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from manifest_making import unit_of
from store_folders import publish, put

from wanbatch.errors import FolderHeldError, MachineryError, WanbatchError
from wanbatch.manifests.dataset import recovery
from wanbatch.manifests.dataset.folder import OutputFolder
from wanbatch.manifests.dataset.part_files import write_attempt
from wanbatch.manifests.dataset.status import status
from wanbatch.manifests.storage import lease
from wanbatch.manifests.storage.object_store import ObjectStoreBackend

SUPPORT = Path(__file__).parents[2] / "support"


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

    def test_a_lease_that_could_not_be_taken_is_given_back(self, bucket, server):
        """Else its heartbeat goes on, and the folder is held by a run that never began."""
        OutputFolder.open(bucket, {}).close()
        denied = "403 Forbidden", "AccessDenied"
        server.fault = lambda method, path: denied if method == "DELETE" and "/lease/0000" in path else None
        with pytest.raises(WanbatchError, match="cannot be written to"):
            OutputFolder.open(bucket, {})
        assert "wanbatch-lease" not in [thread.name for thread in threading.enumerate()]
        server.mend()
        assert status(bucket)["holder"] is None
        OutputFolder.open(bucket, {}).close()

    def test_a_higher_lease_that_came_meanwhile_counts(self, bucket, server):
        """Another run took the next number, ended, and its lease was removed by a third one, which took a higher one.

        The number that was free to us then counts for nothing.
        """
        other = {"host": "elsewhere", "pid": 1, "since": "2030-01-01", "released": False, "process": "x/y"}
        came = []

        def come(method, path):
            if method == "PUT" and path.endswith("/lease/00000001.json") and not came:
                came.append(path)
                put(f"{bucket}/_wanbatch/lease/00000003.json", json.dumps(other).encode())

        server.fault = come
        with pytest.raises(FolderHeldError, match="pid 1 on elsewhere"):
            OutputFolder.open(bucket, {})
        assert came
        assert set(ObjectStoreBackend(bucket).sizes("_wanbatch/lease")) == {"_wanbatch/lease/00000003.json"}

    def test_recovery_moves_nothing_once_the_lease_is_lost(self, bucket, monkeypatch):
        """Another run has taken the folder over while this one was about to tidy up: the parts may be the other's."""
        with OutputFolder.open(bucket, {}) as folder:
            publish(folder, 0, ["a"])
            write_attempt(bucket, attempt="t", **unit_of(1, ["b"]))
        backend = ObjectStoreBackend(bucket)
        backend.rename_noreplace("_wanbatch/tmp/00001-t-data.parquet", "data/part-00001.parquet")
        listed = recovery.published_parts

        def listed_and_lost(backend):
            other = {"host": "elsewhere", "pid": 1, "since": "2030-01-01", "released": False, "process": "x/y"}
            put(f"{bucket}/_wanbatch/lease/00000009.json", json.dumps(other).encode())
            return listed(backend)

        monkeypatch.setattr(recovery, "published_parts", listed_and_lost)
        monkeypatch.setattr(lease, "VALID_SECONDS", 0.0)
        with pytest.raises(MachineryError, match="lease of the folder was lost"):
            OutputFolder.open(bucket, {})
        assert backend.exists("data/part-00001.parquet")
        assert set(backend.sizes("_wanbatch/tmp")) == {"_wanbatch/tmp/00001-t-timings.parquet"}
