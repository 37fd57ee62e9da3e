"""Settings by flag, variable or file that are not accepted: one message that says what is, and nothing written."""

from __future__ import annotations

import json
from typing import get_args

import pytest
from command_line import GOOD, invoke, usage_error
from job_making import write_jsonl

from wanbatch.jobs.cli.run_commands import run
from wanbatch.jobs.config.settings import Settings
from wanbatch.jobs.config.unknown_settings import FLAGS_ALONE
from wanbatch.jobs.tuning.settings_file import update_settings_file
from wanbatch.pipeline.sampling.schedules import SCHEDULES
from wanbatch.pipeline.sampling.solvers import SOLVERS

LEVELS = "must be a list of noise levels in (0, 1], each at least 0.00001 below the one before, without the final 0"


@pytest.mark.parametrize(
    ("flag", "value", "accepted"),
    [
        ("--steps", "0", "must be an integer from 1 to 1000"),
        ("--steps", "many", "must be an integer from 1 to 1000"),
        ("--width", "100", "must be a multiple of 16 from 16 to 4096; every model takes 96 and 128"),
        ("--guidance", "nan", "must be a finite number, 0 or more"),
        ("--guidance", "-1", "must be a finite number, 0 or more"),
        ("--shift", "0", "must be a number from 0.01 to 100"),
        ("--seed", "-1", "must be a whole number from 0 below 9223372036854775808"),
        ("--workers", "0", "must be a whole number from 1 to 4096, or auto"),
        ("--slots", "0", "must be a whole number from 1 to 64, or auto"),
        ("--slots", "most", "must be a whole number from 1 to 64, or auto"),
        ("--unit-rows", "0", "must be a whole number from 1 to 4096"),
        ("--unit-timeout", "0", "must be a number above 0"),
        ("--max-failures", "lots", "must be text like 20 or 5%"),
        ("--sigmas", "1,half", LEVELS),
        ("--sigmas", "1,0.5,0.7", LEVELS),
    ],
)
def test_flags_out_of_range(invoke_unwritten, manifest, flag, value, accepted):
    error = usage_error(invoke_unwritten(manifest(GOOD), flag, value))
    assert error == f"Invalid value for '{flag}': {value!r}: {accepted}"


@pytest.mark.parametrize(
    ("setting", "known"),
    [
        *((name, get_args(Settings.model_fields[name].annotation)) for name in ("precision", "format", "device")),
        *((name, get_args(Settings.model_fields[name].annotation)) for name in ("preset", "compile", "offload")),
        ("sampler", SOLVERS),
        ("schedule", SCHEDULES),
    ],
)
def test_flags_with_names_say_all_of_them(invoke_unwritten, manifest, setting, known):
    error = usage_error(invoke_unwritten(manifest(GOOD), f"--{setting}", "magic"))
    names = ", ".join(map(repr, known))
    assert error == f"Invalid value for '--{setting}': 'magic' is not one of {names}"


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--quality", "90"], "setting quality: PNG loses nothing"),
        (["--sigmas", "1,0.5", "--steps", "2"], "setting sigmas: says every noise level, and setting steps too"),
        (["--step-cache", "magic"], "step_cache 'magic': unknown 'magic'; known: none, deepcache"),
        (
            ["--step-cache", "deepcache:blocks=4"],
            "step_cache 'deepcache:blocks=4': asks for blocks 0 to 3, but the model",
        ),
        (["--model", "/nowhere/at/all"], "no model folder /nowhere/at/all"),
    ],
)
def test_flags_that_do_not_fit_together_or_the_model(run_bad, manifest, options, told):
    [message] = run_bad(manifest(GOOD), *options)
    assert message.startswith(told)


@pytest.mark.parametrize("setting", ["sampler", "schedule"])
def test_unknown_names_in_variables(run_bad, manifest, setting):
    [message] = run_bad(manifest(GOOD), env={f"WANBATCH_{setting.upper()}": "magic"})
    assert message.startswith(f"setting {setting}: 'magic' is unknown: use one of ")


def test_values_in_variables_and_files_say_what_is_accepted(run_bad, manifest, tmp_path):
    [message] = run_bad(manifest(GOOD), env={"WANBATCH_DEVICE": "tpu"})
    assert message == "setting device: WANBATCH_DEVICE is 'tpu': must be auto, cpu, cuda"
    (tmp_path / "wanbatch.toml").write_text("slots = 0\n")
    [message] = run_bad(manifest(GOOD))
    assert message == "setting slots: wanbatch.toml is 0: must be a whole number from 1 to 64, or auto"


