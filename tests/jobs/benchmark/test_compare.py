"""`wanbatch bench` on small models: every stage and whole pictures, figures that fit together."""

from __future__ import annotations

import gc
import json
from collections.abc import Iterator

import pytest
import torch
from click.testing import CliRunner

from wanbatch.jobs.benchmark import compare as benching
from wanbatch.jobs.benchmark import stages
from wanbatch.jobs.benchmark.stages import (
    GuidedStep,
    compare,
    shared_copies,
    shared_copy,
    short_search_for_garbage,
)
from wanbatch.jobs.cli.main import main
from wanbatch.jobs.config.hardware import ExecutionConfig
from wanbatch.pipeline.loading import registry
from wanbatch.pipeline.loading.random_model import random_info
from wanbatch.pipeline.loading.reference import load_reference
from wanbatch.pipeline.loading.runtime import Runtime
from wanbatch.pipeline.models.dit import FrameTransformer

SMALL = {
    "transformer": {
        "num_attention_heads": 4,
        "attention_head_dim": 24,
        "text_dim": 32,
        "freq_dim": 32,
        "ffn_dim": 64,
        "num_layers": 2,
    },
    "vae": {"base_dim": 8, "decoder_base_dim": 8},
    "text": {"d_model": 32, "d_kv": 16, "d_ff": 64, "num_layers": 2, "num_heads": 2, "vocab_size": 288},
}


def check_stages(result: dict, contenders: set[str]) -> None:
    assert set(result["stages"]) == {"denoise", "decode", "encode", "text"}
    for name, stage in result["stages"].items():
        assert set(stage) == (contenders if name != "text" else {"wanbatch", "diffusers eager"})
        for figures in stage.values():
            assert figures["ms"] > 0
            assert figures["spread"] >= 1
            rate = figures["tflops"] / figures["share_of_matmul_rate"]
            assert any(rate == pytest.approx(one, rel=0.05) for one in result["tflops_of_a_matmul"].values())
    assert all(figures["difference"] < 1e-4 for figures in result["stages"]["denoise"].values())


@pytest.fixture
def _searched(monkeypatch) -> Iterator[None]:
    """As it is outside these tests; what `tests/conftest.py` keeps out of the search is out of it again."""
    monkeypatch.setattr(stages, "short_search_for_garbage", short_search_for_garbage)
    yield
    gc.freeze()


@pytest.mark.usefixtures("_searched")
def test_what_was_there_before_is_not_searched_for_garbage_while_contenders_are_timed():
    """A contender that leaves much garbage starts a search, which is of what came since alone."""
    there = [[number] for number in range(50_000)]  # of the process, as what was compiled is
    searched = []

    def contender() -> None:
        searched.append(gc.get_freeze_count())
        gc.collect()

    before = gc.get_freeze_count()
    found = compare({"one": contender}, torch.device("cpu"), 2, 1)
    assert searched[:2] == [before, before], "warm-up"
    assert all(count >= len(there) for count in searched[2:])
    assert len(searched) == 4
    assert set(found["one"]) == {"warm_up_seconds", "ms", "spread"}
    assert gc.get_freeze_count() <= before


def test_the_command(model_folder, tmp_path):
    options = ["--model", str(model_folder), "--width", "32", "--height", "32", "--steps", "2", "--rounds", "1"]
    options += ["--images", "2", "--batch", "2", "--no-compiled", "--out", "bench.json"]
    done = CliRunner().invoke(main, ["bench", *options])
    assert done.exit_code == 0, done.output
    result = json.loads((tmp_path / "bench.json").read_text())
    check_stages(result, {"wanbatch", "diffusers eager"})
    assert set(result["images_per_second"]) == {"wanbatch", "diffusers loop", "diffusers batched"}
    assert max(result["max_pixel_difference"].values()) <= 1
    assert result["backends"]["denoise"] == "eager-float32"
    lines = [line.split()[0] for line in done.output.splitlines()]
    assert [line for line in lines if line.endswith(",")] == ["CPU,", "denoise,", "decode,", "encode,", "text,"]


def test_the_full_size_model_made_small():
    settings = benching.BenchSettings(
        images=1, batch=2, rounds=1, steps=2, guidance=3.0, width=64, height=32, compiled=False
    )
    chosen = ExecutionConfig("cpu", "fp32", compile=False)
    result = benching.bench(random_info(), chosen, Runtime(), settings, "a command", **SMALL)
    check_stages(result, {"wanbatch", "diffusers eager"})
    assert result["model"] == "random-5b"
    assert result["images_per_second"]["wanbatch"] > 0


def test_two_experts_made_small():
    settings = benching.BenchSettings(
        images=1, batch=1, rounds=1, steps=4, guidance=4.0, width=32, height=32, compiled=False, stages=False
    )
    small = SMALL | {"vae": {"base_dim": 8}}
    chosen = ExecutionConfig("cpu", "fp32", compile=False)
    result = benching.bench(random_info("a14b"), chosen, Runtime(), settings, "a command", **small)
    assert result["model"] == "random-a14b"
    assert max(result["max_pixel_difference"].values()) <= 1


def test_a_step_is_the_same_with_one_noise_level_a_row_or_a_token_and_in_one_call_or_two(model_folder):
    model = load_reference(registry.find(str(model_folder)), torch.device("cpu"), torch.float32).transformer
    step = GuidedStep.random(model.config, (4, 6), 2, torch.device("cpu"), torch.float32)
    expected = step.ours(FrameTransformer(model))()
    for made in (step.diffusers(model, per_token=True), step.diffusers(model, per_token=False, calls=2)):
        assert torch.allclose(made()[:, :, 0], expected, atol=1e-5)


def test_copies_share_their_weights_and_nothing_else(model_folder):
    modules = load_reference(registry.find(str(model_folder)), torch.device("cpu"), torch.float32)
    other = shared_copies(modules)
    for name, parameter in modules.transformer.named_parameters():
        assert dict(other.transformer.named_parameters())[name] is parameter
    changed = shared_copy(modules.transformer)
    changed.blocks[0].attn1.to_q = None
    assert modules.transformer.blocks[0].attn1.to_q is not None
