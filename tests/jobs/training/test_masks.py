"""Masks of training pictures: where they are found, how they weigh the loss, and what is said of those of no use."""

from __future__ import annotations

import io
import json
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from wanbatch.errors import UserError
from wanbatch.jobs.cli.main import main
from wanbatch.jobs.training.pictures import PictureSet, find_pictures
from wanbatch.pipeline.loading.registry import find
from wanbatch.pipeline.training.lora.examples import Examples, Picture, encode_examples
from wanbatch.pipeline.training.lora.model import TrainingModel
from wanbatch.pipeline.training.lora.training import fixed_loss, flow_loss

SIZE = (32, 16)
LOADER = "wanbatch.pipeline.training.lora.model.load_reference"


def picture(path: Path, grey: int = 100, size: tuple[int, int] = SIZE) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (grey,) * 3).save(path)


def half_white(path: Path | io.BytesIO, white: int = 255, size: tuple[int, int] = SIZE) -> None:
    """A mask whose left half is black."""
    if isinstance(path, Path):
        path.parent.mkdir(parents=True, exist_ok=True)
    mask = Image.new("L", size)
    mask.paste(white, (size[0] // 2, 0, *size))
    mask.save(path, format="PNG")


@pytest.fixture
def drawings(tmp_path) -> Path:
    folder = tmp_path / "drawings"
    for name in ("one.png", "sub/two.png"):
        picture(folder / name)
        (folder / name).with_suffix(".txt").write_text(f"a cat {name}")
    return folder


def with_masks(path: str | Path, masks: str | None, caption: str | None = None) -> PictureSet:
    return find_pictures(path, "{caption}", None, caption, masks)


def checked(pictures: PictureSet) -> None:
    assert pictures.masks is not None
    pictures.masks.check(pictures.manifest, pictures.found, find(), 32 * 32)


def whites(pictures: PictureSet) -> list[list[int]]:
    """The mean of the left and of the right half of each mask."""
    checked(pictures)
    masks = [each.mask for each in pictures.load()]
    assert all(mask is not None and mask.shape == SIZE[::-1] for mask in masks)
    return [[int(half.mean()) for half in np.split(mask, 2, axis=1)] for mask in masks if mask is not None]


def test_masks_of_a_folder_have_the_names_of_the_pictures(drawings, tmp_path):
    half_white(tmp_path / "masks/one.png")
    half_white(tmp_path / "masks/sub/two.jpg", white=128)
    assert whites(with_masks(drawings, str(tmp_path / "masks"))) == [[0, 255], [0, 128]]
    (tmp_path / "masks/sub/two.jpg").unlink()
    with pytest.raises(UserError, match=r"1 of 2 pictures has no mask, .*two\.png for one .*: add it, all white"):
        with_masks(drawings, str(tmp_path / "masks"))
    half_white(tmp_path / "masks/one.webp")
    with pytest.raises(UserError, match=r"has both one\.png and one\.webp: take one of them out"):
        with_masks(drawings, str(tmp_path / "masks"))


def test_a_folder_of_masks_that_cannot_be_listed_is_not_an_empty_one(drawings, tmp_path, monkeypatch):
    half_white(tmp_path / "masks/one.png")
    list_folder = os.scandir

    def scandir(path):
        if str(path) == str(tmp_path / "masks/sub"):
            raise PermissionError(13, "Permission denied", str(path))
        return list_folder(path)

    (tmp_path / "masks/sub").mkdir()
    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(UserError, match=r"masks: the folder of masks cannot be listed: .*Permission denied"):
        with_masks(drawings, str(tmp_path / "masks"))


def test_masks_beside_the_pictures_are_no_pictures(drawings):
    half_white(drawings / "one_mask.png")
    half_white(drawings / "sub/two-masklabel.png")
    found = with_masks(drawings, "beside", "another cat")
    assert [each.caption for each in found.found] == ["a cat one.png", "a cat sub/two.png"]
    assert found.warnings == ()
    assert whites(found) == [[0, 255]] * 2
    (warning,) = with_masks(drawings, None, "another cat").warnings
    assert "2 rows are left out that by the name would be a mask of the picture beside it" in warning
    assert "give --masks beside, or other names" in warning
    (drawings / "one_mask.png").unlink()
    with pytest.raises(UserError, match=r"1 of 2 pictures has no mask, .*one\.png for one \(there is no NAME_mask"):
        with_masks(drawings, "beside")


def test_masks_beside_the_pictures_of_an_imagefolder(tmp_path):
    for name in ("one", "two"):
        picture(tmp_path / f"{name}.png")
        half_white(tmp_path / f"{name}_mask.png")
    rows = [{"file_name": f"{name}.png", "text": "a cat"} for name in ("one", "two")]
    (tmp_path / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert whites(with_masks(tmp_path, "beside")) == [[0, 255]] * 2


def test_masks_of_a_column(tmp_path):
    picture(tmp_path / "one.png")
    half_white(tmp_path / "outline.png")
    (tmp_path / "rows.jsonl").write_text(json.dumps({"image": "one.png", "prompt": "a cat", "mask": "outline.png"}))
    found = with_masks(tmp_path / "rows.jsonl", "mask")
    assert (whites(found), found.warnings) == ([[0, 255]], ())
    written = io.BytesIO()
    half_white(written)
    table = {
        "id": ["a", "b"], "prompt": ["a cat"] * 2,
        "image": [{"bytes": (tmp_path / "one.png").read_bytes(), "path": None}] * 2,
        "outline": [{"bytes": written.getvalue(), "path": None}] * 2,
        "empty": [{"bytes": written.getvalue(), "path": None}, None],
    }  # fmt: skip
    pq.write_table(pa.table(table), tmp_path / "rows.parquet")
    assert whites(with_masks(tmp_path / "rows.parquet", "outline")) == [[0, 255]] * 2
    with pytest.raises(UserError, match=r"1 of 2 pictures has no mask, .* \(its column 'empty' is empty\): add it"):
        with_masks(tmp_path / "rows.parquet", "empty")
    with pytest.raises(UserError, match=r"no such folder, and no such column .* \(it has outline, empty\): give"):
        with_masks(tmp_path / "rows.parquet", "outlines")


@pytest.mark.parametrize(
    ("size", "white", "said"),
    [
        ((16, 16), 255, "is 32x16, and its mask 16x16: bring the mask to the size of its picture"),
        (SIZE, 0, "its mask is all black, so nothing of it would be learned: paint white what shall be"),
    ],
)
def test_a_mask_of_no_use_is_one_line_before_a_model_is_loaded(drawings, tmp_path, monkeypatch, size, white, said):
    monkeypatch.setattr(
        "wanbatch.pipeline.training.lora.model.load_reference", lambda *given: pytest.fail("a model is loaded")
    )
    half_white(tmp_path / "masks/one.png")
    half_white(tmp_path / "masks/sub/two.png", white, size)
    given = ["train", "lora", "--images", str(drawings), "--name", "ink", "--masks", str(tmp_path / "masks")]
    done = CliRunner().invoke(main, given)
    assert done.exit_code == 2
    assert said in done.stderr
    assert "two.png" in done.stderr
    done = CliRunner().invoke(main, [*given[:-2], "--unmasked-weight", "0"])
    assert "--unmasked-weight: has no effect without --masks: give them, or drop it" in done.stderr


def test_a_mask_that_is_cut_off_or_damaged_is_named(tmp_path):
    picture(tmp_path / "one.png", size=(1000, 16))
    (tmp_path / "one.txt").write_text("a cat")
    mask = Image.new("L", (1000, 16))
    mask.paste(255, (0, 0, 1, 16))
    mask.save(tmp_path / "one_mask.png")
    with pytest.raises(UserError, match=r"all that is white in its mask is cut off .* brought to 256x16: crop the"):
        checked(with_masks(tmp_path, "beside"))
    (tmp_path / "one_mask.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    with pytest.raises(UserError, match=r"one\.png: its mask: .*: mend the mask or take the picture out"):
        checked(with_masks(tmp_path, "beside"))


def test_black_parts_weigh_little_and_each_picture_as_much_as_another(tmp_path):
    model = TrainingModel.load(find(), torch.device("cpu"), torch.float32)
    mask = np.zeros((16, 32), np.uint8)
    mask[:, 20:] = 255  # of latents of 16 pixels the right one, and a quarter of a latent of the left one is grey
    pixels = np.random.default_rng(0).integers(0, 255, (16, 32, 3), dtype=np.uint8)
    pictures = [Picture(pixels, "a", mask), Picture(pixels, "a", np.full_like(mask, 255))]
    found = encode_examples(pictures, model, 32 * 16, tmp_path, lambda number: None, 0.1)
    (weights,), (latents,) = found.weights, found.latents
    assert weights.shape == (2, latents.shape[2], latents.shape[3])
    assert float(weights[1].min()) == 1
    columns = weights[0, 0].tolist()
    stride = 32 // len(columns)
    white = [float((mask[0, place * stride : (place + 1) * stride] == 255).mean()) for place in range(len(columns))]
    assert columns == pytest.approx([0.1 + 0.9 * each for each in white])
    # The loss: by hand, and the mean of the two pictures' losses whatever their masks are.
    noise, level = torch.randn(latents.shape, generator=torch.Generator().manual_seed(0)), torch.tensor([0.5, 0.5])
    texts = [found.texts["a"]] * 2
    with torch.no_grad():
        together = flow_loss(model, latents, noise, level, texts, weights)
        alone = [
            flow_loss(model, latents[i : i + 1], noise[i : i + 1], level[:1], texts[:1], weights[i : i + 1])
            for i in range(2)
        ]
        plain = flow_loss(model, latents[1:], noise[1:], level[:1], texts[:1])
    torch.testing.assert_close(together, (alone[0] + alone[1]) / 2)
    torch.testing.assert_close(alone[1], plain)
    assert abs(alone[0] - plain) > 1e-4 * plain
    one = Examples([latents[:1]], [["a"]], found.texts)
    assert fixed_loss(model, one) != fixed_loss(model, Examples([latents[:1]], [["a"]], found.texts, [weights[:1]]))
    training, held = Examples(
        [latents.repeat(2, 1, 1, 1)], [["a"] * 4], found.texts, [weights.repeat(2, 1, 1)]
    ).split(0.25, 0)
    assert [len(each.weights[0]) for each in (training, held)] == [3, 1]
