"""Tensor files are there whole or not at all, for whoever may read the files beside them."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError, safe_open

import wanbatch
from wanbatch.pipeline.core.tensor_files import save_tensors


@pytest.fixture(params=[0o022, 0o027, 0o077], ids=oct)
def umask(request):
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def test_a_file_has_the_permissions_of_any_new_file(tmp_path, umask):
    """safetensors 0.8 lets the user alone read what it writes, and a node may run as another one."""
    path = tmp_path / "a.safetensors"
    save_tensors({"a": torch.arange(3)}, path, {"said": "so"})
    assert path.stat().st_mode & 0o777 == 0o666 & ~umask
    with safe_open(path, "pt") as file:
        assert file.metadata() == {"said": "so"}
        assert torch.equal(file.get_tensor("a"), torch.arange(3))
    assert os.listdir(tmp_path) == [path.name]


def test_what_cannot_be_written_leaves_what_was_there(tmp_path):
    path, whole = tmp_path / "a.safetensors", torch.zeros(4)
    save_tensors({"a": whole}, path)
    with pytest.raises((RuntimeError, ValueError, SafetensorError)):
        save_tensors({"a": whole, "b": whole}, path)  # they share memory
    with safe_open(path, "pt") as file:
        assert list(file.keys()) == ["a"]
    assert os.listdir(tmp_path) == [path.name]


def test_nothing_else_of_the_package_writes_them():
    package = Path(wanbatch.__file__).parent
    files = [Path(here, name) for here, _, names in os.walk(package, followlinks=True) for name in names]
    sources = {path.name: path.read_text(encoding="utf-8") for path in files if path.suffix == ".py"}
    assert [name for name, text in sources.items() if re.search(r"\bsave_file\(", text)] == ["tensor_files.py"]
