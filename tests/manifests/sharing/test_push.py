"""Pushes by the Hub's own client to a server on this machine that checks what it is sent, and loading them again."""

from __future__ import annotations

import io
import json
import logging
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hub_server import use_hub
from hub_writing import TOKEN, WritableHub, writable_hub
from huggingface_hub import DatasetCard, constants
from picture_folders import ODD_IDS
from picture_folders import fill as fill_folder

from wanbatch.errors import MachineryError, UserError
from wanbatch.manifests.dataset.folder import OutputFolder
from wanbatch.manifests.dataset.status import recorded_fingerprint
from wanbatch.manifests.sharing.contents import Contents
from wanbatch.manifests.sharing.facts import facts_of
from wanbatch.manifests.sharing.hub_card import Licences, size_category
from wanbatch.manifests.sharing.push import PushOptions, push, repository_of
from wanbatch.manifests.storage import fsspec_io

TARGET = "hf://owner/name"
SMALL = 6000  # a few pictures
CC = PushOptions(Licences("cc-by-4.0"), shard_bytes=SMALL)
NAMES = [f"r{number:02}" for number in range(12)]


def fill(out: Path, names: list[str], **options) -> Path:
    """A folder with all names in one unit: few waits for the disk."""
    return fill_folder(out, names, **{"unit_rows": 200, **options})


def loaded_elsewhere(server: WritableHub, folder: Path) -> dict:
    """What `datasets` loads in a process of its own, which has the server in place of the Hub."""
    environment = {"HF_ENDPOINT": server.url, "HF_TOKEN": TOKEN, "HF_HOME": str(folder), "HF_HUB_DISABLE_XET": "1"}
    code = (
        "import json\nfrom datasets import load_dataset\nd = load_dataset('owner/name', split='train')\n"
        "first = d[0]\nprint(json.dumps({'id': list(d['id']), 'size': first['image'].size, "
        "'is_synthetic': first['is_synthetic'], 'license': d.info.license}))"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **environment}, capture_output=True, text=True, timeout=250
    )
    assert ran.returncode == 0, ran.stderr[-3000:]
    return json.loads(ran.stdout.splitlines()[-1])


@pytest.fixture
def server(tmp_path, monkeypatch):
    """The Xet protocol, which the client takes where it can, is left out: it is another library's, and binary."""
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    with writable_hub("owner/name", tmp_path / "hub") as server:
        use_hub(server, monkeypatch)
        monkeypatch.setattr("huggingface_hub.hf_api.ENDPOINT", server.url, raising=False)
        yield server
    fsspec_io.forget_file_systems()


def shards(server: WritableHub) -> dict[str, bytes]:
    return {name: data for name, data in server.files().items() if name.endswith(".parquet")}


def test_a_dataset_is_pushed_privately_and_loads_again(server, tmp_path, caplog, capfd):
    caplog.set_level(logging.DEBUG, "wanbatch")
    caplog.set_level(logging.DEBUG, "huggingface_hub")
    out = fill(tmp_path / "out", NAMES, failed=["bad"])
    report = push(out, TARGET, CC)
    assert [asked["visibility"] for asked in server.created] == ["private"]
    assert (report.images, report.private, report.removed) == (12, True, ())
    assert set(report.files) == server.files().keys() - {".gitattributes"}
    assert len(shards(server)) > 2
    assert len(server.uploaded) == len(shards(server))
    assert server.summaries == ["initial commit", "12 images"]
    loaded = loaded_elsewhere(server, tmp_path / "hf")
    assert loaded == {"id": NAMES, "size": [32, 32], "is_synthetic": True, "license": ""}
    said = capfd.readouterr()
    assert TOKEN not in caplog.text + said.out + said.err + str(report)


