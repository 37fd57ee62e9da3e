"""Adapters in a store, on the web and on the hub: fetched once a host, and the file that the command read or none."""

from __future__ import annotations

import json
import shutil
import ssl
from pathlib import Path

import huggingface_hub
import pytest
from adapter_making import random_pairs, save_adapter
from s3_server import ENVIRONMENT, running
from web_server import QUICK, self_signed, serving

from wanbatch.errors import MachineryError, NodeError, UserError
from wanbatch.jobs.config.adapter_texts import registered
from wanbatch.jobs.planning import adapter_copies, host_copies
from wanbatch.jobs.planning.adapter_copies import local_adapter
from wanbatch.jobs.planning.adapters import NamedAdapter, find_adapter, half_warnings
from wanbatch.jobs.worker.adapter_files import adapters_here, fetch_adapters
from wanbatch.manifests.sources.http import Fetcher
from wanbatch.manifests.storage import fsspec_io
from wanbatch.pipeline.adapters.files import ModelLayers
from wanbatch.pipeline.loading.registry import ModelInfo, find


@pytest.fixture(autouse=True)
def _own_caches(monkeypatch, tmp_path):
    monkeypatch.setattr(host_copies.tempfile, "gettempdir", lambda: str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def model() -> ModelInfo:
    return find()


@pytest.fixture(scope="module")
def layers(model) -> ModelLayers:
    return ModelLayers.of_folder(model.folder, model.name, False)


@pytest.fixture
def file(model, tmp_path) -> Path:
    config = json.loads(Path(model.folder, "transformer/config.json").read_text())
    return save_adapter(tmp_path / "laptop" / "ink.safetensors", config, random_pairs(config, 2), "peft")


@pytest.fixture(scope="module")
def server():
    with running() as server:
        yield server


@pytest.fixture
def store(server, monkeypatch, request) -> str:
    """A bucket of its own for each test."""
    for name, value in {**ENVIRONMENT, "AWS_ENDPOINT_URL": server.url}.items():
        monkeypatch.setenv(name, value)
    fsspec_io.forget_file_systems()
    bucket = f"s3://shop-{abs(hash(request.node.name))}"
    fsspec_io.file_system(bucket).mkdir(bucket)
    yield bucket
    fsspec_io.forget_file_systems()


def put(file: Path, url: str) -> None:
    fsspec_io.file_system(url).put_file(str(file), url)


def another_host(monkeypatch, tmp_path) -> None:
    """From here on the cache is that of another host."""
    shutil.rmtree(tmp_path / "cache")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "other-cache"))


def here(adapter: NamedAdapter, model: ModelInfo) -> NamedAdapter:
    """The adapter as a worker has it."""
    (found,) = adapters_here([adapter], fetch_adapters([adapter], "host-2"), model, "host-2")
    return found


def test_one_in_a_store_is_copied_once_a_host_with_the_settings_beside_it(
    file, store, model, layers, monkeypatch, tmp_path
):
    (file.parent / "adapter_config.json").write_text(json.dumps({"lora_alpha": 6}))
    for name in (file.name, "adapter_config.json"):
        put(file.parent / name, f"{store}/styles/{name}")
    system, copied = fsspec_io.file_system(store), []
    get_file = system.get_file
    monkeypatch.setattr(system, "get_file", lambda url, target: (copied.append(url), get_file(url, target)))

    adapter = find_adapter("ink", f"{store}/styles/ink.safetensors:0.5", layers)
    assert adapter.weight == 0.5
    assert "scale 3.0" in adapter.file.coverage()
    assert adapter.file.path.startswith(str(tmp_path / "cache"))
    assert find_adapter("ink", f"{store}/styles/ink.safetensors:0.5", layers) == adapter
    assert here(adapter, model) == adapter
    assert len(copied) == 2, "the file and what is beside it, once"

    another_host(monkeypatch, tmp_path)
    found = here(adapter, model)
    assert found.file.path.startswith(str(tmp_path / "other-cache"))
    assert (found.file.digest, found.file.coverage()) == (adapter.file.digest, adapter.file.coverage())
    assert here(adapter, model) == found
    assert len(copied) == 4


