"""Remedies for Parquet and Arrow files, and for folders as manifests."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from output_folders import publish
from remedy_scenes import At, scene

from wanbatch.manifests.dataset.folder import OutputFolder
from wanbatch.manifests.reading import arrow_columns, arrow_files
from wanbatch.manifests.storage import parquet_limits

TWO = {"prompt": ["a", "b"]}


def parquet(name: str, columns: Mapping[str, Any], **options: Any) -> None:
    """Write a Parquet file. options: of `write_table`."""
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), name, **options)


@scene
def types_of_columns(at: At) -> Iterator[str]:
    wrong = {
        "prompt": pa.array([1, 2]),
        "keywords": pa.array(["old", "new"]),
        "image": pa.array([1, 2]),
        "seed": pa.array([2.0**60, 1]),
    }
    right = {
        "prompt": pa.array(["a", "b"]),
        "keywords": pa.array([["old"], ["new"]]),
        "image": pa.array(["a.png", "b.png"]),
        "seed": pd.array([2**60 + 1, None], "Int64"),
    }
    for name, values in wrong.items():
        parquet("m.parquet", {**TWO, name: values})
        yield at.refused("plan", "m.parquet")
        parquet("m.parquet", {**TWO, name: right[name]})
        at.works("plan", "m.parquet")
    parquet("m.parquet", {**TWO, "evaluations": pa.array([1, 2])})
    said = at.refused("plan", "m.parquet")
    yield said
    at.works("plan", "m.parquet", "--map", re.search(r"--map (\S+)", said)[1])  # type: ignore[index]


@scene
def two_columns_of_a_name_and_cells_that_are_too_large(at: At) -> Iterator[str]:
    pq.write_table(pa.Table.from_arrays([pa.array(["a"]), pa.array(["b"])], names=["prompt", "prompt"]), "m.parquet")
    yield at.refused("plan", "m.parquet")
    parquet("m.parquet", TWO)
    at.works("plan", "m.parquet")
    parquet(
        "m.parquet",
        {**TWO, "key": pa.ExtensionArray.from_storage(pa.uuid(), pa.array([b"x" * 16] * 2, pa.binary(16)))},
    )
    yield at.refused("plan", "m.parquet")
    parquet("m.parquet", {**TWO, "key": ["x", "y"]})
    at.works("plan", "m.parquet")
    at.monkeypatch.setattr(arrow_columns, "MAX_CELL_BYTES", 10)
    parquet("m.parquet", {**TWO, "note": ["x" * 11, "y"]})
    yield at.refused("plan", "m.parquet")
    at.write("note.txt", "x" * 11)
    parquet("m.parquet", {**TWO, "note": ["note.txt", "y"]})
    at.works("plan", "m.parquet")


@scene
def columns_that_parquet_or_datasets_do_not_take(at: At) -> Iterator[str]:
    union = pa.UnionArray.from_sparse(pa.array([0, 1], pa.int8()), [pa.array([1, 2]), pa.array(["a", "b"])])
    feather = pa.table({**TWO, "note": union})
    with pa.ipc.new_file("m.arrow", feather.schema) as file:
        file.write_table(feather)
    yield at.refused("plan", "m.arrow")
    parquet("m.parquet", {**TWO, "note": ["1", "b"]})
    at.works("plan", "m.parquet")
    parquet("m.parquet", {**TWO, "sizes": pa.array([[("s", 1)], []], pa.map_(pa.string(), pa.int32()))})
    yield at.works("plan", "m.parquet")
    parquet("m.parquet", {**TWO, "sizes": [[{"key": "s", "value": 1}], []]})
    assert "datasets" not in at.works("plan", "m.parquet")
    parquet("m.parquet", {**TWO, "price": pa.array([1, 2], pa.decimal32(5, 2))})
    yield at.works("plan", "m.parquet")
    parquet("m.parquet", {**TWO, "price": pa.array([1, 2], pa.decimal128(5, 2))})
    assert "datasets" not in at.works("plan", "m.parquet")


@scene
def files_that_are_too_large(at: At) -> Iterator[str]:
    numbers = np.arange(1000)
    table = {"prompt": [f"a {n}" for n in numbers], "n": numbers}
    for limit, most, options in (
        ("MAX_LEAVES", 1, {}),
        ("MAX_ROWS", 999, {}),
        ("MAX_GROUP_BYTES", 6000, {"use_dictionary": False, "compression": "none"}),
    ):
        with at.monkeypatch.context() as patched:
            patched.setattr(parquet_limits, limit, most)
            parquet("m.parquet", table, **options)
            yield at.refused("plan", "m.parquet")
            smaller = {"MAX_LEAVES": {"prompt": table["prompt"]}, "MAX_ROWS": {n: v[:500] for n, v in table.items()}}
            parquet("m.parquet", smaller.get(limit, table), row_group_size=100, **options)
            at.works("plan", "m.parquet")
    parquet("m.parquet", table)
    with at.monkeypatch.context() as patched:
        patched.setattr(parquet_limits.Budget.__init__, "__defaults__", (1000,))
        yield at.refused("plan", "m.parquet")
        parquet("m.parquet", {n: v[:20] for n, v in table.items()})
        at.works("plan", "m.parquet")
    with at.monkeypatch.context() as patched:
        patched.setattr(parquet_limits, "MAX_FOOTER", 2000)
        pq.write_table(pa.table(TWO).replace_schema_metadata({"note": "x" * 2000}), "m.parquet")
        yield at.refused("plan", "m.parquet")
        parquet("m.parquet", TWO)
        at.works("plan", "m.parquet")


@scene
def a_damaged_file(at: At) -> Iterator[str]:
    parquet("m.parquet", TWO)
    data = (at.folder / "m.parquet").read_bytes()
    at.write("m.parquet", data[: len(data) // 2])
    yield at.refused("plan", "m.parquet")
    parquet("m.parquet", TWO)
    at.works("plan", "m.parquet")


@scene
def parts_whose_columns_do_not_go_together(at: At) -> Iterator[str]:
    parquet("parts/1.parquet", {**TWO, "n": ["x", "y"]})
    parquet("parts/2.parquet", {**TWO, "n": [1, 2]})
    yield at.refused("plan", "parts")
    parquet("parts/2.parquet", {**TWO, "n": ["1", "2"]})
    at.works("plan", "parts")
    parquet("parts/1.parquet", {**TWO, "n": [2**60 + 1, 1]})
    parquet("parts/2.parquet", {**TWO, "n": [0.5, 2.0]})
    yield at.refused("plan", "parts")
    for name in ("1", "2"):
        parquet(f"parts/{name}.parquet", {**TWO, "n": ["1", "2"]})
    at.works("plan", "parts")


@scene
def images_without_anything_in_them(at: At) -> Iterator[str]:
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    parquet("m.parquet", {"images": pa.array([[{"bytes": None, "path": None}]], pa.list_(kind))})
    yield at.refused("plan", "m.parquet")
    data = (at.folder / "a.png").read_bytes()
    for good in ({"bytes": data, "path": None}, {"bytes": None, "path": "a.png"}):
        parquet("m.parquet", {"images": pa.array([[good]], pa.list_(kind))})
        at.works("plan", "m.parquet")


@scene
def weights_of_images(at: At) -> Iterator[str]:
    at.rows({"image": "a.png", "blend_group": "g", "blend_weight": 0}, {"image": "b.png", "blend_group": "g"})
    yield at.refused("plan", "m.jsonl")
    at.rows({"image": "b.png"})
    at.works("plan", "m.jsonl")


def saved(folder: Path, **state: Any) -> None:
    """A folder as `save_to_disk` of `datasets` writes it. state: changes of its state."""
    folder.mkdir(parents=True, exist_ok=True)
    table = pa.table(TWO)
    with (
        pa.OSFile(str(folder / "data-00000-of-00001.arrow"), "wb") as file,
        pa.ipc.new_stream(file, table.schema) as writer,
    ):
        writer.write_table(table)
    names = {"_data_files": [{"filename": "data-00000-of-00001.arrow"}], "_indices_data_files": None, **state}
    (folder / "state.json").write_text(json.dumps(names))
    (folder / "dataset_info.json").write_text("{}")


@scene
def saved_datasets(at: At) -> Iterator[str]:
    wrong: dict[str, Any] = {"_data_files": None}, {"_data_files": [{"filename": "../data.arrow"}]}  # type: ignore[assignment]
    for state in wrong:
        saved(at.folder / "saved", **state)
        yield at.refused("plan", "saved")
        saved(at.folder / "saved")
        at.works("plan", "saved")
    at.write("saved/state.json", "{")
    yield at.refused("plan", "saved")
    saved(at.folder / "saved")
    at.works("plan", "saved")
    saved(at.folder / "splits/train")
    at.write("splits/dataset_dict.json", "{}")
    yield at.refused("plan", "splits")
    at.write("splits/dataset_dict.json", json.dumps({"splits": ["train"]}))
    at.works("plan", "splits")
    at.monkeypatch.setattr(arrow_files, "MAX_ROWS", 1)
    yield at.refused("plan", "saved")
    at.monkeypatch.setattr(arrow_files, "MAX_ROWS", 2)
    at.works("plan", "saved")


@scene
def folders_of_pictures(at: At) -> Iterator[str]:
    at.picture("birds/1.png")
    at.rows({"file_name": "1.png", "prompt": "a"}, name="birds/metadata.jsonl")
    at.write("birds/metadata.csv", "file_name,prompt\n1.png,a\n")
    yield at.refused("plan", "birds")
    (at.folder / "birds/metadata.csv").unlink()
    at.works("plan", "birds")
    at.picture("cats/1.png")
    at.write("cats/1.txt", "größer".encode("latin-1"))
    yield at.refused("plan", "cats")
    at.write("cats/1.txt", "größer")
    at.works("plan", "cats")
    at.write("texts/1.txt", "a cat")
    (at.folder / "cats/1.txt").unlink()
    (at.folder / "cats/1.txt").symlink_to(at.folder / "texts/1.txt")
    yield at.refused("plan", "cats")
    at.works("plan", "cats", "--source-fence", ".")
    (at.folder / "cats/1.txt").unlink()
    at.write("cats/1.txt", "a cat")
    at.works("plan", "cats")


@scene
def output_folders(at: At) -> Iterator[str]:
    with OutputFolder.open(at.folder / "out", {}) as folder:
        folder.set_plan({"rows": 4})
        yield at.refused("plan", "out")
        publish(folder, 0, ["one", "two"])
        yield at.works("plan", "out")
        assert at.planned("out")["rows"] == 2
        publish(folder, 1, ["three", "four"])
        assert at.planned("out")["rows"] == 4
    said = at.refused("plan", "out/data")
    yield said
    at.works("plan", re.search(r"give the whole folder, (\S+)", said)[1])  # type: ignore[index]


@scene
def splits(at: At) -> Iterator[str]:
    for split in ("train", "test"):
        parquet(f"shop/data/{split}-00000-of-00001.parquet", TWO)
    said = at.works("plan", "shop")
    yield said
    assert at.planned("shop", "--split", "test")["rows"] == 2
    said = at.refused("plan", "shop", "--split", "tset")
    yield said
    at.works("plan", "shop", "--split", re.search(r"did you mean (\w+)\?", said)[1])  # type: ignore[index]
    parquet("m.parquet", TWO)
    yield at.refused("plan", "m.parquet", "--split", "test")
    at.works("plan", "m.parquet")