def test_the_card_has_what_the_hub_reads(server, tmp_path):
    out = fill(tmp_path / "out", NAMES, failed=["bad", "worse"], with_sources=True)
    (out / "checks").mkdir()
    pq.write_table(
        pa.table({"id": NAMES[:3], "rejected_by": [["blur"], ["blur", "flat"], []]}),
        out / "checks" / "c.parquet",
    )
    push(out, TARGET, PushOptions(Licences("cc-by-4.0", "CC0 1.0, own photos")))
    card = DatasetCard(server.files()["README.md"].decode())
    data = card.data.to_dict()
    assert data["license"] == "cc-by-4.0"
    assert data["annotations_creators"] == ["machine-generated"]
    assert data["size_categories"] == ["n<1K"]
    assert data["source_datasets"] == ["extended"]
    assert data["tags"] == ["synthetic", "wanbatch"]
    assert data["configs"][0]["data_files"] == [{"split": "train", "path": "data/train-*.parquet"}]
    assert data["dataset_info"]["splits"][0]["num_examples"] == 12
    for text in (
        'load_dataset("owner/name", split="train")',
        "| `seed` | `0` |",
        "| `is_synthetic` |",
        "12 images were made from 2 other pictures",
        "CC0 1.0, own photos",
        "| `blur` | 2 |",
        "| `flat` | 1 |",
        "| `bad_image` | 2 |",
        "`is_synthetic` is true for 12 of the images",
    ):
        assert text in card.text
    assert "/" not in json.dumps(data["pretty_name"])


def test_a_licence_that_the_hub_does_not_know_is_warned_of(tmp_path):
    out = fill(tmp_path / "out", NAMES[:2])
    told = push(out, TARGET, replace(CC, licences=Licences("cc-by-4"), dry_run=True, partial=True)).warnings
    assert told[0].endswith("like cc-by-4.0, or other; did you mean cc-by-4.0?")
    known = push(out, TARGET, replace(CC, dry_run=True, partial=True)).warnings
    assert told[1:] == known


def test_rejections_are_of_the_pictures_that_go_up(tmp_path):
    """Not of those that left the folder since the check, nor of one that was made again."""
    out = fill(tmp_path / "out", NAMES)
    (part,) = (out / "data").glob("*.parquet")
    hashes = pq.read_table(part)["sha256"].to_pylist()
    rows = {"id": [*NAMES[:3], "gone"], "sha256": [*hashes[:2], "of another", "0"], "rejected_by": [["flat"]] * 4}
    (out / "checks").mkdir()
    pq.write_table(pa.table(rows), out / "checks" / part.name)
    assert facts_of(Contents.of(out)).rejected == {"flat": 2}
    with OutputFolder.open(out, recorded_fingerprint(out)) as folder:
        folder.remove({NAMES[0]})
    assert facts_of(Contents.of(out)).rejected == {"flat": 1}
    report = push(out, TARGET, replace(CC, dry_run=True, partial=True))
    assert "1 rejection by checks: what was rejected is published, too" in report.warnings


def test_files_have_an_index_of_their_pages_and_row_groups_of_few_rows(server, tmp_path):
    push(
        fill(tmp_path / "out", [f"r{n:03}" for n in range(130)], unit_rows=130), TARGET, PushOptions(Licences("mit"))
    )
    ((name, data),) = shards(server).items()
    assert name == "data/train-00000.parquet"
    found = pq.ParquetFile(io.BytesIO(data))
    assert [found.metadata.row_group(g).num_rows for g in range(2)] == [100, 30]
    column = found.metadata.row_group(0).column(0)
    assert column.has_offset_index
    assert column.has_column_index


def test_the_same_push_again_sends_nothing(server, tmp_path):
    out = fill(tmp_path / "out", NAMES)
    push(out, TARGET, CC)
    before, count = server.files(), len(server.uploaded)
    report = push(out, TARGET, CC)
    assert (report.commit, report.sent) == (None, ())
    assert server.files() == before
    assert len(server.uploaded) == count
    assert len(server.commits) == 2


def test_a_grown_folder_sends_the_last_file_and_new_ones(server, tmp_path):
    out = fill(tmp_path / "out", NAMES)
    push(out, TARGET, CC)
    before = shards(server)
    server.uploaded.clear()
    fill(out, ["new-1", "new-2", "new-3"])
    report = push(out, TARGET, CC)
    after = shards(server)
    assert [name for name in before if after[name] != before[name]] in ([], [max(before)])
    assert sum(server.uploaded) == sum(len(after[name]) for name in after if before.get(name) != after[name])
    assert report.images == 15
    assert sum(pq.read_metadata(io.BytesIO(data)).num_rows for data in after.values()) == 15


def test_a_stopped_push_shows_nothing_and_is_gone_on_with(server, tmp_path):
    out = fill(tmp_path / "out", NAMES)
    server.fail_uploads_after = 2
    with pytest.raises((UserError, MachineryError)):
        push(out, TARGET, CC)
    assert shards(server) == {}
    assert len(server.uploaded) == 2
    server.fail_uploads_after = None
    push(out, TARGET, CC)
    assert len(server.uploaded) == len(shards(server)), "each file went up once"


