"""Types of Parquet columns as tools write them: which values are read, and what is refused as it lost some."""

import io
import re
from decimal import Decimal

import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from manifest_making import encoded
from PIL import Image

from wanbatch.manifests.reading.manifest import read_manifest
from wanbatch.manifests.sources.loader import SourceLoader


def colours(manifest) -> list[list[tuple[int, ...]]]:
    """The colour of each source of each row, as it is loaded."""
    with SourceLoader(manifest.source_root) as loader:
        return [
            [tuple(int(c) for c in loader.load(s).pixels[0, 0]) for s in row.sources] for row in manifest.iter_rows()
        ]


class TestViews:
    def test_a_frame_of_polars(self, tmp_path):
        frame = pl.DataFrame({"id": ["a", "b"], "prompt": ["a star", "a moon"], "note": ["x", None]})
        pq.write_table(pa.table(frame), tmp_path / "m.parquet")
        assert pq.read_schema(tmp_path / "m.parquet").field("prompt").type == pa.string_view()
        manifest = read_manifest(tmp_path / "m.parquet")
        assert [row.prompt for row in manifest.iter_rows()] == ["a star", "a moon"]
        assert manifest.passthrough.schema == pa.schema([("note", pa.string())])
        assert manifest.passthrough["note"].to_pylist() == ["x", None]

    def test_views_inside_lists_and_structs(self, parquet):
        box = pa.struct([("name", pa.string_view()), ("tags", pa.list_(pa.string_view())), ("raw", pa.binary_view())])
        columns = {
            "prompt": pa.array(["a", "b"], pa.string_view()),
            "keywords": pa.array([["x", "y"], None], pa.list_(pa.string_view())),
            "box": pa.array([{"name": "n", "tags": ["t", None], "raw": b"\0"}, None], box),
        }
        manifest = read_manifest(parquet(columns))
        assert [row.keywords for row in manifest.iter_rows()] == [("x", "y"), None]
        plain = pa.struct([("name", pa.string()), ("tags", pa.list_(pa.string())), ("raw", pa.binary())])
        assert manifest.passthrough.schema.field("box").type == plain
        assert manifest.passthrough["box"].to_pylist() == [{"name": "n", "tags": ["t", None], "raw": b"\0"}, None]

    def test_images_in_views(self, parquet):
        image = pa.struct([("bytes", pa.binary_view()), ("path", pa.string_view())])
        data = [{"bytes": encoded(colour=(9, 8, 7)), "path": "a.png"}]
        manifest = read_manifest(parquet({"image": pa.array(data, image)}))
        assert colours(manifest) == [[(9, 8, 7)]]


class TestNumbers:
    def test_decimals_of_duckdb(self, tmp_path):
        path = tmp_path / "m.parquet"
        query = "SELECT 'r' || i AS id, 'a' AS prompt, 2.5 AS guidance, 4::DECIMAL(3,0) AS steps, sum(i) AS seed"
        duckdb.sql(f"COPY ({query} FROM range(2) t(i) GROUP BY i ORDER BY i) TO '{path}'")
        assert pa.types.is_decimal(pq.read_schema(path).field("guidance").type)
        rows = list(read_manifest(path).iter_rows())
        assert [(row.guidance, row.steps, row.seed) for row in rows] == [(2.5, 4, 0), (2.5, 4, 1)]

    def test_decimals_keep_all_digits_of_a_seed(self, parquet):
        seeds = pa.array([Decimal(2**63 - 1), Decimal(2**53 + 1)], pa.decimal128(38, 0))
        rows = read_manifest(parquet({"prompt": ["a", "b"], "seed": seeds})).iter_rows()
        assert [row.seed for row in rows] == [2**63 - 1, 2**53 + 1]

    def test_a_decimal_with_a_fraction_is_no_integer(self, parquet, problems):
        columns = {"prompt": ["a", "b"], "steps": pa.array([Decimal("4.0"), Decimal("4.5")])}
        assert problems(parquet(columns)) == [
            "shop.parquet row 1: steps is 4.5: must be an integer from 1 to 1000; the nearest are 4 and 5"
        ]

    def test_lists_of_decimals(self, parquet):
        sigmas = pa.array([[Decimal("1.0"), Decimal("0.5")], None])
        rows = list(read_manifest(parquet({"prompt": ["a", "b"], "sigmas": sigmas})).iter_rows())
        assert [row.sigmas for row in rows] == [(1.0, 0.5), None]

    @pytest.mark.parametrize("write", ["parquet", "json"])
    def test_seeds_that_pandas_made_floats_of_are_refused(self, tmp_path, problems, write):
        seeds = [6687881544318117707, 6687881544318117708, None]
        frame = pd.DataFrame({"prompt": ["a", "b", "c"], "seed": seeds})
        assert frame["seed"].dtype == float
        path = tmp_path / f"shop.{write}"
        if write == "parquet":
            frame.to_parquet(path, index=False)
        else:
            frame.to_json(path, orient="records", lines=True)
        found = problems(path)
        assert len(found) == 2
        assert all("keeps too few digits: keep the column as integers" in problem for problem in found)
        frame["seed"] = pd.array(seeds, dtype="Int64")  # the remedy
        frame.to_parquet(tmp_path / "good.parquet", index=False)
        assert [row.seed for row in read_manifest(tmp_path / "good.parquet").iter_rows()] == seeds

    @pytest.mark.parametrize(
        ("kind", "least"), [(pa.float64(), 2**53), (pa.float32(), 2**24), (pa.float16(), 2**11)], ids=str
    )
    def test_from_where_on_a_float_loses_digits(self, parquet, problems, kind, least):
        seeds = pa.array(np.array([least - 1, 42, least], dtype=kind.to_pandas_dtype()), kind)
        (found,) = problems(parquet({"prompt": ["a", "b", "c"], "seed": seeds}))
        assert found.startswith("shop.parquet row 2: seed is ")
        good = read_manifest(parquet({"prompt": ["a", "b"], "seed": seeds[:2]})).iter_rows()
        assert [row.seed for row in good] == [least - 1, 42]


