"""Where pictures go if no one says, also those of a second pass, whose manifest is where they would go."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from command_line import invoke

from wanbatch.jobs.cli.options import default_output


@pytest.mark.parametrize(
    ("manifest", "out"),
    [
        ("shop.jsonl", "out/shop"),
        ("elsewhere/shop", "out/shop"),
        ("s3://shop/out/shop", "out/shop"),
        ("out/shop", "out/shop-pass-2"),
        ("./out/shop/", "out/shop-pass-2"),
        ("out/shop-pass-2", "out/shop-pass-3"),
        ("out/shop-pass-9", "out/shop-pass-10"),
        ("out/shop-pass-x", "out/shop-pass-x-pass-2"),
    ],
)
def test_no_manifest_is_its_own_output_folder(tmp_path, monkeypatch, manifest, out):
    monkeypatch.chdir(tmp_path)
    assert default_output(manifest) == Path(out)
    if not manifest.startswith(("s3", "elsewhere", "shop")):
        assert default_output(tmp_path / manifest) == Path(out)


def test_a_second_and_a_third_pass_are_planned_and_run_without_out(
    mixed, model_folder, fast_retries, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(mixed.out, "out/shop")
    options = ["--model", model_folder, "--width", 32, "--height", 32, "--steps", 2, "--creativity", 0]
    options += ["--prompt", "a heart", "--json"]
    planned = invoke("plan", "out/shop", *options)
    assert planned.exit_code == 0, planned.output
    assert (json.loads(planned.stdout)["images"], json.loads(planned.stdout)["folder"]) == (15, None)
    ran = invoke("run", "out/shop", *options)
    assert ran.exit_code == 0, ran.output
    assert (json.loads(ran.stdout)["out"], json.loads(ran.stdout)["made"]) == ("out/shop-pass-2", 15)
    again = json.loads(invoke("plan", "out/shop", *options).stdout)["folder"]
    assert (again["out"], again["done"]) == ("out/shop-pass-2", 15)
    assert json.loads(invoke("plan", "out/shop-pass-2", *options).stdout)["folder"] is None
