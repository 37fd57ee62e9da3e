"""What presets and `auto` mean on each kind of hardware, and which setting wins."""

from __future__ import annotations

import pytest

from wanbatch.errors import UserError
from wanbatch.jobs.config import hardware
from wanbatch.jobs.config.hardware import PRESETS, Hardware, resolve_execution
from wanbatch.jobs.config.settings import Settings

CPU = Hardware()
HOPPER = Hardware(2, (9, 0), "NVIDIA H200")
AMPERE = Hardware(1, (8, 0), "NVIDIA A100")


@pytest.mark.parametrize(
    ("given", "detected", "expected"),
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
def test_what_is_chosen(given, detected, expected):
    chosen = resolve_execution(Settings(**given), detected)
    assert (chosen.device, chosen.precision, chosen.compile) == expected


def test_fp8_is_never_taken_for_something_else():
    with pytest.raises(UserError, match=r"A100 has no FP8.*use --precision bf16"):
        resolve_execution(Settings(precision="fp8"), AMPERE)


def test_a_gpu_that_is_not_there():
    with pytest.raises(UserError, match="torch sees no GPU"):
        resolve_execution(Settings(device="cuda"), CPU)


def test_a_user_without_a_home_and_the_remedies(tmp_path, monkeypatch):
    """As in containers that run as a number. Told before anything is written, not by a worker that compiles."""

    def refuse() -> None:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr("pathlib.Path.home", refuse)
    with pytest.raises(UserError, match="set HOME, XDG_CACHE_HOME or --compile-cache"):
        resolve_execution(Settings(compile="always"), Hardware())
    assert not resolve_execution(Settings(), Hardware()).compile
    assert resolve_execution(Settings(compile="always", compile_cache=tmp_path), Hardware()).compile
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert resolve_execution(Settings(compile="always"), Hardware()).compile


def test_every_preset_says_what_it_does_on_every_gpu():
    field = Settings.model_fields["preset"].annotation
    assert set(PRESETS) == set(field.__args__)
    assert all(set(by_gpu) == {True, False} for by_gpu in PRESETS.values())


@pytest.mark.parametrize(
    ("text", "expected"),
    [("processor : 0\nmodel name\t: AMD EPYC 7B13\nmodel name\t: another\n", "AMD EPYC 7B13"), (None, "riscv64")],
)
def test_a_processor_has_a_name_or_at_least_an_architecture(tmp_path, monkeypatch, text, expected):
    if text is not None:
        (tmp_path / "cpuinfo").write_text(text)
    monkeypatch.setattr(hardware, "CPU_INFO", tmp_path / "cpuinfo")
    monkeypatch.setattr(hardware.platform, "processor", lambda: "")
    monkeypatch.setattr(hardware.platform, "machine", lambda: "riscv64")
    assert hardware.cpu_name() == expected
    assert hardware.describe_device("cpu").startswith(f"{expected}, ")


def test_what_workers_get(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    settings = Settings(preset="balanced", text_cache="texts", compile_cache="/tmp/code")
    chosen = resolve_execution(settings, HOPPER)
    runtime = chosen.runtime(settings)
    assert chosen.dtype == "bfloat16"
    assert (runtime.compile, runtime.fp8) == (True, True)
    assert (runtime.text_cache, runtime.compile_cache) == (str(tmp_path / "texts"), "/tmp/code")
    assert resolve_execution(Settings(), CPU).dtype == "float32"
