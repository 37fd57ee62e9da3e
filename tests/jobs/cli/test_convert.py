"""`wanbatch convert`, and what a run makes of its folder: the same fingerprint, and refusals before a start."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from wanbatch.errors import UserError
from wanbatch.jobs.cli.main import main
from wanbatch.jobs.config.hardware import ExecutionConfig, Hardware, resolve_execution
from wanbatch.jobs.config.settings import Settings
from wanbatch.jobs.driver.fingerprint import fingerprint_of
from wanbatch.jobs.planning.checks import check_settings
from wanbatch.jobs.worker import model_files
from wanbatch.jobs.worker.model_files import local_model
from wanbatch.pipeline.loading.registry import ModelInfo, find
from wanbatch.pipeline.loading.runtime import MERGED

GPU = Hardware(gpus=1, capability=(9, 0), name="H200", torch="2", cpu="AVX2")
AMPERE = Hardware(gpus=1, capability=(8, 0), name="A100", torch="2", cpu="AVX2")
NO_GPU = Hardware(torch="2", cpu="AVX2")


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("converted")


@pytest.fixture(scope="module")
def converted(folders) -> dict[str, ModelInfo]:
    for precision in ("bf16", "fp8"):
        arguments = [
            "convert",
            "tiny",
            str(folders / precision),
            "--precision",
            precision,
            "--device",
            "cpu",
            "--json",
        ]
        done = CliRunner().invoke(main, arguments)
        assert done.exit_code == 0, done.output
        assert json.loads(done.stdout)["precision"] == precision
    return {precision: find(str(folders / precision)) for precision in ("bf16", "fp8")}


def fingerprint(model: ModelInfo, hardware: Hardware, **given) -> dict:
    settings = Settings(**given)
    execution = resolve_execution(settings, hardware, model.converted)
    return fingerprint_of(settings, model, execution, 4, hardware)


def test_a_run_goes_on_with_the_folder_of_the_other(converted):
    for precision, model in converted.items():
        assert fingerprint(model, NO_GPU) == fingerprint(find(), NO_GPU, precision=precision)
    bf16, preset = converted["bf16"], {"preset": "balanced"}
    assert fingerprint(bf16, GPU) == fingerprint(find(), GPU)
    assert fingerprint(bf16, GPU, **preset) == fingerprint(find(), GPU, precision="fp8", **preset)


def test_weights_that_another_device_rounded_are_others(converted):
    ours, theirs = fingerprint(converted["fp8"], GPU), fingerprint(find(), GPU, precision="fp8")
    assert ours.pop("weights") == f"{theirs.pop('weights')} rounded on cpu"
    assert ours == theirs


@pytest.mark.parametrize(
    ("stored", "given", "message"),
    [
        ("fp8", {"precision": "bf16"}, "setting precision: .*fp8 was converted to fp8, so it cannot run in bf16: "),
        ("bf16", {"precision": "fp32"}, "cannot run in fp32: --precision bf16, or --model tiny"),
        ("bf16", {"merge": "night"}, "setting merge: .* was converted, .* --model tiny, or name them in rows"),
    ],
)
def test_settings_that_ask_for_more_are_refused_by_the_plan(converted, stored, given, message):
    with pytest.raises(UserError, match=message):
        check_settings(Settings(**given), converted[stored])


def test_a_gpu_without_fp8_is_told_to_use_the_source(converted):
    with pytest.raises(UserError, match=r"A100 has no FP8, .*; use --model tiny"):
        resolve_execution(Settings(), AMPERE, converted["fp8"].converted)


def test_a_worker_finds_it_on_its_host(converted, tmp_path, monkeypatch):
    monkeypatch.setattr(model_files, "stay_offline", lambda: None)  # of this process
    model = converted["fp8"]
    assert local_model(model, None).folder == model.folder
    copy = local_model(model, tmp_path)
    assert Path(copy.folder).is_relative_to(tmp_path)
    assert model.converted.digest[:16] in copy.folder


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["tiny", "{folders}/fp8"], 2, "fp8: is there already: choose another folder, or remove it"),
        (["{folders}/fp8", "{folders}/again"], 2, "was converted already, to fp8, of tiny: convert that"),
        (["tiny", "{folders}/no/where"], 2, "there is no folder .*/no: make it first"),
        (["nowhere", "{folders}/again"], 2, "no model folder nowhere"),
    ],
)
def test_bad_cases(converted, folders, arguments, code, message):
    done = CliRunner().invoke(main, ["convert", *(one.format(folders=folders) for one in arguments)])
    assert done.exit_code == code
    assert re.search(message, done.stderr)
    assert sorted(path.name for path in folders.iterdir()) == ["bf16", "fp8"]


def test_a_text_encoder_in_fp8_makes_another_folder_and_no_engines():
    ours, theirs = fingerprint(find(), NO_GPU, text_precision="fp8"), fingerprint(find(), NO_GPU)
    assert ours.pop("text_precision") == "fp8"
    assert ours == theirs
    with pytest.raises(UserError, match="setting text_precision: engines have the text encoder's weights"):
        check_settings(Settings(text_precision="fp8", engines="store"), find())


def test_weights_of_slots_are_part_of_the_fingerprint_and_keep_all_of_the_model_on_the_gpu():
    ours, theirs = fingerprint(find(), NO_GPU, row_adapters=MERGED), fingerprint(find(), NO_GPU)
    assert ours.pop("row_adapters") == MERGED
    assert ours == theirs
    on_gpu = ExecutionConfig("cuda", "fp8", True)
    assert on_gpu.runtime(Settings(row_adapters=MERGED)) == replace(
        on_gpu.runtime(Settings()), merged_rows=True, offload=False
    )
