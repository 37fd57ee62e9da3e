"""Parts and attempts: what is written, how, and what is refused."""

import os
import subprocess
import sys
from dataclasses import replace

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from manifest_making import NOW, encoded, failure, record, timing, unit_of
from output_folders import publish, tree

from wanbatch.errors import MachineryError
from wanbatch.manifests.dataset.folder import OutputFolder
from wanbatch.manifests.dataset.part_files import write_attempt
from wanbatch.manifests.records import DATA_SCHEMA, FAILURE_SCHEMA, TIMING_SCHEMA, data_table, failure_table


class TestWriting:
    def test_a_unit_becomes_parts_and_a_commit(self, out):
        with OutputFolder.open(out, {"model": "tiny"}, {"command": "run"}) as folder:
            publish(folder, 0, ["a", "b"], ["c"])
            publish(folder, 3, [], ["d"])
            done = folder.committed()
            assert (done.made, done.failed, done.next_unit) == ({"a", "b"}, {"c": "bad_image", "d": "bad_image"}, 4)
        assert tree(out) == [
            "_wanbatch/commits/00000.json",
            "_wanbatch/commits/00003.json",
            "_wanbatch/run.json",
            "data/part-00000.parquet",
            "failures/part-00000.parquet",
            "failures/part-00003.parquet",
            "timings/part-00000.parquet",
        ]
        schema = pq.read_schema(out / "data/part-00000.parquet")
        assert schema.equals(DATA_SCHEMA)
        assert schema.metadata == DATA_SCHEMA.metadata
        assert pq.read_schema(out / "timings/part-00000.parquet").equals(TIMING_SCHEMA)
        assert pq.read_schema(out / "failures/part-00000.parquet").equals(FAILURE_SCHEMA)
        first = pq.read_table(out / "data/part-00000.parquet").to_pylist()[0]
        assert first["image"] == {"bytes": encoded(), "path": "a.png"}
        assert first["sources"] == [
            {"path": "a.png", "weight": 0.25, "sha256": "aa"},
            {"path": "b.png", "weight": 0.75, "sha256": "bb"},
        ]
        assert (first["seed"], first["revision"]) == (2**62, None)
        timed = pq.read_table(out / "timings/part-00000.parquet").to_pylist()[0]
        assert (timed["started"], timed["backends"]["denoise"], timed["denoise_seconds"]) == (NOW, "eager", 0.5)
        failed = pq.read_table(out / "failures/part-00003.parquet").to_pylist()[0]
        assert (failed["id"], failed["stage"], failed["error_class"]) == ("d", "source", "bad_image")

    def test_row_groups_are_small_pages_have_checksums_and_images_are_not_packed_twice(self, out):
        with OutputFolder.open(out, {}) as folder:
            publish(folder, 0, [f"r{n}" for n in range(250)])
        metadata = pq.ParquetFile(out / "data/part-00000.parquet").metadata
        assert [metadata.row_group(g).num_rows for g in range(metadata.num_row_groups)] == [100, 100, 50]
        columns = {
            c.path_in_schema: c for c in (metadata.row_group(0).column(i) for i in range(metadata.num_columns))
        }
        assert columns["image.bytes"].compression == "UNCOMPRESSED"
        assert {c.compression for name, c in columns.items() if name != "image.bytes"} == {"ZSTD"}
        raw = bytearray((out / "data/part-00000.parquet").read_bytes())
        raw[raw.index(b"IDAT") + 6] ^= 1
        with pytest.raises(OSError, match="CRC"):
            pq.read_table(pa.BufferReader(bytes(raw)), page_checksum_verification=True)

    @pytest.mark.parametrize(
        ("change", "said"),
        [
            ({"data": None, "timings": []}, "without any row"),
            ({"timings": []}, "timings and data have different ids"),
            ({"failures": [failure("a")]}, "twice"),
            ({"attempt": "../x"}, "is not made of letters"),
        ],
    )
    def test_an_attempt_that_does_not_fit_together(self, out, change, said):
        with OutputFolder.open(out, {}) as folder:
            arguments = {"attempt": "t", **unit_of(0, ["a"]), **change}
            with pytest.raises(ValueError, match=said):
                write_attempt(folder.path, **arguments)
            assert os.listdir(out / "_wanbatch/tmp") == []

    def test_nothing_is_left_when_a_part_cannot_be_written(self, out):
        with OutputFolder.open(out, {}) as folder:
            unwritable = unit_of(0, ["a"], passthrough=pa.table({"x": pa.array([{}], pa.struct([]))}))
            with pytest.raises(pa.ArrowException):
                write_attempt(folder.path, attempt="t", **unwritable)
            assert os.listdir(out / "_wanbatch/tmp") == []

    def test_an_attempt_of_the_same_name_is_left_alone(self, out):
        with OutputFolder.open(out, {}) as folder:
            first = write_attempt(folder.path, attempt="t", **unit_of(0, ["a"]))
            with pytest.raises(MachineryError, match="File exists"):
                write_attempt(folder.path, attempt="t", **unit_of(0, ["a"]))
            folder.publish(first)

    def test_a_full_disk_is_a_machinery_error_and_leaves_nothing(self, out):
        code = (
            "import resource, signal, sys\n"
            "sys.path.insert(0, sys.argv[2])\n"
            "from manifest_making import encoded, unit_of\n"
            "from wanbatch.errors import MachineryError\n"
            "from wanbatch.manifests.dataset.folder import OutputFolder\n"
            "from wanbatch.manifests.dataset.part_files import write_attempt\n"
            "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
            "with OutputFolder.open(sys.argv[1], {}) as folder:\n"
            "    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))\n"
            "    try:\n        write_attempt(folder.path, attempt='t', **unit_of(0, [f'r{n}' for n in range(500)]))\n"
            "    except MachineryError as error:\n        print(error)\n"
        )
        here = os.path.join(os.path.dirname(__file__), "..", "..", "support")
        done = subprocess.run([sys.executable, "-c", code, out, here], capture_output=True, text=True, check=True)
        assert "cannot be written to (File too large)" in done.stdout
        assert os.listdir(out / "_wanbatch/tmp") == []


def test_tables_and_passthrough_must_have_one_length():
    with pytest.raises(ValueError, match="1 records but 2 passthrough rows"):
        data_table([record("a")], pa.table({"x": [1, 2]}))
    assert data_table([record("a")], pa.table({"x": [1, 2]}).select([])).schema.equals(DATA_SCHEMA)


def test_messages_are_made_storable():
    (message,) = failure_table([replace(failure("a"), message="\ud800" + "x" * 5000)])["message"].to_pylist()
    assert message == "?" + "x" * 1999


def test_times_are_stored_in_utc(out):
    with OutputFolder.open(out, {}) as folder:
        publish(folder, 0, ["a"])
    started = pq.read_table(out / "timings/part-00000.parquet")["started"]
    assert str(started.type) == "timestamp[us, tz=UTC]"
    assert pc.strftime(started, "%H:%M:%S").to_pylist() == ["03:04:05.678901"]
    assert timing("a").started == started[0].as_py()
