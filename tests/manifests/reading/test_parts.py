"""Folders of Parquet files: sub-folders, partitions, and parts whose columns are not quite the same."""

import os
from decimal import Decimal

import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from wanbatch.errors import UserError
from wanbatch.manifests.reading.manifest import read_manifest


def ids(manifest) -> list[str]:
    return [row.id for row in manifest.iter_rows()]


@pytest.fixture
def frame() -> pd.DataFrame:
    return pd.DataFrame(
        {"id": list("abcd"), "prompt": ["a"] * 4, "kind": ["x", "x", "y", None], "seed": [1, 2, 3, 4]}
    )


class TestColumns:
    def test_a_column_that_is_empty_in_one_part_and_one_with_gaps_in_another(self, tmp_path):
        first = pd.DataFrame({"id": ["a", "b"], "prompt": ["a"] * 2, "note": [None, None], "score": [1, 2]})
        second = pd.DataFrame({"id": ["c", "d"], "prompt": ["a"] * 2, "note": ["ok", None], "score": [3, None]})
        first.to_parquet(tmp_path / "part-0.parquet", index=False)
        second.to_parquet(tmp_path / "part-1.parquet", index=False)
        passed = read_manifest(tmp_path).passthrough
        assert passed.to_pydict() == {"note": [None, None, "ok", None], "score": [1.0, 2.0, 3.0, None]}
        assert passed.schema.field("score").type == pa.float64()

    @pytest.mark.parametrize(
        ("one", "other", "together"),
        [
            (pa.array([1], pa.int8()), pa.array([2**40]), pa.array([1, 2**40])),
            (pa.array([1], pa.int32()), pa.array([3000000000], pa.uint32()), pa.array([1, 3000000000])),
            (pa.array([1]), pa.array([0.5]), pa.array([1.0, 0.5])),
            (pa.array([Decimal("0.5")]), pa.array([1.25]), pa.array([0.5, 1.25])),
            (pa.array([{"x": 1}]), pa.array([{"y": "a"}]), pa.array([{"x": 1, "y": None}, {"x": None, "y": "a"}])),
            (pa.array([[]], pa.list_(pa.null())), pa.array([["a"]]), pa.array([[], ["a"]])),
            (pa.array(["a"]).dictionary_encode(), pa.array(["b"]), pa.array(["a", "b"])),
            (pa.array(["a"], pa.string_view()), pa.array(["b"]), pa.array(["a", "b"])),
        ],
        ids=["widths", "signs", "fractions", "decimals", "fields", "empty lists", "categories", "views"],
    )
    def test_types_are_unified_where_nothing_is_lost(self, parquet, tmp_path, one, other, together):
        parquet({"prompt": ["a"], "n": one}, "a.parquet")
        parquet({"prompt": ["b"], "n": other}, "b.parquet")
        assert read_manifest(tmp_path).passthrough["n"].combine_chunks().equals(together)

    def test_a_column_that_a_part_lacks_is_null_there(self, parquet, tmp_path):
        parquet({"prompt": ["a"], "n": [1]}, "a.parquet")
        parquet({"prompt": ["b"], "m": ["x"]}, "b.parquet")
        assert read_manifest(tmp_path).passthrough.to_pylist() == [{"n": 1, "m": None}, {"n": None, "m": "x"}]

    @pytest.mark.parametrize(
        ("one", "other", "said"),
        [
            (["a"], [1], "column 'n' is int64, but string in"),
            ([b"a"], ["a"], "column 'n' is string, but binary in"),
            ([True], [1], "column 'n' is int64, but bool in"),
            ([2**53 + 1], [0.5], "column 'n' has values that double, its type in other files, cannot hold"),
            ([Decimal("0.12345678901234567890123")], [0.5], "column 'n' has values that double, its type in other"),
        ],
        ids=["text", "bytes", "boolean", "large", "digits"],
    )
    def test_what_would_change_is_refused_with_its_file(self, parquet, tmp_path, problems, one, other, said):
        parquet({"prompt": ["a"], "n": one}, "parts/a.parquet")
        parquet({"prompt": ["b"], "n": other}, "parts/b.parquet")
        (found,) = problems(tmp_path / "parts")
        assert said in found
        assert found.endswith(("cast it", "cast it in all files"))

    def test_one_fault_is_one_problem(self, parquet, tmp_path, problems):
        parquet({"prompt": ["a"], "mine": [1]}, name="parts/1.parquet")
        parquet({"prompt": ["b"], "mine": ["x"]}, name="parts/2.parquet")
        (found,) = problems(tmp_path / "parts")
        assert "2.parquet: column 'mine' is string, but int64 in " in found

    def test_known_columns_may_have_other_types_in_each_part(self, parquet, tmp_path):
        parquet({"prompt": ["a"], "seed": [2**62]}, "a.parquet")
        parquet({"prompt": ["b"], "seed": pa.nulls(1)}, "b.parquet")
        parquet({"prompt": ["c"], "seed": [7.0]}, "c.parquet")
        assert [row.seed for row in read_manifest(tmp_path).iter_rows()] == [2**62, None, 7]


