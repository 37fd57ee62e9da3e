"""CSV manifests: what cells mean, how files are written, and what is wrong with them."""

import csv
import gzip
import json

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from wanbatch.errors import UserError
from wanbatch.manifests.reading.manifest import read_manifest
from wanbatch.manifests.reading.text_values import inferred


@pytest.fixture
def table(tmp_path):
    def write(text: str, name: str = "shop.csv", encoding: str = "utf-8"):
        (tmp_path / name).write_bytes(text.encode(encoding))
        return tmp_path / name

    return write


def inferred_from(*texts: str) -> list:
    return inferred(pa.chunked_array([pa.array(texts)])).to_pylist()


class TestKnownColumns:
    def test_every_kind_of_value(self, tmp_path):
        row = {
            "id": "007",
            "prompt": 'a "red" heart, größer\non two lines',
            "images": json.dumps(["a.png", {"path": "b.png"}]),
            "blend_weights": "[1, 3]",
            "creativity": "0.5",
            "seed": str(2**63 - 1),
            "width": "64.0",
            "height": " 96 ",
            "sigmas": "[1, 0.5]",
            "keywords": '["x", "y, z"]',
            "guidance": "1e1",
            "sampler": "euler",
        }
        row["shift"] = ""
        del row["sampler"], row["shift"]
        with open(tmp_path / "m.csv", "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, row)
            writer.writeheader()
            writer.writerow(row)
        (read,) = read_manifest(tmp_path / "m.csv").iter_rows()
        assert (read.id, read.prompt, read.seed) == ("007", row["prompt"], 2**63 - 1)
        assert [(s.path, s.weight) for s in read.sources] == [("a.png", 0.25), ("b.png", 0.75)]
        assert (read.creativity, read.width, read.height, read.guidance) == (0.5, 64, 96, 10.0)
        assert (read.sigmas, read.keywords) == ((1.0, 0.5), ("x", "y, z"))

    def test_an_empty_cell_is_not_given(self, table):
        manifest = read_manifest(table("id,prompt,image,seed,negative_prompt,keywords\na,x,,,,\n,,b.png,7,,\n"))
        first, second = manifest.iter_rows()
        assert (first.sources, first.seed, first.negative_prompt, first.keywords) == ((), None, None, None)
        assert (second.id, second.prompt, second.seed) == ("00000001", None, 7)
        assert second.sources[0].path == "b.png"

    @pytest.mark.parametrize("cell", ["[b].png", "{b}.png", "a b.png", "'a'.png"])
    def test_a_path_is_a_path(self, table, cell):
        assert read_manifest(table(f"image\n{cell}\n")).row(0).sources[0].path == cell

    @pytest.mark.parametrize(
        ("column", "cell", "said"),
        [
            ("seed", "many", "seed is 'many': must be an integer"),
            ("seed", "6.687881544318118e+18", "keeps too few digits: keep the column as integers"),
            ("guidance", '"7,5"', "guidance is '7,5': must be a finite number, 0 or more; write 7.5"),
            ("keywords", "\"['a', 'b']\"", 'in a cell write a list as JSON, like ["a", "b"]'),
            ("keywords", "a", "keywords is 'a': in a cell write a list as JSON"),
            ("sigmas", '"1,0.5"', "sigmas is '1,0.5': in a cell write a list as JSON, like [1, 0.5]"),
            ("images", "\"['a.png']\"", "in a cell write a list as JSON"),
            ("image", "\"{'bytes': b'abc', 'path': None}\"", "is a struct as Python prints it"),
            ("image", "../a.png", "image '../a.png' leaves the folder"),
            ("steps", "0", "steps is 0: must be an integer from 1 to 1000; the nearest is 1"),
        ],
    )
    def test_a_bad_cell_is_named_with_its_line_and_remedy(self, table, problems, column, cell, said):
        (found,) = problems(table(f'prompt,{column}\n"two\nlines",\nx,{cell}\ny,\n'))
        assert found.startswith("shop.csv:4: ")
        assert said in found


class TestPassthrough:
    def test_types_are_those_that_the_values_spell(self, table):
        text = "prompt,zip,count,score,ok,note,empty\na,01234,1,0.5,True,x,\nb,99999,-2,1e-05,False,,\n"
        passed = read_manifest(table(text)).passthrough
        assert passed.to_pylist() == [
            {"zip": "01234", "count": 1, "score": 0.5, "ok": True, "note": "x", "empty": None},
            {"zip": "99999", "count": -2, "score": 1e-05, "ok": False, "note": None, "empty": None},
        ]
        assert passed.schema.field("count").type == pa.int64()
        assert passed.schema.field("empty").type == pa.null()

    @pytest.mark.parametrize(
        "texts", [["1.10"], ["+1"], ["1", "007"], ["1e999"], ["nan"], ["1_000"], ["True", "true"]]
    )
    def test_what_would_be_written_otherwise_stays_text(self, texts):
        assert inferred_from(*texts) == texts

    def test_numbers(self):
        assert inferred_from("1", "", "-7") == [1, None, -7]
        assert inferred_from(str(10**17)) == [10**17]
        assert inferred_from("9" * 19) == ["9" * 19]
        assert inferred_from("1", "0.30000000000000004", "1E-7", "1e+20") == [1.0, 0.30000000000000004, 1e-7, 1e20]
        assert inferred_from(str(2**53 + 1), "0.5") == [str(2**53 + 1), "0.5"]

    def test_all_floats_of_pandas_and_polars_come_back(self, tmp_path):
        chance = np.random.default_rng(5)
        scores = chance.standard_normal(500) * 10.0 ** chance.integers(-20, 20, 500)
        frame = {"prompt": ["a"] * 500, "score": scores}
        pd.DataFrame(frame).to_csv(tmp_path / "pandas.csv", index=False)
        pl.DataFrame(frame).write_csv(tmp_path / "polars.csv")
        for name in ("pandas.csv", "polars.csv"):
            assert read_manifest(tmp_path / name).passthrough["score"].to_pylist() == scores.tolist(), name

    def test_more_rows_than_a_chunk_and_a_late_text(self, table):
        numbers = [str(n) for n in range(20_000)]
        path = table("prompt,n\n" + "".join(f"a,{n}\n" for n in numbers))
        assert read_manifest(path).passthrough["n"].to_pylist() == list(range(20_000))
        path = table("prompt,n\n" + "".join(f"a,{n}\n" for n in [*numbers, "x"]))
        assert read_manifest(path).passthrough["n"].to_pylist() == [*numbers, "x"]

    def test_parts_with_other_columns(self, tmp_path):
        (tmp_path / "a.csv").write_text("prompt,n\na,1\n")
        (tmp_path / "b.csv").write_text("m,prompt,n\nx,b,0.5\n")
        assert read_manifest(tmp_path).passthrough.to_pylist() == [{"n": 1.0, "m": None}, {"n": 0.5, "m": "x"}]


class TestForms:
    @pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
    def test_separators_are_found(self, table, separator):
        path = table(f'id{separator}prompt{separator}note\na{separator}"x{separator}y"{separator}1\n')
        manifest = read_manifest(path)
        assert (manifest.row(0).prompt, manifest.passthrough["note"].to_pylist()) == (f"x{separator}y", [1])

    @pytest.mark.parametrize(
        "text",
        [
            "\ufeffid,prompt\na,x\n",
            "id,prompt\r\na,x\r\n",
            "id,prompt\na,x",
            '"id","prompt"\n"a","x"\n',
            "id, prompt\na, x\n",
            "sep=;\nid;prompt\na;x\n",
            "id,prompt\n\na,x\n\n\n",
            ",id,prompt\n0,a,x\n",
        ],
        ids=["mark", "crlf", "no end", "quotes", "blanks", "excel", "empty lines", "index"],
    )
    def test_ways_to_write_the_same(self, table, text):
        manifest = read_manifest(table(text))
        assert [(row.id, row.prompt) for row in manifest.iter_rows()] == [("a", "x")]
        assert manifest.passthrough.num_columns == 0

    def test_a_column_without_a_name_is_warned_of(self, tmp_path):
        pd.DataFrame({"prompt": ["a"]}).to_csv(tmp_path / "m.csv")
        said = "column 1 has no name, as an index that pandas writes: it is not used"
        assert read_manifest(tmp_path / "m.csv").warnings == (f"{tmp_path}/m.csv: {said}",)

    def test_compressed_and_tsv(self, tmp_path):
        (tmp_path / "m.tsv.gz").write_bytes(gzip.compress(b"id\tprompt\na\tx, y\n"))
        assert read_manifest(tmp_path / "m.tsv.gz").row(0).prompt == "x, y"

    def test_lines_are_counted_as_an_editor_counts_them(self, table):
        manifest = read_manifest(table('sep=,\nprompt,n\n"a\nb\nc",1\n\nd,2\n'))
        assert [row.location.rpartition(":")[2] for row in manifest.iter_rows()] == ["3", "7"]


class TestMistakes:
    @pytest.mark.parametrize(
        ("text", "said"),
        [
            (
                "prompt,n\na star, red,1\n",
                ":2: has 3 cells, but the first line names 2 columns: put a cell that holds ','",
            ),
            ("prompt,n\na\n", ":2: has 1 cell, but the first line names 2 columns"),
            ("prompt,n,n\na,1,2\n", ":1: column 'n' is there 2 times: keep one"),
            ("prompt,model\na,b\n", ":1: column 'model' is also one that wanbatch writes"),
            ("prompt,prompt\na,b\n", ":1: column 'prompt' is there 2 times: keep one"),
        ],
    )
    def test_they_are_named(self, table, problems, text, said):
        assert any(f"shop.csv{said}" in found for found in problems(table(text)))

    @pytest.mark.parametrize("first", ["a red heart on a table,17", "cat.png,a cat", "1,x"])
    def test_a_file_without_names_of_columns(self, table, first):
        with pytest.raises(UserError, match=r"shop\.csv:1: begins with .*: the first line must name the columns"):
            read_manifest(table(f"{first}\n{first}\n"))

    @pytest.mark.parametrize("text", ['prompt\na\n"b\nc\n', 'prompt,n\na,1\n"b" c,2\n'])
    def test_quotes_that_are_not_closed(self, table, text):
        with pytest.raises(UserError, match=r"shop\.csv:3: is not CSV from here on \(.*\): close each double quote"):
            read_manifest(table(text))

    def test_a_cell_that_is_too_long(self, table):
        with pytest.raises(UserError, match=r"shop\.csv:2: is not CSV from here on \(field larger than field limit"):
            read_manifest(table(f"prompt,n\na,{'x' * 200_000}\n"))

    @pytest.mark.parametrize("text", ["", "\n", "prompt\n"])
    def test_no_rows(self, table, text):
        with pytest.raises(UserError, match="has no rows"):
            read_manifest(table(text))
