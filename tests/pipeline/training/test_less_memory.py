"""What makes a training need less memory: moments of 8 bits, and frozen layers in FP8."""

from __future__ import annotations

import importlib.util
import json
import sys
from dataclasses import asdict, replace

import pytest
import torch
import torch.nn.functional as F
from two_experts import two_blocks

from wanbatch.errors import UserError
from wanbatch.pipeline.loading.reference import load_transformer
from wanbatch.pipeline.loading.registry import ModelInfo
from wanbatch.pipeline.models.fp8 import quantise
from wanbatch.pipeline.models.umt5 import PlainUMT5
from wanbatch.pipeline.training.few_step.settings import FewStepSettings
from wanbatch.pipeline.training.float8_base import Float8FrozenLinear, float8_layers, weights_instead
from wanbatch.pipeline.training.lora.examples import Examples
from wanbatch.pipeline.training.lora.model import TrainingModel
from wanbatch.pipeline.training.lora.settings import LoraSettings
from wanbatch.pipeline.training.lora.training import STATE_FILE, LoraTraining
from wanbatch.pipeline.training.low_rank import LowRankAdapters
from wanbatch.pipeline.training.optimizers import check_optimizer
from wanbatch.pipeline.training.read_back import read_back
from wanbatch.pipeline.training.resumable import Learner
from wanbatch.pipeline.training.same_training import ensure_same_training

SETTINGS = LoraSettings(rank=32, rate=1e-2, steps=4, batch=2, save_every=2, sample_every=0, warm_up=1, average=0.5)
CPU = torch.device("cpu")
# Not among the packages of the tests: peft and diffusers import it wherever it is, which takes each process seconds.
needs_bitsandbytes = pytest.mark.skipif(
    importlib.util.find_spec("bitsandbytes") is None, reason="needs bitsandbytes: pip install '.[train]'"
)


@pytest.fixture(scope="module")
def info(tmp_path_factory) -> ModelInfo:
    return two_blocks(tmp_path_factory.mktemp("small") / "model")


@pytest.fixture(scope="module")
def examples() -> Examples:
    drawn = torch.Generator().manual_seed(1)
    texts = {name: torch.randn(5, 128, generator=drawn) for name in ("a", "")}
    return Examples([torch.randn(4, 32, 2, 2, generator=drawn)], [["a"] * 4], texts)


def training_of(info, examples, out, settings, base="bf16") -> LoraTraining:
    model = TrainingModel.load(info, CPU, torch.float32, base)
    out.mkdir(exist_ok=True)
    return LoraTraining(model, LowRankAdapters(model.dit), "a", examples, settings, out, lambda text: None)


def run(training: LoraTraining, most: int | None = None) -> list[torch.Tensor]:
    """The trained matrices; most: after so many steps nothing is written any more, as if it were killed."""

    def told(made: int, loss: float) -> None:
        if made == most:
            raise KeyboardInterrupt

    training.run(lambda made: None, told)
    return [matrix.detach().clone() for matrix in training.adapters.parameters("a")]


@needs_bitsandbytes
def test_moments_of_8_bits_go_on_to_the_bit_where_a_training_was_killed(info, examples, tmp_path):
    settings = replace(SETTINGS, optimizer="adamw8bit")
    whole = run(training_of(info, examples, tmp_path / "whole", settings))
    with pytest.raises(KeyboardInterrupt):
        run(training_of(info, examples, tmp_path / "halves", settings), most=3)
    again = training_of(info, examples, tmp_path / "halves", settings)
    halves = run(again)
    assert again.budget.step == 4
    assert all(torch.equal(one, other) for one, other in zip(whole, halves, strict=True))
    kept = torch.load(tmp_path / "whole" / STATE_FILE, weights_only=True)["tensors"]["a"]
    small = sum(tensor.numel() for tensor in kept if tensor.dtype == torch.uint8)
    assert small > sum(matrix.numel() for matrix in whole)  # two moments each, but of the smallest matrices
    plain = run(training_of(info, examples, tmp_path / "plain", SETTINGS))
    steps = [(one - other).norm() / (other.norm() + 1e-6) for one, other in zip(whole, plain, strict=True)]
    assert max(steps) > 0
    assert sum(steps) / len(steps) < 0.2


def test_a_missing_package_is_named_with_the_way_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    check_optimizer("adamw")
    with pytest.raises(UserError, match=r"needs bitsandbytes: pip install 'wanbatch\[train\]', or take --optimizer"):
        check_optimizer("adamw8bit")


