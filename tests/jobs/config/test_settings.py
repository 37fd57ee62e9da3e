"""Where settings come from, and which one wins."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner
from job_making import write_jsonl

from wanbatch.errors import UserError
from wanbatch.jobs.cli.main import main
from wanbatch.jobs.config.settings import Settings, failures_allowed, read_settings, recorded_settings


@pytest.fixture
def toml(tmp_path):
    """Writes wanbatch.toml into the current folder."""

    def write(text: str) -> None:
        (tmp_path / "wanbatch.toml").write_text(text)

    return write


def test_precedence(toml, monkeypatch):
    """A flag wins over a variable, a variable over the file, the file over the default."""
    assert read_settings().steps is None
    assert read_settings().unit_rows == 16
    toml("steps = 11\nslots = 2\nunit_rows = 3\nseed = 4\n")
    assert (read_settings().steps, read_settings().slots, read_settings().unit_rows) == (11, 2, 3)
    monkeypatch.setenv("WANBATCH_STEPS", "12")
    monkeypatch.setenv("WANBATCH_SLOTS", "5")
    assert (read_settings().steps, read_settings().slots, read_settings().unit_rows) == (12, 5, 3)
    found = read_settings(steps="13", seed=None)
    assert (found.steps, found.slots, found.unit_rows, found.seed) == (13, 5, 3, 4)


def test_flags_are_parsed_by_the_type_of_their_field():
    found = read_settings(steps="7", guidance="2.5", seed=str(2**63 - 1), width="64", negative_prompt="")
    assert (found.steps, found.guidance, found.seed, found.width) == (7, 2.5, 2**63 - 1, 64)
    assert found.negative_prompt == ""


def test_sigmas_are_levels_with_commas_in_flags_and_variables_and_a_list_in_the_file(toml, monkeypatch):
    assert read_settings(sigmas="1, 0.9375,0.5").sigmas == (1.0, 0.9375, 0.5)
    toml("sigmas = [1, 0.25]\n")
    assert read_settings().sigmas == (1.0, 0.25)
    monkeypatch.setenv("WANBATCH_SIGMAS", "[1.0, 0.75]")
    assert read_settings().sigmas == (1.0, 0.75)
    assert Settings(**json.loads(read_settings().model_dump_json())).sigmas == (1.0, 0.75)


def test_settings_cannot_be_changed():
    with pytest.raises(ValueError, match="frozen"):
        Settings().steps = 3


def test_every_field_is_described():
    assert all(field.description for field in Settings.model_fields.values())


def test_an_unknown_field_is_told_what_may_be_meant_and_where_all_are(toml):
    toml("stepz = 5\n")
    with pytest.raises(UserError, match=r"did you mean steps\? `wanbatch run --help` lists them all"):
        read_settings()
    listed = CliRunner().invoke(main, ["run", "--help"]).output
    assert all(f"--{name.replace('_', '-')}" in listed for name in Settings.model_fields)


@pytest.mark.parametrize("command", ["run", "plan"])
def test_every_setting_is_a_flag_with_help(command):
    text = CliRunner().invoke(main, [command, "--help"]).output
    for name in Settings.model_fields:
        assert f"--{name.replace('_', '-')} " in text
    assert "Example:" in text


@pytest.mark.parametrize("command", ["run", "plan", "status", "report"])
def test_every_command_shows_an_example(command):
    text = CliRunner().invoke(main, [command, "--help"]).output
    assert f"wanbatch {command} " in text.split("Example:")[1]


def test_the_file_reaches_the_plan(toml, model_folder, tmp_path, monkeypatch):
    """Through the command: size by flag, steps by variable, model by file."""
    toml(f"model = {json.dumps(str(model_folder))}\nsteps = 2\nwidth = 96\nheight = 96\n")
    monkeypatch.setenv("WANBATCH_STEPS", "7")
    manifest = write_jsonl(tmp_path / "shop.jsonl", [{"prompt": "x"}])
    result = CliRunner().invoke(main, ["plan", str(manifest), "--json", "--width", "64"])
    described = json.loads(result.stdout)
    assert (described["sizes"], described["model_evaluations"]) == ({"64x96": 1}, 7)
    assert described["model"] == str(model_folder)


def test_sources_relative_to_another_folder(model_folder, sources, tmp_path):
    manifest = write_jsonl(tmp_path / "shop.jsonl", [{"image": "wide.png"}])
    options = ["--json", "--model", str(model_folder), "--width", "128", "--height", "128"]
    result = CliRunner().invoke(main, ["plan", str(manifest), *options, "--source-root", str(sources)])
    assert json.loads(result.stdout)["sizes"] == {"192x96": 1}


def test_pairs_of_columns_are_flags_or_text_or_a_table(toml, monkeypatch):
    assert read_settings().map == {}
    toml('[map]\ncaption = "prompt"\n"negative prompt" = "negative_prompt"\n')
    assert read_settings().map == {"caption": "prompt", "negative prompt": "negative_prompt"}
    monkeypatch.setenv("WANBATCH_MAP", "caption=source_caption, cfg=guidance")
    assert read_settings().map == {"caption": "source_caption", "cfg": "guidance"}
    chosen = read_settings(map=("text=prompt", "a=b=steps"))
    assert chosen.map == {"text": "prompt", "a=b": "steps"}, "a flag stands for all pairs of the variable"
    monkeypatch.setenv("WANBATCH_MAP", " ")
    assert read_settings().map == {}, "an empty variable stands for no pairs"
    assert read_settings(map=("text=prompt, cfg=guidance", "a,b=steps")).map == {
        **{"text": "prompt", "cfg": "guidance", "a,b": "steps"}
    }
    assert recorded_settings(json.loads(chosen.model_dump_json()), "run.json").map == chosen.map


@pytest.mark.parametrize(
    ("pairs", "said"),
    [
        (["caption"], "'caption' must be COLUMN=COLUMN, like caption=prompt"),
        (["=prompt"], "'=prompt' must be COLUMN=COLUMN"),
        (["caption=promt"], "'promt' is not a column that wanbatch reads; did you mean prompt? To pass 'caption'"),
        (["caption=promt"], "map it to one that begins with source_, like source_caption"),
        (["caption=quality"], "'quality' is not a column that wanbatch reads; known are id, image, "),
        (["caption=sources"], "'sources' is not a column that wanbatch reads"),
        (["caption=prompt", "text=prompt"], "'caption' and 'text' are both mapped to 'prompt': keep one"),
        (
            ["text=prompt", "text=negative_prompt"],
            "'text' is mapped to both 'prompt' and 'negative_prompt'",
        ),
        (["prompt=prompt"], "'prompt' is mapped to itself: drop it"),
    ],
)
def test_pairs_of_columns_that_cannot_be(toml, pairs, said):
    with pytest.raises(UserError, match=r"^setting map: --map: ") as caught:
        read_settings(map=tuple(pairs))
    assert said in str(caught.value)


def test_pairs_of_columns_of_the_file_are_text(toml):
    toml("[map]\nsteps = 5\n")
    with pytest.raises(
        UserError, match=r"^setting map: wanbatch.toml is .*: must be pairs of columns, like caption=pr"
    ):
        read_settings()
    toml('map = "caption"\n')
    with pytest.raises(UserError, match=r"^setting map: wanbatch.toml: 'caption' must be COLUMN=COLUMN"):
        read_settings()


@pytest.mark.parametrize("share", range(1, 100))
def test_a_share_of_failures_is_taken_of_all_images_without_rounding(share):
    assert failures_allowed(read_settings(max_failures=f"{share}%"), 100) == share
    assert failures_allowed(read_settings(max_failures=f"{share / 10}%"), 1000) == share
