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


def test_an_empty_store_is_listed_verified_and_pruned(tmp_path):
    (tmp_path / "store").mkdir(mode=0o700)
    for command, said in (("list", "no engines"), ("verify", "no engines"), ("prune", "nothing to remove")):
        done = CliRunner().invoke(main, ["engines", command, "--store", str(tmp_path / "store")])
        assert done.exit_code == 0, done.output
        assert said in done.output
