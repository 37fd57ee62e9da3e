"""What is asked of a cluster: flags that give the same settings there, ids, variables, the job's command."""

from __future__ import annotations

import json
import os
import shlex

import pytest
from click.testing import CliRunner
from job_making import write_jsonl
from PIL import Image

from wanbatch.errors import UserError
from wanbatch.jobs.cli.main import main
from wanbatch.jobs.cluster.prepare import prepare_submission
from wanbatch.jobs.cluster.submission import (
    Submission,
    flags_of,
    needed_paths,
    variables_of,
)
from wanbatch.jobs.config.settings import Settings, read_settings

CHOSEN = {
    "steps": 7,
    "prompt": 'a cup\'s "handle",\n$HOME; rm -rf /',
    "sigmas": (0.9, 0.5, 0.25),
    "keywords": ("one", "two"),
    "map": {"caption": "prompt", "label": "keywords"},
    "allow_http": True,
    "slots": "auto",
    "max_failures": "5%",
    "seed": 2**62 + 1,
    "guidance": 3.5,
    "drain_seconds": 1.5,
}


def settings_at_the_other_end(submission: Submission, monkeypatch) -> Settings:
    """The settings that `wanbatch run` makes of a job's command, as its shell splits it."""
    received: list[Settings] = []
    monkeypatch.setattr("wanbatch.jobs.driver.run.run", lambda *given, **more: received.append(given[2]))
    words = shlex.split(submission.entrypoint("python", {}))
    CliRunner().invoke(main, words[words.index("run") :])
    [settings] = received
    return settings


def test_the_jobs_command_gives_the_settings_that_were_chosen_here(monkeypatch):
    chosen = read_settings(**CHOSEN)
    submission = Submission("s3://b/m.jsonl", "s3://b/out", flags_of(chosen))
    expected = chosen.model_copy(update={"address": "auto"})
    assert settings_at_the_other_end(submission, monkeypatch) == expected


def test_variables_of_this_machine_become_flags_and_defaults_none(monkeypatch):
    for name in [name for name in os.environ if name.startswith("WANBATCH_")]:
        monkeypatch.delenv(name)
    assert flags_of(read_settings()) == ()
    monkeypatch.setenv("WANBATCH_STEPS", "9")
    assert flags_of(read_settings()) == ("--steps", "9")


def test_paths_of_this_machine_are_absolute_in_the_job(tmp_path):
    (tmp_path / "model").mkdir()
    chosen = Settings(model="model", source_root="pictures", compile_cache="cache", source_fence="s3://b/x")
    flags = dict(zip(flags_of(chosen)[::2], flags_of(chosen)[1::2], strict=True))
    assert flags["--model"] == str(tmp_path / "model")
    assert flags["--source-root"] == str(tmp_path / "pictures")
    assert flags["--compile-cache"] == str(tmp_path / "cache")
    assert flags["--source-fence"] == "s3://b/x"
    needed = needed_paths(chosen)
    assert needed.keys() == {str(tmp_path / "pictures"), str(tmp_path / "model")}
    assert "--upload" in needed[str(tmp_path / "pictures")]
    assert "--upload" not in needed[str(tmp_path / "model")]


def test_adapters_sounds_and_certificates_are_files_that_the_cluster_must_have(tmp_path):
    files = ("ink.safetensors", "ear.safetensors", "phrases.toml", "cert.pem", "key.pem")
    for name in files:
        (tmp_path / name).touch()
    chosen = Settings(
        lora={"ink": "ink.safetensors:0.5", "far": "owner/name@v1"},
        sound="ear.safetensors",
        sound_phrases="phrases.toml",
        c2pa_cert="cert.pem",
        c2pa_key="key.pem",
        engines="/shared/engines",
        text_cache="~/texts",
    )
    words = flags_of(chosen)
    assert f"ink={tmp_path}/ink.safetensors:0.5" in words
    assert "far=owner/name@v1" in words
    assert words[words.index("--sound") + 1] == f"{tmp_path}/ear.safetensors"
    assert words[words.index("--text-cache") + 1] == "~/texts", "in the home of whoever runs it"
    needed = needed_paths(chosen)
    assert needed.keys() == {"/shared/engines", *(f"{tmp_path}/{name}" for name in files[:-1])}
    assert needed[f"{tmp_path}/ink.safetensors"] == "give a path that every node sees, or a hub id"
    assert needed_paths(Settings(sound="tagger", model="owner/name")) == {}


def test_what_is_written_for_a_scheduler_says_which_files_every_node_must_see(tmp_path):
    (tmp_path / "m.jsonl").write_text('{"prompt": "a cup"}\n')
    (tmp_path / "ink.safetensors").touch()
    words = ["submit", str(tmp_path / "m.jsonl"), "--out", "s3://b/out", "--emit", "slurm"]
    done = CliRunner().invoke(main, [*words, "--lora", "ink=ink.safetensors"])
    assert f"{tmp_path}/ink.safetensors: every node must see it under this name" in done.stderr


