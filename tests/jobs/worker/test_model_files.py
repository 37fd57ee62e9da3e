"""A model's files on a worker's host: got once a host, never half, and the same as the driver's."""

from __future__ import annotations

import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from s3_server import ENVIRONMENT, running

from wanbatch.errors import MachineryError, NodeError, UserError
from wanbatch.jobs.driver.fingerprint import model_location
from wanbatch.jobs.planning import host_copies
from wanbatch.jobs.planning.model_copies import copied, find_model
from wanbatch.jobs.worker import model_files
from wanbatch.jobs.worker.model_files import local_model
from wanbatch.manifests.storage import fsspec_io
from wanbatch.pipeline.loading import registry

TINY = Path(registry.find().folder)


@pytest.fixture(autouse=True)
def _own_locks(monkeypatch, tmp_path):
    monkeypatch.setattr(host_copies.tempfile, "gettempdir", lambda: str(tmp_path))
    monkeypatch.setattr(model_files, "stay_offline", lambda: None)


@pytest.fixture
def model(tmp_path) -> registry.ModelInfo:
    return registry.find(str(shutil.copytree(TINY, tmp_path / "shared")))


def test_a_shared_folder_is_used_as_it_is_or_copied(model, tmp_path):
    assert local_model(model, None).folder == model.folder
    found = local_model(model, tmp_path / "cache")
    assert Path(found.folder).parent == tmp_path / "cache"
    assert registry.find(found.folder).digest == model.digest
    assert found.name == model.name


def test_the_small_model_is_that_of_this_host(tmp_path):
    elsewhere = replace(registry.find(), folder="/nowhere/tiny")
    assert local_model(elsewhere, None).folder == str(TINY)


def test_a_folder_that_only_the_driver_has(model):
    lost = replace(model, folder="/nowhere/model")
    with pytest.raises(
        NodeError, match=r"^host h: there is no model folder /nowhere/model, .* share it with every host"
    ):
        local_model(lost, None, "h")
    assert local_model(model, None, "h") == model, "a folder that is shared"


def test_another_model_under_the_same_name(model):
    with pytest.raises(NodeError, match=r"^host h: the model in .* is not the one"):
        local_model(replace(model, digest="0" * 64), None, "h")
    shutil.rmtree(model.folder)
    shutil.copytree(TINY, model.folder)  # copied anew
    assert local_model(model, None, "h") == model


def test_many_workers_copy_once(model, tmp_path, monkeypatch):
    copies = []
    copytree = shutil.copytree
    monkeypatch.setattr(shutil, "copytree", lambda *given, **more: copies.append(given) or copytree(*given, **more))
    with ThreadPoolExecutor(8) as pool:
        found = set(pool.map(lambda n: copied(Path(model.folder), tmp_path / "cache", model.digest), range(8)))
    assert len(found) == 1
    assert [source for source, *_ in copies].count(Path(model.folder)) == 1


def test_a_copy_that_was_killed_is_made_anew(model, tmp_path):
    """In a process of its own, which ends while it copies: what it left is no copy, and its lock is free."""
    cache = tmp_path / "cache"
    code = (
        "import os, shutil, sys; from pathlib import Path\n"
        "from wanbatch.jobs.planning import host_copies, model_copies\n"
        "host_copies.tempfile.tempdir = sys.argv[3]\n"
        "shutil.copytree = lambda source, target, **more: (Path(target, 'half').touch(), os._exit(9))\n"
        "model_copies.copied(Path(sys.argv[1]), Path(sys.argv[2]), '0' * 64)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, model.folder, str(cache), str(tmp_path)])
    assert done.returncode == 9
    assert [path.name[0] for path in cache.iterdir()] == ["."]
    found = copied(Path(model.folder), cache, "0" * 64)
    assert list(cache.iterdir()) == [found]
    assert registry.find(str(found)).digest == model.digest


def test_a_disk_without_room(model, tmp_path, monkeypatch):
    usage = shutil.disk_usage
    full = shutil._ntuple_diskusage(10, 10, 5 << 20)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: full if path == tmp_path / "cache" else usage(path))
    with pytest.raises(
        NodeError, match=r"^host h: .*cache has 5 MB free, .* give --model-cache a folder on a larger"
    ):
        local_model(model, tmp_path / "cache", "h")
    assert list((tmp_path / "cache").iterdir()) == []
    assert local_model(model, tmp_path / "larger", "h").digest == model.digest


def test_the_hub_is_asked_once_a_host(model, monkeypatch):
    """The first worker fetches; the others find a whole snapshot and say nothing to the hub."""
    here, asked = [], []

    def cached(name, revision):
        assert (name, revision) == ("owner/name", "1" * 40)
        return here[0] if here else None

    def find(name, revision=None, weights=True):
        if name == "owner/name":
            asked.append(revision)
            if len(asked) < 3:
                raise UserError("429 Too Many Requests")
            here.append(model.folder)
            name = model.folder
        return registry.find(name)

    pauses: list[float] = []
    monkeypatch.setattr(model_files, "cached_of_hub", cached)
    monkeypatch.setattr(model_files, "find", find)
    monkeypatch.setattr(model_files, "time", SimpleNamespace(sleep=pauses.append))
    of_hub = replace(model, name="owner/name", revision="1" * 40, folder="/of/the/driver")
    with ThreadPoolExecutor(6) as pool:
        found = set(pool.map(lambda n: local_model(of_hub, None).folder, range(6)))
    assert found == {model.folder}
    assert len(asked) == 3
    assert pauses == [5.0, 10.0]


@pytest.fixture(scope="module")
def store():
    with running() as server:
        yield server


@pytest.fixture
def bucket(store, monkeypatch) -> str:
    for name, value in ({"AWS_ENDPOINT_URL": store.url} | ENVIRONMENT).items():
        monkeypatch.setenv(name, value)
    fsspec_io.forget_file_systems()
    system = fsspec_io.file_system("s3://models/x")
    system.mkdir("models") if not system.exists("models") else None
    system.put(str(TINY), "models/tiny", recursive=True)
    return "s3://models/tiny"


def test_a_model_in_a_store(bucket, store, tmp_path):
    planned = find_model(bucket, weights=False, cache=tmp_path / "cache")
    assert planned.steps == registry.find().steps
    assert list(Path(planned.folder).rglob("*.safetensors")) == []
    found = find_model(f"{bucket}/", cache=tmp_path / "cache")
    assert found.digest == registry.find().digest
    assert model_location(found) == bucket
    store.log.clear()
    assert local_model(found, tmp_path / "cache").folder == found.folder
    assert [line for line in store.log if line.endswith(".safetensors")] == [], "nothing is fetched twice"
    with pytest.raises(UserError, match=r"there is no model folder at this address: check"):
        find_model("s3://models/none", cache=tmp_path / "cache")
    with pytest.raises(UserError, match=r"revision main: only hub models have revisions, and .* is none: drop it"):
        find_model(bucket, "main", cache=tmp_path / "cache")


def test_a_store_that_does_not_answer(bucket, store, tmp_path):
    store.fault = lambda method, path: ("503 Slow Down", "SlowDown")
    try:
        with pytest.raises(MachineryError, match=r"^model s3://models/tiny: .*run the same command again"):
            find_model(bucket, cache=tmp_path / "cache")
    finally:
        store.mend()
    assert find_model(bucket, weights=False, cache=tmp_path / "cache").steps == registry.find().steps
