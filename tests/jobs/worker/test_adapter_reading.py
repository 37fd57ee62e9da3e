"""How often a run reads an adapter's tensors: once before it starts, once where a worker looks if it is the same.

Counted are the bytes that this process asks the system for. What a worker loads is mapped into memory from the file
that it has just read, and asks for none; the command maps nothing but the header.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from adapter_making import random_pairs, save_adapter
from job_making import write_jsonl
from safetensors.numpy import load_file, save_file

from wanbatch.jobs.config.adapter_texts import registered
from wanbatch.jobs.config.settings import Settings
from wanbatch.jobs.planning import host_copies
from wanbatch.jobs.planning.adapters import NamedAdapter, find_adapter
from wanbatch.jobs.planning.preparation import prepare
from wanbatch.jobs.worker.adapter_files import adapters_here, fetch_adapters
from wanbatch.pipeline.adapters.files import ModelLayers
from wanbatch.pipeline.adapters.tensors import load_tensors
from wanbatch.pipeline.loading.registry import ModelInfo, find

COUNTS = Path("/proc/self/io")
pytestmark = pytest.mark.skipif(not COUNTS.exists(), reason="this system does not count what is read")


def bytes_read(call: Callable[[], Any]) -> int:
    """How many bytes this process has read meanwhile, by all calls but those of mapped memory."""

    def counted() -> int:
        return int(COUNTS.read_text().split("rchar: ")[1].split()[0])

    before = counted()
    call()
    return counted() - before


@pytest.fixture(scope="module")
def model() -> ModelInfo:
    return find()


@pytest.fixture
def file(model, tmp_path) -> Path:
    """An adapter of some MB, far larger than its header."""
    config = json.loads(Path(model.folder, "transformer/config.json").read_text())
    return save_adapter(tmp_path / "ink.safetensors", config, random_pairs(config, 32))


def about_once(count: int, file: Path) -> bool:
    """The file, and little more than its header beside it."""
    size = file.stat().st_size
    assert size > 4e6
    return size <= count < 1.2 * size


def of_run(adapter: str, model: ModelInfo) -> NamedAdapter:
    return find_adapter("ink", adapter, ModelLayers.of_folder(model.folder, model.name, False))


def test_a_run_reads_them_once_before_it_starts(file, tmp_path, monkeypatch):
    plain = write_jsonl(tmp_path / "plain.jsonl", [{"prompt": "x"}])
    styled = write_jsonl(tmp_path / "styled.jsonl", [{"prompt": "x", "style": "ink"}])

    def planned(manifest: Path):
        return prepare(manifest, Settings(lora={"ink": str(file)}), weights=False)[0]

    for manifest in (plain, styled):  # what is imported is read, too
        planned(manifest)
    monkeypatch.setattr("mmap.mmap", lambda *given, **more: pytest.fail("is mapped into memory, too"))
    without = bytes_read(lambda: planned(plain))
    assert about_once(bytes_read(lambda: planned(styled)) - without, file)
    assert planned(styled).adapters["ink"].file.digest == hashlib.sha256(file.read_bytes()).hexdigest()


def test_a_worker_reads_one_on_a_shared_disk_once(file, model):
    adapter = of_run(str(file), model)
    assert about_once(bytes_read(lambda: adapters_here([adapter], {}, model, "host-1")), file)
    assert bytes_read(lambda: load_tensors(adapter.file)) < file.stat().st_size / 5


def test_a_worker_reads_one_that_its_host_has_fetched_once(file, model, tmp_path, monkeypatch):
    """The command that is on the same host has fetched it."""
    monkeypatch.setattr(host_copies.tempfile, "gettempdir", lambda: str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    adapter = of_run(str(file), model)
    fetched = NamedAdapter("ink", adapter.file, 1.0, False, given=registered("owner/ink"))

    def here() -> None:
        assert adapters_here([fetched], fetch_adapters([fetched], "host-1"), model, "host-1") == (fetched,)

    here()
    assert about_once(bytes_read(here), file)


def test_every_byte_counts_in_the_digest_wherever_the_tensors_lie(file, model):
    """Also those of tensors that become no weights, between others and in front of them."""
    tensors = load_file(file)
    alphas = {name.replace("lora_A.weight", "alpha"): value[:1, :1].reshape(()) for name, value in tensors.items()
              if name.endswith("lora_A.weight")}  # fmt: skip
    for several in (tensors, dict(reversed(tensors.items())), tensors | alphas):
        save_file(several, file)
        assert of_run(str(file), model).file.digest == hashlib.sha256(file.read_bytes()).hexdigest()
