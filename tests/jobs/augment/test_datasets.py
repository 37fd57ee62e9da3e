"""Datasets in every form: the same pictures give the same rows, with their class, split and boxes."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from augment_making import RECIPE, folder_by_class, rows_of
from command_line import invoke, refused
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, Value
from hub_server import hub, use_hub

from wanbatch.manifests.storage import fsspec_io

COUNTS = {"train/disc": 3, "train/box": 2, "test/disc": 1, "test/box": 1}
SWEEP = 'split = "train"\ntemplate = "a {label}"\ncreativity = [0.3, 0.6]\n'


@pytest.fixture
def pictures(tmp_path) -> Path:
    return folder_by_class(tmp_path / "set", COUNTS)


def augmented(dataset: str, more: str = "", text: str = SWEEP, out: str = "made.jsonl"):
    """The rows of a recipe, after `wanbatch augment` and `wanbatch plan` accepted them."""
    Path("recipe.toml").write_text(f'dataset = "{dataset}"\n{text}{more}', encoding="utf-8")
    Path(out).unlink(missing_ok=True)
    made = invoke("augment", "recipe.toml", "--out", out, "--json")
    assert made.exit_code == 0, made.output
    told = json.loads(made.stdout)
    planned = invoke("plan", out, "--json", "--source-fence", told["source_fence"])
    assert planned.exit_code == 0, planned.output
    assert json.loads(planned.stdout)["unreadable_sources"] == {}
    assert json.loads(planned.stdout)["warnings"] == []
    return rows_of(Path(out)) if out.endswith(".jsonl") else pq.read_table(out).to_pylist()


def likeness(rows):
    """What must be alike whatever form the dataset has."""
    return sorted((row["source_sha256"], row["label"], row["split"], row["creativity"], row["seed"]) for row in rows)


def table_of(pictures: Path, names: list[str]) -> list[dict]:
    return [
        {"file_name": name, "label": name.split("/")[1], "split": name.split("/")[0], "score": index / 10}
        for index, name in enumerate(names)
    ]


def test_every_form_of_the_same_pictures_gives_the_same_rows(pictures):
    by_class = augmented("set")
    assert Counter(row["label"] for row in by_class) == {"disc": 6, "box": 4}
    assert {row["image"].rpartition("/")[0] for row in by_class} == {"set/train/disc", "set/train/box"}
    assert {row["split"] for row in by_class} == {"train"}
    names = sorted(path.relative_to(pictures).as_posix() for path in pictures.rglob("*.png"))
    table = table_of(pictures, names)

    shutil.copytree(pictures, "hf")
    Path("hf/metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in table))
    columns = list(table[0])
    lines = [",".join(columns), *(",".join(str(row[name]) for name in columns) for row in table)]
    Path("set/metadata.csv").write_text("\n".join(lines))
    assert likeness(augmented("hf")) == likeness(augmented("set")) == likeness(by_class)
    Path("set/metadata.csv").unlink()

    lines[0] = lines[0].replace("file_name", "path")
    Path("set/paths.csv").write_text("\n".join(lines))
    assert likeness(augmented("set/paths.csv")) == likeness(by_class)
    Path("set/paths.csv").unlink()

    embedded = [{"bytes": (pictures / name).read_bytes(), "path": name} for name in names]
    whole = {"image": embedded, **{name: [row[name] for row in table] for name in ("label", "split")}}
    pq.write_table(pa.table(whole), "whole.parquet")
    from_parquet = augmented("whole.parquet")
    assert likeness(from_parquet) == likeness(by_class)
    assert {Path(row["image"]).parent.name for row in from_parquet} == {"made.sources"}
    assert len(list(Path("made.sources").iterdir())) == 5  # those of the split, each once


def test_datasets_of_hugging_face_name_their_classes_and_splits(pictures):
    features = Features({"image": Image(), "label": ClassLabel(names=["box", "disc"]), "uid": Value("string")})
    splits = {}
    for split in ("train", "test"):
        files = sorted((pictures / split).rglob("*.png"))
        columns = {
            "image": [{"bytes": path.read_bytes(), "path": path.name} for path in files],
            "label": [path.parent.name for path in files],
            "uid": [path.stem for path in files],
        }
        splits[split] = Dataset.from_dict(columns, features=features)
    DatasetDict(splits).save_to_disk("saved")
    by_class = likeness(augmented("set"))
    assert likeness(augmented("saved")) == by_class
    Path("hub/data").mkdir(parents=True)
    for split, rows in splits.items():
        rows.to_parquet(f"hub/data/{split}-00000-of-00001.parquet")
    assert likeness(augmented("hub")) == by_class


def test_a_dataset_on_the_hub_is_read_by_its_id(pictures, monkeypatch):
    for split in ("train", "test"):
        files = sorted((pictures / split).rglob("*.png"))
        images = [{"bytes": path.read_bytes(), "path": path.name} for path in files]
        Path("repository/data").mkdir(parents=True, exist_ok=True)
        table = pa.table({"image": images, "label": [path.parent.name for path in files]})
        pq.write_table(table, f"repository/data/{split}-00000-of-00001.parquet")
    by_class = likeness(augmented("set"))
    with hub("owner/name", Path("repository")) as server:
        use_hub(server, monkeypatch)
        rows = augmented("hf://datasets/owner/name")
    fsspec_io.forget_file_systems()
    assert likeness(rows) == by_class
    assert all(row["image"].startswith("made.sources/") for row in rows)


def test_coco_gives_boxes_in_the_pixels_of_the_picture_and_flags_those_above_the_limit(pictures):
    names = sorted(path.relative_to(pictures).as_posix() for path in (pictures / "train").rglob("*.png"))
    coco = {
        "images": [{"id": number, "file_name": name.removeprefix("train/")} for number, name in enumerate(names)],
        "categories": [{"id": 5, "name": "disc"}, {"id": 7, "name": "box"}, {"id": 9, "name": "unused"}],
        "annotations": [
            {"image_id": number, "category_id": 7 if "/box/" in name else 5, "bbox": [8, 16, 32, 24]}
            for number, name in enumerate(names)
        ],
    }
    Path("set/annotations").mkdir()
    Path("set/annotations/instances_train.json").write_text(json.dumps(coco))
    sizes = "[settings]\nwidth = 128\nheight = 64\n"
    rows = augmented("set/annotations/instances_train.json", sizes)
    assert likeness(rows) == likeness(augmented("set/annotations/instances_train.json", sizes))
    assert Counter((row["label"], row["creativity"], row["annotations"]) for row in rows) == {
        ("disc", 0.3, "copied"): 3,
        ("disc", 0.6, "flagged"): 3,
        ("box", 0.3, "copied"): 2,
        ("box", 0.6, "flagged"): 2,
    }
    for row in rows:  # scaled by two to cover the width, and 32 pixels cut above and below
        boxes = [{"label": row["label"], "box": [16.0, 0.0, 64.0, 48.0]}]
        assert row.get("boxes") == (boxes if row["annotations"] == "copied" else None)
    folder = augmented("set", sizes)
    assert likeness(folder) == likeness(rows)
    coco["annotations"][1]["bbox"] = [8, 16, 32, float("nan")]
    Path("set/annotations/instances_train.json").write_text(json.dumps(coco))
    Path("recipe.toml").write_text('dataset = "set/annotations/instances_train.json"\n' + SWEEP)
    (line,) = refused(invoke("augment", "recipe.toml"))
    assert "annotation 1 has no box of a known category (ValueError('nan is no number'))" in line


def test_boxes_without_a_size_are_refused_with_what_to_do(pictures):
    yolo(pictures)
    Path("recipe.toml").write_text('dataset = "yolo/data.yaml"\n' + SWEEP)
    (line,) = refused(invoke("augment", "recipe.toml"))
    assert "settings = { width = ..., height = ... }, or write annotations_below = 0" in line
    rows = augmented("yolo", "annotations_below = 0\n")
    assert {row["annotations"] for row in rows} == {"flagged"}


def yolo(pictures: Path) -> None:
    for split in ("train", "test"):
        Path(f"yolo/images/{split}").mkdir(parents=True)
        Path(f"yolo/labels/{split}").mkdir(parents=True)
        for path in sorted((pictures / split).rglob("*.png")):
            name = f"{path.parent.name}-{path.stem}"
            shutil.copy(path, f"yolo/images/{split}/{name}.png")
            number = ["box", "disc"].index(path.parent.name)
            Path(f"yolo/labels/{split}/{name}.txt").write_text(
                f"{number} 0.5 0.5 0.25 0.5\n{number} 0.1 0.1 0.2 0.2\n"
            )
    Path("yolo/data.yaml").write_text("path: .\ntrain: images/train\ntest: images/test\nnames: {0: box, 1: disc}\n")


def test_yolo_folders_are_read_with_their_boxes(pictures):
    yolo(pictures)
    rows = augmented("yolo", "[settings]\nwidth = 64\nheight = 64\n")
    assert likeness(rows) == likeness(augmented("set"))
    copied = next(row["boxes"] for row in rows if row["annotations"] == "copied")
    assert [box["box"] for box in copied] == [[24.0, 16.0, 16.0, 32.0], [0.0, 0.0, 12.8, 12.8]]
    Path("yolo/labels/train/box-0.txt").write_text("7 0.5 0.5 0.25 0.5\n")
    Path("recipe.toml").write_text('dataset = "yolo/data.yaml"\n' + SWEEP)
    (line,) = refused(invoke("augment", "recipe.toml"))
    assert line.endswith(
        "box-0.txt:1: is '7 0.5 0.5 0.25 0.5': must be a class number below 2 and four fractions, or those "
        "of three points or more"
    )


def test_labels_that_cannot_be_read_or_are_not_numbers_are_named(pictures):
    """What is there and cannot be read is not taken for a picture without objects."""
    yolo(pictures)
    labels = Path("yolo/labels/train/box-0.txt")
    Path("recipe.toml").write_text('dataset = "yolo/data.yaml"\n' + SWEEP)
    for content, told in (
        (b"0 0.5 0.5 nan 0.5\n", "box-0.txt:1: is '0 0.5 0.5 nan 0.5': must be a class number below 2"),
        (b"0 0.5 0.5 0.25 0.5\n\xff\n", "box-0.txt: cannot be read ('utf-8' codec can't decode byte 0xff"),
        (None, "box-0.txt: cannot be read ([Errno 21] Is a directory"),
    ):
        if content is None:
            labels.unlink()
            labels.mkdir()
        else:
            labels.write_bytes(content)
        (line,) = refused(invoke("augment", "recipe.toml"))
        assert told in line


def test_a_parquet_manifest_has_the_same_rows(pictures):
    text = RECIPE.partition("\n")[2] + "[blend]\nshare = 0.5\n"
    as_lines, as_table = (augmented("set", text=text, out=f"made.{form}") for form in ("jsonl", "parquet"))
    assert [{k: v for k, v in row.items() if v is not None} for row in as_table] == as_lines
    assert any("images" in row for row in as_lines)


def test_columns_of_other_names_are_named_in_the_recipe(pictures):
    rows = [f"{name},{name.split('/')[1]},{name.split('/')[0]},p{i}" for i, name in enumerate(COUNTS)]
    Path("set/t.csv").write_text("foto,kind,part,who\n" + "\n".join(row.replace(",", "/0.png,", 1) for row in rows))
    named = 'columns = { image = "foto", label = "kind", split = "part", group = "who" }\nkeep = ["who"]\n'
    rows = augmented("set/t.csv", named)
    assert Counter((row["label"], row["who"]) for row in rows) == {("disc", "p0"): 2, ("box", "p1"): 2}
    Path("recipe.toml").write_text(f'dataset = "set/t.csv"\n{SWEEP}{named.replace("kind", "kinds")}')
    (line,) = refused(invoke("augment", "recipe.toml"))
    assert "has no column 'kinds', which the recipe names for label; there are: kind, part, who" in line
    assert line.endswith("; did you mean kind?")


def test_classes_inside_classes_are_told_and_a_table_names_them_otherwise(tmp_path):
    folder_by_class(tmp_path / "set", {"birds": 1, "birds/cartoon": 1, "mammals/bears": 1, "fish": 1})
    Path("recipe.toml").write_text('dataset = "set"\ntemplate = "a {label}"\ncreativity = 0.5\n')
    told = invoke("augment", "recipe.toml").stdout
    assert (
        "  warning   birds/cartoon is inside the folder of a class, and its pictures are of class 'cartoon', not "
        "'birds': if that is wrong, name classes in a metadata.csv with the columns file_name and label\n" in told
    )
    names = sorted(path.relative_to(tmp_path / "set").as_posix() for path in (tmp_path / "set").rglob("*.png"))
    lines = [f"{name},{name.partition('/')[0]}" for name in names]
    (tmp_path / "set/metadata.csv").write_text("\n".join(["file_name,label", *lines]))
    Path("recipe.jsonl").unlink()
    assert "inside the folder of a class" not in invoke("augment", "recipe.toml").stdout
    assert Counter(row["label"] for row in rows_of(Path("recipe.jsonl"))) == {"birds": 2, "mammals": 1, "fish": 1}


def test_names_of_pictures_are_no_splits_and_blends_without_splits_are_read(tmp_path):
    folder_by_class(tmp_path / "set", {"trams": 3, "trains": 3})
    (tmp_path / "set/trains/0.png").rename(tmp_path / "set/trains/toy_train.png")
    (tmp_path / "set/trains/1.png").rename(tmp_path / "set/trains/test.png")
    text = 'template = "a {label}"\ncreativity = 0.7\nvariants = 4\n[blend]\nshare = 0.5\nparents = [2, 3]\n'
    rows = augmented("set", text=text)
    assert {row.get("split") for row in rows} == {None}
    assert {len(row["parents"]) for row in rows} == {1, 2, 3}

    (tmp_path / "set/trains").rename(tmp_path / "set/train")
    Path("recipe.jsonl").unlink(missing_ok=True)
    (line,) = refused(invoke("augment", "recipe.toml"))
    assert line.endswith("; 3 pictures are in none: if 'train' is a class, rename its folder")
    (tmp_path / "set/train").rename(tmp_path / "set/trains")
    assert invoke("augment", "recipe.toml").exit_code == 0
