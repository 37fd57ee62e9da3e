"""Datasets that `save_to_disk` wrote, and other Arrow files: rows, splits, embedded images, damage."""

import json
from contextlib import suppress

import datasets
import polars as pl
import pyarrow as pa
import pyarrow.dataset as ds
import pytest
from manifest_making import encoded
from PIL import Image

from wanbatch.errors import UserError
from wanbatch.manifests.reading.manifest import read_manifest
from wanbatch.manifests.sources.loader import SourceLoader

FEATURES = datasets.Features(
    {
        "id": datasets.Value("string"),
        "prompt": datasets.Value("string"),
        "image": datasets.Image(),
        "label": datasets.ClassLabel(names=["cat", "dog"]),
    }
)


def dataset(start: int = 0, count: int = 6) -> datasets.Dataset:
    numbers = range(start, start + count)
    columns = {
        "id": [f"r{n}" for n in numbers],
        "prompt": ["a star"] * count,
        "image": [Image.new("RGB", (32, 32), (n, 0, 0)) for n in numbers],
        "label": [n % 2 for n in numbers],
    }
    return datasets.Dataset.from_dict(columns, features=FEATURES)


def reds(manifest, order=None) -> list[int]:
    """The red of each row's source, loaded in an order of the rows."""
    rows = list(manifest.iter_rows())
    with SourceLoader(manifest.source_root) as loader:
        return [int(loader.load(rows[at].sources[0]).pixels[0, 0, 0]) for at in order or range(len(rows))]


def write_stream(path, table: pa.Table, rows: int = 4, form=pa.ipc.new_stream, **options) -> None:
    with form(str(path), table.schema, options=pa.ipc.IpcWriteOptions(**options)) as writer:
        writer.write_table(table, max_chunksize=rows)


