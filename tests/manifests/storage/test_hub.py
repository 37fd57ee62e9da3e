"""Datasets on the Hugging Face Hub as manifests, through the Hub's own client and a server on this machine."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hub_server import COMMITS, hub, use_hub
from huggingface_hub import constants
from manifest_making import encoded, unit_of

from wanbatch.errors import MachineryError, UserError
from wanbatch.manifests.dataset.folder import OutputFolder
from wanbatch.manifests.dataset.part_files import write_attempt
from wanbatch.manifests.dataset.status import committed_rows
from wanbatch.manifests.reading import kinds
from wanbatch.manifests.reading.manifest import read_manifest
from wanbatch.manifests.sources.loader import SourceLoader
from wanbatch.manifests.storage import fsspec_io
from wanbatch.manifests.storage.backend import open_backend

URL = "hf://datasets/owner/name"


def write_commit(folder: Path, red: int) -> Path:
    """A dataset with two shards whose images are embedded, and a JSONL file whose image is beside it."""
    (folder / "data").mkdir(parents=True)
    (folder / "extra/images").mkdir(parents=True)
    (folder / "README.md").write_text("# d\n")
    for shard in range(2):
        image = {"bytes": encoded(colour=(red + shard, 0, 0)), "path": "a.png"}
        table = pa.table({"id": [f"r{shard}"], "prompt": ["a star"], "image": [image], "n": [shard]})
        pq.write_table(table, folder / f"data/train-0000{shard}-of-00002.parquet")
    (folder / "extra/images/b.png").write_bytes(encoded(colour=(red + 7, 0, 0)))
    (folder / "extra/m.jsonl").write_text(json.dumps({"image": "images/b.png", "prompt": "a moon"}) + "\n")
    return folder


@pytest.fixture
def server(tmp_path, monkeypatch):
    with hub("owner/name", write_commit(tmp_path / "one", 100)) as server:
        use_hub(server, monkeypatch)
        yield server
    fsspec_io.forget_file_systems()


def environment(server) -> dict[str, str]:
    """Of a command that asks a server in place of the Hub."""
    return {**os.environ, "HF_ENDPOINT": server.url, "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1"}


def reds(manifest) -> list[int]:
    with SourceLoader(manifest.source_root) as loader:
        return [int(loader.load(row.sources[0]).pixels[0, 0, 0]) for row in manifest.iter_rows()]


def test_a_whole_dataset_with_embedded_images(server):
    manifest = read_manifest(URL, committed_rows=committed_rows)
    assert [row.id for row in manifest.iter_rows()] == ["r0", "r1"]
    assert manifest.row(1).location == f"{URL}/data/train-00001-of-00002.parquet row 0"
    assert manifest.passthrough["n"].to_pylist() == [0, 1]
    assert reds(manifest) == [100, 101]


@pytest.mark.parametrize("below", ["", "/data"])
def test_a_folder_as_a_run_reads_it_which_asks_for_output_folders_first(server, below):
    manifest = read_manifest(f"{URL}{below}", committed_rows=committed_rows)
    assert [row.id for row in manifest.iter_rows()] == ["r0", "r1"]


@pytest.mark.parametrize("revision", ["", "@main", "@v1", f"@{COMMITS[0]}"])
def test_one_file_with_sources_beside_it(server, revision):
    manifest = read_manifest(f"{URL}{revision}/extra/m.jsonl")
    assert manifest.source_root == f"{URL}@{COMMITS[0]}/extra"
    assert manifest.row(0).location == f"{URL}{revision}/extra/m.jsonl:1"
    assert reds(manifest) == [107]


def test_what_is_pushed_while_a_run_goes_on_changes_nothing(server, tmp_path):
    manifest = read_manifest(URL)
    server.push(write_commit(tmp_path / "two", 200))
    fsspec_io.forget_file_systems()
    assert reds(manifest) == [100, 101]
    assert reds(read_manifest(URL)) == [200, 201]
    assert reds(read_manifest(f"{URL}@v1")) == [100, 101]
    assert {source.file.partition("@")[2][:40] for row in manifest.iter_rows() for source in row.sources} == {
        COMMITS[0]
    }


def test_an_output_folder_that_was_uploaded(server, tmp_path):
    with OutputFolder.open(tmp_path / "out", {}) as folder:
        folder.publish(write_attempt(folder.path, attempt="t", **unit_of(0, ["a", "b"])))
    server.push(tmp_path / "out")
    manifest = read_manifest(URL, committed_rows=committed_rows)
    assert [row.id for row in manifest.iter_rows()] == ["a", "b"]
    assert manifest.passthrough["source_prompt"].to_pylist() == ["prompt of a", "prompt of b"]
    assert reds(manifest) == [200, 200]


@pytest.mark.parametrize("url", ["hf://datasets/owner/other", f"{URL}@v7", "hf://owner/name"])
def test_there_is_no_such_thing(server, url):
    with pytest.raises(UserError, match="there is no such repository or revision: write it like hf://datasets/OWNER"):
        read_manifest(url)
    assert len(read_manifest("hf://datasets/owner/name@main/data")) == 2


def test_there_is_no_such_file(server):
    with pytest.raises(UserError, match=r"none\.jsonl: there is no such manifest"):
        read_manifest(f"{URL}/none.jsonl")


def test_a_hub_that_fails_is_no_fault_of_the_user(server, monkeypatch):
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    server.failing = True
    with pytest.raises(MachineryError, match="cannot be read"):
        read_manifest(URL)


@pytest.mark.parametrize("name", ["", "/extra/m.jsonl"])
def test_a_hub_that_fails_later_is_no_damaged_file(server, monkeypatch, name):
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    find = kinds.find_manifest

    def find_and_fail(*arguments):
        found = find(*arguments)
        server.failing = True
        return found

    monkeypatch.setattr("wanbatch.manifests.reading.manifest.find_manifest", find_and_fail)
    with pytest.raises(MachineryError, match="cannot be read"):
        read_manifest(f"{URL}{name}")


def test_offline_it_says_what_to_do(server, monkeypatch, tmp_path):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(
        UserError, match="unset HF_HUB_OFFLINE, or fetch it before with `hf download --repo-type dataset"
    ):
        read_manifest(URL)
    assert server.seen == []
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    assert len(read_manifest(URL)) == 2
    fetched = ["hf", "download", "--repo-type", "dataset", "owner/name", "--local-dir", str(tmp_path / "copy")]
    subprocess.run(
        [Path(sys.executable).parent / fetched[0], *fetched[1:]], check=True, timeout=100, env=environment(server)
    )
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert len(read_manifest(tmp_path / "copy")) == 2


def test_it_is_no_output_folder():
    with pytest.raises(UserError, match="the Hugging Face Hub is only read: give --out a folder or a store"):
        open_backend(URL)