class TestIds:
    @pytest.mark.parametrize("kind", [pa.int64(), pa.uint8(), pa.float64(), pa.decimal128(20, 0)], ids=str)
    def test_whole_numbers_become_text(self, parquet, kind):
        ids = pa.array([17, None, 18]).cast(kind)
        manifest = read_manifest(parquet({"id": ids, "prompt": ["a", "b", "c"]}))
        assert [row.id for row in manifest.iter_rows()] == ["17", "00000001", "18"]

    def test_also_in_jsonl_and_for_groups(self, jsonl):
        rows = [
            {"image": "a.png", "blend_group": 5},
            {"image": "b.png", "blend_group": "5"},
            {"id": 6, "prompt": "a"},
        ]
        assert [row.id for row in read_manifest(jsonl(*rows)).iter_rows()] == ["5", "6"]

    def test_a_number_and_the_same_as_text_are_one_id(self, jsonl, problems):
        (found,) = problems(jsonl({"id": 17, "prompt": "a"}, {"id": "17", "prompt": "b"}))
        assert "id '17' is already at" in found

    @pytest.mark.parametrize("bad", [True, 1.5, 2.0**53, -0.5])
    def test_other_numbers_do_not(self, jsonl, problems, bad):
        (found,) = problems(jsonl({"id": bad, "prompt": "a"}))
        assert f"id is {bad}" in found

    def test_an_id_that_is_refused_comes_with_one_that_is_not(self, jsonl, problems):
        bad = ["train/0001.jpg", "a b", "a/b", "é", "日本-é", "", "雪", "雨", "x" * 129]
        found = problems(jsonl(*({"id": name, "prompt": "a"} for name in bad)))
        hints = [problem.rpartition("neither . nor ..")[2] for problem in found]
        names = [
            re.search("; for example (.*), and keep this one in a column of your own, like source_id", hint)
            for hint in hints
        ]
        stems = [name and name[1].rpartition("-")[0] for name in names]
        assert stems == ["train_0001.jpg", "a_b", "a_b", "e", "e", None, "id", "id", "x" * 100]
        hinted = [
            {"id": name[1], "source_id": text, "prompt": "a"} for name, text in zip(names, bad, strict=True) if name
        ]
        manifest = read_manifest(jsonl(*hinted, {"id": "a_b", "prompt": "a"}))
        assert len({row.id for row in manifest.iter_rows()}) == 9
        assert manifest.passthrough["source_id"][3].as_py() == "é"


class TestImages:
    def test_a_binary_column_is_an_image(self, tmp_path):
        frame = pd.DataFrame({"image": [encoded(colour=(1, 2, 3)), None, encoded(colour=(4, 5, 6))], "prompt": "a"})
        frame.to_parquet(tmp_path / "m.parquet", index=False)
        assert pq.read_schema(tmp_path / "m.parquet").field("image").type == pa.binary()
        manifest = read_manifest(tmp_path / "m.parquet")
        assert colours(manifest) == [[(1, 2, 3)], [], [(4, 5, 6)]]

    def test_nothing_but_a_binary_column(self, parquet):
        images = [encoded(colour=(n, 0, 0)) for n in range(5)]
        assert colours(read_manifest(parquet({"image": images}, row_group_size=2))) == [[(n, 0, 0)] for n in range(5)]

    def test_lists_of_binary(self, parquet):
        images = [[encoded(colour=(1, 1, 1)), encoded(colour=(2, 2, 2))], [], [encoded(colour=(3, 3, 3))]]
        manifest = read_manifest(parquet({"images": images, "prompt": ["a", "b", "c"]}))
        assert colours(manifest) == [[(1, 1, 1), (2, 2, 2)], [], [(3, 3, 3)]]

    def test_fields_beside_bytes_and_path_are_ignored_with_a_warning(self, tmp_path):
        buffer = io.BytesIO()
        Image.new("RGB", (16, 16), "red").save(buffer, "PNG")
        image = {"bytes": buffer.getvalue(), "path": "0.png", "height": 16, "width": 16}
        pd.DataFrame({"image": [image], "prompt": ["a"]}).to_parquet(tmp_path / "m.parquet", index=False)
        manifest = read_manifest(tmp_path / "m.parquet")
        assert manifest.row(0).sources[0].path == "0.png"
        assert colours(manifest) == [[(255, 0, 0)]]
        said = "only bytes and path of column 'image' are used, not height, width"
        assert manifest.warnings == (f"{tmp_path}/m.parquet: {said}",)

    def test_fields_beside_a_path_alone(self, parquet):
        image = {"path": "a.png", "caption": "c", "size": {"w": 1}}
        manifest = read_manifest(parquet({"image": [image]}))
        assert [(s.path, s.embedded) for s in manifest.row(0).sources] == [("a.png", False)]
