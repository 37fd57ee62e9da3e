"""`wanbatch engines build` refuses what there is not, before it makes a store, and takes what it offers instead."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from wanbatch.engines import building
from wanbatch.jobs.cli.main import main

GIVEN = {"--component": "vae", "--size": "128x128", "--device": "cpu", "--slots": "2"}


@pytest.mark.parametrize(
    ("flag", "wrong", "right", "said"),
    [
        ("--component", "vaes", "vae,dit", "--component vaes: must be some of text, dit, vae; did you mean 'vae'?"),
        ("--backend", "aott", "aot", "--backend aott: must be one of aot, tensorrt-rtx, tensorrt, onnx"),
        ("--slots", "auto", "4", "--slots auto: engines are for one number of slots: give it, as the runs will"),
        ("--precision", "fp8", "bf16", "--precision fp8: engines of aot are built in bf16 or fp32, as runs are: use"),
        (
            "--precision",
            "fp16",
            "bf16",
            "--precision fp16: engines of aot are built in bf16 or fp32, as runs are",
        ),
        ("--precision", "int8", "bf16", "'--precision': 'int8' is not one of 'auto', 'fp32', 'bf16', 'fp16', 'fp8'"),
        ("--size", "128", "128x128", "must be width and height in pixels, like 1280x704"),
    ],
)
def test_what_is_offered_instead_is_taken(flag, wrong, right, said, tmp_path, monkeypatch):
    monkeypatch.setattr(building, "build", lambda store, request, report: iter([building.Built("vae", "built", 1.0)]))

    def build(value: str):
        flags = [part for pair in {**GIVEN, flag: value}.items() for part in pair]
        return CliRunner().invoke(main, ["engines", "build", "--store", str(tmp_path / "store"), *flags])

    refused = build(wrong)
    assert refused.exit_code == 2
    assert said.partition(";")[0] in refused.output
    assert not (tmp_path / "store").exists()
    assert "vae: built in 1.0 s" in build(right).output


@pytest.mark.parametrize(
    ("precision", "dtype", "float8"),
    [("auto", "float32", False), ("fp16", "float16", False), ("bf16", "bfloat16", False), ("fp8", "bfloat16", True)],
)
def test_what_a_precision_means(precision, dtype, float8, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(building, "build", lambda store, request, report: asked.append(request) or iter(()))
    flags = [part for pair in {**GIVEN, "--backend": "onnx", "--precision": precision}.items() for part in pair]
    done = CliRunner().invoke(main, ["engines", "build", "--store", str(tmp_path / "store"), *flags])
    assert done.exit_code == 0, done.output
    assert [(one.dtype, one.float8, one.device) for one in asked] == [(dtype, float8, "cpu")]
    assert asked[0].precision == {"auto": "fp32"}.get(precision, precision)


def built_in(folder, monkeypatch, *more: str) -> tuple[str, str]:
    """What `build --backend onnx` in a folder would build in, and what it prints."""
    monkeypatch.chdir(folder)
    asked = []
    monkeypatch.setattr(building, "build", lambda store, request, report: asked.append(request) or iter(()))
    flags = [part for pair in {**GIVEN, "--backend": "onnx"}.items() for part in pair]
    done = CliRunner().invoke(main, ["engines", "build", "--store", str(folder / "store"), *flags, *more])
    assert done.exit_code == (0 if asked else 2), done.output
    return asked[0].precision if asked else "", done.output


def test_the_precision_is_that_of_the_settings_unless_it_is_given(tmp_path, monkeypatch):
    """As it is for runs in the same folder: the file, then the variable, then the flag."""
    assert built_in(tmp_path, monkeypatch)[0] == "fp32"
    (tmp_path / "wanbatch.toml").write_text('precision = "bf16"\n')
    assert built_in(tmp_path, monkeypatch)[0] == "bf16"
    monkeypatch.setenv("WANBATCH_PRECISION", "fp8")
    assert built_in(tmp_path, monkeypatch)[0] == "fp8"
    for given, wanted in (("auto", "fp32"), ("bf16", "bf16"), ("fp16", "fp16")):
        assert built_in(tmp_path, monkeypatch, "--precision", given)[0] == wanted


def test_a_precision_of_the_settings_that_no_engine_has(tmp_path, monkeypatch):
    (tmp_path / "wanbatch.toml").write_text('precision = "int8"\n')
    nothing, said = built_in(tmp_path, monkeypatch)
    assert nothing == ""
    assert "setting precision: engines are not built in int8: give --precision bf16, which runs in int8 take" in said
    assert not (tmp_path / "store").exists()
    assert built_in(tmp_path, monkeypatch, "--precision", "bf16")[0] == "bf16"
    assert built_in(tmp_path, monkeypatch, "--precision", "fp16")[0] == "fp16"


def test_an_empty_store_is_listed_verified_and_pruned(tmp_path):
    (tmp_path / "store").mkdir(mode=0o700)
    for command, said in (("list", "no engines"), ("verify", "no engines"), ("prune", "nothing to remove")):
        done = CliRunner().invoke(main, ["engines", command, "--store", str(tmp_path / "store")])
        assert done.exit_code == 0, done.output
        assert said in done.output
