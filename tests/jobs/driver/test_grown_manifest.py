"""A manifest that has grown, in rows and in columns: the run goes on, and all that there is loads as one."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import load_dataset
from job_making import write_jsonl

from wanbatch.errors import UserError
from wanbatch.jobs.driver.kept_values import MOST_PARTS, MOST_PARTS_OF_STORE, step_between

DAY_1 = [
    {"id": "a", "prompt": "a red heart", "note": None, "score": 1},
    {"id": "b", "prompt": "a star", "note": None, "score": 2},
]
DAY_2 = [
    {"id": "c", "prompt": "a moon", "note": "ok", "score": 2.5},
    {"id": "d", "prompt": "a blue heart, " + "a very busy street, " * 90, "tag": "x", "keywords": ["blue"]},
]
EXPECTED = {"a": (None, 1.0, None, None), "b": (None, 2.0, None, None), "c": ("ok", 2.5, None, None)}
EXPECTED |= {"d": (None, None, "x", ["blue"])}


def test_a_grown_manifest_goes_on(run_fast, settings, tmp_path):
    manifest, out, cache = tmp_path / "m.jsonl", tmp_path / "out", str(tmp_path / "cache")
    run_fast(write_jsonl(manifest, DAY_1), out, settings())
    first = load_dataset(str(out), split="train", cache_dir=cache)
    pixels = dict(zip(first["id"], first["sha256"], strict=True))
    ran = run_fast(write_jsonl(manifest, DAY_1 + DAY_2), out, settings())
    assert (ran.summary.made, ran.summary.made_now) == (4, 2)
    assert len({str(pq.read_schema(part)) for part in (out / "data").iterdir()}) == 1
    rows = {row["id"]: row for row in load_dataset(str(out), split="train", cache_dir=cache)}
    assert {n: tuple(row[c] for c in ("note", "score", "tag", "keywords")) for n, row in rows.items()} == EXPECTED
    assert {name: rows[name]["sha256"] for name in pixels} == pixels
    assert [rows[name]["prompt_tokens_cut"] is None for name in "abcd"] == [True, True, True, False]
    (warning,) = (message for message in ran.summary.warnings if "tokens" in message)
    assert "m.jsonl:4 (" in warning
    assert "of 1 image the model read only the first 512 tokens" in (out / "README.md").read_text()
    assert "| `tag` | from the manifest (`string`) |" in (out / "README.md").read_text()
    assert '"event": "columns_changed"' in (out / "_wanbatch/log.jsonl").read_text()

    write_jsonl(manifest, [*DAY_1, *DAY_2, {"id": "e", "prompt": "e", "score": "good"}])
    before = {path: path.read_bytes() for path in out.rglob("*.parquet")}
    with pytest.raises(UserError):
        run_fast(manifest, out, settings())
    assert {path: path.read_bytes() for path in out.rglob("*.parquet")} == before


def test_a_manifest_of_other_types_is_refused_before_ray_starts(run_fast, settings, tmp_path):
    out = tmp_path / "out"
    numbers = pa.table({"id": ["a"], "prompt": ["a star"], "score": pa.array([1.5])})
    pq.write_table(numbers, tmp_path / "m.parquet")
    run_fast(tmp_path / "m.parquet", out, settings())
    grown = pa.table({"id": ["a", "b"], "prompt": ["a star", "b"], "score": pa.array([1, 2**53 + 1])})
    pq.write_table(grown, tmp_path / "m.parquet")
    with pytest.raises(UserError, match=r"m\.parquet: has values that do not go with the columns .*9007199254740993"):
        run_fast(tmp_path / "m.parquet", out, settings())
    texts = grown.set_column(2, "score", pa.array(["x", "y"]))
    pq.write_table(texts, tmp_path / "m.parquet")
    with pytest.raises(UserError, match=r"score was double, now string\. Make the manifest's columns like they were"):
        run_fast(tmp_path / "m.parquet", out, settings())


@pytest.mark.slow
def test_a_folder_whose_path_others_take_for_a_pattern(run_fast, settings, tmp_path):
    """It is told, and moving the folder afterwards helps."""
    manifest = write_jsonl(tmp_path / "m.jsonl", [{"id": "a", "prompt": "a star"}])
    ran = run_fast(manifest, tmp_path / "out [v2]", settings())
    (warning,) = ran.summary.warnings
    assert "has [ in its path, which datasets, polars and duckdb take for patterns" in warning
    assert '"event": "warning"' in (tmp_path / "out [v2]/_wanbatch/log.jsonl").read_text()
    (tmp_path / "out [v2]").rename(tmp_path / "out")
    assert load_dataset(str(tmp_path / "out"), split="train", cache_dir=str(tmp_path / "cache"))["id"][:] == ["a"]


def test_values_that_changed_of_images_that_are_made_are_told(run_fast, settings, tmp_path, caplog):
    """A label that was corrected makes no image anew; the dataset keeps the old one, and the user is told so."""
    path, out = tmp_path / "m.parquet", tmp_path / "out"

    def run(ids: str, **columns: object) -> list[str]:
        table = {"id": list(ids), "prompt": ["a star"] * len(ids), **columns}
        pq.write_table(pa.table(table), path)
        caplog.clear()
        run_fast(path, out, settings())
        return [record.getMessage() for record in caplog.records if " the values of " in record.getMessage()]

    nan = float("nan")
    assert run("ab", label=["cat", "dog"], score=[nan, 1.0], of=[[1], None]) == []
    assert run("abc", label=["cat", "dog", "fox"], score=[nan, 1.0, 2.0], of=[[1], None, None]) == []
    (told,) = run("abc", label=["cat", "ox", "fox"], score=[nan, 1.0, 2.0], of=[[1], [2], None])
    assert told.startswith(f"{out}: 1 image that is made keeps the values of label, of that it was made with, 'b'")
    assert run("abc", label=["cat", "ox", "fox"], score=[nan, 1.0, 2.0], of=[[1], [2], None]) == [], "it is told once"
    new = {"label": ["cat", "dog", "fox", "owl"], "score": [nan, 1.0, 2.0, 3.0], "of": [[1], None, None, [4]]}
    (told,) = run("abcd", **new, split=["train", "train", "test", "test"])
    assert "3 images that are made keep the values of split that they were made with, 'a' for one" in told
    rows = pq.read_table(out / "data").sort_by("id").to_pylist()
    assert [(row["label"], row["split"]) for row in rows] == [
        ("cat", None),
        ("dog", None),
        ("fox", None),
        ("owl", "test"),
    ]


@pytest.mark.parametrize(
    ("parts", "images", "in_store", "step"),
    [
        (1, 16, False, 1),
        (256, 4096, False, 1),
        (257, 4112, False, 2),
        (62_500, 1_000_000, False, 245),
        (62_500, 1_000_000, True, 977),
        (245, 1_000_000, False, 16),
        (65, 1040, True, 2),
    ],
)
def test_of_a_large_folder_some_parts_are_compared_with_the_manifest(parts, images, in_store, step):
    assert step_between(parts, images, in_store) == step
    assert parts / step <= (MOST_PARTS_OF_STORE if in_store else MOST_PARTS)


def test_values_of_a_part_of_the_parts_are_told_as_of_so_many_or_more(
    run_fast, settings, tmp_path, caplog, monkeypatch
):
    monkeypatch.setattr("wanbatch.jobs.driver.kept_values.MOST_IMAGES", 4)
    path = tmp_path / "m.parquet"
    ids = [f"r{number}" for number in range(8)]
    for label in ("cat", "dog"):
        caplog.clear()
        pq.write_table(pa.table({"id": ids, "prompt": ["a star"] * 8, "label": [label] * 8}), path)
        run_fast(path, tmp_path / "out", settings(unit_rows=1, slots=1))
    assert ": 4 or more images that are made keep the values of label" in caplog.text
