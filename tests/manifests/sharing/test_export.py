"""Exports, read by the readers that the formats are for; and what becomes of one that is stopped."""

from __future__ import annotations

import hashlib
import shutil
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import load_dataset
from filelock import FileLock
from picture_folders import ODD_IDS as IDS
from picture_folders import fill, pixels_of

from wanbatch.errors import FolderHeldError, MachineryError, UserError
from wanbatch.manifests.dataset.mark_reading import read_marks
from wanbatch.manifests.sharing.export import RECORD, export
from wanbatch.manifests.sharing.pictures import Names
from wanbatch.manifests.sharing.writers import WRITERS, Coco, ImageFolder, WebDataset

LOCAL = ("webdataset", "imagefolder", "coco")


def sha256(pixels) -> str:
    return hashlib.sha256(np.asarray(pixels).tobytes()).hexdigest()


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_webdataset_reads_every_picture_with_its_row(out, tmp_path):
    import webdataset

    report = export(out, tmp_path / "wds", "webdataset", writer=lambda: WebDataset(4000))
    assert (report.pictures, report.quarantined, report.left) == (len(IDS), 1, 0)
    shards = sorted(map(str, (tmp_path / "wds").glob("shard-*.tar")))
    assert len(shards) > 2
    rows = list(webdataset.WebDataset(shards, shardshuffle=False).decode("rgb8"))
    assert [row["json"]["id"] for row in rows] == IDS
    assert all(sha256(row["png"]) == row["json"]["sha256"] == sha256(pixels_of(row["json"]["id"])) for row in rows)
    assert len({row["__key__"].lower() for row in rows}) == len(IDS)
    assert all("." not in row["__key__"] and len(row["__key__"]) <= 128 for row in rows)
    first, second = (row["json"] for row in rows[:2])
    assert (first["shop"], first["score"], first["raw"], first["seen"]) == (
        "süd",
        0.5,
        "AP8=",
        "2030-01-02T00:00:00+00:00",
    )
    assert second["score"] is None
    loaded = load_dataset("webdataset", data_files={"train": shards}, split="train", cache_dir=str(tmp_path / "hf"))
    assert len(loaded) == len(IDS)


def test_datasets_reads_an_imagefolder(out, tmp_path):
    export(out, tmp_path / "pictures", "imagefolder")
    loaded = load_dataset("imagefolder", data_dir=str(tmp_path / "pictures"), cache_dir=str(tmp_path / "hf"))["train"]
    assert sorted(loaded["id"]) == sorted(IDS)
    assert all(sha256(row["image"]) == row["sha256"] for row in loaded)
    assert loaded[0]["prompt"].startswith("prompt of ")


def test_datasets_reads_maps_of_an_imagefolder(tmp_path):
    """A map's entries are of one type in JSON, and its keys are values, not columns of each row."""
    sizes = pa.map_(pa.string(), pa.int32())
    own = pa.table({"sizes": pa.array([[("small", 1)], [("large", 2), ("small", 3)], [], None], sizes)})
    out = fill(tmp_path / "out", ["a", "b", "c", "d"], passthrough=own)
    export(out, tmp_path / "pictures", "imagefolder")
    loaded = load_dataset("imagefolder", data_dir=str(tmp_path / "pictures"), cache_dir=str(tmp_path / "hf"))["train"]
    assert {row["id"]: row["sizes"] for row in loaded} == {
        "a": [{"key": "small", "value": 1}],
        "b": [{"key": "large", "value": 2}, {"key": "small", "value": 3}],
        "c": [],
        "d": None,
    }


def test_pycocotools_reads_coco(out, tmp_path, capsys):
    from pycocotools.coco import COCO

    export(out, tmp_path / "coco", "coco")
    coco = COCO(str(tmp_path / "coco" / "annotations.json"))
    images = coco.loadImgs(coco.getImgIds())
    assert [image["wanbatch"]["id"] for image in images] == IDS
    assert all((tmp_path / "coco" / "images" / image["file_name"]).is_file() for image in images)
    assert [one["caption"] for one in coco.imgToAnns[1]] == ["prompt of cat"]
    assert (images[0]["width"], images[0]["height"]) == (32, 32)


