"""The whole way, from recipe to report, on photographs that come with packages."""

from __future__ import annotations

import io
import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from augment_making import rows_of
from command_line import invoke
from PIL import Image
from skimage import data

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

STAMPS = Path(os.environ.get("TUXPAINT_STAMPS", "/usr/share/tuxpaint/stamps")) / "animals"
TRAINED, TESTED = 5, 4  # pictures of a class
SIDE = 128

ANIMALS = """dataset = "animals/pictures.csv"
split = "train"
template = "a photo of one of the {label} {place}"
fill = 8
columns = { mask = "mask" }

[choices]
place = ["in the snow", "in a meadow", "on a blue background"]

[objects]
keep = "masks"
around = [0.6, 0.9]

[settings]
width = 128
height = 128
steps = 4
creativity_steps = "respace"

[checks]
tolerance = 1.0
"""

TEXTURES = """base = "few-shot"
dataset = "textures"
split = "train"
template = "{label}, seen from above"
creativity = [0.3, 0.5]
fill = 12

[settings]
width = 128
height = 128
steps = 4
creativity_steps = "respace"
"""


def call(*arguments: object) -> str:
    done = invoke(*arguments)
    assert done.exit_code == 0, f"{arguments}: {done.output}"
    return done.stdout


def made_rows(out: Path) -> list[dict[str, Any]]:
    return [row for part in sorted((out / "data").iterdir()) for row in pq.read_table(part).to_pylist()]


@pytest.fixture
def animals(tmp_path) -> Path:
    """Cut-out photographs on white, with their masks, and a table of them."""
    if not STAMPS.is_dir():
        pytest.skip(f"{STAMPS} is not there: apt install tuxpaint-stamps-default, or set TUXPAINT_STAMPS")
    lines = ["image,label,split,mask"]
    for label in ("birds", "fish", "insects", "mammals"):
        (tmp_path / "animals" / label).mkdir(parents=True)
        found = sorted(path for path in (STAMPS / label).rglob("*.png") if "cartoon" not in path.parts)
        for number, path in enumerate(found[: TRAINED + TESTED]):
            picture = Image.open(path).convert("RGBA")
            picture.thumbnail((SIDE - 16, SIDE - 16))
            ground = Image.new("RGBA", (SIDE, SIDE))
            ground.paste(picture, ((SIDE - picture.width) // 2, (SIDE - picture.height) // 2))
            ground.save(tmp_path / "animals" / label / f"{number}.png")
            mask = np.asarray(ground)[..., 3] > 127
            Image.fromarray(mask.astype(np.uint8) * 255).save(tmp_path / "animals" / label / f"{number}-mask.png")
            split = "train" if number < TRAINED else "test"
            lines.append(f"{label}/{number}.png,{label},{split},{label}/{number}-mask.png")
    (tmp_path / "animals/pictures.csv").write_text("\n".join(lines) + "\n")
    Path("animals.toml").write_text(ANIMALS)
    return tmp_path / "animals"


def test_animals_keep_their_pixels_from_recipe_to_report(animals, local_ray):
    assert "12 rows of 12 on animals.preview.png" in call("augment", "animals.toml", "--preview", 12)
    assert not Path("animals.jsonl").exists()
    sheet = np.asarray(Image.open("animals.preview.png"))
    assert len(np.unique(sheet.reshape(-1, 3), axis=0)) > 10_000  # photographs, and what became of them

    call("augment", "animals.toml", "--run", "--out", "out/animals")
    first = rows_of(Path("out/animals.jsonl"))
    assert Counter(row["label"] for row in first) == dict.fromkeys(("birds", "fish", "insects", "mammals"), 3)
    checked = json.loads(call("check", "out/animals", "--recipe", "animals.toml", "--json"))
    assert 0 < checked["rejected"] < 12
    again = json.loads(call("check", "out/animals", "--recipe", "animals.toml", "--regenerate", 1, "--json"))
    assert again["pictures"] == 12 + checked["rejected"]

    made = made_rows(Path("out/animals"))
    assert {row["id"] for row in made} == {row["id"] for row in rows_of(Path("out/animals.jsonl"))}
    assert Counter(row["regeneration"] for row in made) == {0: 12, 1: checked["rejected"]}
    for row in made:
        assert_kept(row, animals.parent / "out" / row["sources"][0]["path"])

    call("augment", "animals.toml", "--measure", "out/animals", "--epochs", 2)
    told = json.loads(Path("animals.measured.json").read_text())
    assert told["test_pictures"] == 4 * TESTED
    assert told["arms"]["ours"]["pictures"] == 4 * TRAINED + len(made)
    assert told["arms"]["filtered"]["pictures"] < told["arms"]["ours"]["pictures"]
    call("report", "out/animals")
    assert Path("out/animals/report.html").stat().st_size > 10_000


def assert_kept(row: dict[str, Any], source: Path) -> None:
    """The animal's own pixels are in the picture, and what is around it is not white any more."""
    pixels = np.asarray(Image.open(io.BytesIO(row["image"]["bytes"])))
    ours = Image.open(source).convert("RGBA")
    shown = np.asarray(Image.alpha_composite(Image.new("RGBA", ours.size, "white"), ours).convert("RGB"))
    mask = np.asarray(ours)[..., 3] > 127
    assert np.array_equal(pixels[mask], shown[mask])
    assert not np.array_equal(pixels[~mask], shown[~mask])


def test_textures_from_recipe_to_report(tmp_path, local_ray):
    for label in ("brick", "grass", "gravel"):
        pixels = getattr(data, label)()
        for split, left in (("train", 0), ("test", 256)):
            folder = tmp_path / "textures" / split / label
            folder.mkdir(parents=True)
            for number in range(8):
                top, across = number // 2 * SIDE, left + number % 2 * SIDE
                Image.fromarray(pixels[top : top + SIDE, across : across + SIDE]).save(folder / f"{number}.png")
    Path("textures.toml").write_text(TEXTURES)
    call("augment", "textures.toml", "--preview", 12)
    call("augment", "textures.toml", "--run", "--out", "out/textures")
    call("check", "out/textures", "--recipe", "textures.toml", "--regenerate", 1)
    made = made_rows(Path("out/textures"))
    assert Counter(row["label"] for row in made if not row["regeneration"]) == {"brick": 4, "grass": 4, "gravel": 4}
    assert {row["split"] for row in made} == {"train"}
    call("augment", "textures.toml", "--measure", "out/textures", "--epochs", 2)
    assert json.loads(Path("textures.measured.json").read_text())["test_pictures"] > 0
    call("report", "out/textures")
