"""Folders whose manifest has grown: the parts get columns that hold the values of both, or nothing is changed."""

import errno
import json
import subprocess
import sys
from pathlib import Path
from typing import ClassVar

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from manifest_making import unit_of
from output_folders import publish

from wanbatch.errors import MachineryError, UserError
from wanbatch.manifests.columns import WRITTEN
from wanbatch.manifests.dataset import part_schemas
from wanbatch.manifests.dataset.card import CardContent
from wanbatch.manifests.dataset.folder import OutputFolder
from wanbatch.manifests.dataset.part_files import write_attempt
from wanbatch.manifests.dataset.repair import repair
from wanbatch.manifests.dataset.schema_changes import cast, common_schema
from wanbatch.manifests.records import DATA_SCHEMA, huggingface_features
from wanbatch.manifests.storage.local import LocalBackend

SUPPORT = Path(__file__).parents[2] / "support"


def whole(**columns: pa.DataType) -> pa.Schema:
    return pa.schema([*DATA_SCHEMA, *columns.items()])


@pytest.mark.parametrize("kind", [pa.bool_(), pa.string()])
def test_a_column_of_the_manifest_is_not_taken_for_one_that_a_run_writes_since(out, kind):
    """A folder that was begun before `is_synthetic` was a column of runs, with one of that name in its manifest."""
    own = pa.table({"is_synthetic": pa.nulls(1, kind)})
    with OutputFolder.open(out, {"model": "tiny"}) as folder:
        publish(folder, 0, ["a"], passthrough=own)
    with OutputFolder.open(out, {"model": "tiny"}) as folder:
        with pytest.raises(UserError, match=r"is_synthetic came with the manifest, .* choose another output folder"):
            folder.common_columns(pa.schema([("is_synthetic", pa.bool_()), ("source_is_synthetic", kind)]))
        with pytest.raises(UserError, match="is_synthetic came with the manifest"):
            folder.common_columns(own.schema)


def test_a_folder_that_a_run_began_with_its_columns_goes_on(out):
    written = pa.table({"evaluations": pa.array([1], pa.int32()), "is_synthetic": [True], "wanbatch_version": ["1"]})
    with OutputFolder.open(out, {"model": "tiny"}) as folder:
        publish(folder, 0, ["a"], passthrough=written)
    with OutputFolder.open(out, {"model": "tiny"}) as folder:
        assert set(written.column_names) <= set(folder.common_columns(written.schema).names)


@pytest.mark.parametrize(
    ("old", "new", "common"),
    [
        (pa.null(), pa.string(), pa.string()),
        (pa.string(), pa.null(), pa.string()),
        (pa.null(), pa.struct([("a", pa.int64())]), pa.struct([("a", pa.int64())])),
        (pa.int64(), pa.float64(), pa.float64()),
        (pa.float64(), pa.int64(), pa.float64()),
        (pa.int8(), pa.int32(), pa.int32()),
        (pa.string(), pa.large_string(), pa.large_string()),
        (pa.list_(pa.null()), pa.list_(pa.string()), pa.list_(pa.string())),
        (pa.list_(pa.float32(), 2), pa.list_(pa.float32(), 3), pa.list_(pa.float32())),
        (pa.struct([("a", pa.int64())]), pa.struct([("b", pa.string())]), {"a": pa.int64(), "b": pa.string()}),
        (pa.map_(pa.string(), pa.int64()), pa.map_(pa.string(), pa.float64()), pa.map_(pa.string(), pa.float64())),
        (pa.timestamp("s"), pa.timestamp("us"), pa.timestamp("us")),
        (pa.decimal128(5, 2), pa.decimal128(12, 4), pa.decimal128(12, 4)),
    ],
)
def test_types_with_a_common_one(old, new, common):
    kind = pa.struct(list(common.items())) if isinstance(common, dict) else common
    schema = common_schema(whole(x=old), whole(x=new))
    assert schema.field("x").type == kind
    for before in (old, new):
        nulls = pa.table({"x": pa.nulls(2, before)})
        assert cast(nulls, pa.schema([("x", kind)]))["x"].null_count == 2


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (pa.string(), pa.int64()),
        (pa.bool_(), pa.int64()),
        (pa.string(), pa.binary()),
        (pa.list_(pa.string()), pa.list_(pa.binary())),
        (pa.decimal128(5, 2), pa.float64()),
        (pa.timestamp("us"), pa.timestamp("us", "UTC")),
        (pa.date32(), pa.timestamp("us")),
        (pa.struct([("a", pa.string())]), pa.struct([("a", pa.int64())])),
        (pa.list_(pa.int64()), pa.int64()),
    ],
)
def test_types_without_a_common_one(old, new):
    with pytest.raises(ValueError, match=r"^x was .+, now ") as caught:
        common_schema(whole(x=old), whole(x=new))
    assert str(caught.value) == f"x was {old}, now {new}"


