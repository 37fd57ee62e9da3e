"""Models of the user that fail or give no numbers: one line names the picture, and what it offers works."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from augment_making import made_from, output_folder, png
from command_line import invoke, refused
from job_making import write_jsonl
from onnx import NodeProto, TensorProto, helper, numpy_helper
from PIL import Image

from wanbatch.errors import UserError
from wanbatch.jobs.augment.model_answers import ModelAnswers

COUNT = 40
BLACK = 36
"""The picture that models stumble over: in the second batch."""


def saved(name: str, *nodes: NodeProto, batch: int | str = "N", **constants: np.ndarray) -> str:
    """An ONNX file. nodes: from `pixels` to `out`, whose other inputs are the constants."""
    inputs = [helper.make_tensor_value_info("pixels", TensorProto.FLOAT, [batch, 3, 8, 8])]
    outputs = [helper.make_tensor_value_info("out", TensorProto.FLOAT, None)]
    values = {"space": np.array([2, 3], np.int64), **constants}
    graph = helper.make_graph(
        list(nodes), "made", inputs, outputs, [numpy_helper.from_array(value, key) for key, value in values.items()]
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), name)
    return name


def means(to: str) -> NodeProto:
    """The means of the three colours."""
    return helper.make_node("ReduceMean", ["pixels", "space"], [to], keepdims=0)


def good(name: str = "model.onnx", batch: int | str = "N") -> str:
    return saved(name, means("out"), batch=batch)


def no_number(name: str) -> str:
    """NaN for a black picture, whose means are below 0."""
    return saved(name, means("m"), helper.make_node("Sqrt", ["m"], ["out"]))


def out_of_bounds(name: str) -> str:
    """An error for a black picture."""
    return saved(
        name,
        means("m"),
        helper.make_node("Sub", ["one", "m"], ["s"]),
        helper.make_node("Cast", ["s"], ["i"], to=TensorProto.INT64),
        helper.make_node("Gather", ["table", "i"], ["out"]),
        one=np.array(1, np.float32),
        table=np.arange(3, dtype=np.float32),
    )


def of_all_together(name: str) -> str:
    """One row of numbers for all pictures of a batch."""
    axes = np.array([0, 2, 3], np.int64)
    mean = helper.make_node("ReduceMean", ["pixels", "all"], ["m"], keepdims=1)
    return saved(
        name, mean, helper.make_node("Reshape", ["m", "shape"], ["out"]), all=axes, shape=np.array([1, 3], np.int64)
    )


@pytest.fixture
def out(tmp_path) -> Path:
    """Bright pictures of three classes, and a black one; a recipe whose originals are bright, too."""
    grain = np.random.default_rng(0)
    Path("set/train/red").mkdir(parents=True)
    for number in range(4):
        Image.fromarray(grain.integers(225, 256, (8, 8, 3), np.uint8)).save(f"set/train/red/{number}.png")
    Path("recipe.toml").write_text('dataset = "set"\nsplit = "train"\ntemplate = "x"\ncreativity = 0.5\n')
    made = []
    for number in range(COUNT):
        pixels = grain.integers(225, 256, (8, 8, 3), np.uint8) * np.uint8(number != BLACK)
        source = tmp_path / "set/train/red/0.png"
        made.append(made_from(f"row-{number}", number, source, png(pixels), 8, "set/train/red/0.png"))
    manifest = write_jsonl(tmp_path / "rows.jsonl", [{"id": one.id, "image": "set/train/red/0.png"} for one in made])
    labels = pa.table({"label": [("red", "green", "blue")[number % 3] for number in range(COUNT)]})
    return output_folder(tmp_path / "out", manifest, made, labels, (0, 10, 20))


FLAGS = {
    "--classifier": ("--classes", "red,green,blue"),
    "--embeddings": ("--recipe", "recipe.toml"),
}


@pytest.mark.parametrize("flag", FLAGS)
@pytest.mark.parametrize(
    ("model", "message"),
    [
        (no_number, "gives NaN or infinity for picture 'row-36'"),
        (out_of_bounds, "fails at picture 'row-36' (InvalidArgument:"),
        (of_all_together, "gives float32 of shape 1x3 for "),
    ],
)
def test_what_is_wrong_is_said_in_one_line_with_the_picture_and_the_remedies_work(out, capfd, flag, model, message):
    (line,) = refused(invoke("check", out, flag, model("bad.onnx"), *FLAGS[flag]))
    assert capfd.readouterr().err == ""  # onnxruntime writes past Python's stderr
    assert line.startswith(f"the model of {flag} {message}")
    assert line.endswith(f": correct the model, or leave out {flag}")
    assert not (out / "checks").exists()
    assert invoke("check", out, *(FLAGS[flag] if flag == "--embeddings" else ())).exit_code == 0
    assert invoke("check", out, flag, good(), *FLAGS[flag]).exit_code == 0


def test_a_file_of_a_fixed_batch_sees_the_last_pictures_too(out):
    flags = ("--classes", "red,green,blue")
    found = []
    for batch in ("N", 1, 7, 64):
        done = invoke("check", out, "--classifier", good("model.onnx", batch), *flags, "--json")
        assert done.exit_code == 0, done.output
        found.append((json.loads(done.stdout)["folder"], pq.read_table(out / "checks")["label_rank"].to_pylist()))
    assert found[0] == found[1] == found[2] == found[3]
    assert None not in found[0][1]


def test_labels_that_a_classifier_does_not_know_are_said_before_it_is_asked(out):
    model = out_of_bounds("bad.onnx")
    (line,) = refused(invoke("check", out, "--classifier", model, "--classes", "red,green,grey"))
    assert line.startswith("class 'blue' is none of the classifier's (red, green, grey): name them in their order")


def asked(answers: Sequence[object], minus_infinity: bool = False) -> np.ndarray:
    """What is made of the answers that a model gives one after the other, to a picture each."""
    left = iter(answers)
    model = ModelAnswers("--embeddings", lambda pictures: next(left), minus_infinity)
    return np.concatenate([model.of([np.zeros((1, 1, 3), np.uint8)], [f"row-{n}"]) for n in range(len(answers))])


def test_numbers_of_any_type_become_rows_of_floats():
    assert asked([[[1, 2]], np.array([[3, 4]], np.int8)]).tolist() == [[1, 2], [3, 4]]
    assert asked([np.ones((1, 2), np.float16)]).dtype == np.float32
    assert asked([np.ones((1, 2))]).dtype == np.float64
    assert asked([np.array([[1, -np.inf]])], minus_infinity=True).tolist() == [[1, -np.inf]]


@pytest.mark.parametrize(
    ("answers", "message"),
    [
        ([np.ones((1, 3)), np.ones((1, 4))], "gives 4 numbers for picture 'row-1', and 3 for those before it"),
        ([np.ones((1, 3)), np.ones((1, 0))], "gives float64 of shape 1x0 for 1 picture from 'row-1' on"),
        ([np.ones(1)], "gives float64 of shape 1 for 1 picture from 'row-0' on, not a row of numbers for each"),
        ([3.0], "gives float64 of shape 1 for 1 picture"),
        ([["cat"]], "gives <U3 of shape 1 for 1 picture"),
        ([np.array([[1, -np.inf]])], "gives NaN or infinity for picture 'row-0'"),
        ([np.array([[1, np.inf]])], "gives NaN or infinity for picture 'row-0'"),
    ],
)
def test_what_is_no_row_of_numbers_for_each_picture_is_refused(answers, message):
    with pytest.raises(UserError) as raised:
        asked(answers)
    assert str(raised.value).startswith(f"the model of --embeddings {message}")
    assert str(raised.value).endswith(": correct the model, or leave out --embeddings")


def test_an_error_that_no_picture_alone_gives_names_the_batch():
    def model(pictures: Sequence[np.ndarray]) -> np.ndarray:
        if len(pictures) > 1:
            raise RuntimeError("one\nat a time")
        return np.ones((1, 2))

    pixels = [np.zeros((1, 1, 3), np.uint8)] * 3
    with pytest.raises(UserError, match=r"fails at the 3 pictures from 'a' to 'c' \(RuntimeError: one at a time\): "):
        ModelAnswers("--classifier", model).of(pixels, ["a", "b", "c"])