class TestFolders:
    def test_a_checkout_of_the_hub(self, frame, tmp_path):
        (tmp_path / "data").mkdir()
        (tmp_path / "README.md").write_text("# d\n")
        frame[:2].to_parquet(tmp_path / "data/train-00000-of-00002.parquet", index=False)
        frame[2:].to_parquet(tmp_path / "data/train-00001-of-00002.parquet", index=False)
        manifest = read_manifest(tmp_path)
        assert ids(manifest) == ["a", "b", "c", "d"]
        assert manifest.row(2).location == f"{tmp_path}/data/train-00001-of-00002.parquet row 0"
        assert manifest.source_root == tmp_path

    def test_files_on_several_levels_are_all_read_and_hidden_ones_are_not(self, frame, tmp_path):
        names = [
            "top.parquet",
            "a/one.parquet",
            "a/b/two.pq",
            ".cache/no.parquet",
            "_old/no.parquet",
            "a/.no.parquet",
        ]
        for number, name in enumerate(names):
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            frame[:1].assign(id=f"r{number}").to_parquet(tmp_path / name, index=False)
        assert sorted(ids(read_manifest(tmp_path))) == ["r0", "r1", "r2"]

    def test_links_to_folders_are_followed_once(self, frame, tmp_path):
        (tmp_path / "m").mkdir()
        (tmp_path / "elsewhere").mkdir()
        frame.to_parquet(tmp_path / "elsewhere/m.parquet", index=False)
        (tmp_path / "m/link").symlink_to(tmp_path / "elsewhere")
        (tmp_path / "elsewhere/circle").symlink_to(tmp_path / "m")
        assert ids(read_manifest(tmp_path / "m")) == ["a", "b", "c", "d"]

    @pytest.mark.skipif(os.geteuid() == 0, reason="root may list any folder")
    def test_a_folder_that_cannot_be_listed_is_not_an_empty_one(self, frame, tmp_path):
        frame.to_parquet(tmp_path / "m.parquet", index=False)
        (tmp_path / "locked").mkdir(mode=0)
        with pytest.raises(UserError, match="cannot be read"):
            read_manifest(tmp_path)

    def test_a_folder_whose_listing_fails_is_not_an_empty_one(self, frame, tmp_path, monkeypatch):
        frame.to_parquet(tmp_path / "m.parquet", index=False)
        (tmp_path / "sub").mkdir()
        scandir = os.scandir

        def failing(folder):
            if str(folder).endswith("sub"):
                raise OSError(5, "Input/output error", folder)
            return scandir(folder)

        monkeypatch.setattr(os, "scandir", failing)
        with pytest.raises(UserError, match="cannot be read"):
            read_manifest(tmp_path)


