"""What presets and `auto` mean on each machine, and which setting wins."""

from __future__ import annotations

import pytest

from wanbatch.errors import UserError
from wanbatch.jobs.config.hardware import PRESETS, Hardware, choose
from wanbatch.jobs.config.settings import Settings

CPU = Hardware()
HOPPER = Hardware(2, (9, 0), "NVIDIA H200")
AMPERE = Hardware(1, (8, 0), "NVIDIA A100")


@pytest.mark.parametrize(
    ("given", "machine", "expected"),
    [
        ({}, CPU, ("cpu", "fp32", False)),
        ({}, HOPPER, ("cuda", "bf16", True)),
        ({"device": "cpu"}, HOPPER, ("cpu", "fp32", False)),
        ({"preset": "balanced"}, HOPPER, ("cuda", "fp8", True)),
        ({"preset": "fast"}, HOPPER, ("cuda", "fp8", True)),
        ({"preset": "balanced"}, AMPERE, ("cuda", "bf16", True)),
        ({"preset": "balanced"}, CPU, ("cpu", "fp32", False)),
        ({"preset": "balanced", "precision": "bf16"}, HOPPER, ("cuda", "bf16", True)),
        ({"preset": "exact", "precision": "fp8"}, HOPPER, ("cuda", "fp8", True)),
        ({"precision": "fp32", "compile": "never"}, HOPPER, ("cuda", "fp32", False)),
        ({"compile": "always"}, CPU, ("cpu", "fp32", True)),
        ({"precision": "fp8"}, CPU, ("cpu", "fp8", False)),
    ],
)
def test_what_is_chosen(given, machine, expected):
    chosen = choose(Settings(**given), machine)
    assert (chosen.device, chosen.precision, chosen.compile) == expected


def test_fp8_is_never_taken_for_something_else():
    with pytest.raises(UserError, match=r"A100 has no FP8.*use --precision bf16"):
        choose(Settings(precision="fp8"), AMPERE)


def test_a_gpu_that_is_not_there():
    with pytest.raises(UserError, match="torch sees no GPU"):
        choose(Settings(device="cuda"), CPU)


def test_every_preset_says_what_it_does_on_every_gpu():
    field = Settings.model_fields["preset"].annotation
    assert set(PRESETS) == set(field.__args__)
    assert all(set(by_gpu) == {True, False} for by_gpu in PRESETS.values())


def test_what_workers_get(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    settings = Settings(preset="balanced", text_cache="texts", compile_cache="/tmp/code")
    chosen = choose(settings, HOPPER)
    runtime = chosen.runtime(settings)
    assert chosen.dtype == "bfloat16"
    assert (runtime.compile, runtime.fp8) == (True, True)
    assert (runtime.text_cache, runtime.compile_cache) == (str(tmp_path / "texts"), "/tmp/code")
    assert choose(Settings(), CPU).dtype == "float32"
