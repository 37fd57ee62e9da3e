"""`creativity_boxes`, `creativity_map`, `keep_pixels`: what rows may say, and what the plan makes of it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from job_making import picture, write_jsonl

from wanbatch.errors import UserError
from wanbatch.jobs.planning.preparation import prepare

KEEP = [{"box": [0.25, 0.25, 0.5, 0.5], "creativity": 0.0}]
VARY = [{"box": [0, 0, 16, 16], "creativity": 0.9}]


@pytest.fixture
def planned(settings, tmp_path):
    def plan(*rows: dict, **changes):
        picture(tmp_path / "a.png", 32, 32)
        sourced = [{"image": "a.png", "width": 32, "height": 32, **row} for row in rows]
        return prepare(write_jsonl(tmp_path / "shop.jsonl", sourced), settings(steps=20, **changes))[0]

    return plan


def test_rows_start_at_the_highest_of_their_creativities(planned):
    plan = planned(
        {"id": "one", "creativity": 0.5},
        {"id": "kept", "creativity": 0.5, "creativity_boxes": KEEP},
        {"id": "varied", "creativity": 0.5, "creativity_boxes": VARY},
        {"id": "alone", "creativity": 0.9},
        {"id": "still", "creativity": 0.0},
        {"id": "box", "creativity": 0.0, "creativity_boxes": VARY},
        {"id": "map", "creativity_map": "a.png"},
        {"id": "noise", "creativity": 1.0},
    )
    counts = dict(zip(plan.ids(), plan.images["evaluations"].to_pylist(), strict=True))
    assert counts["kept"] == counts["one"] < counts["varied"] == counts["alone"] == counts["box"]
    assert counts["still"] == 0
    assert counts["map"] == counts["noise"], "what the map holds is not read yet"
    levels = {image.id: image.starting_level for image in plan.task(0, 1, "", range(len(plan))).images}
    assert levels == {
        "one": 0.5,
        "kept": 0.5,
        "varied": 0.9,
        "alone": 0.9,
        "still": 0,
        "box": 0.9,
        "map": 1,
        "noise": 1,
    }


def test_rows_with_and_without_maps_are_in_units_of_their_own(planned):
    plan = planned(*({"id": str(n), "creativity": 0.5, **({"creativity_boxes": KEEP} if n % 2 else {})}
                     for n in range(8)))  # fmt: skip
    assert [sorted(plan.images["id"].take(pa.array(unit)).to_pylist()) for unit in plan.units(16)] == [
        ["0", "2", "4", "6"],
        ["1", "3", "5", "7"],
    ]


def test_what_a_row_says_of_places_is_part_of_its_digest_and_nothing_else_is(planned):
    rows = [
        {"id": "a", "creativity": 0.5},
        {"id": "a", "creativity": 0.5, "creativity_boxes": KEEP},
        {"id": "a", "creativity": 0.5, "creativity_boxes": VARY},
        {"id": "a", "creativity": 0.5, "creativity_boxes": KEEP, "keep_pixels": True},
        {"id": "a", "creativity": 0.5, "creativity_boxes": KEEP, "keep_pixels": True, "keep_pixels_up_to": 0.2},
        {"id": "a", "creativity_map": "a.png"},
    ]
    digests = [planned(row).images["digest"][0].as_py() for row in rows]
    assert len(set(digests)) == len(rows)
    assert digests[0] == "e660e7f9a99a820b5f9afd41", "folders that were filled without such columns go on"


def test_the_columns_stand_in_datasets_that_use_them(planned):
    later = {"creativity_boxes", "creativity_map", "keep_pixels"}
    assert not later & {*planned({"id": "a", "creativity": 0.5}).later}
    assert later & {*planned({"id": "a", "creativity_boxes": KEEP}).later} == {"creativity_boxes"}


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (
            {"creativity_boxes": KEEP, "image": None},
            "has creativity_boxes but there is no source image: give an image",
        ),
        ({"creativity_map": "a.png", "image": None}, "has creativity_map but there is no source image"),
        ({"creativity_boxes": KEEP, "creativity_map": "a.png"}, "has both creativity_boxes and creativity_map"),
        ({"creativity": 0.5, "creativity_map": "a.png"}, "has both creativity_map and creativity"),
        ({"keep_pixels": True}, "has keep_pixels but neither creativity_boxes nor creativity_map"),
        ({"keep_pixels": 1, "creativity_boxes": KEEP}, "keep_pixels is 1: must be true or false"),
        ({"keep_pixels_up_to": 0.2, "creativity_boxes": KEEP}, "has keep_pixels_up_to but keep_pixels is not true"),
        (
            {"keep_pixels_up_to": 1, "keep_pixels": True, "creativity_boxes": KEEP},
            "keep_pixels_up_to is 1, and no place of the picture has a higher creativity",
        ),
        ({"creativity_boxes": []}, r"creativity_boxes is \[\]: must be a list of 1 to 1000"),
        (
            {"creativity_boxes": [{"box": [0, 0, 1], "creativity": 0}]},
            r"creativity_boxes\[0\].box is \[0, 0, 1\]: must",
        ),
        ({"creativity_boxes": [{"box": [0, 0, 0, 4], "creativity": 0}]}, "its width and height must be above 0"),
        ({"creativity_boxes": [{"box": [0.6, 0, 0.5, 1], "creativity": 0}]}, "shares of the source that reach over"),
        (
            {"creativity_boxes": [{"box": [0, 0, 4, 4], "creativity": 2}]},
            r"creativity_boxes\[0\].creativity is 2: must",
        ),
        ({"creativity_boxes": [{"box": [0, 0, 4, 4]}]}, r"creativity_boxes\[0\].creativity is missing"),
        ({"creativity_boxes": [{"bbox": [0, 0, 4, 4], "creativity": 0}]}, "known are box, creativity"),
    ],
)
def test_mistakes_are_told_with_their_line(planned, row, said):
    prompt = {"prompt": "a star", "id": "a", **row}
    with pytest.raises(UserError, match=rf"shop.jsonl:1: .*{said}"):
        planned({name: value for name, value in prompt.items()})


def test_boxes_come_from_parquet_and_csv_too(settings, tmp_path):
    picture(tmp_path / "a.png", 32, 32)
    row = {"id": "a", "image": "a.png", "creativity": 0.5, "creativity_boxes": KEEP, "keep_pixels": True}
    pq.write_table(pa.Table.from_pylist([row]), tmp_path / "m.parquet")
    cell = json.dumps(KEEP).replace('"', '""')
    (tmp_path / "m.csv").write_text(f'id,image,creativity,creativity_boxes,keep_pixels\na,a.png,0.5,"{cell}",True\n')
    jsonl = write_jsonl(tmp_path / "m.jsonl", [row])
    plans = [prepare(path, settings(steps=20))[0] for path in (jsonl, tmp_path / "m.parquet", tmp_path / "m.csv")]
    assert len({plan.images["digest"][0].as_py() for plan in plans}) == 1
    assert plans[0].images["creativity_boxes"][0].as_py() == [{"box": [0.25, 0.25, 0.5, 0.5], "creativity": 0.0}]
    assert np.array_equal(plans[1].images["keep_pixels"].to_pylist(), [True])


def test_the_rows_of_the_page_are_planned(settings, tmp_path):
    root = Path(__file__).parents[3]
    page = (root / "docs" / "creativity.md").read_text(encoding="utf-8")
    rows = [row for block in page.split("```json\n")[1:] for row in block.split("```")[0].splitlines()]
    assert [json.loads(row)["id"] for row in rows] == ["snow", "cat", "masked", "own-pixels", "soft"]
    (tmp_path / "images").mkdir()
    shutil.copy(root / "examples" / "images" / "dog.png", tmp_path / "images")
    picture(tmp_path / "images" / "mask.png", 32, 32)
    (tmp_path / "m.jsonl").write_text("\n".join(rows))
    assert len(prepare(tmp_path / "m.jsonl", settings(steps=20))[0]) == 5
