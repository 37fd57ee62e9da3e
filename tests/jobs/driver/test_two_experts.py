"""A model with two experts (A14B) from manifest to dataset."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from diffusers import WanPipeline
from job_making import decoded, rows_by_id, write_jsonl
from picture_requests import PLAIN, difference, made_by_diffusers
from small_models import save_random_a14b

from wanbatch.jobs.config.settings import Settings

ROWS = [
    {"id": "plain", "prompt": "a red heart", "seed": 3},
    {"id": "own", "prompt": "a red heart", "seed": 3, "guidance": 6.0},
    {"id": "both", "prompt": "a red heart", "seed": 3, "guidance": 6.0, "guidance_2": 2.0},
]


@pytest.fixture(scope="module")
def folder(model_folder, tmp_path_factory) -> Path:
    parts = WanPipeline.from_pretrained(model_folder, use_safetensors=True).components
    return save_random_a14b(tmp_path_factory.mktemp("a14b") / "model", parts)


@pytest.mark.slow
def test_a_run_makes_the_pictures_of_diffusers_with_the_published_guidances(run_here, folder, tmp_path):
    settings = Settings(model=str(folder), width=64, height=48, steps=6, slots=2)
    ran = run_here(write_jsonl(tmp_path / "m.jsonl", ROWS), tmp_path / "out", settings)
    assert ran.summary.exit_code == 0
    rows, timings = rows_by_id(ran.out), rows_by_id(ran.out, "timings")
    guidances = {name: (row["guidance"], row["guidance_2"]) for name, row in rows.items()}
    assert guidances == {"plain": (4.0, 3.0), "own": (6.0, None), "both": (6.0, 2.0)}
    assert {row["steps_full"] for row in timings.values()} == {6}
    pipeline = WanPipeline.from_pretrained(folder, use_safetensors=True)
    pipeline.set_progress_bar_config(disable=True)
    for name, row in rows.items():
        guidance, second = guidances[name]
        request = replace(
            PLAIN, prompt=row["prompt"], negative_prompt=row["negative_prompt"], seed=3, width=64, height=48, steps=6
        )
        theirs = made_by_diffusers(pipeline, replace(request, guidance=guidance, guidance_2=second))
        assert difference(decoded(row), theirs) <= 1, name
    assert not np.array_equal(decoded(rows["own"]), decoded(rows["both"]))