def test_sources_that_are_not_here_are_told_of_where_their_folder_is(tmp_path):
    def noted(*words: str) -> str:
        asked = ["submit", str(tmp_path / "m.jsonl"), "--out", "s3://b/out", "--emit", "slurm"]
        return CliRunner().invoke(main, [*asked, *words]).stderr

    Image.new("RGB", (64, 64)).save(tmp_path / "here.png")
    rows = [{"prompt": "a cup", "image": name} for name in ("here.png", "gone.png", "gone.png", "lost.png")]
    write_jsonl(tmp_path / "m.jsonl", rows[:1])
    assert "on this machine" not in noted()
    write_jsonl(tmp_path / "m.jsonl", rows[:3])
    assert f"gone.png is not below {tmp_path} on this machine: their rows fail unless the nodes see them" in noted()
    write_jsonl(tmp_path / "m.jsonl", rows)
    assert "gone.png and 1 more are not below" in noted()
    planned = CliRunner().invoke(main, ["plan", str(tmp_path / "m.jsonl")]).output
    assert "gone.png" in planned
    assert "lost.png" in planned
    assert "on this machine:" not in noted("--source-root", "/no-such-folder-here/pictures")


def test_of_a_manifest_only_the_split_that_is_asked_for_is_checked(tmp_path):
    """Of a model that is not on this machine, too, which the cluster's nodes fetch."""
    (tmp_path / "shop").mkdir()
    write_jsonl(tmp_path / "shop/train.jsonl", [{"prompt": "a cup"}])
    write_jsonl(tmp_path / "shop/test.jsonl", [{"label": "for others, and no row of a run"}])
    with pytest.raises(UserError, match="asks for nothing"):
        prepare_submission(tmp_path / "shop", tmp_path / "out", Settings(model="shop/model"))
    prepared = prepare_submission(tmp_path / "shop", tmp_path / "out", Settings(model="shop/model", split="train"))
    assert prepared.notes == ()
    assert prepared.manifest is not None
    assert len(prepared.manifest) == 1


def test_the_same_question_has_the_same_id_and_another_one_another():
    one = Submission("s3://b/m.jsonl", "s3://b/out", ("--steps", "4"), content="1")
    ids = [
        one.id(1),
        one.id(2),
        Submission("s3://b/m.jsonl", "s3://b/out", ("--steps", "5"), content="1").id(1),
        Submission("s3://b/m.jsonl", "s3://b/out", ("--steps", "4"), content="2").id(1),
        Submission("s3://b/m.jsonl", "s3://b/other", ("--steps", "4"), content="1").id(1),
    ]
    assert len(set(ids)) == 5
    same = Submission("s3://b/m.jsonl", "s3://b/out", ("--steps", "4"), content="1", variables={"A": "1"})
    assert same.id(1) == one.id(1)


def test_a_job_gets_this_package_and_variables_and_no_folder_of_the_user(tmp_path):
    submission = Submission("s3://b/m", "s3://b/out", variables={"AWS_ENDPOINT_URL": "http://s3"}, drain_seconds=20.5)
    environment = submission.runtime_env(tmp_path / "wanbatch")
    assert environment.keys() == {"py_modules", "env_vars"}
    assert environment["env_vars"] == {"RAY_JOB_STOP_WAIT_TIME_S": "36", "AWS_ENDPOINT_URL": "http://s3"}
    words = shlex.split(submission.entrypoint("python3", {"contents": {}}))
    assert words[:5] == [
        "exec",
        "python3",
        "-m",
        "wanbatch.jobs.cluster.job_entrypoint",
        json.dumps({"contents": {}}),
    ]


def test_variables_are_sent_by_name_or_with_a_value_and_secrets_are_warned_of():
    variables, warnings = variables_of(["A=1=2", "HOST_B"], {"HOST_B": "b", "OTHER": "o"})
    assert (variables, warnings) == ({"A": "1=2", "HOST_B": "b"}, [])
    _, warnings = variables_of(["AWS_SECRET_ACCESS_KEY"], {"AWS_SECRET_ACCESS_KEY": "hush"})
    assert len(warnings) == 1
    assert "AWS_SECRET_ACCESS_KEY" in warnings[0]
    assert "hush" not in warnings[0]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("RAY_AUTH_TOKEN", "never sent"),
        ("RAY_AUTH_TOKEN=abc", "never sent"),
        ("WANBATCH_STEPS=3", "give --steps instead"),
        ("NOT_SET", "export it"),
        ("9X=1", "must be NAME=VALUE"),
    ],
)
def test_variables_that_cannot_be_sent_are_refused(text, says):
    with pytest.raises(UserError, match=says):
        variables_of([text], {"RAY_AUTH_TOKEN": "abc"})
