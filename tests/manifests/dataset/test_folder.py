"""The output folder: what is written, what is refused, who may write, what other libraries read."""

import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from manifest_making import NOW, encoded, failure, record, timing, unit_of

from wanbatch.errors import FolderHeldError, MachineryError, UserError
from wanbatch.manifests.dataset.card import write_card
from wanbatch.manifests.dataset.folder import OutputFolder
from wanbatch.manifests.dataset.part_files import write_attempt
from wanbatch.manifests.dataset.status import status
from wanbatch.manifests.records import DATA_SCHEMA, FAILURE_SCHEMA, TIMING_SCHEMA, data_table, failure_table

SETTINGS = {"model": "tiny", "guidance": 3.0, "vae": {"dtype": "fp32"}, "columns": ["a"]}


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


def publish(folder: OutputFolder, unit: int, names: list[str], failed: list[str] = (), **options) -> None:  # type: ignore[assignment]
    attempt = write_attempt(folder.path, attempt="try", **unit_of(unit, names, failed, **options))
    try:
        folder.publish(attempt)
    finally:
        folder.discard(attempt)


def tree(out) -> list[str]:
    found = (p.relative_to(out).as_posix() for p in out.rglob("*") if p.is_file())
    return sorted(name for name in found if not name.startswith("_wanbatch/lock"))


class TestWriting:
    def test_a_unit_becomes_parts_and_a_commit(self, out):
        with OutputFolder.open(out, SETTINGS, {"command": "run"}) as folder:
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