def test_a_source_root_that_is_not_there(run_bad, manifest):
    [message] = run_bad(manifest(GOOD), "--source-root", "nowhere")
    assert "nowhere: is not a folder: give --source-root an existing one" in message


def test_a_gpu_that_is_not_there(run_bad, manifest, monkeypatch):
    import torch

    if torch.cuda.is_available():
        assert invoke("run", manifest(), "--device", "cuda").exit_code == 2  # for another reason: it is empty
        return
    [message] = run_bad(manifest(GOOD), "--device", "cuda")
    assert "torch sees no GPU; use --device cpu or auto" in message


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("stepz = 5\n", ["wanbatch.toml: unknown field 'stepz': did you mean steps? `wanbatch run --help` lists"]),
        (
            "wallpaper = 5\n",
            ["unknown field 'wallpaper': none is like it; `wanbatch run --help` lists them all"],
        ),
        ('out = "x"\n', ["wanbatch.toml: unknown field 'out': this is a flag only: give --out with the command"]),
        ("new-run = true\n", ["unknown field 'new-run': this is a flag only: give --new-run with the command"]),
        ("[run]\njson = true\n", ["wanbatch.toml: unknown field 'run'"]),
        ("steps = 'many'\n", ["setting steps: "]),
        ("steps = \n", ["wanbatch.toml: "]),
        (
            '[adapters]\nink = "x"\n[site]\na = 1\na = 2\n',
            ["wanbatch.toml: sets 'a' twice, the second time in line 5: keep one"],
        ),
        ("steps = 5\nslots = 1\nsteps = 6", ["sets 'steps' twice, the second time in line 3: keep one of them"]),
        ("[run]\nsteps = 5\n", ["wanbatch.toml: unknown field 'run'"]),
    ],
)
def test_bad_settings_file(run_bad, manifest, tmp_path, text, told):
    (tmp_path / "wanbatch.toml").write_text(text)
    [message] = run_bad(manifest(GOOD))
    assert all(part in message for part in told)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("WANBATCH_STEPZ", "did you mean WANBATCH_STEPS? `wanbatch run --help` lists them all"),
        ("WANBATCH_WALLPAPER", "none is like it; `wanbatch run --help` lists them all"),
        ("WANBATCH_OUT", "this is a flag only: give --out with the command, and drop it here"),
        ("WANBATCH_RERUN_CHANGED", "this is a flag only: give --rerun-changed with the command, and drop it here"),
    ],
)
def test_an_unknown_variable(run_bad, manifest, name, told):
    assert run_bad(manifest(GOOD), env={name: "5"}) == [f"variable {name} sets nothing: {told}"]


def test_what_is_a_flag_only_is_no_setting():
    spelled = {flag.lstrip("-").replace("-", "_") for p in run.params for flag in p.opts if flag.startswith("--")}
    assert set(FLAGS_ALONE) == spelled - set(Settings.model_fields)


def test_a_bad_variable(run_bad, manifest):
    [message] = run_bad(manifest(GOOD), env={"WANBATCH_STEPS": "five"})
    assert message.startswith("setting steps: ")
    assert "'five'" in message


def test_an_unknown_flag_and_a_missing_argument(manifest):
    for arguments in (["run", manifest(GOOD), "--stepz", "5"], ["run"], ["nothing"]):
        result = invoke(*arguments)
        assert result.exit_code == 2
        assert "Traceback" not in result.stderr


def test_a_file_of_windows_is_read(tmp_path, monkeypatch):
    """With a mark before its first key and CR before each line feed, as its editor writes it: settings, schedules,
    and what `tune` makes of it."""
    monkeypatch.chdir(tmp_path)
    write_jsonl(tmp_path / "m.jsonl", [GOOD])
    lines = [
        "steps = 7",
        "[schedule.nightly]",
        'cron = "30 2 * * *"',
        'timezone = "UTC"',
        'manifest = "m.jsonl"',
        'output = "out"',
    ]
    (tmp_path / "wanbatch.toml").write_bytes("\r\n".join(["\ufeff" + lines[0], *lines[1:]]).encode())
    planned = invoke("plan", "m.jsonl", "--json")
    assert (planned.exit_code, json.loads(planned.stdout)["model_evaluations"]) == (0, 7)
    assert invoke("schedule", "check").stdout.startswith("nightly: next at ")
    exported = invoke("schedule", "export", "--format", "kubernetes", "--image", "i", "--claim", f"c:{tmp_path}")
    assert "--steps" in exported.stdout, exported.output
    update_settings_file(tmp_path / "wanbatch.toml", {"steps": 5}, [])
    assert json.loads(invoke("plan", "m.jsonl", "--json").stdout)["model_evaluations"] == 5
