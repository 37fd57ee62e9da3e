"""The user's own classifier: an ONNX file and a folder of transformers say whether the class was kept."""

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
from transformers import ResNetConfig, ResNetForImageClassification, ViTImageProcessor

COLOURS = {"red": (250, 10, 10), "green": (60, 250, 10), "blue": (10, 10, 250)}
LOOKS = [*COLOURS, "green"]


def red_green_blue(path: str, **metadata: str) -> str:
    """An ONNX file whose logits are the means of the three colours."""
    inputs = [helper.make_tensor_value_info("pixels", TensorProto.FLOAT, ["N", 3, 32, 32])]
    outputs = [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", 3])]
    axes = numpy_helper.from_array(np.array([2, 3], np.int64), "axes")
    node = helper.make_node("ReduceMean", ["pixels", "axes"], ["logits"], keepdims=0)
    graph = helper.make_graph([node], "means", inputs, outputs, [axes])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    helper.set_model_props(model, metadata)
    onnx.save(model, path)
    return path


@pytest.fixture
def out(tmp_path) -> Path:
    """Pictures of one colour each, with a grain; the fourth is red by its label and green to look at."""
    labels = [*COLOURS, "red"]
    Image.new("RGB", (32, 32), "gray").save(tmp_path / "source.png")
    grain = np.random.default_rng(0).integers(0, 40, (4, 32, 32, 3))
    pictures = [(np.array(COLOURS[look]) * 0.8 + grain[n]).astype(np.uint8) for n, look in enumerate(LOOKS)]
    made = [
        made_from(f"row-{n}", n, tmp_path / "source.png", png(one), 32, "source.png")
        for n, one in enumerate(pictures)
    ]
    manifest = write_jsonl(tmp_path / "rows.jsonl", [{"id": one.id, "image": "source.png"} for one in made])
    return output_folder(tmp_path / "out", manifest, made, pa.table({"label": labels}), (0,))


def ranks(out: Path) -> list[int]:
    return pq.read_table(out / "checks")["label_rank"].to_pylist()


def test_an_onnx_file_flags_the_picture_of_another_class(out):
    model = red_green_blue("model.onnx", names=json.dumps({"0": "red", "1": "green", "2": "blue"}))
    told = json.loads(invoke("check", out, "--classifier", model, "--json").stdout)
    assert told["rejected_by"] == {"wrong_class": 1}
    assert told["folder"] == {"label_kept": 0.75}
    assert ranks(out) == [0, 0, 0, 1]
    confidence = pq.read_table(out / "checks")["label_confidence"].to_pylist()
    assert min(confidence[:3]) > 0.5 > confidence[3]
    told = json.loads(invoke("check", out, "--classifier", model, "--top-k", 2, "--json").stdout)
    assert told["rejected"] == 0


def test_names_are_given_where_the_file_has_none(out):
    model = red_green_blue("model.onnx")
    assert invoke("check", out, "--classifier", model, "--classes", "red, green,blue").exit_code == 0
    assert ranks(out) == [0, 0, 0, 1]
    invoke("check", out, "--classifier", model)  # sorted by name: blue, green, red
    assert ranks(out) != [0, 0, 0, 1]


def test_a_folder_of_transformers_says_its_own_names(out):
    torch.manual_seed(0)
    sizes = {"embedding_size": 8, "hidden_sizes": [8], "depths": [1], "layer_type": "basic"}
    config = ResNetConfig(**sizes, num_labels=3, id2label={0: "red", 1: "green", 2: "blue"})
    ResNetForImageClassification(config).save_pretrained("folder")
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained("folder")
    done = invoke("check", out, "--classifier", "folder", "--json")
    assert done.exit_code == 0, done.output
    assert all(rank in (0, 1, 2) for rank in ranks(out))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            ["--classifier", "nowhere.onnx"],
            "nowhere.onnx: there is no such classifier: give an ONNX file or a folder",
        ),
        (["--classifier", "text.onnx"], "text.onnx: is no ONNX model ("),
        (["--classifier", "rows.jsonl"], "rows.jsonl: is no ONNX file (.onnx): export the model"),
        (["--classifier", "empty"], "empty: is no classifier of transformers ("),
        (
            ["--classifier", "model.onnx", "--classes", "red,green,blue,white"],
            "the classifier has 3 outputs for 4 classes: name",
        ),
        (["--classifier", "model.onnx", "--classes", "reds,green,blue"], "class 'red' is none of the classifier's"),
        (["--classes", "red"], "--classes names the outputs of a --classifier: give that, too"),
    ],
)
def test_what_is_no_classifier_or_has_other_classes_is_refused_in_one_line(out, flags, message):
    Path("text.onnx").write_text("none")
    Path("empty").mkdir()
    red_green_blue("model.onnx")
    (line,) = refused(invoke("check", out, *flags))
    assert line.startswith(message)
    assert not (out / "checks").exists()
