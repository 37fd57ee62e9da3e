"""`[objects]` in a recipe: what the dataset's boxes and masks cover stays, and the rest is varied."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from augment_making import rows_of
from command_line import invoke, refused
from job_making import picture
from PIL import Image
from pycocotools import mask

from wanbatch.errors import UserError
from wanbatch.jobs.augment.kept_objects import grey_map
from wanbatch.jobs.augment.outlines import covered, outline_of_coco
from wanbatch.jobs.augment.recipe import Objects
from wanbatch.pipeline.core.requests import CreativityMap

SIZES = "[settings]\nwidth = 64\nheight = 64\n"
TRIANGLE = [10, 10, 40, 10, 10, 40]
RUNS = {"size": [64, 64], "counts": [10 * 64 + 10, 20, 44, 20, 64 * 64 - 10 * 64 - 94]}  # columns 10 and 11


def coco(segmentation=None, folder: str = "set", count: int = 1, boxes=((8, 16, 32, 24),)) -> None:
    """A dataset of COCO in a folder; its last picture has no object if there are several."""
    Path(folder).mkdir()
    for number in range(count):
        picture(Path(folder) / f"{number}.png", 64, 64, seed=number)
    annotations = [
        {"image_id": number, "category_id": 1, "bbox": list(box)}
        | ({} if segmentation is None else {"segmentation": segmentation})
        for number in range(max(1, count - 1))
        for box in boxes
    ]
    table = {
        "images": [{"id": number, "file_name": f"{number}.png"} for number in range(count)],
        "categories": [{"id": 1, "name": "disc"}],
        "annotations": annotations,
    }
    Path(folder, "annotations.json").write_text(json.dumps(table))


def augmented(objects: str, dataset: str = "set", more: str = "") -> list[dict]:
    """The rows of a recipe, after `wanbatch augment` wrote them and `wanbatch plan` accepted them."""
    text = f'dataset = "{dataset}"\ntemplate = "a disc"\n{more}[objects]\n{objects}\n{SIZES}'
    Path("recipe.toml").write_text(text, encoding="utf-8")
    Path("made.jsonl").unlink(missing_ok=True)
    made = invoke("augment", "recipe.toml", "--out", "made.jsonl", "--json")
    assert made.exit_code == 0, made.output
    planned = invoke("plan", "made.jsonl", "--json")
    assert planned.exit_code == 0, planned.output
    assert json.loads(planned.stdout)["warnings"] == []
    return rows_of(Path("made.jsonl"))


AT_A_TENTH = (25, 26)  # 0.1 in a grey map: 25.5, which rounds either way


def grey(row: dict) -> np.ndarray:
    return np.asarray(Image.open(row["creativity_map"]))


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_boxes_are_kept_with_their_margin_and_stay_true():
    coco(boxes=[(8, 16, 32, 24), (60, 0, 4, 4)])
    (row,) = augmented('keep = "boxes"\naround = 0.7\ninside = 0.1\nmargin = 8')
    assert row["creativity"] == 0.7
    assert row["creativity_boxes"] == [
        {"box": [0.0, 0.125, 0.75, 0.625], "creativity": 0.1},
        {"box": [0.8125, 0.0, 0.1875, 0.1875], "creativity": 0.1},  # cut at the edge
    ]
    assert "keep_pixels" not in row
    assert row["annotations"] == "copied"  # although the creativity around is above annotations_below
    assert [box["box"] for box in row["boxes"]] == [[8, 16, 32, 24], [60, 0, 4, 4]]
    (row,) = augmented('keep = "boxes"\naround = 0.7\ninside = 0.5\nsoftness = 0.1')
    assert row["annotations"] == "flagged"
    assert row["map_softness"] == 0.1


@pytest.mark.parametrize(
    ("box", "said"),
    [
        ((8, 16, 32, 24), "a medium disc on the left"),
        ((20, 16, 24, 32), "a medium disc in the center"),
        ((40, 30, 8, 8), "a small disc on the right"),
        ((4, 0, 56, 20), "a large disc at the top"),
        ((28, 40, 10, 20), "a small disc at the bottom"),
    ],
)
def test_templates_may_say_how_large_an_object_is_and_where(box, said):
    coco(boxes=[box])
    template = 'template = "a {object_size} {label} {object_place}"\n'
    text = f'dataset = "set"\n{template}[objects]\nkeep = "boxes"\naround = 0.7\n{SIZES}'
    Path("recipe.toml").write_text(text)
    assert invoke("augment", "recipe.toml", "--out", "made.jsonl").exit_code == 0
    (row,) = rows_of(Path("made.jsonl"))
    assert row["prompt"] == said


def test_templates_cannot_name_the_place_of_several_objects():
    coco(boxes=[(8, 16, 32, 24), (40, 30, 8, 8)])
    text = 'dataset = "set"\ntemplate = "a {{label}} {{object_place{}}}"\n[objects]\nkeep = "boxes"\naround = 0.7\n'
    Path("recipe.toml").write_text(text.format("") + SIZES)
    (line,) = refused(invoke("augment", "recipe.toml", "--out", "made.jsonl"))
    assert "has no 'object_place', which template 'a {label} {object_place}' names" in line
    Path("recipe.toml").write_text(text.format(""" | default('somewhere')""") + SIZES)
    assert invoke("augment", "recipe.toml", "--out", "made.jsonl").exit_code == 0
    assert rows_of(Path("made.jsonl"))[0]["prompt"] == "a disc somewhere"


def test_a_picture_without_objects_is_varied_as_a_whole_and_said_so():
    coco(count=3)
    rows = augmented('keep = "boxes"\naround = 0.7')
    assert sorted(("creativity_boxes" in row, row["annotations"]) for row in rows) == [
        (False, "flagged"),
        (True, "copied"),
        (True, "copied"),
    ]
    made = invoke("augment", "recipe.toml", "--out", "again.jsonl")
    assert "warning   1 of 3 pictures has nothing that is kept: varied as a whole" in made.output


def test_objects_that_are_kept_may_change_a_little_and_with_masks_their_pixels_come_back():
    coco([TRIANGLE])
    for more, inside, kept in (
        ("", 0.1, None),
        ("keep_pixels = true", 0.1, 0.1),
        ("keep_pixels = true\ninside = 0", 0.0, 0.0),
    ):
        (row,) = augmented(f'keep = "boxes"\naround = 0.7\n{more}')
        assert row["creativity_boxes"][0]["creativity"] == inside
        assert row.get("keep_pixels", False) is (kept is not None)
        assert row.get("keep_pixels_up_to", 0.0) == (kept or 0.0)
    (row,) = augmented('keep = "masks"\naround = 0.7\nkeep_pixels = false')
    assert grey(row)[12, 12] in AT_A_TENTH
    assert "keep_pixels" not in row
    (row,) = augmented('keep = "masks"\naround = 0.7')
    assert grey(row)[12, 12] in AT_A_TENTH
    assert (row["keep_pixels"], row["keep_pixels_up_to"]) == (True, 0.1)
    kept = CreativityMap(grey(row).astype(np.float32) / 255, keep_pixels=True, kept_up_to=0.1)
    assert np.array_equal(kept.kept, np.isin(grey(row), AT_A_TENTH)), "a grey map has steps of 1/255"


def test_masks_of_polygons_and_run_lengths_become_maps():
    coco([TRIANGLE])
    (row,) = augmented('keep = "masks"\naround = 0.8')
    assert "creativity" not in row
    assert row["keep_pixels"] is True
    values = grey(row)
    assert set(np.unique(values)) == {25, 204}
    assert values[12, 12] == values[12, 35] == values[35, 12] == 25
    assert values[35, 35] == values[8, 8] == values[50, 12] == 204
    assert abs(np.sum(values == 25) - 30 * 30 / 2) < 60
    map_file = Path(row["creativity_map"])
    map_file.write_bytes((whole := map_file.read_bytes())[:40])
    assert augmented('keep = "masks"\naround = 0.8') == [row]
    assert map_file.read_bytes() == whole, "a map that was damaged is written again"
    coco(RUNS, "runs")
    (row,) = augmented('keep = "masks"\naround = 0.8\ninside = 0\nkeep_pixels = false', "runs")
    assert "keep_pixels" not in row
    kept = np.zeros((64, 64), bool)
    kept[10:30, 10:12] = True
    assert np.array_equal(grey(row) == 0, kept)


def test_a_margin_and_a_feather_soften_what_is_kept():
    kept = np.zeros((64, 64), bool)
    kept[20:40, 24:30] = True
    values = grey_map(kept, Objects(keep="masks", inside=0.2, margin=3, feather=4), 1.0).astype(int)
    row = values[30]
    assert (row[21:33] == 51).all()  # the object and its margin
    assert (row[:17] == 255).all()
    assert (row[37:] == 255).all()
    assert (np.diff(row[17:22]) < 0).all()  # and between them it falls
    assert np.array_equal(grey_map(kept, Objects(keep="masks"), 0.6) < 30, kept)


def test_yolo_segments_are_masks_and_their_boxes_hold_them():
    Path("yolo/images/train").mkdir(parents=True)
    Path("yolo/labels/train").mkdir(parents=True)
    picture(Path("yolo/images/train/a.png"), 64, 64)
    Path("yolo/labels/train/a.txt").write_text("0 0.25 0.25 0.75 0.25 0.75 0.5 0.25 0.5\n0 0.9 0.9 0.1 0.1 0.97\n")
    Path("yolo/data.yaml").write_text("path: .\ntrain: images/train\nnames: [disc]\n")
    (row,) = augmented('keep = "masks"\naround = 0.8', "yolo", 'split = "train"\n')
    assert [box["box"] for box in row["boxes"]] == [[16, 16, 32, 16], [54.4, 54.4, 6.4, 6.4]]
    values = grey(row)
    assert (values[17:31, 17:47] == 25).all()
    assert (values[55:60, 55:60] == 25).all()  # the object without a segment, by its box
    assert values[40, 30] == values[10, 10] == 204


def test_masks_as_pictures_of_the_dataset():
    Path("set").mkdir()
    picture(Path("set/a.png"), 64, 64)
    drawn = np.zeros((64, 64), np.uint8)
    drawn[10:20, 30:50] = 3  # the number of a class, as masks have it
    Image.fromarray(drawn).save("set/a-mask.png")
    Path("set/t.jsonl").write_text(json.dumps({"image": "a.png", "cut": "a-mask.png"}) + "\n")
    named = 'columns = { mask = "cut" }\n'
    Path("recipe.toml").write_text(
        f'dataset = "set/t.jsonl"\ntemplate = "x"\n{named}[objects]\nkeep = "masks"\naround = 0.8\n'
    )
    assert invoke("augment", "recipe.toml", "--out", "made.jsonl").exit_code == 0
    (row,) = rows_of(Path("made.jsonl"))
    assert np.array_equal(np.isin(grey(row), AT_A_TENTH), drawn > 0)
    Path("set/t.jsonl").write_text(
        "".join(json.dumps({"image": f"{name}.png", "cut": "a-mask.png", **more}) + "\n" for name, more in [
            ("a", {"boxes": [[10, 10, 20, 20]]}), ("b", {})])
    )  # fmt: skip
    picture(Path("set/b.png"), 64, 64, seed=1)
    text = Path("recipe.toml").read_text()
    Path("recipe.toml").write_text(f"{text.replace('masks', 'boxes')}{SIZES}")
    assert invoke("augment", "recipe.toml", "--out", "boxes.jsonl").exit_code == 0
    told = {row["image"]: (row["annotations"], "creativity_boxes" in row) for row in rows_of(Path("boxes.jsonl"))}
    assert told == {"set/a.png": ("copied", True), "set/b.png": ("flagged", False)}  # a mask is no box
    Path("recipe.toml").write_text(text)
    Image.fromarray(drawn[:32]).save("set/a-mask.png")
    (line,) = refused(invoke("augment", "recipe.toml", "--out", "other.jsonl"))
    assert line == "a-mask.png: the mask has 64x32 pixels and its picture 64x64: give a mask of the same size"
    Path("set/a-mask.png").unlink()
    (line,) = refused(invoke("augment", "recipe.toml", "--out", "other.jsonl"))
    assert "a.png: its mask cannot be read: " in line


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('keep = "boxes"\naround = 0.7', 'set: has no boxes, and [objects] asks keep = "boxes": name their column'),
        ('keep = "masks"\naround = 0.7', 'set: has no masks, and [objects] asks keep = "masks": name their column'),
        ('keep = "box"\naround = 0.7', "objects.keep is 'box': must be boxes or masks"),
        ('keep = "boxes"\naround = 1.7', "around is 1.7: must be a number above 0 and up to 1"),
        ('keep = "boxes"\naround = 0.7\ninside = 2', "objects.inside is 2: must be a number from 0 to 1"),
        (
            'keep = "boxes"\naround = 0.7\nfether = 2',
            "unknown key 'fether' in [objects]; known: keep, around, inside",
        ),
        ('keep = "masks"\naround = [0.3, 0.7]\ninside = 0.3', "all of the picture would be the source's own pixels"),
        ('keep = "boxes"\naround = 0.7\n[blend]\nshare = 0.5', "has both [objects] and [blend]: "),
        (
            'keep = "boxes"\naround = 0.7\n[settings]\nkeep_pixels = true',
            "keep_pixels in [settings] would be the same",
        ),
        ('keep = "boxes"', "has no creativity: give it a number above 0 and up to 1"),
        ("around = 0.5", "has no objects.keep: give it"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(text, message):
    Path("set").mkdir()
    picture(Path("set/a.png"), 64, 64)
    Path("recipe.toml").write_text(f'dataset = "set"\ntemplate = "x"\n[objects]\n{text}\n')
    (line,) = refused(invoke("augment", "recipe.toml", "--out", "made.jsonl"))
    assert (
        line.startswith("recipe.toml: ") or line.startswith(str(Path("set").absolute())) or line.startswith("set: ")
    )
    assert message in line


@pytest.mark.parametrize(
    ("top", "message"),
    [
        ('keep = "boxes"\ncreativity = 0.5', 'to keep objects write [objects] and below it keep = "boxes"'),
        ('creativity = 0.5\n[objects]\nkeep = "boxes"\naround = 0.7', "has both creativity and objects.around"),
    ],
)
def test_keys_at_the_top_that_belong_to_objects(top, message):
    Path("recipe.toml").write_text(f'dataset = "set"\ntemplate = "x"\n{top}\n')
    (line,) = refused(invoke("augment", "recipe.toml", "--out", "made.jsonl"))
    assert message in line


def test_a_dataset_of_boxes_alone_has_no_masks():
    coco()
    Path("recipe.toml").write_text('dataset = "set"\ntemplate = "x"\n[objects]\nkeep = "masks"\naround = 0.5\n')
    (line,) = refused(invoke("augment", "recipe.toml", "--out", "made.jsonl"))
    assert 'write keep = "boxes", which it has, or give a dataset of COCO or YOLO with segments' in line


@pytest.mark.parametrize(
    "segmentation",
    [[[1, 2, 3, 4]], [["a"] * 6], {"size": [2, 2], "counts": [1]}, {"counts": ""}, {"size": [2, 2], "counts": "zz "}],
)
def test_a_segmentation_that_is_none_is_refused(segmentation):
    coco(segmentation)
    Path("recipe.toml").write_text('dataset = "set"\ntemplate = "x"\n[objects]\nkeep = "masks"\naround = 0.5\n')
    (line,) = refused(invoke("augment", "recipe.toml", "--out", "made.jsonl"))
    assert "annotations.json: annotation 0 has a segmentation that is none (" in line


@pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning")
def test_run_lengths_are_read_as_pycocotools_writes_them():
    random = np.random.default_rng(0)
    for share in (0.0, 0.02, 0.5, 0.98, 1.0):
        kept = random.random((37, 200)) < share
        kept[5:30, 20:120] = True
        runs = mask.encode(np.asfortranarray(kept.astype(np.uint8)))
        outline = outline_of_coco({"size": [37, 200], "counts": runs["counts"].decode()})
        assert np.array_equal(covered(outline, 200, 37, "a.png"), kept)
    with pytest.raises(UserError, match=r"a\.png: has 37x200 pixels and a mask of 200x37: mend size"):
        covered(outline, 37, 200, "a.png")