class TestSavedDatasets:
    def test_shards_are_read_in_their_order(self, tmp_path):
        dataset().save_to_disk(tmp_path / "saved", num_shards=2)
        manifest = read_manifest(tmp_path / "saved")
        assert [row.id for row in manifest.iter_rows()] == [f"r{n}" for n in range(6)]
        assert manifest.row(3).location == f"{tmp_path}/saved/data-00001-of-00002.arrow row 0"
        assert manifest.passthrough.to_pydict() == {"label": [0, 1, 0, 1, 0, 1]}
        features = json.loads(manifest.passthrough.schema.metadata[b"huggingface"])["info"]["features"]
        assert features["label"]["names"] == ["cat", "dog"]
        assert reds(manifest) == [0, 1, 2, 3, 4, 5]
        assert reds(manifest, [5, 0, 4, 4, 1]) == [5, 0, 4, 4, 1]

    def test_a_selection_has_its_own_order(self, tmp_path):
        dataset().select([5, 3, 1]).save_to_disk(tmp_path / "saved")
        assert reds(read_manifest(tmp_path / "saved")) == [5, 3, 1]

    def test_rows_of_several_splits_say_which_they_are_of(self, tmp_path):
        splits = {"train": dataset(0, 3), "test": dataset(10, 2)}
        datasets.DatasetDict(splits).save_to_disk(tmp_path / "saved")
        manifest = read_manifest(tmp_path / "saved")
        assert manifest.passthrough["split"].to_pylist() == ["train"] * 3 + ["test"] * 2
        assert reds(manifest) == [0, 1, 2, 10, 11]
        assert read_manifest(tmp_path / "saved/test").passthrough.column_names == ["label"]

    def test_what_datasets_caches_beside_it_is_no_part_of_it(self, tmp_path):
        dataset().save_to_disk(tmp_path / "saved")
        loaded = datasets.load_from_disk(str(tmp_path / "saved"))
        loaded.map(lambda row: {"prompt": "other"}, cache_file_name=str(tmp_path / "saved/cache-0123.arrow"))
        assert {row.prompt for row in read_manifest(tmp_path / "saved").iter_rows()} == {"a star"}

    def test_the_digest_follows_rows_and_images(self, tmp_path):
        digests = set()
        for number, start in enumerate((0, 0, 1)):
            dataset(start).save_to_disk(tmp_path / f"{number}")
            digests.add(read_manifest(tmp_path / f"{number}").digest)
        assert len(digests) == 2

    def test_extension_types_are_refused(self, tmp_path, problems):
        columns = {"prompt": ["a"], "grid": [[[1, 2], [3, 4]]]}
        features = datasets.Features({"prompt": datasets.Value("string"), "grid": datasets.Array2D((2, 2), "int32")})
        datasets.Dataset.from_dict(columns, features=features).save_to_disk(tmp_path / "saved")
        (found,) = problems(tmp_path / "saved")
        assert "column 'grid' has the extension type" in found

    @pytest.mark.parametrize(
        "values",
        [
            pa.array([(1, 2, 3)], pa.month_day_nano_interval()),
            pa.RunEndEncodedArray.from_arrays(pa.array([1], pa.int32()), pa.array(["a"])),
            pa.UnionArray.from_sparse(pa.array([0], pa.int8()), [pa.array([1])]),
            pa.DictionaryArray.from_arrays(pa.array([0], pa.int8()), pa.array([[1, 2]])),
            pa.array([[(1, 2, 3)]], pa.list_(pa.month_day_nano_interval())),
        ],
        ids=lambda values: str(values.type),
    )
    def test_types_that_parquet_cannot_store_are_refused(self, tmp_path, problems, values):
        write_stream(tmp_path / "m.arrow", pa.table({"prompt": ["a"], "mine": values}))
        (found,) = problems(tmp_path / "m.arrow")
        assert "column 'mine' is or holds " in found
        assert found.endswith(", which Parquet cannot store: simplify it")

    @pytest.mark.parametrize(
        "kind",
        [
            pa.map_(pa.string(), pa.int32()),
            pa.list_(pa.struct({"of": pa.map_(pa.string(), pa.int32())})),
            pa.decimal128(5, 2),
            pa.dictionary(pa.int8(), pa.string()),
            pa.struct({"a": pa.list_(pa.duration("s"))}),
        ],
        ids=str,
    )
    def test_types_that_datasets_does_not_know_are_warned_of(self, tmp_path, kind):
        """Exactly where `datasets` itself refuses the column."""
        write_stream(tmp_path / "m.arrow", pa.table({"prompt": ["a"], "mine": pa.nulls(1, kind)}))
        warnings = read_manifest(tmp_path / "m.arrow").warnings
        try:
            datasets.Features.from_arrow_schema(pa.schema({"mine": kind}))
        except ValueError:
            (said,) = warnings
            assert (
                "column 'mine' is or holds map<string, int32>, for which the library `datasets` has no type" in said
            )
        else:
            assert warnings == ()

    @pytest.mark.parametrize(
        ("name", "text", "said"),
        [
            ("state.json", "{", "state.json: is damaged"),
            ("state.json", "{}", "state.json: names no data files"),
            ("state.json", '{"_data_files": [1]}', "state.json: names no data files"),
            (
                "state.json",
                '{"_indices_data_files": [{"filename": "i.arrow"}]}',
                r"save dataset\.flatten_indices\(\) again",
            ),
            (
                "state.json",
                '{"_data_files": [{"filename": "../m.arrow"}]}',
                "names '../m.arrow', which is not beside it",
            ),
            ("state.json", '{"_data_files": [{"filename": 7}]}', "names 7, which is not beside it"),
            ("dataset_dict.json", '{"splits": []}', "dataset_dict.json: names no splits"),
            ("dataset_dict.json", '{"splits": ["../saved"]}', "names '../saved', which is not beside it"),
        ],
    )
    def test_damaged_descriptions(self, tmp_path, name, text, said):
        dataset().save_to_disk(tmp_path / "saved")
        (tmp_path / "saved" / name).write_text(text)
        with pytest.raises(UserError, match=said):
            read_manifest(tmp_path / "saved")

    def test_a_missing_shard_is_no_empty_one(self, tmp_path):
        dataset().save_to_disk(tmp_path / "saved", num_shards=2)
        (tmp_path / "saved/data-00001-of-00002.arrow").unlink()
        with pytest.raises(
            UserError, match=r"data-00001-of-00002\.arrow: cannot be read \(No such file or directory\)$"
        ):
            read_manifest(tmp_path / "saved")


