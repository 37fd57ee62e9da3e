"""What docs/samplers.md says of schedulers in diffusers' WanPipeline, and that its numbers are those of the file."""

from __future__ import annotations

import importlib.util
import inspect
import json
from pathlib import Path

import pytest
from diffusers import WanPipeline

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "samplers.md").read_text()
NOTED = json.loads((ROOT / "benchmarks" / "results" / "samplers.json").read_text())


@pytest.fixture(scope="module")
def benchmark():
    spec = importlib.util.spec_from_file_location("benchmark_samplers", ROOT / "benchmarks" / "samplers.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_wan_pipeline_scales_neither_noise_nor_input():
    source = inspect.getsource(WanPipeline)
    assert "self.scheduler.step(noise_pred, t, latents, return_dict=False)" in source
    assert "scale_model_input" not in source
    assert "init_noise_sigma" not in source


def test_traps_are_as_noted(benchmark):
    found = benchmark.traps()
    if found["UniPC, use_flow_sigmas and use_beta_sigmas"] == {"error": "needs scipy"}:
        del found["UniPC, use_flow_sigmas and use_beta_sigmas"]
    for name, result in found.items():
        noted = NOTED["traps"][name]
        assert result.keys() == noted.keys(), name
        if "error" not in result:
            assert result == pytest.approx(noted, rel=0.01, abs=0.01), name
    assert benchmark.end_points() == NOTED["end_points"]


@pytest.mark.parametrize("name", NOTED["traps"])
def test_only_what_knows_of_flow_matching_is_right(name):
    result = NOTED["traps"][name]
    right = "mean" in result and abs(result["mean"] - 0.5) < 0.02 and abs(result["deviation"] - 0.5) < 0.08
    knows = name in (
        "UniPC, use_flow_sigmas",
        "DPMSolverMultistep, use_flow_sigmas",
        "FlowMatchEuler, shift",
        "EulerDiscrete in its own variables",
    )
    assert right == knows
    assert f"| {name} |" in PAGE


def test_the_page_shows_the_numbers_of_the_file():
    for result in NOTED["traps"].values():
        if "mean" in result and abs(result["mean"]) < 1e4:
            assert f"| {result['mean']:.3f} | {result['deviation']:.3f} |" in PAGE
    for name, ends in NOTED["end_points"].items():
        assert f"| {name} | {ends['middle']:.4f} | {ends['last']:.4f} |" in PAGE
    for schedule in ("linear", "beta"):
        for sampler, errors in NOTED["solvers"][schedule].items():
            assert f"| `{sampler}` | " + " | ".join(f"{error:.3f}" for error in errors) + " |" in PAGE
