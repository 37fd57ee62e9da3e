"""What settings and rows ask that a model does not have, and what is asked of a second expert."""

from __future__ import annotations

import json
import shutil

import pytest
from job_making import write_jsonl
from small_models import random_transformer

from wanbatch.errors import UserError
from wanbatch.jobs.config.hardware import ExecutionConfig, Hardware
from wanbatch.jobs.driver.fingerprint import fingerprint_of
from wanbatch.jobs.planning.preparation import prepare


def change(path, **fields) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


@pytest.fixture
def two_experts(model_folder, tmp_path):
    """The small model with a second transformer, whose defaults are 4 and 3 as those of A14B."""
    folder = shutil.copytree(model_folder, tmp_path / "two")
    random_transformer(seed=5).save_pretrained(folder / "transformer_2")
    change(folder / "model_index.json", transformer_2=["diffusers", "WanTransformer3DModel"], boundary_ratio=0.875)
    change(folder / "wanbatch.json", guidance=4.0, guidance_2=3.0)
    return folder


@pytest.fixture
def planned(settings, tmp_path):
    """Plans rows in tmp_path; returns the images by id, and the model."""

    def plan(*rows: dict, **changes):
        found, model = prepare(write_jsonl(tmp_path / "shop.jsonl", rows), settings(**changes), weights=False)
        return {row["id"]: row for row in found.images.to_pylist()}, model, found

    return plan


ROWS = [
    {"id": "silent", "prompt": "x"},
    {"id": "both", "prompt": "x", "guidance": 5.0, "guidance_2": 2.0},
    {"id": "first", "prompt": "x", "guidance": 5.0},
    {"id": "second", "prompt": "x", "guidance_2": 2.0},
]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, {"silent": 3.0, "both": 2.0, "first": None, "second": 2.0}),
        ({"guidance": 6.0}, {"silent": None, "both": 2.0, "first": None, "second": 2.0}),
        ({"guidance_2": 1.5}, {"silent": 1.5, "both": 2.0, "first": 1.5, "second": 2.0}),
        ({"guidance": 6.0, "guidance_2": 1.5}, {"silent": 1.5, "both": 2.0, "first": 1.5, "second": 2.0}),
    ],
)
def test_the_second_guidance_is_the_rows_the_runs_or_with_none_of_both_the_models(
    planned, two_experts, given, expected
):
    """None is the first one's, as in diffusers, so that a row that gives one guidance has it at every level."""
    found, _, plan = planned(*ROWS, model=str(two_experts), **given)
    assert {name: row["guidance_2"] for name, row in found.items()} == expected
    assert "guidance_2" in plan.later


def test_with_one_transformer_nothing_shows_that_there_is_a_second_guidance(planned, settings):
    found, model, plan = planned({"id": "r", "prompt": "x"})
    assert found["r"]["guidance_2"] is None
    assert plan.later == ()
    chosen = ExecutionConfig("cpu", "fp32", False)
    assert "guidance_2" not in fingerprint_of(settings(), model, chosen, 4, Hardware())


@pytest.mark.parametrize(
    ("given", "expected"), [({}, 3.0), ({"guidance": 6.0}, None), ({"guidance": 6.0, "guidance_2": 1.5}, 1.5)]
)
def test_the_second_guidance_is_part_of_the_fingerprint(planned, settings, two_experts, given, expected):
    _, model, _ = planned({"id": "r", "prompt": "x"}, model=str(two_experts))
    chosen = ExecutionConfig("cpu", "fp32", False)
    made = fingerprint_of(settings(model=str(two_experts), **given), model, chosen, 4, Hardware())
    assert made.get("guidance_2") == expected


def test_a_second_guidance_of_a_model_with_one_transformer_is_refused_with_its_line(planned):
    with pytest.raises(UserError, match=r"shop.jsonl:1: guidance_2: model .* has one transformer.*: remove it"):
        planned({"id": "r", "prompt": "x", "guidance_2": 2.0})
    with pytest.raises(UserError, match=r"setting guidance_2: model .* has one transformer"):
        planned({"id": "r", "prompt": "x"}, guidance_2=2.0)


# ---- sizes


