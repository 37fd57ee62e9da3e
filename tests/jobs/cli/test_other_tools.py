"""Manifests of other tools and misspelt columns, through the commands: what is told, refused and taken."""

from __future__ import annotations

import json

import pytest
from command_line import invoke, refused
from job_making import picture, write_jsonl

DIFFUSERS = {
    **{"id": "a", "prompt": "a blue star", "image": "images/1.png", "strength": 0.8},
    **{"num_inference_steps": 4, "guidance_scale": 7.5, "generator_seed": 3},
}
A1111 = {
    **{"id": "a", "prompt": "a blue star", "image": "images/1.png", "denoising_strength": 0.8, "cfg_scale": 7},
    **{"batch_size": 2, "sampler_name": "euler"},
}
TYPOS = {
    **{"id": "a", "prompt": "a blue star", "image": "images/1.png", "negative prompt": "blurry", "Seed": 5},
    **{"num_image": 3, "creativty": 0.8},
}


@pytest.fixture
def rows(tmp_path):
    """Writes rows to shop.jsonl, beside the picture that they start from."""

    def write(*rows: dict):
        (tmp_path / "images").mkdir(exist_ok=True)
        picture(tmp_path / "images" / "1.png", 32, 32)
        return write_jsonl(tmp_path / "shop.jsonl", rows)

    return write


@pytest.fixture
def plan(model_folder):
    """The output of `wanbatch plan` and its exit code."""

    def call(path, *options, code: int = 0, **environment) -> str:
        result = invoke("plan", path, "--model", model_folder, *options, **environment)
        assert result.exit_code == code, result.output
        return result.stdout

    return call


@pytest.mark.parametrize("row", [DIFFUSERS, A1111, TYPOS], ids=["diffusers", "a1111", "typos"])
def test_the_plan_names_each_column_and_its_flags_work(rows, plan, row):
    path = rows(row)
    found = json.loads(plan(path, "--json"))
    unused = [name for name in row if name not in ("id", "prompt", "image")]
    assert [each["column"] for each in found["unused_columns"]] == unused
    assert found["images"] == 1
    options = [f"--map={each['column']}={each['did_you_mean']}" for each in found["unused_columns"]]
    taken = json.loads(plan(path, "--json", "--strict", *options))
    assert (taken["unused_columns"], taken["passthrough"]) == ([], [])
    assert taken["images"] == {"batch_size": 2, "num_image": 3}.get(unused[-2], 1)
    if "num_inference_steps" in row:
        assert taken["evaluations_of_an_image"]["most"] <= 4


def test_the_plan_as_text_is_a_table_with_a_line_to_copy(rows, plan):
    path = rows(TYPOS)
    text = plan(path)
    assert text.endswith(
        """\
  warning   4 columns pass through without being used; did you mean another?
            negative prompt  negative_prompt
            Seed             seed
            num_image        num_images
            creativty        creativity
            take them: --map 'negative prompt=negative_prompt' --map Seed=seed --map num_image=num_images --map \
creativty=creativity
            or keep one under another name, without this warning: --map 'negative prompt=source_negative_prompt'
"""
    )
    assert "warning" not in plan(rows({"prompt": "a", "label": 3, "score": 0.5, "split": "train"}))


def test_the_meaning_of_a_strength_is_told(rows, plan):
    text = plan(rows(DIFFUSERS))
    [line] = [line for line in text.splitlines() if line.strip().startswith("strength ")]
    assert "creativity is a noise level, not a share of the steps" in line


def test_strict_refuses_all_of_them_at_once_before_anything_is_written(rows, run_bad):
    lines = run_bad(rows(A1111), "--strict", lines=4)
    assert [line.split("column ")[1].split(" ")[0] for line in lines] == [
        *("'denoising_strength'", "'cfg_scale'", "'batch_size'", "'sampler_name'")
    ]


def test_strict_and_map_in_the_settings_file(rows, plan, run_bad, tmp_path):
    path = rows(TYPOS)
    toml = tmp_path / "wanbatch.toml"
    toml.write_text('strict = true\n[map]\nSeed = "seed"\nnum_image = "num_images"\ncreativty = "creativity"\n')
    [message] = run_bad(path)
    assert "column 'negative prompt' is not used" in message
    options = {"env": {"WANBATCH_MAP": "negative prompt=negative_prompt,Seed=seed,num_image=num_images"}}
    refused(invoke("plan", path, **options))
    toml.write_text(f'{toml.read_text()}"negative prompt" = "negative_prompt"\n')
    assert json.loads(plan(path, "--json"))["images"] == 3


def test_a_bad_pair_is_told_before_the_manifest_is_read(invoke_unwritten, tmp_path):
    [message] = refused(invoke_unwritten(tmp_path / "none.jsonl", "--map", "caption=promt"))
    assert message.startswith("setting map: --map: 'promt' is not a column that wanbatch reads; did you mean prompt?")


def test_a_manifest_of_0_1_0_with_columns_that_are_ours_now(rows, plan, run_bad):
    path = rows({"prompt": "a", "evaluations": 3, "guidance_2": 2.0, "keywords": "old,new"})
    known, written, _ = run_bad(path, lines=3)
    assert known.endswith("or, if it is a column of your own, --map keywords=source_keywords")
    assert written.endswith("rename it, or --map evaluations=source_evaluations")
    written, unknown = run_bad(path, "--map", "keywords=source_keywords", lines=2)
    assert written.endswith("rename it, or --map evaluations=source_evaluations")
    assert unknown.endswith("remove it; or, if it is a column of your own, --map guidance_2=source_guidance_2")
    own = [f"--map={name}=source_{name}" for name in ("evaluations", "guidance_2", "keywords")]
    found = json.loads(plan(path, "--json", "--strict", *own))
    assert found["passthrough"] == ["source_evaluations", "source_guidance_2", "source_keywords"]