def test_order_and_later_columns():
    old = whole(b=pa.int64(), a=pa.string())
    new = whole(keywords=WRITTEN["keywords"], c=pa.bool_(), a=pa.string(), b=pa.int64())
    schema = common_schema(old, new)
    assert schema.names == [*DATA_SCHEMA.names, "keywords", "b", "a", "c"]
    assert schema.field("keywords").type == WRITTEN["keywords"]
    with pytest.raises(ValueError, match="keywords was string, now list"):
        common_schema(whole(keywords=pa.string()), new)


def test_features_of_datasets_are_kept_where_the_types_are():
    def declaring(name: str, kind: pa.DataType, feature: dict) -> pa.Schema:
        told = {"info": {"features": {name: feature}}}
        return whole(**{name: kind}).with_metadata({"huggingface": json.dumps(told)})

    label = {"_type": "ClassLabel", "names": ["x", "y"]}
    old = declaring("label", pa.int64(), label)
    assert huggingface_features(common_schema(old, whole(label=pa.int64())))["label"] == label
    assert "label" not in huggingface_features(common_schema(old, whole(label=pa.float64())))
    assert huggingface_features(common_schema(whole(label=pa.null()), old))["label"] == label


OLD = pa.table({"score": [1, 2], "note": pa.nulls(2), "nested": [{"a": 1}, None]})
NEW = pa.table({"tag": ["x"], "nested": [{"a": 1, "b": ["y"]}], "note": ["ok"], "score": [2.5]})


def grow(out: Path, new: pa.Table, names: list[str]) -> pa.Schema:
    """Go on with a folder as a run does whose manifest has other columns by now."""
    with OutputFolder.open(out, {}) as folder:
        folder.keep_card(CardContent("tiny", None, {}, new.schema))
        schema = folder.common_columns(new.schema)
        folder.change_columns(schema)
        own = pa.schema([field for field in schema if field.name not in DATA_SCHEMA.names], metadata=schema.metadata)
        publish(folder, folder.committed().next_unit, names, passthrough=cast(new, own))
        folder.settle_card()
        return schema


@pytest.fixture
def old(out):
    with OutputFolder.open(out, {}) as folder:
        folder.keep_card(CardContent("tiny", None, {}, OLD.schema))
        publish(folder, 0, ["a", "b"], ["f"], passthrough=OLD)
        publish(folder, 1, ["c", "d"], passthrough=OLD)
        folder.settle_card()
    return out


class TestReaders:
    """Each with its plain call, on old parts and new ones."""

    SCORES: ClassVar = {"a": 1.0, "b": 2.0, "c": 1.0, "d": 2.0, "e": 2.5}

    @pytest.fixture
    def grown(self, old, tmp_path):
        import datasets

        assert len(datasets.load_dataset(str(old), split="train", cache_dir=str(tmp_path / "cache"))) == 4
        grow(old, NEW, ["e"])
        return old

    def test_datasets(self, grown, tmp_path):
        import datasets

        for streaming in (False, True):
            rows = datasets.load_dataset(
                str(grown), split="train", cache_dir=str(tmp_path / "cache"), streaming=streaming
            )
            found = {row["id"]: row for row in rows}
            assert {name: row["score"] for name, row in found.items()} == self.SCORES
            assert [found[name]["note"] for name in "ade"] == [None, None, "ok"]
            assert [found[name]["tag"] for name in "ade"] == [None, None, "x"]
            assert found["a"]["image"].size == (32, 32)
            assert found["a"]["nested"] == {"a": 1, "b": None}
            assert found["e"]["nested"] == {"a": 1, "b": ["y"]}

    def test_pandas(self, grown):
        import pandas as pd

        frame = pd.read_parquet(grown / "data").set_index("id")
        assert frame["score"].to_dict() == self.SCORES
        assert frame["tag"]["e"] == "x"
        assert frame["note"].isna().tolist() == [True, True, True, True, False]

    def test_polars(self, grown):
        import polars as pl

        frame = pl.read_parquet(grown / "data" / "*.parquet")
        assert dict(zip(frame["id"], frame["score"], strict=True)) == self.SCORES
        assert frame["tag"].to_list() == [None] * 4 + ["x"]
        assert pl.scan_parquet(grown / "data").select("note").collect()["note"].to_list() == [None] * 4 + ["ok"]

    def test_duckdb(self, grown):
        import duckdb

        rows = duckdb.sql(f"select id, score, tag from '{grown}/data/*.parquet' order by id").fetchall()
        assert rows[0] == ("a", 1.0, None)
        assert rows[4] == ("e", 2.5, "x")


def test_growing_twice_and_a_manifest_that_has_narrower_types_again(old):
    grow(old, NEW, ["e"])
    schema = grow(old, pa.table({"score": [7], "note": pa.nulls(1), "nested": [None], "tag": ["z"]}), ["g"])
    assert schema.field("score").type == pa.float64()
    assert pq.read_table(old / "data")["score"].to_pylist() == [1.0, 2.0, 1.0, 2.0, 2.5, 7.0]


