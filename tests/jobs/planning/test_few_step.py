"""Images that use an adapter for few steps otherwise than it was made for are warned of before a run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from safetensors.torch import save_file

from wanbatch.jobs.cli.main import main
from wanbatch.pipeline.adapters.few_step import steps_by_name
from wanbatch.pipeline.loading.registry import find
from wanbatch.pipeline.training.low_rank import read_state

FEW = ["--steps", "4", "--guidance", "1", "--sampler", "euler"]


def warnings(tmp_path, rows: list[dict], *flags: str) -> list[str]:
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = CliRunner().invoke(main, ["plan", str(tmp_path / "rows.jsonl"), "--json", *flags])
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)["warnings"]


def test_merged_and_used_as_it_was_made(tmp_path):
    assert warnings(tmp_path, [{"id": "a", "prompt": "a dog"}], "--merge", "few-step", *FEW) == []


def test_merged_with_the_settings_of_the_model(tmp_path):
    (said,) = warnings(
        tmp_path, [{"id": "a", "prompt": "a dog"}, {"id": "b", "prompt": "a cat"}], "--merge", "few-step"
    )
    assert said == (
        "adapter 'few-step' was made for 4 steps of euler with guidance 1, and 2 of 2 images that use it have "
        "guidance and another sampler and more steps: give --steps 4 --sampler euler --guidance 1, "
        "or the same in their rows, or --preset fast, which takes them from its file"
    )


def test_the_preset_fast_takes_the_settings_of_a_merged_adapter(tmp_path):
    rows = [{"id": "a", "prompt": "a dog"}, {"id": "b", "prompt": "a cat", "steps": 3}]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def planned(*flags: str) -> dict:
        done = CliRunner().invoke(main, ["plan", str(tmp_path / "rows.jsonl"), "--json", *flags])
        assert done.exit_code == 0, done.output
        return json.loads(done.stdout)

    found = planned("--merge", "few-step", "--preset", "fast")
    assert found["warnings"] == []
    assert [(row["steps"], row["sampler"], row["guidance"]) for row in found["first_rows"]] == [
        (4, "euler", 1.0), (3, "euler", 1.0),
    ]  # fmt: skip
    assert planned("--merge", "few-step", "--preset", "fast", "--steps", "2")["first_rows"][0]["steps"] == 2
    plain = planned("--preset", "fast")["first_rows"][0]
    assert (plain["steps"], plain["sampler"]) == (18, "unipc1")


def test_the_head_of_a_plan_names_the_samplers_that_its_rows_get(tmp_path):
    """By the preset from a merged adapter, and not those of the model."""
    rows = [{"id": "a", "prompt": "a dog"}, {"id": "b", "prompt": "a cat"}]

    def head(*flags: str) -> str:
        (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        done = CliRunner().invoke(main, ["plan", str(tmp_path / "rows.jsonl"), *flags])
        assert done.exit_code == 0, done.output
        return next(line.strip() for line in done.stdout.splitlines() if line.startswith("  model "))

    fast = ["--merge", "few-step", "--preset", "fast"]
    assert head(*fast) == "model     tiny, euler, 8 evaluations in all, 4 an image"
    rows.append({"id": "c", "prompt": "a bird", "sampler": "unipc3"})
    assert head(*fast).startswith("model     tiny, euler for 2 images, unipc3 for 1 image, 12 evaluations in all")


def test_another_shift_is_told_with_the_flags_that_mend_it(tmp_path):
    rows = [{"id": "a", "prompt": "a dog"}]
    (said,) = warnings(tmp_path, rows, "--merge", "few-step", *FEW, "--shift", "5")
    assert "has another shift: give --steps 4 --sampler euler --guidance 1 --schedule linear --shift 3, or" in said
    assert warnings(tmp_path, rows, "--merge", "few-step", *FEW, "--schedule", "linear", "--shift", "3") == []


def test_two_merged_adapters_for_few_steps_that_disagree_are_refused(tmp_path):
    tensors, header = read_state(Path(find().folder) / "adapters" / "few-step.safetensors")
    save_file(tensors, tmp_path / "two.safetensors", header | {"wanbatch.steps": "2"})
    save_file(tensors, tmp_path / "cut.safetensors", {"wanbatch.kind": "few-step"})
    (tmp_path / "rows.jsonl").write_text('{"prompt": "a dog"}\n')

    def refused(*flags: str) -> str:
        done = CliRunner().invoke(main, ["plan", str(tmp_path / "rows.jsonl"), "--preset", "fast", *flags])
        assert done.exit_code == 2, done.output
        return done.stderr

    both = ["--lora", f"two={tmp_path}/two.safetensors", "--merge", "two,few-step"]
    assert "the merged adapters 'two' and 'few-step' were made for different settings: merge one of them" in refused(
        *both
    )
    cut = ["--lora", f"cut={tmp_path}/cut.safetensors", "--merge", "cut"]
    assert "its header does not say rightly for what steps" in refused(*cut)


def test_only_rows_that_name_it_count(tmp_path):
    few = {"style": "few-step", "steps": 4, "guidance": 1, "sampler": "euler"}
    plain = {"id": "a", "prompt": "a dog"}
    assert warnings(tmp_path, [plain, {"id": "b", "prompt": "a cat", **few}]) == []
    (said,) = warnings(tmp_path, [plain, {"id": "b", "prompt": "a cat", **few, "guidance": 2}])
    assert "1 of 1 image that uses it has guidance: give" in said


def test_a_file_of_others_that_is_for_few_steps_by_its_name(tmp_path):
    tensors, _ = read_state(Path(find().folder) / "adapters" / "few-step.safetensors")
    save_file(tensors, tmp_path / "Wan2.2-Lightning-4steps-rank64.safetensors")
    save_file(tensors, tmp_path / "crayon-epoch3_step_500.safetensors")
    rows = [{"id": "a", "prompt": "a dog"}, {"id": "b", "prompt": "a cat", "steps": 4, "guidance": 1}]
    flags = ["--lora", f"quick={tmp_path}/Wan2.2-Lightning-4steps-rank64.safetensors", "--merge", "quick"]
    (said,) = warnings(tmp_path, rows, *flags)
    assert "seems to be made for 4 steps without guidance" in said
    assert "1 of 2 images that use it has guidance and more steps: if it is, give --steps 4 --guidance 1" in said
    assert warnings(tmp_path, rows, *flags, "--steps", "4", "--guidance", "1") == []
    other = ["--lora", f"crayon={tmp_path}/crayon-epoch3_step_500.safetensors", "--merge", "crayon"]
    assert warnings(tmp_path, rows, *other) == []


@pytest.mark.parametrize(
    ("name", "steps"),
    [
        ("lightx2v_I2V_14B_480p_cfg_step_distill_rank64", 4),
        ("Wan21_CausVid_14B_T2V_lora_rank32", 4),
        ("wan-8step-lora", 8),
        ("dmd", 4),
        ("style-2000steps", None),
        ("admdress", None),
        ("night", None),
    ],
)
def test_steps_by_the_name_of_a_file(name, steps):
    assert steps_by_name(f"/some/4steps/{name}.safetensors") == steps
