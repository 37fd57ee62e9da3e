"""The commands of docs/engines.md: each is run with compilers that stand in, and in a slow test in earnest."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner
from engine_making import StandIn
from s3_server import ENVIRONMENT, empty_bucket, running

from wanbatch.engines import aot, onnx_export, probe, tensorrt, verify
from wanbatch.jobs.cli.main import main
from wanbatch.jobs.cli.run_commands import run
from wanbatch.jobs.config.settings import read_settings
from wanbatch.jobs.driver.run_context import prepare_run
from wanbatch.manifests.storage import fsspec_io

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/engines.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```sh\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
COMMANDS = [shlex.split(line) for block in BLOCKS for line in block.splitlines()]


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Iterator[Path]:
    """The current folder, with the examples, and a store with the bucket of the page."""
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    monkeypatch.chdir(tmp_path)
    with running() as server:
        for name, value in {**ENVIRONMENT, "AWS_ENDPOINT_URL": server.url, "XDG_CACHE_HOME": str(tmp_path)}.items():
            monkeypatch.setenv(name, value)
        fsspec_io.forget_file_systems()
        empty_bucket("shop")
        yield tmp_path
    fsspec_io.forget_file_systems()


def test_the_page_has_commands_of_each_kind():
    assert all(words[0] == "wanbatch" for words in COMMANDS)
    assert {words[2] for words in COMMANDS if words[1] == "engines"} == {"build", "verify", "list", "prune"}
    assert sum(words[1] == "run" for words in COMMANDS) == 2
    assert {words[words.index("--backend") + 1] for words in COMMANDS if "--backend" in words} == {
        "onnx",
        "tensorrt-rtx",
    }


def test_the_commands_of_the_page_with_compilers_that_stand_in(folder, monkeypatch):
    """`run` goes as far as the choice of its engines."""
    made = StandIn()
    monkeypatch.setattr(aot, "build", made.build)
    monkeypatch.setattr(aot, "load", made.load)
    monkeypatch.setattr(probe, "failure_of", lambda store, engines, seconds=1: None)
    monkeypatch.setattr(probe, "failure_at", lambda path, description, seconds=1: None)
    monkeypatch.setattr(onnx_export, "export", lambda graph, path: made.build(graph, path))
    monkeypatch.setattr(onnx_export, "check", lambda path: None)
    monkeypatch.setattr(verify, "compare", lambda graph, engine: verify.Errors(0.0, 0.0, verify.GATE))
    monkeypatch.setattr(verify, "compare_onnx", lambda graph, path, key: verify.Errors(0.0, 0.0, verify.GATE))
    monkeypatch.setattr(tensorrt, "build", lambda onnx, graph, plan, *given: plan.write_bytes(b"plan") and {})
    said = {}
    for words in COMMANDS:
        if words[1] == "run":
            given = run.make_context("run", words[2:]).params
            settings = read_settings(engines=given["engines"], device="cpu", workers=1)
            chosen = prepare_run(folder / given["manifest"], str(given["out"]), settings).engines
            assert chosen.digests, "the store of the page has engines for the run of the page"
            said[" ".join(words)] = " ".join(chosen.digests)
            continue
        done = CliRunner().invoke(main, words[1:])
        assert done.exit_code == 0, done.output
        said[" ".join(words)] = done.output
    assert {label.partition(" ")[0] for label in made.built} == {"text", "dit", "vae-encode", "vae-decode"}
    assert (
        "dit 128x128, 8 rows"
        in said["wanbatch run examples/quickstart.jsonl --out out/with-engines --engines engines"]
    )
    assert said["wanbatch engines verify --store engines"].count(": right: ") == 5
    assert said["wanbatch engines prune --store engines"] == "engines: nothing to remove\n"
    assert fsspec_io.file_system("s3://shop").glob("s3://shop/engines/vae-*.json")
    assert len(list((folder / "graphs").glob("dit-*.json"))) == 4
    assert len(list((folder / "plans").glob("*.plan"))) == 6


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_commands_of_the_page_in_earnest(folder):
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    for words in COMMANDS:
        done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{words}: {done.stdout}{done.stderr}"
    assert {path.name for path in (folder / "out").iterdir()} == {"with-engines", "with-engines-of-a-store"}