def test_one_that_changed_in_the_store_after_the_command_read_it(file, store, model, layers, monkeypatch, tmp_path):
    url = f"{store}/ink.safetensors"
    put(file, url)
    adapter = find_adapter("ink", url, layers)
    config = json.loads(Path(model.folder, "transformer/config.json").read_text())
    put(save_adapter(tmp_path / "ink.safetensors", config, random_pairs(config, 2, 9), "peft"), url)
    assert find_adapter("ink", url, layers).file.digest != adapter.file.digest
    another_host(monkeypatch, tmp_path)
    with pytest.raises(NodeError, match=r"host host-2: adapter 'ink': .* is not the file that this command read"):
        here(adapter, model)


def test_a_store_without_it_and_one_that_does_not_answer(store, monkeypatch):
    with pytest.raises(UserError, match="there is no such file: check the address"):
        local_adapter(registered(f"{store}/none.safetensors"))
    with pytest.raises(UserError, match=r"must be the address of a \.safetensors file"):
        local_adapter(registered(f"{store}/folder"))
    with pytest.raises(UserError, match="only those on the hub have revisions: drop @v2"):
        local_adapter(registered(f"{store}/folder@v2"))
    with pytest.raises(UserError, match="there is no such file") as error:
        local_adapter(registered(f"{store}/folder/none.safetensors"))
    assert "drop" not in str(error.value)
    system = fsspec_io.file_system(store)
    monkeypatch.setattr(system, "info", lambda *given: (_ for _ in ()).throw(TimeoutError("no answer")))
    with pytest.raises(MachineryError, match=r"ink\.safetensors: .*; run the same command again"):
        local_adapter(registered(f"{store}/ink.safetensors"))


def test_a_disk_without_room(file, store, monkeypatch, tmp_path):
    put(file, f"{store}/ink.safetensors")
    usage, small = shutil.disk_usage, tmp_path / "cache"
    full = shutil._ntuple_diskusage(10, 10, 5 << 20)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: full if Path(path).is_relative_to(small) else usage(path))
    with pytest.raises(MachineryError, match=r"5 MB free, and ink-.* needs 0 MB: set XDG_CACHE_HOME to a folder"):
        local_adapter(registered(f"{store}/ink.safetensors"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "large"))
    assert local_adapter(registered(f"{store}/ink.safetensors")).is_file()


@pytest.fixture
def web(tmp_path, monkeypatch):
    """A server for `https://localhost`, whose certificate is trusted."""
    certificate, key = self_signed("localhost")
    (tmp_path / "both.pem").write_bytes(certificate + key)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "both.pem")
    trusting = ssl.create_default_context(cadata=certificate.decode())
    monkeypatch.setattr(adapter_copies, "Fetcher", lambda *given: Fetcher(*given, context=trusting, retries=QUICK))
    with serving(context) as server:
        missing = lambda handler: handler.give(404)  # noqa: E731
        server.answers = {"/a/ink.safetensors": missing, "/a/adapter_config.json": missing}
        yield server, f"https://localhost:{server.server_port}/a/ink.safetensors"


@pytest.mark.parametrize("tag", ['"1a2b"', None])
def test_one_on_the_web_is_fetched_once_where_its_server_tells_versions_apart(web, file, layers, tag):
    server, url = web
    server.answers["/a/ink.safetensors"] = lambda handler: handler.give(200, file.read_bytes(), ETag=tag)
    adapter = find_adapter("ink", url, layers)
    assert Path(adapter.file.path).read_bytes() == file.read_bytes()
    before = len(server.seen)
    assert find_adapter("ink", url, layers) == adapter
    assert len(server.seen) - before == (2 if tag else 3), "what is beside it, its tag, and the file if it has none"