def test_lance_reads_lance(out, tmp_path):
    lance = pytest.importorskip("lance", reason="pylance is not installed (the extra lance)")
    assert export(out, tmp_path / "l", "lance").pictures == len(IDS)
    table = lance.dataset(str(tmp_path / "l" / "data.lance")).to_table()
    stored = pa.concat_tables(pq.read_table(part) for part in sorted((out / "data").glob("*")))
    assert table["id"].to_pylist() == IDS
    assert table["image"].to_pylist() == stored["image"].to_pylist()


def test_lance_that_is_not_installed_is_named_with_its_extra(out, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "lance", None)
    with pytest.raises(UserError, match=r"pip install 'wanbatch\[lance\]'"):
        export(out, tmp_path / "l", "lance")


@pytest.mark.parametrize("format", LOCAL)
def test_files_are_copied_with_their_marks(out, tmp_path, format):
    export(out, tmp_path / "to", format)
    for tar in (tmp_path / "to").glob("*.tar"):
        with tarfile.open(tar) as opened:
            opened.extractall(tmp_path / "to", filter="data")
    found = list((tmp_path / "to").rglob("*.png"))
    assert len(found) == len(IDS)
    assert {read_marks(path).term for path in found} == {"trainedAlgorithmicMedia"}


def test_names_are_unique_on_every_system():
    names = Names()
    made = [names.of(name) for name in [*IDS, *(f"{name}2" for name in IDS if len(name) < 128)]]
    assert len({name.lower() for name in made}) == len(made)
    assert made[0] == "cat"
    assert all(name[0].isalnum() and name.replace("-", "").replace("_", "").isalnum() for name in made)
    again = Names()
    assert [again.of(name) for name in IDS] == made[: len(IDS)]


def test_many_pictures_are_spread_over_folders(out, tmp_path, monkeypatch):
    monkeypatch.setattr("wanbatch.manifests.sharing.writers.FILES_TOGETHER", 4)
    export(out, tmp_path / "p", "imagefolder")
    assert sorted(path.name for path in (tmp_path / "p" / "train").iterdir() if path.is_dir()) == [
        "00000",
        "00001",
        "00002",
    ]
    loaded = load_dataset("imagefolder", data_dir=str(tmp_path / "p"), split="train", cache_dir=str(tmp_path / "hf"))
    assert sorted(loaded["id"]) == sorted(IDS)


class _Killed(BaseException):
    pass


@pytest.mark.parametrize("format", LOCAL)
@pytest.mark.parametrize("after", [0, 1, 5, 9])
def test_a_killed_export_is_not_there_and_is_gone_on_with(out, tmp_path, monkeypatch, format, after):
    whole = tmp_path / "whole"
    make = {"webdataset": lambda: WebDataset(4000), "imagefolder": ImageFolder, "coco": Coco}[format]
    export(out, whole, format, writer=make)
    from wanbatch.manifests.sharing import writers

    def until_killed(contents) -> Iterator:
        for number, picture in enumerate(real(contents)):
            if number == after:
                raise _Killed
            yield picture

    real = writers.pictures
    monkeypatch.setattr(writers, "pictures", until_killed)
    with pytest.raises(_Killed):
        export(out, tmp_path / "to", format, writer=make)
    assert not (tmp_path / "to").exists()
    monkeypatch.setattr(writers, "pictures", real)
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / ".to.unfinished").rglob("*.tar")}
    export(out, tmp_path / "to", format, writer=make)
    assert files_of(tmp_path / "to") == files_of(whole)
    assert all((tmp_path / "to" / path.name).stat().st_mtime_ns == time for path, time in kept.items())
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".to")] == []


def test_what_was_left_of_another_state_is_not_gone_on_with(out, tmp_path):
    unfinished = tmp_path / ".to.unfinished"
    (unfinished / "train").mkdir(parents=True)
    (unfinished / RECORD).write_text('{"content": "other"}')
    (unfinished / "train" / "gone.png").touch()
    export(out, tmp_path / "to", "imagefolder")
    assert not (tmp_path / "to" / "train" / "gone.png").exists()