class TestPartitions:
    def test_pandas_partitions(self, frame, tmp_path):
        frame.to_parquet(tmp_path / "hive", partition_cols=["kind"], index=False)
        manifest = read_manifest(tmp_path / "hive")
        passed = dict(zip(ids(manifest), manifest.passthrough["kind"].to_pylist(), strict=True))
        assert passed == {"a": "x", "b": "x", "c": "y", "d": None}

    def test_columns_that_wanbatch_knows_and_numbers(self, frame, tmp_path):
        frame["steps"], frame["year"] = [4, 4, 8, 8], [2024, 2024, 2025, 2025]
        frame.to_parquet(tmp_path / "hive", partition_cols=["steps", "year"], index=False)
        manifest = read_manifest(tmp_path / "hive")
        assert {row.id: row.steps for row in manifest.iter_rows()} == {"a": 4, "b": 4, "c": 8, "d": 8}
        assert manifest.passthrough.schema.field("year").type == pa.int64()
        assert manifest.passthrough["year"].to_pylist() == [2024, 2024, 2025, 2025]

    @pytest.mark.parametrize("value", ["007", "a b", "x=y", "50%"])
    def test_values_stay_what_they_were(self, frame, tmp_path, value):
        frame.assign(kind=value).to_parquet(tmp_path / "hive", partition_cols=["kind"], index=False)
        assert read_manifest(tmp_path / "hive").passthrough["kind"].to_pylist() == [value] * 4

    def test_polars_writes_them_into_the_files_too(self, tmp_path):
        frame = pl.DataFrame({"id": ["a", "b"], "prompt": ["a", "b"], "n": [1, 2]})
        for row in frame.iter_slices(1):
            folder = tmp_path / f"hive/n={row['n'][0]}"
            folder.mkdir(parents=True)
            row.write_parquet(folder / "0.parquet")
        manifest = read_manifest(tmp_path / "hive")
        assert manifest.passthrough.to_pydict() == {"n": [1, 2]}

    @pytest.mark.parametrize("ending", ["csv", "jsonl"])
    def test_in_folders_of_text_files(self, tmp_path, ending):
        for number, (kind, steps) in enumerate((("x", 4), ("__HIVE_DEFAULT_PARTITION__", 8))):
            folder = tmp_path / f"hive/kind={kind}/year={2024 + number}/steps={steps}"
            folder.mkdir(parents=True)
            frame = pd.DataFrame({"id": [f"r{number}"], "prompt": ["a"], "n": [number]})
            if ending == "csv":
                frame.to_csv(folder / "part.csv", index=False)
            else:
                frame.to_json(folder / "part.jsonl", orient="records", lines=True)
        manifest = read_manifest(tmp_path / "hive")
        assert {row.id: row.steps for row in manifest.iter_rows()} == {"r0": 4, "r1": 8}
        passed = dict(zip(ids(manifest), manifest.passthrough.to_pylist(), strict=True))
        assert passed == {"r0": {"n": 0, "kind": "x", "year": 2024}, "r1": {"n": 1, "kind": None, "year": 2025}}

    @pytest.mark.parametrize("name", ["m.csv", "m.jsonl"])
    def test_a_list_that_is_no_json_in_a_folder_of_text_files(self, tmp_path, name):
        (tmp_path / "keywords=a").mkdir()
        (tmp_path / "keywords=a" / name).write_text("prompt\na\n" if name == "m.csv" else '{"prompt": "a"}\n')
        with pytest.raises(
            UserError, match=r"keywords=a/m\.\w+(:2)?: keywords is 'a': in a cell write a list as JSON"
        ):
            read_manifest(tmp_path)

    def test_a_bad_value_is_named_with_its_file(self, frame, tmp_path, problems):
        frame.assign(steps=0).drop(columns="seed")[:1].to_parquet(
            tmp_path / "hive", partition_cols=["steps"], index=False
        )
        (found,) = problems(tmp_path / "hive")
        assert found.startswith("hive/steps=0/")
        assert "row 0: steps is 0: must be an integer from 1 to 1000; the nearest is 1" in found

    def test_folders_above_the_manifest_do_not_count(self, frame, tmp_path):
        folder = tmp_path / "run=3"
        folder.mkdir()
        frame.to_parquet(folder / "m.parquet", index=False)
        assert read_manifest(folder).passthrough.column_names == ["kind"]
        assert read_manifest(folder / "m.parquet").passthrough.column_names == ["kind"]


def test_a_footer_alone_decides_the_digest_of_a_plain_folder(parquet, tmp_path):
    parquet({"prompt": ["a"]}, "m/a.parquet")
    assert read_manifest(tmp_path / "m").digest == read_manifest(tmp_path / "m/a.parquet").digest
    assert pq.read_metadata(tmp_path / "m/a.parquet").num_rows == 1
