"""From recipe to report on photographs that come with packages.

The stamps of Tux Paint (`tuxpaint-stamps-default` of Debian, GPL-2) are cut-out photographs of many sizes; none of
them is in this repository. `dpkg -x` unpacks the package without root; `TUXPAINT_STAMPS` names its folder of stamps.
"""

from __future__ import annotations

import io
import json
import os
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from augment_making import rows_of
from command_line import invoke
from PIL import Image, ImageFilter
from skimage import data
from sklearn.datasets import load_digits, load_sample_images
from transformers import ResNetConfig, ResNetForImageClassification, ViTImageProcessor

from wanbatch.pipeline.core.requests import fit

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

STAMPS = Path(os.environ.get("TUXPAINT_STAMPS", "/usr/share/tuxpaint/stamps")) / "animals"
TRAINED, TESTED = 4, 3  # pictures of a class
ANIMALS = ("birds", "fish", "insects", "mammals")
SIDE = 96

MASKED = f"""dataset = "zoo"
split = "train"
template = "a photo of one of the {{label}} {{place}}"
fill = 7
columns = {{ mask = "mask" }}

[choices]
place = ["in the snow", "in a meadow", "on a blue background"]

[objects]
keep = "masks"
around = [0.6, 0.9]

[settings]
width = {SIDE}
height = {SIDE}
steps = 3
creativity_steps = "respace"

[checks]
tolerance = 1.0
"""

AS_THEY_ARE = """dataset = "zoo"
split = "train"
template = "a photo of one of the {label}"
creativity = [0.3, 0.5]
fill = 7

[settings]
steps = 2
creativity_steps = "respace"
"""

PATCHES = f"""base = "few-shot"
dataset = "patches"
split = "train"
template = "a photo of {{label}}"
creativity = [0.3, 0.5]
fill = 8

[settings]
width = {SIDE}
height = {SIDE}
steps = 3
creativity_steps = "respace"
"""


def call(*arguments: object) -> str:
    done = invoke(*arguments)
    assert done.exit_code == 0, f"{arguments}: {done.output}"
    return done.stdout


def made_rows(out: Path) -> list[dict[str, Any]]:
    return [row for part in sorted((out / "data").iterdir()) for row in pq.read_table(part).to_pylist()]


def pixels_of(row: dict[str, Any]) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(row["image"]["bytes"])))


def regenerated(out: str, recipe: str, *flags: object) -> list[dict[str, Any]]:
    """Check a folder, make what is rejected again once, and hold that nothing was lost; returns the rows.

    A run that ends with a rejected picture of the second try is as good: the number is what counts.
    """
    first = made_rows(Path(out))
    checked = json.loads(call("check", out, "--recipe", recipe, "--json", *flags))
    again = json.loads(call("check", out, "--recipe", recipe, "--regenerate", 1, "--json", *flags))
    made = made_rows(Path(out))
    assert again["pictures"] == len(made) == len(first) + checked["rejected"]
    assert Counter(row["regeneration"] for row in made) == Counter({0: len(first), 1: checked["rejected"]})
    pixels = {row["id"]: row["sha256"] for row in made}
    assert all(pixels[row["id"]] == row["sha256"] for row in first)
    assert pixels.keys() == {row["id"] for row in rows_of(Path(f"{out}.jsonl"))}
    rejected = [row["id"] for row in pq.read_table(f"{out}/checks").to_pylist() if row["rejected_by"]]
    assert len(rejected) == again["rejected"]  # by bands that were learnt anew
    seeds = {row["id"]: row["seed"] for row in made}
    assert len(set(seeds.values())) == len(seeds)
    return made


def report(out: str) -> str:
    call("report", out)
    page = Path(out, "report.html").read_text(encoding="utf-8")
    assert len(page) > 10_000
    return page


@pytest.fixture
def zoo(tmp_path) -> Path:
    """Photographs as they are in the package: cut out, of any size, under names as people give them."""
    if not STAMPS.is_dir():
        pytest.skip(f"{STAMPS} is not there: apt install tuxpaint-stamps-default, or set TUXPAINT_STAMPS")
    for label in ANIMALS:
        found = [path for path in sorted((STAMPS / label).rglob("*.png")) if "cartoon" not in path.parts]
        for number, path in enumerate(found[: TRAINED + TESTED]):
            folder = tmp_path / "zoo" / ("train" if number < TRAINED else "test") / label
            folder.mkdir(parents=True, exist_ok=True)
            names = (path.name, f"{path.stem} (2) ü#%.png", path.name.upper(), f"{path.stem}'s.png")
            shutil.copyfile(path, folder / names[number % len(names)])
    return tmp_path / "zoo"


def with_masks(zoo: Path) -> None:
    """A mask beside each photograph, what is opaque in it, and a table that names both."""
    lines = ["file_name,label,split,mask"]
    for number, path in enumerate(sorted(zoo.rglob("*.*"))):
        mask = np.asarray(Image.open(path).convert("RGBA"))[..., 3] > 127
        (zoo / "masks").mkdir(exist_ok=True)
        Image.fromarray(mask.astype(np.uint8) * 255).save(zoo / f"masks/{number}.png")
        name = path.relative_to(zoo).as_posix()
        lines.append(f"{name},{path.parent.name},{path.parent.parent.name},masks/{number}.png")
    (zoo / "metadata.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")