def test_the_same_command_again_changes_nothing(out, tmp_path):
    export(out, tmp_path / "to", "coco")
    before = files_of(tmp_path / "to")
    assert export(out, tmp_path / "to", "coco").there_already
    assert files_of(tmp_path / "to") == before
    with pytest.raises(UserError, match="holds an export in another format: remove it, or choose another folder"):
        export(out, tmp_path / "to", "imagefolder")
    fill(
        out,
        ["new"],
        passthrough=pq.read_table(out / "data/part-00000.parquet")
        .slice(0, 1)
        .select(["shop", "score", "raw", "seen"]),
    )
    with pytest.raises(UserError, match="holds an export of another state of the dataset"):
        export(out, tmp_path / "to", "coco")


def test_a_damaged_export_is_noticed(out, tmp_path):
    export(out, tmp_path / "to", "imagefolder")
    next((tmp_path / "to" / "train").glob("*.png")).unlink()
    with pytest.raises(MachineryError, match=r"remove .* and run the same command again"):
        export(out, tmp_path / "to", "imagefolder")


def test_an_unfinished_run_is_only_exported_on_demand(tmp_path):
    out = fill(tmp_path / "out", ["a", "b"], rows=5)
    with pytest.raises(UserError, match=r"2 of 5 pictures are made so far: run the same .* with --partial"):
        export(out, tmp_path / "to", "webdataset")
    assert not (tmp_path / "to").exists()
    report = export(out, tmp_path / "to", "webdataset", partial=True)
    assert (report.pictures, report.left) == (2, 3)


def test_what_cannot_be_exported_is_refused(out, tmp_path):
    with pytest.raises(UserError, match="is no output folder of wanbatch"):
        export(tmp_path, tmp_path / "to", "coco")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    for place in (tmp_path / "full", tmp_path / "full" / "file"):
        with pytest.raises(UserError, match="holds other files"):
            export(out, place, "coco")
    with pytest.raises(UserError, match="exports go to a folder of this machine"):
        export(out, "s3://bucket/to", "coco")
    with FileLock(tmp_path / ".to.unfinished.lock"), pytest.raises(FolderHeldError):
        export(out, tmp_path / "to", "coco")
    shutil.rmtree(out / "data")
    with pytest.raises(UserError, match="is gone: restore it"):
        export(out, tmp_path / "to", "coco")


def test_a_full_disk_ends_an_export_that_the_same_command_goes_on_with(out, tmp_path, monkeypatch):
    monkeypatch.setattr(
        Path, "write_bytes", lambda self, data: (_ for _ in ()).throw(OSError(28, "No space left", str(self)))
    )
    with pytest.raises(MachineryError, match=r"No space left.*: make room there, and run the same command again"):
        export(out, tmp_path / "to", "coco")
    monkeypatch.undo()
    assert export(out, tmp_path / "to", "coco").pictures == len(IDS)


def test_every_format_of_the_command_has_a_writer():
    from wanbatch.jobs.cli.export_command import FORMATS

    assert tuple(WRITERS) == FORMATS


def test_rows_of_an_imagefolder_keep_the_names_of_files_that_their_manifest_had(tmp_path):
    own = pa.table({"file_name": ["cats/a.png", "cats/b.png"], "mask_file_name": ["a", "b"], "shop": ["x", "y"]})
    out = fill(tmp_path / "out", ["a", "b"], passthrough=own)
    export(out, tmp_path / "pictures", "imagefolder")
    loaded = load_dataset("imagefolder", data_dir=str(tmp_path / "pictures"), cache_dir=str(tmp_path / "hf"))["train"]
    assert loaded["file_name_of_row"] == ["cats/a.png", "cats/b.png"]
    assert (loaded["mask_file_name_of_row"], loaded["shop"]) == (["a", "b"], ["x", "y"])
    assert all(sha256(row["image"]) == row["sha256"] for row in loaded)


def test_a_link_to_an_empty_folder_or_to_one_that_is_not_there_is_followed(out, tmp_path):
    (tmp_path / "empty").mkdir()
    for name in ("empty", "new"):
        (tmp_path / f"to-{name}").symlink_to(tmp_path / name)
        assert export(out, tmp_path / f"to-{name}", "coco").pictures == len(IDS)
        assert (tmp_path / name / "annotations.json").is_file()
        assert (tmp_path / f"to-{name}").is_symlink()
        assert export(out, tmp_path / f"to-{name}", "coco").there_already
