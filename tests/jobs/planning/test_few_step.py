"""Images that use an adapter for few steps otherwise than it was made for are warned of before a run."""

from __future__ import annotations

import json

from click.testing import CliRunner

from wanbatch.jobs.cli.main import main

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
        "or the same in their rows"
    )


def test_only_rows_that_name_it_count(tmp_path):
    few = {"style": "few-step", "steps": 4, "guidance": 1, "sampler": "euler"}
    plain = {"id": "a", "prompt": "a dog"}
    assert warnings(tmp_path, [plain, {"id": "b", "prompt": "a cat", **few}]) == []
    (said,) = warnings(tmp_path, [plain, {"id": "b", "prompt": "a cat", **few, "guidance": 2}])
    assert "1 of 1 images that use it have guidance: give" in said