def test_one_on_the_web_that_cannot_be_had(web):
    server, url = web
    with pytest.raises(UserError, match=r"does not exist \(status 404\): check the address, or download the file"):
        local_adapter(registered(url))
    answer = server.answers["/a/adapter_config.json"]
    server.answers["/a/adapter_config.json"] = lambda handler: handler.give(503)
    with pytest.raises(MachineryError, match=r"could not be fetched .*; run the same command again"):
        local_adapter(registered(url))
    server.answers |= {
        "/a/adapter_config.json": answer, "/a/ink.safetensors": lambda handler: handler.give(200, b"x"),
    }  # fmt: skip
    assert local_adapter(registered(url)).read_bytes() == b"x"


HIGH, LOW = "ink_high_noise.safetensors", "ink_low_noise.safetensors"


def test_both_files_of_a_model_of_two_transformers_are_fetched(web, file, store, model):
    """Whichever is named."""
    two = ModelLayers.of_folder(model.folder, "a14b", True)
    server, url = web
    content = file.read_bytes()
    server.answers |= {f"/a/{name}": lambda handler: handler.give(200, content) for name in (HIGH, LOW)}
    for name in (HIGH, LOW):
        put(file, f"{store}/{name}")
        assert len(find_adapter("ink", url.replace("ink.safetensors", name), two).file.paths) == 2
    fsspec_io.file_system(store).invalidate_cache()
    adapter = find_adapter("ink", f"{store}/{LOW}", two)
    assert (adapter.file.missing, len(adapter.file.paths)) == (None, 2)
    server.answers[f"/a/{LOW}"] = lambda handler: handler.give(404)
    alone = find_adapter("ink", url.replace("ink.safetensors", HIGH), two)
    assert alone.file.missing == LOW
    (warned,) = half_warnings({"ink": alone})
    assert "(high noise: 80 of 80 layers, rank 2, scale 1.0; low noise: nothing), since there is no " + LOW in warned
    assert list(half_warnings({"ink": adapter})) == []
    server.answers[f"/a/{LOW}"] = lambda handler: handler.give(503)
    with pytest.raises(MachineryError, match=r"ink_low_noise\.safetensors: could not be fetched"):
        find_adapter("ink", url.replace("ink.safetensors", HIGH), two)


def test_the_hub_is_asked_for_both_files(monkeypatch, tmp_path):
    asked = []

    def download(repo: str, **given) -> str:
        asked.append(given["allow_patterns"])
        (tmp_path / "styles").mkdir(exist_ok=True)
        (tmp_path / "styles" / HIGH).touch()
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    local_adapter(registered(f"shop/styles/styles/{HIGH}"))
    assert asked == [[f"styles/{HIGH}", "styles/adapter_config.json", f"styles/{LOW}"]]


def test_the_address_of_a_file_on_the_hub_is_its_id(monkeypatch):
    asked = []
    monkeypatch.setattr(adapter_copies, "locate", lambda path, revision=None: asked.append((path, revision)))
    local_adapter(registered("https://huggingface.co/shop/styles/resolve/main/flat/ink.safetensors?download=true"))
    local_adapter(registered("https://huggingface.co/shop/styles/blob/v2/ink.safetensors:0.5"))
    local_adapter(registered("shop/styles@v2"))
    assert asked == [
        ("shop/styles/flat/ink.safetensors", "main"), ("shop/styles/ink.safetensors", "v2"), ("shop/styles", "v2"),
    ]  # fmt: skip


def test_a_worker_fetches_what_its_host_lacks_from_the_hub_once(file, model, layers, monkeypatch, tmp_path):
    snapshots, asked = {"laptop": file}, []

    def located(path: str, revision: str | None = None) -> Path:
        asked.append((path, revision))
        return snapshots["laptop"] if len(asked) == 1 else snapshots["node"]

    monkeypatch.setattr(adapter_copies, "locate", located)
    adapter = find_adapter("ink", "shop/styles@v2", layers)
    assert here(adapter, model) == adapter
    assert len(asked) == 1, "it is here"
    snapshots["node"] = tmp_path / "node" / "ink.safetensors"
    snapshots["node"].parent.mkdir()
    shutil.move(file, snapshots["node"])
    assert here(adapter, model).file.path == str(snapshots["node"])
    assert asked == [("shop/styles", "v2")] * 2
