"""The settings file that tuning writes: what stands in it, and what of an older file stays."""

from __future__ import annotations

import tomllib

import pytest

from wanbatch.errors import UserError
from wanbatch.jobs.config.settings import Settings, read_settings
from wanbatch.jobs.tuning.candidates import Candidate, Trial
from wanbatch.jobs.tuning.goals import parse_goal
from wanbatch.jobs.tuning.result import TuningResult
from wanbatch.jobs.tuning.sample import Sample
from wanbatch.jobs.tuning.settings_file import evidence_comments, file_fields, update_settings_file, updated_text
from wanbatch.pipeline.evaluation.metrics import Score

CHOSEN = Candidate("deis", 12, "taylor:interval=2", "karras")
TUNED = {"steps": 12, "sampler": "deis", "schedule": "karras", "step_cache": "taylor:interval=2"}


def evidence(manifest: str = "shop.jsonl") -> list[str]:
    """The comments for a result that was made up."""
    default = Trial(Candidate("unipc", 30), Score(2, 40.0, 38.0), 0.4, 30.0)
    chosen = Trial(CHOSEN, Score(2, 33.0, 31.0, ssim=0.97), 0.1, 8.0)
    known = {
        "time": "2025-01-02T03:04:05+00:00",
        "hardware": "AMD EPYC, 2 threads, fp32",
        "versions": "torch 2.11",
        "model": "tiny",
        "model_digest": "0123456789abcdef-more",
        "manifest": manifest,
        "manifest_digest": "fedcba9876543210-more",
    }
    return evidence_comments(
        TuningResult(
            goal=parse_goal(["psnr>=30"], None),
            reference=Candidate("unipc", 100),
            default=default,
            chosen=chosen,
            frontier=(chosen,),
            candidates=17,
            fewest_steps=5,
            sample=Sample((), 9, 3, 2, 1),
            evidence=known,
        )
    )


def test_what_was_given_is_kept_and_what_is_tuned_is_replaced(tmp_path, monkeypatch):
    (tmp_path / "wanbatch.toml").write_text("steps = 4\nseed = 7\nallow_http = true\nsigmas = [1, 0.5]\n")
    monkeypatch.setenv("WANBATCH_GUIDANCE", "2.5")
    monkeypatch.delenv("WANBATCH_REPORT")
    fields = file_fields(read_settings(negative_prompt="blurred", sampler="euler"), CHOSEN)
    given = {"seed": 7, "guidance": 2.5, "negative_prompt": "blurred", "allow_http": True}
    assert fields == {**given, **TUNED}


def test_values_of_any_kind_come_back(tmp_path):
    odd = 'a "quoted" \\ 🦊 \x7f\n line'
    given = Settings(negative_prompt=odd, seed=7, guidance=2.5, allow_http=True, text_cache=tmp_path / "texts")
    given = given.model_copy(update={"map": {"cfg scale": "guidance", "a=b": "source_ab"}, "keywords": ("x", "y")})
    text = updated_text("", file_fields(given, CHOSEN), evidence())
    assert Settings(**tomllib.loads(text)) == given.model_copy(update=TUNED)


def test_comments_and_order_of_an_older_file_stay():
    old = """# The shop's settings
seed = 7  # never change

# the shop's own model
model = 'shop-5b'
sigmas = [1, 0.5]
steps = 30    # as before
sampler = "euler"
# the end"""
    fields = {"seed": 7, "model": "shop-5b", "guidance": 2.5, **TUNED}
    comments = evidence()
    assert (
        updated_text(old, fields, comments)
        == "\n".join(comments)
        + """

# The shop's settings
seed = 7  # never change

# the shop's own model
model = 'shop-5b'
steps = 12    # as before
sampler = "deis"
# the end
guidance = 2.5
schedule = "karras"
step_cache = "taylor:interval=2"
"""
    )


@pytest.mark.parametrize("heading", ["# Written by `wanbatch tune`. Rows keep their own.", evidence()[0]])
def test_new_evidence_replaces_the_old(heading):
    rest = "# mine\nsteps = 12 # see above\n"
    old = f"{heading}\n# goal  psnr>=99\n#\n#   1.2 s\n\n{rest}"
    assert updated_text(old, {"steps": 12}, evidence()) == "\n".join([*evidence(), "", rest])


def test_the_evidence_is_all_there():
    text = "\n".join(evidence())
    for part in (
        "psnr>=30",
        "2025-01-02",
        "AMD EPYC",
        "torch 2.11",
        "0123456789abcdef",
        "17 candidates",
        "(default)",
    ):
        assert part in text
    assert "fewer than 5 steps" in text
    assert "3 images keep the rows' own" in text
    assert "1 image was skipped: their sources cannot be read" in text
    assert any(line.startswith("# * ") and "4.00x" in line and str(CHOSEN) in line for line in evidence())


def test_a_path_with_odd_letters_stays_within_its_comment():
    text = updated_text("", TUNED, evidence("a\nmodel = 'other'\x07.jsonl"))
    assert tomllib.loads(text) == TUNED


def test_a_file_is_written_whole_or_not_at_all(tmp_path):
    path = tmp_path / "wanbatch.toml"
    update_settings_file(path, TUNED, evidence())
    first = path.read_text()
    assert tomllib.loads(first) == TUNED
    update_settings_file(path, TUNED, evidence())
    assert path.read_text() == first
    assert [entry.name for entry in tmp_path.iterdir()] == ["wanbatch.toml"]


@pytest.mark.parametrize("text", ["steps = \n", None])
def test_a_file_that_cannot_be_updated_is_left_alone(tmp_path, text):
    path = tmp_path / "wanbatch.toml"
    if text is None:
        path.mkdir()
    else:
        path.write_text(text)
    with pytest.raises(UserError, match=r"wanbatch\.toml: "):
        update_settings_file(path, TUNED, evidence())
    assert path.is_dir() if text is None else path.read_text() == text


@pytest.mark.parametrize("key", ["schedule", "schedules"])
def test_schedules_of_the_file_stay(key):
    """They get the name that leaves `schedule` to the setting, which tuning writes."""
    nightly = 'cron = "30 2 * * *"  # every night\ntimezone = "UTC"\nmanifest = "shop.jsonl"\noutput = "out"\n'
    text = f"steps = 4\n\n[{key}.nightly]\n{nightly}\n[{key}.nightly.settings]\nwidth = 64\n"
    written = updated_text(text, TUNED, ["# why"])
    found = tomllib.loads(written)
    assert found.pop("schedules") == tomllib.loads(text)[key]
    assert found == TUNED
    assert "# every night" in written
    assert tomllib.loads(updated_text(written, TUNED, [])) == tomllib.loads(written)


def test_adapters_of_the_file_stay_as_they_are():
    text = 'steps = 3\n\n[adapters]\n# from the shop\nink = "ink.safetensors" # nice\n'
    new = updated_text(text, {"steps": 12, "sampler": "deis", "lora": {"ink": "ink.safetensors"}}, ["# why"])
    assert tomllib.loads(new) == {"steps": 12, "sampler": "deis", "adapters": {"ink": "ink.safetensors"}}
    assert '# from the shop\nink = "ink.safetensors" # nice\n' in new
    assert tomllib.loads(updated_text("", {"lora": {"ink": "ink.safetensors"}}, [])) == {
        "lora": {"ink": "ink.safetensors"}
    }