def test_parts_that_have_the_columns_are_left_alone(old, caplog):
    before = {part: part.stat().st_ino for part in (old / "data").iterdir()}
    same = pa.table({"note": pa.nulls(1), "score": [3], "nested": [{"a": 2}]})  # in another order
    grow(old, same, ["e"])
    assert {part: part.stat().st_ino for part in before} == before
    assert not caplog.records
    grow(old, NEW, ["g"])
    assert "3 parts were given the columns that the manifest has now" in caplog.text


class TestRefused:
    """With a message, and nothing changed."""

    @pytest.fixture(autouse=True)
    def unchanged(self, old):
        before = {path: path.read_bytes() for path in old.rglob("*.parquet")}
        yield
        assert {path: path.read_bytes() for path in old.rglob("*.parquet")} == before
        assert not (old / part_schemas.CHANGING).exists()

    def refusal(self, out: Path, new: pa.Table) -> str:
        with OutputFolder.open(out, {}) as folder, pytest.raises(UserError) as caught:
            folder.common_columns(new.schema)
        return str(caught.value)

    def test_other_types(self, old):
        said = self.refusal(old, pa.table({"score": ["good"], "note": pa.nulls(1), "nested": [{"a": "b"}]}))
        assert said.startswith(
            f"{old}: has columns that the manifest's do not go with: score was int64, now string; "
        )
        assert "nested was struct<a: int64>, now struct<a: string>. Make the manifest's columns like they" in said

    def test_a_column_that_is_gone(self, old):
        said = self.refusal(old, pa.table({"scores": [1], "nested": [None]}))
        assert "do not go with: score is gone (was it renamed to scores?). " in said
        assert "note" not in said, "it never had a value"

    def test_integers_that_no_float_holds(self, old):
        with OutputFolder.open(old, {}) as folder:
            large = pa.table({"score": [2**53 + 1], "note": pa.nulls(1), "nested": [{"a": 1}]})
            publish(folder, 2, ["e"], passthrough=large)
        said = self.refusal(old, NEW)
        assert "score was int64, now double, which not all values have room in (Integer value 90071992" in said
        for path in old.rglob("part-00002.parquet"):
            path.unlink()  # for the comparison afterwards


def test_a_damaged_part_is_named_with_the_remedy(old):
    part = old / "data/part-00001.parquet"
    raw = bytearray(part.read_bytes())
    raw[40] ^= 255  # in the first page, which has a checksum
    part.write_bytes(raw)
    with pytest.raises(UserError, match=rf"part-00001.parquet: cannot be read .*: run `wanbatch repair {old}` and"):
        grow(old, NEW, ["e"])


def test_a_disk_that_fails_in_between_and_a_repair(old, monkeypatch):
    """One part has the new columns, and the other the old ones: the same command goes on."""
    monkeypatch.setattr(part_schemas, "TOGETHER", 1)
    replace = LocalBackend.replace

    def failing(self, source, target):
        if target.endswith("00001.parquet"):
            raise OSError(errno.EIO, "Input/output error", target)
        replace(self, source, target)

    with monkeypatch.context() as patch:
        patch.setattr(LocalBackend, "replace", failing)
        with pytest.raises(MachineryError, match="Input/output error"):
            grow(old, NEW, ["e"])
    assert len({str(pq.read_schema(part)) for part in (old / "data").iterdir()}) == 2
    assert repair(old).whole
    grow(old, NEW, ["e"])
    assert len({str(pq.read_schema(part)) for part in (old / "data").iterdir()}) == 1
    assert sorted(pq.read_table(old / "data")["id"].to_pylist()) == ["a", "b", "c", "d", "e"]
    assert not (old / part_schemas.CHANGING).exists()


def test_an_attempt_with_the_columns_of_before_is_not_published(old):
    with OutputFolder.open(old, {}) as folder:
        folder.change_columns(folder.common_columns(NEW.schema))
        attempt = write_attempt(old, attempt="t", **unit_of(9, ["x", "y"], passthrough=OLD))
        (rejected,) = folder.publish_many([attempt])
    assert "its columns are not those of data" in str(rejected.error)


@pytest.mark.parametrize("step", [9, pytest.param(1, marks=pytest.mark.slow)])
def test_killed_before_every_file_operation(tmp_path, step):
    """Nothing is lost or there twice at any moment, and the next run ends with parts that go together."""
    command = [sys.executable, SUPPORT / "killed_column_change.py", tmp_path, str(step)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr
    runs = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(runs) * step > 40
    before, after = "manifest_row int64, score int64, note null", "score double, note string, tag string"
    assert {tuple(killed["columns"]) for killed, *_ in runs} >= {(before,), (before, after), (after,)}
    for killed, found, found_ids, rows, columns, files in runs:
        assert killed["ids"] in (["a", "b", "c"], ["a", "b", "c", "d"])
        assert found == found_ids
        assert found in (["a", "b", "c"], ["a", "b", "c", "d"])
        old_rows = [[name, 1.0, None, None] for name in "abc"]
        assert rows == [*old_rows, ["d", 2.5, "ok", "x"]]
        assert columns == [after]
        assert [name for name in files if name.startswith("_wanbatch")] == ["_wanbatch/run.json"]