class TestPublishing:
    def test_a_unit_or_id_is_committed_once(self, out):
        with OutputFolder.open(out, {}) as folder:
            publish(folder, 0, ["a"], ["b"])
            for arguments in ((0, ["x"]), (1, ["a"]), (1, ["x"], ["a"])):
                with pytest.raises(ValueError, match="committed"):
                    publish(folder, *arguments)
            publish(folder, 2, ["b"])  # a retry of what failed
            assert (folder.committed().made, folder.committed().failed) == ({"a", "b"}, {})
        assert status(out)["quarantined"] == 0

    def test_an_existing_file_is_never_overwritten(self, out):
        with OutputFolder.open(out, {}) as folder:
            (out / "timings/part-00001.parquet").write_text("mine")
            with pytest.raises(MachineryError, match="File exists"):
                publish(folder, 1, ["a"])
            assert (out / "timings/part-00001.parquet").read_text() == "mine"
            assert not (out / "data/part-00001.parquet").exists()
            assert folder.committed().made == set()

    @pytest.mark.parametrize("kind", ["data", "timings", "failures"])
    @pytest.mark.parametrize("damage", ["cut", "flip", "gone"])
    def test_a_damaged_attempt_is_not_published(self, out, kind, damage):
        with OutputFolder.open(out, {}) as folder:
            attempt = write_attempt(folder.path, attempt="t", **unit_of(0, ["a", "b"], ["c"]))
            path = out / "_wanbatch/tmp" / attempt.names[kind]
            raw = bytearray(path.read_bytes())
            raw[len(raw) // 5] ^= 1
            path.unlink()
            if damage != "gone":
                path.write_bytes(raw if damage == "flip" else raw[:-9])
            with pytest.raises(MachineryError, match=r"is not what was written|cannot be read"):
                folder.publish(attempt)
            assert folder.committed().units == set()
            assert not any((out / k / "part-00000.parquet").exists() for k in ("data", "timings", "failures"))
            publish(folder, 0, ["a", "b"], ["c"])

    def test_other_ids_rows_or_columns_than_told(self, out):
        with OutputFolder.open(out, {}) as folder:
            label = pa.table({"label": [1]})
            publish(folder, 0, ["z"], passthrough=label)
            good = write_attempt(folder.path, attempt="good", **unit_of(1, ["a"], passthrough=label))
            for bad in (
                unit_of(1, ["b"], passthrough=label),
                unit_of(1, ["a", "b"], passthrough=pa.table({"label": [1, 2]})),
                unit_of(1, ["a"], passthrough=pa.table({"label": ["1"]})),
                unit_of(1, ["a"]),
            ):
                other = write_attempt(folder.path, attempt=f"bad{len(os.listdir(out / '_wanbatch/tmp'))}", **bad)
                mixed = replace(other, made=good.made, failed=good.failed)
                with pytest.raises(MachineryError, match="is not what was written"):
                    folder.publish(mixed)
            folder.publish(good)


class TestOpening:
    def test_another_fingerprint_is_refused_with_each_difference(self, out):
        OutputFolder.open(out, SETTINGS).close()
        before = {name: (out / name).read_bytes() for name in tree(out)}
        changed = {"model": "tiny", "guidance": 5.0, "vae": {"dtype": "bf16"}, "columns": ["a"], "steps": 4}
        with pytest.raises(UserError) as caught:
            OutputFolder.open(out, changed)
        assert str(caught.value) == (
            f"{out}: was filled with other settings: guidance was 3.0, now 5.0; steps was not set, now 4; "
            'vae.dtype was "fp32", now "bf16". Use the same ones to go on, start another run beside it '
            "with --new-run, or choose another output folder"
        )
        assert {name: (out / name).read_bytes() for name in tree(out)} == before
        OutputFolder.open(out, {**SETTINGS, "columns": ("a",)}).close()  # tuples are lists in JSON

    def test_a_folder_of_something_else_is_refused_untouched(self, tmp_path):
        (tmp_path / "thesis.txt").write_text("x")
        with pytest.raises(UserError, match="holds other files: choose a new or empty output folder"):
            OutputFolder.open(tmp_path, {})
        with pytest.raises(UserError, match="is not a folder"):
            OutputFolder.open(tmp_path / "thesis.txt", {})
        with pytest.raises(UserError, match="is not an output folder of wanbatch"):
            status(tmp_path)
        assert os.listdir(tmp_path) == ["thesis.txt"]

    def test_an_empty_folder_and_a_first_start_cut_short_are_fine(self, out):
        out.mkdir()
        (out / "_wanbatch").mkdir()
        (out / "_wanbatch" / "lock").touch()
        OutputFolder.open(out, {}).close()

    def test_a_new_folder_in_a_new_folder(self, tmp_path):
        OutputFolder.open(tmp_path / "a" / "b", {}).close()
        assert (tmp_path / "a/b/_wanbatch/run.json").exists()

    def test_damaged_notes_are_named(self, out):
        with OutputFolder.open(out, {}) as folder:
            publish(folder, 0, ["a"])
        (out / "_wanbatch/commits/00000.json").write_text("{")
        with pytest.raises(UserError, match=r"00000\.json: cannot be read"):
            OutputFolder.open(out, {})
        (out / "_wanbatch/run.json").write_text('{"format": 99}')
        with pytest.raises(UserError, match="another version of wanbatch"):
            OutputFolder.open(out, {})

    def test_a_committed_part_that_is_gone_or_cut_is_named(self, out):
        with OutputFolder.open(out, {}) as folder:
            publish(folder, 0, ["a"])
        part = out / "data/part-00000.parquet"
        raw = part.read_bytes()
        part.write_bytes(raw[:-1])
        with pytest.raises(
            UserError, match=rf"has {len(raw) - 1} bytes instead of {len(raw)}: restore it, or remove"
        ):
            OutputFolder.open(out, {})
        part.unlink()
        with pytest.raises(UserError, match="is gone"):
            OutputFolder.open(out, {})
        (out / "_wanbatch/commits/00000.json").unlink()
        with OutputFolder.open(out, {}) as folder:
            assert folder.committed().made == set()
            assert not (out / "timings/part-00000.parquet").exists()
            publish(folder, 0, ["a"])

    def test_other_passthrough_columns_are_refused_before_the_work(self, out):
        with OutputFolder.open(out, {}) as folder:
            folder.require_columns(pa.schema([("anything", pa.int8())]))
            publish(folder, 0, ["a"], passthrough=pa.table({"label": [1], "gone": [["x"]]}))
        with OutputFolder.open(out, {}) as folder:
            folder.require_columns(pa.schema([("label", pa.int64()), ("gone", pa.list_(pa.string()))]))
            with pytest.raises(UserError, match="their order was label, gone"):
                folder.require_columns(pa.schema([("gone", pa.list_(pa.string())), ("label", pa.int64())]))
            with pytest.raises(UserError) as caught:
                folder.require_columns(pa.schema([("label", pa.float64()), ("new", pa.null())]))
        said = str(caught.value)
        assert 'gone was "list<element: string>", now not set; label was "int64", now "double"' in said
        assert 'new was not set, now "null"' in said

    def test_leftovers_go_and_other_files_stay(self, out):
        with OutputFolder.open(out, {}) as folder:
            publish(folder, 0, ["a"])
            write_attempt(folder.path, attempt="orphan", **unit_of(1, ["b"], ["c"]))
        (out / "data/part-00007.parquet").write_text("torn")
        (out / "data/notes.txt").write_text("mine")
        with OutputFolder.open(out, {}) as folder:
            assert folder.committed().made == {"a"}
        assert tree(out) == [
            "_wanbatch/commits/00000.json",
            "_wanbatch/run.json",
            "data/notes.txt",
            "data/part-00000.parquet",
            "timings/part-00000.parquet",
        ]


HOLD = (
    "import sys, time\n"
    "from wanbatch.manifests.dataset.folder import OutputFolder\n"
    "folder = OutputFolder.open(sys.argv[1], {})\n"
    "print('held', flush=True)\n"
    "time.sleep(60)\n"
)


class TestLock:
    def test_a_second_process_is_told_who_holds_it(self, out):
        holder = subprocess.Popen([sys.executable, "-c", HOLD, out], stdout=subprocess.PIPE, text=True)
        try:
            assert holder.stdout.readline() == "held\n"
            with pytest.raises(FolderHeldError, match=rf"\(pid {holder.pid} on .* since 20") as caught:
                OutputFolder.open(out, {})
            assert caught.value.exit_code == 4
            assert status(out)["holder"]["pid"] == holder.pid
        finally:
            holder.send_signal(signal.SIGKILL)
            holder.wait()
            holder.stdout.close()
        assert status(out)["holder"] is None
        OutputFolder.open(out, {}).close()

    def test_the_same_process_cannot_open_it_twice(self, out):
        with OutputFolder.open(out, {}), pytest.raises(FolderHeldError, match=f"pid {os.getpid()} "):
            OutputFolder.open(out, {})
        with OutputFolder.open(out, {}):
            pass


def test_status_and_plan(out):
    with OutputFolder.open(out, SETTINGS, {"command": "wanbatch run"}) as folder:
        assert status(out)["pending"] is None
        folder.set_plan({"rows": 9})
        publish(folder, 0, ["a", "b"], ["c"])
        folder.publish(
            write_attempt(out, 1, "t", None, [], [failure("d", kind="oom"), failure("e", kind="bad_image")])
        )
        found = status(out)
    assert (found["rows"], found["done"], found["quarantined"], found["pending"]) == (9, 2, 3, 4)
    assert found["failures"] == {"bad_image": 2, "oom": 1}
    assert (found["units"], found["info"]) == (2, {"command": "wanbatch run"})
    assert found["fingerprint"] == SETTINGS
    assert json.dumps(found)


def test_ten_thousand_commits_are_read_quickly(out):
    OutputFolder.open(out, {}).close()
    for unit in range(10_000):
        record = {"unit": unit, "ids": [f"{unit}-{n}" for n in range(8)], "failed": {}, "parts": {}}
        (out / f"_wanbatch/commits/{unit:05d}.json").write_text(json.dumps(record))
    start = time.perf_counter()
    with OutputFolder.open(out, {}) as folder:
        taken = time.perf_counter() - start
        assert len(folder.committed().made) == 80_000
        assert folder.committed().next_unit == 10_000
    assert taken < 5


class TestOtherLibraries:
    @pytest.fixture
    def finished(self, out, monkeypatch, tmp_path):
        monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
        with OutputFolder.open(out, SETTINGS) as folder:
            folder.set_plan({"rows": 6})
            for unit, names in enumerate((["a", "b"], ["c", "d", "e"])):
                extra = pa.table({"label": [unit] * len(names), "tags": [["x", None]] * len(names)})
                publish(folder, unit, names, ["f"] if unit else [], passthrough=extra)
            schema = pa.schema([("label", pa.int64())])
            write_card(out, "some/model", "abc|123", {"guidance": 3.0, "odd | `name`": "<b>"}, status(out), schema)
        (out / "report.html").write_text("<html></html>")
        return out

    def test_datasets(self, finished, tmp_path):
        import datasets

        loaded = datasets.load_dataset(str(finished), cache_dir=str(tmp_path / "cache"))
        assert list(loaded) == ["train"]
        train = loaded["train"]
        assert isinstance(train.features["image"], datasets.Image)
        assert train["id"][:] == ["a", "b", "c", "d", "e"]
        assert train[0]["image"].size == (32, 32)
        assert train[0]["image"].getpixel((0, 0)) == (200, 30, 30)
        assert (train[4]["label"], train[4]["tags"], train[4]["creativity"]) == (1, ["x", None], 0.5)
        assert train[0]["sources"][1]["path"] == "b.png"

    def test_pandas(self, finished):
        import pandas as pd

        data, timings = pd.read_parquet(finished / "data"), pd.read_parquet(finished / "timings")
        joined = data.merge(timings, on="id", validate="one_to_one")
        assert len(joined) == 5
        assert joined["started"].dt.tz is not None
        assert joined["image"][0]["bytes"] == encoded()

    def test_polars(self, finished):
        import polars as pl

        frame = pl.read_parquet(finished / "data" / "*.parquet")
        assert frame["label"].to_list() == [0, 0, 1, 1, 1]
        assert frame["image"].struct.field("path").to_list()[0] == "a.png"
        assert pl.read_parquet(finished / "timings")["denoise_seconds"].sum() == 2.5

    def test_duckdb(self, finished):
        import duckdb

        rows = duckdb.sql(
            f"select d.id, d.label, t.backends.denoise from '{finished}/data/*.parquet' d "
            f"join '{finished}/timings/*.parquet' t using (id) order by id desc"
        ).fetchall()
        assert rows[0] == ("e", 1, "eager")
        assert duckdb.sql(f"select id, error_class from '{finished}/failures/*.parquet'").fetchall() == [
            ("f", "bad_image")
        ]

    def test_the_card(self, finished):
        text = (finished / "README.md").read_text()
        assert text.startswith("---\npretty_name: ")
        assert "5 images, made from a manifest by wanbatch with `some/model` at revision `abc\\|123`." in text
        assert "1 rows could not be made (1 bad_image)." in text
        assert "| `label` | from the manifest (`int64`) |" in text
        assert "| `odd \\| 'name'` | `&lt;b>` |" in text


def test_tables_and_passthrough_must_have_one_length():
    with pytest.raises(ValueError, match="1 records but 2 passthrough rows"):
        data_table([record("a")], pa.table({"x": [1, 2]}))
    assert data_table([record("a")], pa.table({"x": [1, 2]}).select([])).schema.equals(DATA_SCHEMA)


def test_messages_are_made_storable():
    (message,) = failure_table([replace(failure("a"), message="\ud800" + "x" * 5000)])["message"].to_pylist()
    assert message == "?" + "x" * 1999


def test_names_that_are_no_unicode_can_be_noted(out):
    settings = {"path": os.fsdecode(b"caf\xe9")}
    with OutputFolder.open(out, settings) as folder:
        write_card(out, settings["path"], None, settings, status(out))
        folder.set_plan({"rows": 1, **settings})
    OutputFolder.open(out, settings).close()
    assert status(out)["plan"] == {"rows": 1, **settings}


def test_times_are_stored_in_utc(out):
    with OutputFolder.open(out, {}) as folder:
        publish(folder, 0, ["a"])
    started = pq.read_table(out / "timings/part-00000.parquet")["started"]
    assert str(started.type) == "timestamp[us, tz=UTC]"
    assert pc.strftime(started, "%H:%M:%S").to_pylist() == ["03:04:05.678901"]
    assert timing("a").started == started[0].as_py()


class TestChangedRows:
    def test_digests_are_kept_with_the_commit(self, out):
        unit = unit_of(0, ["a", "b"], ["c"])
        with OutputFolder.open(out, {}) as folder:
            folder.publish(write_attempt(out, attempt="t", **unit, digests={"a": "one", "c": "three"}))
        with OutputFolder.open(out, {}) as folder:
            done = folder.committed()
            assert (done.made["a"], done.made["b"], done.made.get("c")) == ("one", None, None)
            assert "a" in done.made
            assert done.made == {"a", "b"}
            assert frozenset(["a", "x"]) & done.made == {"a"}
            assert done.made | done.failed.keys() == {"a", "b", "c"}
            with pytest.raises(KeyError):
                done.made["c"]
        (line,) = (out / "_wanbatch/commits/00000.json").read_text().splitlines()
        assert json.loads(line)["digests"] == ["one", None, "three"]

    @pytest.mark.parametrize("digests", [{"x": "1"}, {"a": ""}, {"a": "two words"}, {"a": "x" * 129}])
    def test_digests_that_do_not_fit(self, out, digests):
        with OutputFolder.open(out, {}), pytest.raises(ValueError, match="digest"):
            write_attempt(out, attempt="t", **unit_of(0, ["a"]), digests=digests)

    def test_a_retry_leaves_each_id_in_one_part(self, out):
        with OutputFolder.open(out, {}) as folder:
            publish(folder, 0, ["a"], ["b", "c", "d"])
            publish(folder, 1, ["b"], ["c"])
            assert visible(out) == (["a", "b"], ["a", "b"], ["c", "d"])
            assert pq.read_table(out / "failures/part-00000.parquet")["id"].to_pylist() == ["d"]
            publish(folder, 2, ["c", "d"])
            assert visible(out) == (["a", "b", "c", "d"], ["a", "b", "c", "d"], [])
            before = folder.committed()
        with OutputFolder.open(out, {}) as folder:
            again = folder.committed()
            assert (again.made, again.failed, again.where) == (before.made, before.failed, before.where)
        assert (status(out)["done"], status(out)["quarantined"]) == (4, 0)

    def test_what_is_made_is_replaced_only_when_allowed(self, out):
        with OutputFolder.open(out, {}) as folder:
            publish(folder, 0, ["a", "b", "c"], passthrough=pa.table({"label": [1, 2, 3]}))
            attempt = write_attempt(out, attempt="n", **unit_of(1, ["b"], ["c"], pa.table({"label": [9]})))
            with pytest.raises(ValueError, match="'b', which is committed as made already"):
                folder.publish(attempt)
            folder.publish(attempt, replace=True)
            assert visible(out) == (["a", "b"], ["a", "b"], ["c"])
            assert (folder.committed().made, folder.committed().failed) == ({"a", "b"}, {"c": "bad_image"})
        found = pq.read_table(out / "data").to_pydict()
        assert dict(zip(found["id"], found["label"], strict=True)) == {"a": 1, "b": 9}
        old = pq.read_table(out / "data/part-00000.parquet")
        assert old.schema.metadata == DATA_SCHEMA.metadata
        with OutputFolder.open(out, {}) as folder:
            assert folder.committed().made == {"a", "b"}
        assert tree(out) == [
            "_wanbatch/commits/00000.json",
            "_wanbatch/commits/00001.json",
            "_wanbatch/run.json",
            "data/part-00000.parquet",
            "data/part-00001.parquet",
            "failures/part-00001.parquet",
            "timings/part-00000.parquet",
            "timings/part-00001.parquet",
        ]

    def test_replaced_again_and_again_out_of_order(self, out):
        """Later commits count more than higher numbers."""
        with OutputFolder.open(out, {}) as folder:
            for unit in (5, 9, 7, 8, 2):
                attempt = write_attempt(
                    out, attempt="t", **unit_of(unit, ["a", f"only{unit}"]), digests={"a": f"{unit}"}
                )
                folder.publish(attempt, replace=True)
        with OutputFolder.open(out, {}) as folder:
            assert folder.committed().made["a"] == "2"
            assert folder.committed().where["a"] == 2
        assert visible(out)[0] == ["a", "only2", "only5", "only7", "only8", "only9"]

    def test_a_commit_taken_away_by_hand_takes_what_was_left_of_its_part(self, out):
        with OutputFolder.open(out, {}) as folder:
            publish(folder, 0, ["a", "b"], ["c"])
            publish(folder, 1, ["c"])
            attempt = write_attempt(out, attempt="n", **unit_of(2, ["b"]))
            folder.publish(attempt, replace=True)
        (out / "_wanbatch/commits/00000.json").unlink()
        with OutputFolder.open(out, {}) as folder:
            assert folder.committed().made == {"b", "c"}
            assert visible(out) == (["b", "c"], ["b", "c"], [])
            publish(folder, 3, ["a"])
        assert visible(out)[0] == ["a", "b", "c"]

    def test_a_damaged_old_part_is_named_and_nothing_changes(self, out):
        with OutputFolder.open(out, {}) as folder:
            publish(folder, 0, ["a", "b"])
            path = out / "data/part-00000.parquet"
            raw = bytearray(path.read_bytes())
            raw[len(raw) // 5] ^= 1
            path.write_bytes(raw)
            attempt = write_attempt(out, attempt="n", **unit_of(1, ["b"]))
            with pytest.raises(MachineryError, match="part-00000"):
                folder.publish(attempt, replace=True)
            assert folder.committed().where["b"] == 0
            assert not (out / "data/part-00001.parquet").exists()
            assert sorted(os.listdir(out / "_wanbatch/tmp")) == ["00001-n-data.parquet", "00001-n-timings.parquet"]


def visible(out) -> tuple[list[str], list[str], list[str]]:
    """The ids in data, timings and failures, sorted."""
    found = []
    for kind in ("data", "timings", "failures"):
        parts = (out / kind).glob("*.parquet")
        found.append(sorted(name for part in parts for name in pq.read_table(part)["id"].to_pylist()))
    return tuple(found)


class TestGroups:
    def attempts(self, out, units):
        return [write_attempt(out, attempt="t", **unit_of(n, [f"a{n}"], [f"b{n}"])) for n in units]

    def test_units_are_committed_together(self, out):
        with OutputFolder.open(out, {}) as folder:
            publish(folder, 0, ["x"], ["y"])
            retry = write_attempt(out, attempt="r", **unit_of(9, ["y"]))
            assert folder.publish_many([*self.attempts(out, (7, 3, 5)), retry]) == []
            assert folder.committed().units == {0, 3, 5, 7, 9}
        assert sorted(os.listdir(out / "_wanbatch/commits")) == ["00000.json", "00003.json", "00009.json"]
        with OutputFolder.open(out, {}) as folder:
            assert folder.committed().made == {"x", "y", "a3", "a5", "a7"}
            assert folder.publish_many([]) == []

    def test_a_damaged_one_does_not_stop_the_others(self, out):
        with OutputFolder.open(out, {}) as folder:
            attempts = self.attempts(out, range(5))
            for unit in (0, 3):
                path = out / "_wanbatch/tmp" / attempts[unit].names["data"]
                path.write_bytes(path.read_bytes()[:-9])
            refused = folder.publish_many(attempts)
            assert [one.attempt.unit for one in refused] == [0, 3]
            assert all(isinstance(one.error, MachineryError) for one in refused)
            assert folder.committed().units == {1, 2, 4}
            for one in refused:
                folder.discard(one.attempt)
            folder.publish_many([write_attempt(out, attempt="again", **unit_of(n, [f"a{n}"])) for n in (0, 3)])
            assert folder.committed().units == {0, 1, 2, 3, 4}

    def test_one_id_in_two_units_of_a_group(self, out):
        with OutputFolder.open(out, {}) as folder:
            attempts = [write_attempt(out, attempt="t", **unit_of(n, ["same"])) for n in range(2)]
            with pytest.raises(ValueError, match="another unit of this group"):
                folder.publish_many(attempts)
            with pytest.raises(ValueError, match="unit 0 is committed already"):
                folder.publish_many([attempts[0], attempts[0]])
            assert folder.committed().units == set()

    def test_a_file_in_the_way_takes_the_whole_group_back(self, out):
        with OutputFolder.open(out, {}) as folder:
            (out / "timings/part-00001.parquet").write_text("mine")
            with pytest.raises(MachineryError, match="File exists"):
                folder.publish_many(self.attempts(out, range(3)))
            assert os.listdir(out / "data") == []
            assert (out / "timings/part-00001.parquet").read_text() == "mine"

    def test_several_threads(self, out):
        with OutputFolder.open(out, {}) as folder:
            attempts = self.attempts(out, range(40))
            with ThreadPoolExecutor(8) as pool:
                list(pool.map(folder.publish, attempts))
            assert len(folder.committed().made) == 40
        with OutputFolder.open(out, {}) as folder:
            assert len(folder.committed().made) == 40