class TestFiles:
    @pytest.mark.parametrize("form", [pa.ipc.new_stream, pa.ipc.new_file], ids=["stream", "file"])
    @pytest.mark.parametrize("compression", [None, "zstd"])
    def test_both_formats_with_images_of_every_form(self, tmp_path, form, compression):
        pictures = [encoded(colour=(n, 0, 0)) for n in range(10)]
        columns = {
            "plain": pa.array(pictures),
            "struct": pa.array([{"bytes": picture, "width": 1} for picture in pictures]),
            "list": pa.array([[{"path": None, "bytes": picture}] for picture in pictures]),
        }
        for name, images in columns.items():
            table = pa.table({"images" if name == "list" else "image": images, "n": range(10)})
            write_stream(tmp_path / f"{name}.arrow", table, form=form, compression=compression)
            manifest = read_manifest(tmp_path / f"{name}.arrow")
            assert reds(manifest) == list(range(10)), name
            assert reds(manifest, [9, 0, 5, 4]) == [9, 0, 5, 4]
            assert manifest.passthrough["n"].to_pylist() == list(range(10))

    def test_paths_and_rows_without_images(self, tmp_path):
        image = pa.array([{"path": "a.png", "bytes": None}, None, {"path": "b", "bytes": encoded()}])
        write_stream(tmp_path / "m.arrow", pa.table({"image": image, "prompt": ["a"] * 3}))
        rows = read_manifest(tmp_path / "m.arrow").iter_rows()
        assert [[(s.path, s.embedded) for s in row.sources] for row in rows] == [
            [("a.png", False)],
            [],
            [("b", True)],
        ]

    def test_feather_of_polars(self, tmp_path):
        pl.DataFrame({"prompt": ["a", "b"], "n": [1, None]}).write_ipc(tmp_path / "m.feather")
        manifest = read_manifest(tmp_path / "m.feather")
        assert [row.prompt for row in manifest.iter_rows()] == ["a", "b"]
        assert manifest.passthrough["n"].to_pylist() == [1, None]

    def test_a_folder_of_files(self, tmp_path):
        for number in range(2):
            write_stream(tmp_path / f"{number}.arrow", pa.table({"prompt": [f"{number}"]}))
        write_stream(tmp_path / "cache-1.arrow", pa.table({"prompt": ["no"]}))
        assert [row.prompt for row in read_manifest(tmp_path).iter_rows()] == ["0", "1"]

    def test_partitions(self, tmp_path):
        table = pa.table({"prompt": ["a", "b"], "year": [2024, 2025], "n": [1, 2]})
        schema = pa.schema([("year", pa.int64())])
        ds.write_dataset(table, tmp_path, format="ipc", partitioning=ds.partitioning(schema, flavor="hive"))
        passed = read_manifest(tmp_path).passthrough.to_pylist()
        assert passed == [{"n": 1, "year": 2024}, {"n": 2, "year": 2025}]


class TestDamage:
    @pytest.mark.parametrize("content", [b"", b"hello" * 100, b"ARROW1\0\0", b"\xff\xff\xff\xff"], ids=str)
    def test_no_arrow_at_all(self, tmp_path, content):
        (tmp_path / "m.arrow").write_bytes(content)
        with pytest.raises(UserError, match=r"m\.arrow: cannot be read as Arrow|has no rows"):
            read_manifest(tmp_path / "m.arrow")

    @pytest.mark.parametrize("step", [31, pytest.param(5, marks=pytest.mark.slow)])
    @pytest.mark.parametrize("form", [pa.ipc.new_stream, pa.ipc.new_file], ids=["stream", "file"])
    def test_every_flip_is_read_or_refused(self, tmp_path, form, step):
        table = pa.table(
            {
                "prompt": [f"prompt {n}" for n in range(20)],
                "image": [{"bytes": b"x" * n, "path": None} for n in range(20)],
                "kind": pa.array(["a", "b"] * 10).dictionary_encode(),
                "box": [[{"x": n}] for n in range(20)],
            }
        )
        write_stream(tmp_path / "m.arrow", table, form=form)
        raw = (tmp_path / "m.arrow").read_bytes()
        for place in range(0, len(raw), step):
            flipped = bytearray(raw)
            flipped[place] ^= 0x55
            (tmp_path / "m.arrow").write_bytes(flipped)
            with suppress(UserError):
                assert len(read_manifest(tmp_path / "m.arrow")) > 0

    def test_a_file_that_was_cut(self, tmp_path):
        write_stream(tmp_path / "m.arrow", pa.table({"prompt": [f"prompt {n}" for n in range(1000)]}))
        raw = (tmp_path / "m.arrow").read_bytes()
        (tmp_path / "m.arrow").write_bytes(raw[: len(raw) // 2 + 3])
        with pytest.raises(UserError, match="cannot be read as Arrow"):
            read_manifest(tmp_path / "m.arrow")
