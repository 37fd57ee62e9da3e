"""The steps of the Dockerfile, in a clean Debian root; there is no container builder where this is tested."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from dockerfile_steps import instructions, run_dockerfile
from job_making import write_jsonl

ROOT = Path(__file__).parents[3]
DOCKERFILE = ROOT / "jobs/cluster/deploy/Dockerfile"
MIRROR = "http://deb.debian.org/debian"


def test_instructions_are_read_as_a_builder_does():
    text = "# a comment\nARG A=1\nRUN one \\\n    && two\n# between\nCOPY a b c/\n"
    assert instructions(text) == [("ARG", "A=1"), ("RUN", "one && two"), ("COPY", "a b c/")]
    assert {name for name, _ in instructions(DOCKERFILE.read_text())} <= {
        *("ARG", "FROM", "WORKDIR", "COPY", "RUN", "SHELL", "USER", "ENV", "CMD")
    }


@pytest.mark.slow
@pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("debootstrap") is None, reason="needs root and debootstrap (apt-get install)"
)
@pytest.mark.timeout(1800)
def test_its_steps_make_a_root_in_which_a_run_works(tmp_path):
    """With the network's packages; DEBIAN_ROOT: a root that debootstrap has made before."""
    bare = Path(os.environ.get("DEBIAN_ROOT", tmp_path / "bare"))
    if not bare.exists():
        subprocess.run(["debootstrap", "--variant=minbase", "bookworm", bare, MIRROR], check=True)
    last = run_dockerfile(DOCKERFILE, ROOT, bare, tmp_path / "stages")
    rows = [{"id": "a", "prompt": "a red cup", "steps": 1, "width": 32, "height": 32}]
    write_jsonl(last.path("m.jsonl"), rows)
    assert "1 of 1 picture made" in last.run("wanbatch run m.jsonl --out out 2>&1").stdout
    assert list(last.path("out/data").glob("part-*.parquet"))