def test_photographs_of_any_size_from_recipe_to_report(zoo, local_ray):
    Image.new("RGBA", (1, 1)).save(zoo / "train/fish/one pixel.png")
    Image.open(next(iter((zoo / "train/fish").glob("b*")))).convert("CMYK").save(zoo / "train/fish/inks.jpg")
    Path("zoo.toml").write_text(AS_THEY_ARE)
    assert " rows of 10 on zoo.preview.png" in call("augment", "zoo.toml", "--preview", 12)
    call("augment", "zoo.toml", "--run", "--out", "out/zoo")
    made = regenerated("out/zoo", "zoo.toml", "--tolerance", 1)
    assert Counter(row["label"] for row in made if not row["regeneration"]) == {
        "birds": 3,
        "fish": 1,
        "insects": 3,
        "mammals": 3,
    }
    assert {row["split"] for row in made} == {"train"}
    for row in made:
        assert pixels_of(row).shape == (row["height"], row["width"], 3)
    assert len({pixels_of(row).shape for row in made}) > 3
    page = report("out/zoo")
    assert "insects" in page


def test_animals_keep_their_pixels_from_recipe_to_report(zoo, local_ray):
    with_masks(zoo)
    Path("masked.toml").write_text(MASKED)
    assert "12 rows of 12 on masked.preview.png" in call("augment", "masked.toml", "--preview", 12)
    assert not Path("masked.jsonl").exists()
    sheet = np.asarray(Image.open("masked.preview.png"))
    assert len(np.unique(sheet.reshape(-1, 3), axis=0)) > 10_000  # photographs, and what became of them
    call("augment", "masked.toml", "--run", "--out", "out/masked")
    made = regenerated("out/masked", "masked.toml")
    assert Counter(row["label"] for row in made if not row["regeneration"]) == dict.fromkeys(ANIMALS, 3)
    masks = {row["image"]: row["mask"] for row in rows_of(Path("out/masked.jsonl"))}
    for row in made:
        assert_kept(row, Path("out"), zoo / masks[row["sources"][0]["path"]])
    call("augment", "masked.toml", "--measure", "out/masked", "--epochs", 2)
    told = json.loads(Path("masked.measured.json").read_text())
    assert told["test_pictures"] == len(ANIMALS) * TESTED
    assert told["arms"]["ours"]["pictures"] == len(ANIMALS) * TRAINED + len(made)
    report("out/masked")


def assert_kept(row: dict[str, Any], folder: Path, mask: Path) -> None:
    """The animal's own pixels are in the picture, but for its edge, and what is around it is not white any more."""
    pixels = pixels_of(row)
    source = Image.open(folder / row["sources"][0]["path"]).convert("RGBA")
    white = Image.alpha_composite(Image.new("RGBA", source.size, "white"), source).convert("RGB")
    shown = fit(np.asarray(white), SIDE, SIDE)
    inside = fit(np.repeat(np.asarray(Image.open(mask))[..., None], 3, axis=2), SIDE, SIDE)[..., 0]
    inner = np.asarray(Image.fromarray(inside).filter(ImageFilter.MinFilter(5))) == 255
    assert np.array_equal(pixels[inner], shown[inner])
    assert not np.array_equal(pixels[inside == 0], shown[inside == 0])


@pytest.fixture
def patches(tmp_path) -> Path:
    """Pieces of three textures of scikit-image and of the two photographs of scikit-learn, left and right."""
    wholes = {name: getattr(data, name)() for name in ("brick", "grass", "gravel")}
    wholes |= dict(zip(("a temple", "a flower"), load_sample_images().images, strict=True))
    for label, pixels in wholes.items():
        half = pixels.shape[1] // 2
        for split, left in (("train", 0), ("test", half)):
            folder = tmp_path / "patches" / split / label
            folder.mkdir(parents=True)
            for number in range(6):
                top, across = number // 2 * 120, left + number % 2 * 125
                Image.fromarray(pixels[top : top + 115, across : across + 123]).save(folder / f"{number}.png")
    return tmp_path / "patches"


def backbone(folder: str) -> str:
    """A small network of transformers that has learnt scikit-learn's digits, as a folder that it saved."""
    digits = load_digits()
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"embedding_size": 16, "hidden_sizes": [16, 32], "depths": [1, 1], "layer_type": "basic"}
    model = ResNetForImageClassification(ResNetConfig(**sizes, num_labels=10))
    pixels = torch.from_numpy(digits.images.astype(np.float32) / 8 - 1)[:, None].expand(-1, 3, -1, -1)
    large = torch.nn.functional.interpolate(pixels, size=(32, 32), mode="bilinear")
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    for chosen in torch.randperm(len(large)).split(64):
        optimizer.zero_grad()
        model(large[chosen], labels=torch.from_numpy(digits.target)[chosen]).loss.backward()
        optimizer.step()
    model.resnet.save_pretrained(folder)
    ViTImageProcessor(size={"height": 64, "width": 64}).save_pretrained(folder)
    return folder


def test_pieces_of_pictures_from_recipe_to_report_and_by_a_backbone(patches, local_ray):
    Path("patches.toml").write_text(PATCHES)
    call("augment", "patches.toml", "--preview", 12)
    call("augment", "patches.toml", "--run", "--out", "out/patches")
    made = regenerated("out/patches", "patches.toml", "--tolerance", 1)
    assert {row["split"] for row in made} == {"train"}
    flags = ["--epochs", 4, "--embeddings", backbone("resnet")]
    said = call("augment", "patches.toml", "--measure", "out/patches", *flags)
    told = json.loads(Path("patches.measured.json").read_text())
    for one in (told, told["embeddings"]):
        assert one["arms"]["ours"]["pictures"] == one["arms"]["real"]["pictures"] + len(made)
        assert one["test_pictures"] > 10
    assert told["embeddings"]["arms"]["real"]["accuracy"] > 0.5  # of five classes
    assert f"By embeddings of resnet: {told['embeddings']['verdict']}" in said
    assert Path("patches.measured.embeddings.svg").read_text().startswith("<svg ")
    call("check", "out/patches", "--recipe", "patches.toml", "--embeddings", "resnet")
    report("out/patches")
