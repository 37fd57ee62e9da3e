"""Every example of the pages about sharing and marks of origin, in their order, with a server in place of the Hub."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from command_line import invoke
from hub_server import use_hub
from hub_writing import TOKEN, writable_hub
from huggingface_hub import constants
from signing_certificates import write_certificate

from wanbatch.manifests.storage import fsspec_io

DOCS = Path(__file__).parents[3] / "docs"
BLOCK = re.compile(r"(?:^`([\w./-]+)`:\n\n)?^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def blocks(page: str) -> list[tuple[str, str, str]]:
    """The name of the file that a block is, its language, and its text."""
    return BLOCK.findall((DOCS / page).read_text(encoding="utf-8"))


def commands(page: str) -> list[list[str]]:
    lines = [line for _, language, text in blocks(page) if language == "sh" for line in text.splitlines()]
    return [words for line in lines if (words := shlex.split(line, comments=True))[0] == "wanbatch"]


@pytest.fixture
def server(tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    with writable_hub("your-name/shop", tmp_path / "hub") as server:
        use_hub(server, monkeypatch)
        yield server
    fsspec_io.forget_file_systems()


def test_every_example_works(server, tmp_path, fast_retries):
    for name, _, text in blocks("sharing.md"):
        if name:
            Path(name).write_text(text, encoding="utf-8")
    certificate, key = write_certificate(tmp_path / "own")
    certificate.rename("chain.pem"), key.rename("key.pem")
    said = {}
    for words in commands("sharing.md") + commands("origin.md"):
        if words[1] == "origin":
            row = pq.read_table("out/shop/data").to_pylist()[0]
            Path(words[2]).write_bytes(row["image"]["bytes"])
        result = invoke(*words[1:])
        assert result.exit_code == 0, f"{words}: {result.output}"
        said[words[1]] = result.stdout
    (shown,) = [text for _, language, text in blocks("origin.md") if not language]
    assert said["origin"] == shown
    assert pq.read_table("out/signed/data")["is_synthetic"].to_pylist() == [True, True]
    code = "\n".join(text for _, language, text in blocks("sharing.md") if language == "python")
    environment = {"HF_ENDPOINT": server.url, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_DISABLE_XET": "1"}
    subprocess.run([sys.executable, "-c", code], env={**os.environ, **environment}, check=True, timeout=250)