def test_a_smaller_dataset_replaces_a_larger_one_only_on_demand(server, tmp_path):
    push(fill(tmp_path / "out", NAMES), TARGET, CC)
    before = server.files()
    small = fill(tmp_path / "small", NAMES[:2])
    with pytest.raises(UserError, match=r"holds 12 images, and .*small has 2: .* --replace"):
        push(small, TARGET, CC)
    assert server.files() == before
    report = push(small, TARGET, replace(CC, replace=True))
    assert max(name for name in before if name.endswith(".parquet")) in report.removed
    (data,) = shards(server).values()
    assert pq.read_table(io.BytesIO(data))["id"].to_pylist() == NAMES[:2]


def test_a_repository_of_others_is_not_touched(server, tmp_path):
    server.create(private=True)
    server.add_commit({"data/train-00000.parquet": b"theirs"}, set(), "theirs")
    with pytest.raises(UserError, match="holds files that wanbatch did not push, 'data/train-00000"):
        push(fill(tmp_path / "out", NAMES), TARGET, CC)
    assert shards(server) == {"data/train-00000.parquet": b"theirs"}


def test_an_empty_repository_that_exists_is_filled_and_keeps_its_visibility(server, tmp_path):
    server.create(private=False)
    report = push(fill(tmp_path / "out", NAMES), TARGET, CC)
    assert report.private is False
    assert "everyone can see the dataset" in report.warnings
    assert server.created == []


@pytest.mark.parametrize(
    ("status", "error", "message"),
    [
        (412, MachineryError, "somebody else pushed there meanwhile"),
        (400, UserError, "the Hub refuses what was sent"),
        (403, UserError, "log in with `hf auth login`"),
    ],
)
def test_a_commit_that_is_refused(server, tmp_path, status, error, message):
    server.refuse = status
    with pytest.raises(error, match=message) as caught:
        push(fill(tmp_path / "out", NAMES), TARGET, CC)
    assert TOKEN not in str(caught.value)


def test_without_a_token_that_may_write_nothing_goes_up(server, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_WrongToken")
    with pytest.raises(UserError, match=r"the Hub refuses \(401.*hf auth login") as caught:
        push(fill(tmp_path / "out", NAMES), TARGET, CC)
    assert "hf_WrongToken" not in str(caught.value)
    assert server.uploaded == []


def test_a_hub_that_is_not_there(server, tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(MachineryError, match=r"the Hub cannot be reached.*run the same command again"):
        push(fill(tmp_path / "out", NAMES), TARGET, CC)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="HF_HUB_OFFLINE forbids"):
        push(tmp_path / "out", TARGET, CC)


def test_a_dry_run_asks_nobody_and_says_what_would_go_up(server, tmp_path):
    out = fill(tmp_path / "out", ODD_IDS)
    dry = push(out, TARGET, PushOptions(Licences("mit"), dry_run=True, shard_bytes=SMALL))
    assert server.seen == []
    assert push(out, TARGET, PushOptions(Licences("mit"), shard_bytes=SMALL)).files == dry.files
    assert server.files()["README.md"].decode() == dry.card


def test_licences_are_asked_for_before_anything_goes_up(server, tmp_path):
    out = fill(tmp_path / "out", NAMES, with_sources=True)
    with pytest.raises(UserError, match="12 images were made from other pictures: give --source-license"):
        push(out, TARGET, CC)
    with pytest.raises(UserError, match="--license 'My Own': is no name of a licence"):
        push(out, TARGET, PushOptions(Licences("My Own", "x")))
    with pytest.raises(UserError, match="2 of 5 pictures are made so far"):
        push(fill(tmp_path / "half", NAMES[:2], rows=5), TARGET, CC)
    assert server.seen == []


def test_addresses():
    assert repository_of("hf://owner/name") == repository_of("hf://datasets/owner/name/") == "owner/name"
    for bad in ("owner/name", "hf://name", "hf://a/b/c", "hf://../b", "s3://a/b", "hf://a/b@main"):
        with pytest.raises(UserError, match="write it like hf://OWNER/NAME"):
            repository_of(bad)


def test_size_categories():
    assert [size_category(n) for n in (1, 999, 1000, 99_999, 10**6, 10**7, 10**8, 10**9)] == [
        "n<1K",
        "n<1K",
        "1K<n<10K",
        "10K<n<100K",
        "1M<n<10M",
        "10M<n<100M",
        "100M<n<1B",
        "1B<n<10B",
    ]