def test_a_size_that_the_model_cannot_make_is_refused_with_the_nearest(planned):
    """48 is a size for A14B, whose multiple is 16, and not for this one."""
    with pytest.raises(UserError, match=r"shop.jsonl:1: width 48: must be a multiple of 32 .*: use 32 or 64"):
        planned({"id": "r", "prompt": "x", "width": 48, "height": 64})
    with pytest.raises(UserError, match=r"shop.jsonl:1: height 16: must be a multiple of 32 .*: use 32$"):
        planned({"id": "r", "prompt": "x", "width": 64, "height": 16})
    with pytest.raises(UserError, match=r"setting height 80: must be a multiple of 32 .*: use 64 or 96"):
        planned({"id": "r", "prompt": "x"}, height=80)


def test_a_size_is_accepted_that_only_a_smaller_stride_can_make(planned, model_folder, tmp_path):
    folder = shutil.copytree(model_folder, tmp_path / "fine")
    change(folder / "vae" / "config.json", scale_factor_spatial=8)
    found, model, _ = planned({"id": "r", "prompt": "x", "width": 48, "height": 720}, model=str(folder))
    assert model.multiple == 16
    assert (found["r"]["width"], found["r"]["height"]) == (48, 720)


# ---- the model's scheduler


@pytest.fixture
def odd(model_folder, tmp_path):
    """A folder whose solver and whose levels are not reproduced."""
    folder = shutil.copytree(model_folder, tmp_path / "odd")
    change(folder / "scheduler" / "scheduler_config.json", solver_type="bh1", use_karras_sigmas=True)
    return folder


def test_a_scheduler_that_is_not_reproduced_is_refused_until_both_are_given(planned, odd):
    rows = [{"id": "r", "prompt": "x"}]
    with pytest.raises(UserError, match=r"scheduler_config.json: .*solver_type is 'bh1'.* give --sampler unipc,"):
        planned(*rows, model=str(odd), schedule="karras")
    with pytest.raises(UserError, match=r"use_karras_sigmas is True.* give --schedule karras,"):
        planned(*rows, model=str(odd), sampler="unipc")
    found, _, _ = planned(*rows, model=str(odd), sampler="unipc", schedule="karras")
    assert (found["r"]["sampler"], found["r"]["schedule"]) == ("unipc", "karras")
    found, _, _ = planned(*rows, model=str(odd), sampler="unipc", sigmas=(1.0, 0.5), steps=None)
    assert found["r"]["sigmas"] == [1.0, 0.5]


def test_a_folder_with_flow_match_euler_has_its_levels_and_a_row_may_have_others(planned, model_folder, tmp_path):
    folder = shutil.copytree(model_folder, tmp_path / "euler")
    config = {"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 8.0}
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(config))
    found, _, _ = planned(
        {"id": "its", "prompt": "x"},
        {"id": "own", "prompt": "x", "sampler": "deis", "shift": 2.0, "schedule": "linear"},
        model=str(folder),
    )
    names = ("sampler", "schedule", "shift")
    assert [found["its"][name] for name in names] == ["euler", "flow_match", 8.0]
    assert [found["own"][name] for name in names] == ["deis", "linear", 2.0]


def test_a_models_own_noise_levels_are_those_of_rows_that_say_nothing(model_folder, tmp_path, planned):
    folder = shutil.copytree(model_folder, tmp_path / "turbo")
    (folder / "wanbatch.json").write_text(json.dumps({"sampler": "lcm", "guidance": 1.0, "sigmas": [1.0, 0.75, 0.5]}))
    model = {"model": str(folder), "steps": None}
    silent, own = {"id": "silent", "prompt": "x"}, {"id": "own", "prompt": "x", "steps": 8}
    rows, *_ = planned(silent, own, **model)
    assert (rows["silent"]["sigmas"], rows["silent"]["steps"]) == ([1.0, 0.75, 0.5], 3)
    assert (rows["silent"]["sampler"], rows["silent"]["evaluations"]) == ("lcm", 3)
    assert (rows["own"]["sigmas"], rows["own"]["evaluations"]) == (None, 8)
    assert planned(silent, **model | {"steps": 5})[0]["silent"]["evaluations"] == 5
    assert planned(silent, sigmas=[1.0, 0.5], **model)[0]["silent"]["evaluations"] == 2
    with pytest.raises(UserError, match=r"creativity_steps: .* says every noise level of its own"):
        planned(silent, creativity_steps="respace", **model)
    with pytest.raises(UserError, match="respace: the model's sigmas say every noise level"):
        planned(silent | {"creativity_steps": "respace"}, **model)
    respaced = {"creativity_steps": "respace", "steps": 4}
    assert planned(silent, **model | respaced)[0]["silent"]["creativity_steps"] == "respace"