@needs_bitsandbytes
def test_a_package_that_cannot_work_on_the_device_is_one_line(monkeypatch):
    import bitsandbytes

    def broken(self) -> None:
        raise RuntimeError("no kernel image\nfor this device")

    monkeypatch.setattr(bitsandbytes.optim.AdamW8bit, "step", broken)
    with pytest.raises(UserError, match=r"cannot work on cpu here \(no kernel image\): take --optimizer adamw"):
        Learner([torch.nn.Parameter(torch.zeros(2, 2))], CPU, 0.5, optimizer="adamw8bit")


def test_a_layer_in_fp8_multiplies_by_its_rounded_weights_and_passes_gradients_on():
    drawn = torch.Generator().manual_seed(0)
    weight, bias = torch.randn(48, 32, generator=drawn), torch.randn(48, generator=drawn)
    inputs = torch.randn(2, 5, 32, generator=drawn).requires_grad_()
    layer = Float8FrozenLinear("blocks.0.x", weight, bias)
    kept: list[torch.Tensor] = []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        product = layer(inputs)
    rounded, scale = quantise(weight)
    wide = rounded.float() * scale
    torch.testing.assert_close(product, F.linear(inputs, wide, bias))
    assert 0.005 < float((wide - weight).norm() / weight.norm()) < 0.05
    gradient = torch.randn(product.shape, generator=drawn)
    (passed,) = torch.autograd.grad(product, inputs, gradient)
    torch.testing.assert_close(passed, gradient @ wide)
    # What waits for the backward pass has no copy of the weights that is wider than FP8.
    assert {tensor.dtype for tensor in kept if tensor.shape == weight.shape} == {torch.float8_e4m3fn}
    assert not list(layer.parameters())


def test_an_adapter_on_an_fp8_base_is_compared_with_the_model_that_a_run_loads(info, examples, tmp_path):
    training = training_of(info, examples, tmp_path, replace(SETTINGS, steps=2, base_precision="fp8"), base="fp8")
    layers = float8_layers(training.model.dit)
    assert len(layers) == 20  # all that adapters change
    run(training)
    file = tmp_path / "a.safetensors"
    training.adapters.save("a", file, {})
    found = read_back(training.model, training.adapters, "a", file)
    assert found.difference < 0.01
    assert 0.001 < found.base_difference < 0.1
    assert 0.005 < found.change_difference < 0.5
    # The comparison sees the weights of the model's files: with those in the layers nothing differs.
    transformer = load_transformer(info, torch.float32)
    model = TrainingModel.load(info, CPU, torch.float32)
    noisy, states = torch.ones(1, 32, 4, 4), next(iter(model.embeddings(["a dog"]).values()))[None]
    given = (noisy, torch.tensor([0.5]), states, torch.tensor([states.shape[1]]))
    with torch.no_grad(), weights_instead(training.model.dit, transformer):
        instead = training.model.velocity(*given)
        plain = model.velocity(*given)
    torch.testing.assert_close(instead, plain, rtol=1e-4, atol=1e-4)


def test_the_text_encoder_is_on_the_device_only_while_it_encodes(info, monkeypatch):
    moves: list[str] = []
    monkeypatch.setattr(PlainUMT5, "to", lambda encoder, device: moves.append(str(device)))
    model = TrainingModel.load(info, torch.device("cpu", 0), torch.float32, "fp8")
    model.embeddings(["a dog"])
    assert moves == ["cpu:0", "cpu"]
    model.embeddings(["a dog"])
    assert moves == ["cpu:0", "cpu", "cpu"]
    moves.clear()
    TrainingModel.load(info, torch.device("cpu", 0), torch.float32).embeddings(["a dog"])
    assert moves == ["cpu:0"]


def test_settings_of_either_training_and_folders_from_before_there_were_these(tmp_path):
    with pytest.raises(UserError, match="unknown base precision 'int4'; there are bf16, fp8"):
        LoraSettings(base_precision="int4")
    with pytest.raises(UserError, match="unknown optimizer 'sgd'; there are adamw, adamw8bit"):
        LoraSettings(optimizer="sgd")
    with pytest.raises(UserError, match="setting base_precision is 'int4': must be bf16 or fp8"):
        FewStepSettings.of({"base_precision": "int4"})
    assert FewStepSettings.of({"base_precision": "fp8"}).base_precision == "fp8"
    defaults = asdict(LoraSettings())
    older = {key: value for key, value in defaults.items() if key not in ("optimizer", "base_precision")}
    (tmp_path / "training.json").write_text(json.dumps(older))
    ensure_same_training(tmp_path, defaults, {}, defaults)
    with pytest.raises(UserError, match="has a training with optimizer adamw, not adamw8bit"):
        ensure_same_training(tmp_path, defaults | {"optimizer": "adamw8bit"}, {}, defaults)
