"""What presets choose of steps and caches, and what wins over them."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from click.testing import CliRunner
from job_making import write_jsonl

from wanbatch.jobs.cli.main import main
from wanbatch.jobs.config.settings import Settings
from wanbatch.jobs.planning import presets
from wanbatch.jobs.planning.checks import check_rows, check_settings
from wanbatch.jobs.planning.plan import make_plan
from wanbatch.jobs.planning.presets import recipe, with_preset
from wanbatch.manifests.reading.manifest import read_manifest
from wanbatch.pipeline.loading.registry import find
from wanbatch.pipeline.sampling.step_cache import parse

TINY = find("tiny", weights=False)
BIG = replace(TINY, name="some/finetune", layers=30, multiple=32, steps=50)


@pytest.mark.parametrize("model", [TINY, BIG], ids=["tiny", "5B"])
def test_every_preset_is_one_that_the_model_can_be_run_with(model, tmp_path):
    """As settings, and for rows with every creativity down to 0.25; each is cheaper than the one before."""
    rows = [{"prompt": "x"}, {"image": "x.png"}, {"image": "x.png", "creativity": 0.25}]
    manifest = read_manifest(write_jsonl(tmp_path / "shop.jsonl", rows))
    cost = []
    for preset in ("exact", "balanced", "fast"):
        chosen = recipe(preset, model)
        assert set(chosen) <= {"steps", "sampler", "schedule", "step_cache"}
        settings = Settings(**chosen)
        check_settings(settings, model)
        assert not list(check_rows(manifest.rows, model, settings))
        plan = make_plan(manifest, model, settings)
        kept = parse(chosen.get("step_cache", "none"), model.layers)
        blocks = 1 / getattr(kept.skip, "interval", 1)  # `none` has no interval
        cost.append(plan.images["steps"][0].as_py() * blocks)
    assert cost[0] > cost[1] > cost[2]


def test_other_models_and_exact_are_left_alone(model, model_folder):
    assert recipe("exact", TINY) == {}
    assert recipe("fast", model) == {}
    settings = Settings(model=str(model_folder), preset="fast")
    assert with_preset(settings) == settings
    assert with_preset(Settings()) == Settings()


def test_what_is_given_wins():
    fast = recipe("fast", TINY)
    assert with_preset(Settings(preset="fast")).step_cache == fast["step_cache"]
    assert with_preset(Settings(preset="fast")).steps == fast["steps"]
    assert with_preset(Settings(preset="fast", steps=50)).steps == 50
    assert with_preset(Settings(preset="fast", step_cache="none")).step_cache == "none"
    levels = with_preset(Settings(preset="fast", sigmas=tuple(1 - count / 16 for count in range(12))))
    assert (levels.steps, levels.step_cache) == (None, fast["step_cache"])


@pytest.mark.parametrize("few", [{"steps": 4}, {"steps": 9}, {"sigmas": (1.0, 0.9, 0.5)}])
@pytest.mark.parametrize("preset", ["balanced", "fast"])
def test_with_few_steps_none_is_skipped(few, preset):
    """Before, a model of 4 steps got `taylor:interval=3` from a preset, and half of its steps were guessed."""
    assert with_preset(Settings(preset=preset, **few)).step_cache == "none"
    assert with_preset(Settings(preset=preset, steps=10)).step_cache != "none"
    assert with_preset(Settings(preset=preset, step_cache="taylor", **few)).step_cache == "taylor"


def test_a_distilled_model_keeps_all_of_its_steps(monkeypatch):
    monkeypatch.setattr(presets, "find", lambda *_, **__: replace(BIG, steps=4))
    assert with_preset(Settings(model=BIG.name, preset="fast")).step_cache == "none"
    monkeypatch.setattr(presets, "find", lambda *_, **__: BIG)
    assert with_preset(Settings(model=BIG.name, preset="fast")).step_cache == "taylor:interval=3"


def test_a_preset_reaches_the_plan(tmp_path):
    manifest = write_jsonl(tmp_path / "shop.jsonl", [{"prompt": "x"}, {"prompt": "y", "steps": 9}])
    result = CliRunner().invoke(main, ["plan", str(manifest), "--json", "--preset", "fast"])
    assert json.loads(result.stdout)["model_evaluations"] == recipe("fast", TINY)["steps"] + 9
