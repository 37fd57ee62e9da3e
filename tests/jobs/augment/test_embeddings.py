"""Embeddings by the user's own model: how made pictures differ from the originals that they were made from."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from augment_making import made_from, output_folder, png
from command_line import invoke, refused
from job_making import write_jsonl
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from torchmetrics.image.kid import poly_mmd
from transformers import ResNetConfig, ResNetModel, ViTImageProcessor

from wanbatch.jobs.augment import embedding_distances
from wanbatch.jobs.augment.embedding_distances import differences


def normal(count: int, mean: float, seed: int, dimensions: int = 16) -> np.ndarray:
    return np.random.default_rng(seed).normal(mean, 1, (count, dimensions))


def test_the_distance_is_that_of_torchmetrics_and_grows_with_the_difference(monkeypatch):
    monkeypatch.setattr(embedding_distances, "ROWS", 7)  # in several parts
    real = normal(60, 0, 1)

    distances = [differences(made, real).kid for made in (normal(60, mean, 2) for mean in (0, 0.5, 1))]
    assert distances[0] < distances[1] < distances[2]
    assert abs(distances[0]) < 0.1
    for mean, distance in zip((0, 0.5, 1), distances, strict=True):
        assert distance == pytest.approx(
            float(poly_mmd(torch.from_numpy(normal(60, mean, 2)), torch.from_numpy(real)))
        )


def test_precision_is_of_made_ones_and_recall_of_the_originals(monkeypatch):
    monkeypatch.setattr(embedding_distances, "ROWS", 3)
    real = np.concatenate([normal(20, 0, 1, 2), normal(20, 50, 2, 2)])
    one_mode = normal(20, 0, 3, 2)
    found = differences(one_mode, real)
    assert found.within.mean() > 0.7
    assert found.covered[:20].mean() > 0.7
    assert not found.covered[20:].any()  # what was never made is not covered
    assert not differences(np.concatenate([one_mode, normal(20, -90, 4, 2)]), real).within[20:].any()
    assert differences(real, real).within.all()


def means_of_colours(path: str) -> str:
    """An ONNX file whose embeddings are the means of the three colours."""
    inputs = [helper.make_tensor_value_info("pixels", TensorProto.FLOAT, ["N", 3, 32, 32])]
    outputs = [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", 3])]
    axes = numpy_helper.from_array(np.array([2, 3], np.int64), "axes")
    node = helper.make_node("ReduceMean", ["pixels", "axes"], ["logits"], keepdims=0)
    graph = helper.make_graph([node], "means", inputs, outputs, [axes])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.save(model, path)
    return path


@pytest.fixture
def out(tmp_path) -> Path:
    """Six originals of three colours in a recipe's dataset, and four pictures: two like the red ones, two white."""
    Path("set/train/a").mkdir(parents=True)
    grain = np.random.default_rng(0)
    for number in range(6):
        colour = np.array([200 if number % 3 == channel else 20 for channel in range(3)])
        pixels = (colour + grain.integers(0, 30, (32, 32, 3))).astype(np.uint8)
        Image.fromarray(pixels).save(f"set/train/a/{number}.png")
    Path("recipe.toml").write_text('dataset = "set"\nsplit = "train"\ntemplate = "x"\ncreativity = 0.5\n')
    source = tmp_path / "set/train/a/0.png"
    pictures = [np.asarray(Image.open(source)).copy() for _ in range(2)]
    pictures += [grain.integers(225, 255, (32, 32, 3)).astype(np.uint8) for _ in range(2)]
    pictures[1][0, 0] += 1
    made = [made_from(f"row-{n}", n, source, png(one), 32, "set/train/a/0.png") for n, one in enumerate(pictures)]
    manifest = write_jsonl(tmp_path / "rows.jsonl", [{"id": one.id, "image": "set/train/a/0.png"} for one in made])
    return output_folder(tmp_path / "out", manifest, made, pa.table({"label": ["a"] * 4}), (0,))


def test_an_onnx_file_says_which_pictures_are_like_the_originals(out):
    done = invoke("check", out, "--recipe", "recipe.toml", "--embeddings", means_of_colours("model.onnx"), "--json")
    assert done.exit_code == 0, done.output
    folder = json.loads(done.stdout)["folder"]
    assert folder["precision"] == 0.5
    assert folder["recall"] > 0
    assert folder["kid"] > 0
    assert pq.read_table(out / "checks")["within_originals"].to_pylist() == [True, True, False, False]
    assert (
        "  precision        0.5000"
        in invoke("check", out, "--recipe", "recipe.toml", "--embeddings", "model.onnx").stdout
    )


def test_a_folder_of_transformers_gives_embeddings(out):
    torch.manual_seed(0)
    sizes = {"embedding_size": 8, "hidden_sizes": [8], "depths": [1], "layer_type": "basic"}
    ResNetModel(ResNetConfig(**sizes)).save_pretrained("folder")
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained("folder")
    done = invoke("check", out, "--recipe", "recipe.toml", "--embeddings", "folder", "--json")
    assert done.exit_code == 0, done.output
    assert set(json.loads(done.stdout)["folder"]) == {"kid", "precision", "recall"}


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--embeddings", "model.onnx"], "--embeddings compares with the pictures that a recipe augments: name it"),
        (["--recipe", "recipe.toml", "--embeddings", "none.onnx"], "none.onnx: there is no such model: give an ONNX"),
        (["--recipe", "recipe.toml", "--embeddings", "recipe.toml"], "recipe.toml: is no ONNX file (.onnx): export"),
        (["--recipe", "recipe.toml", "--embeddings", "set"], "set: is no model for pictures of transformers ("),
    ],
)
def test_what_is_no_model_is_refused_in_one_line(out, flags, message):
    means_of_colours("model.onnx")
    (line,) = refused(invoke("check", out, *flags))
    assert line.startswith(message)
    assert not (out / "checks").exists()


def test_one_original_is_too_few(out):
    means_of_colours("model.onnx")
    for number in range(1, 6):
        Path(f"set/train/a/{number}.png").unlink()
    (line,) = refused(invoke("check", out, "--recipe", "recipe.toml", "--embeddings", "model.onnx"))
    assert line == "--embeddings compares with 1 original that the recipe augments: it needs 2"
