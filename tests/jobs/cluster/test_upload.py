"""Manifest and sources of this machine in a store: what is sent, what is asked of the cluster then."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import fsspec
import pytest
import s3_server
from job_making import picture, write_jsonl

from wanbatch.errors import UserError
from wanbatch.jobs.cluster.prepare import prepare_submission
from wanbatch.jobs.cluster.upload import Uploaded, upload_inputs
from wanbatch.jobs.config.settings import Settings
from wanbatch.jobs.planning.preparation import prepare
from wanbatch.manifests.storage.fsspec_io import forget_file_systems


@pytest.fixture(scope="module")
def server() -> Iterator[s3_server.Server]:
    with s3_server.running() as started:
        yield started


@pytest.fixture
def store(server, monkeypatch) -> Iterator[str]:
    """A bucket's URL; this process is set up to reach it."""
    for name, value in {**s3_server.ENVIRONMENT, "AWS_ENDPOINT_URL": server.url}.items():
        monkeypatch.setenv(name, value)
    forget_file_systems()
    system = fsspec.filesystem("s3", skip_instance_cache=True)
    if not system.exists("inputs"):
        system.mkdir("inputs")
    yield "s3://inputs/up"
    forget_file_systems()


@pytest.fixture
def upload(store) -> Callable[..., Uploaded]:
    def call(manifest: Path, **chosen) -> Uploaded:
        settings = Settings(**{"width": 32, "height": 32, **chosen})
        return upload_inputs(prepare_submission(manifest, "s3://inputs/out", settings), (), settings, store)

    return call


def test_a_manifest_and_its_sources_are_read_from_the_store_as_from_here(upload, tmp_path):
    (tmp_path / "pictures").mkdir()
    picture(tmp_path / "pictures/one.png", 64, 32)
    rows = [{"image": "pictures/one.png"}, {"image": "./pictures/one.png"}, {"image": "gone.png"}, {"prompt": "x"}]
    manifest = write_jsonl(tmp_path / "m.jsonl", rows)
    done = upload(manifest)
    assert (done.files, done.known, done.missing) == (2, 0, 1)
    submission = done.prepared.submission
    flags = dict(zip(submission.flags[::2], submission.flags[1::2], strict=True))
    assert submission.manifest.startswith("s3://inputs/up/")
    there = prepare(submission.manifest, Settings(source_root=flags["--source-root"]), every_source=True)[0]
    here = prepare(manifest, Settings(), every_source=True)[0]
    assert there.manifest.rows.drop_columns("file").equals(here.manifest.rows.drop_columns("file"))
    assert there.unreadable.keys() == here.unreadable.keys()

    again = upload(manifest)
    assert (again.files, again.known) == (0, 2)
    assert again.prepared.submission.id(1) == submission.id(1)
    picture(tmp_path / "pictures/one.png", 64, 32, seed=1)
    assert upload(manifest).files == 1


def test_maps_and_sounds_are_sent_with_the_sources(upload, tmp_path):
    for name in ("one.png", "maps/m.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        picture(tmp_path / name, 64, 32)
    (tmp_path / "bell.wav").write_bytes(b"RIFF")
    rows = [
        {"image": "one.png", "creativity_map": "maps/m.png"},
        {"prompt": "x", "audio": "bell.wav"},
        {"prompt": "y", "audio": "gone.wav"},
    ]
    done = upload(write_jsonl(tmp_path / "m.jsonl", rows))
    assert (done.files, done.missing) == (4, 1)
    base = done.prepared.submission.manifest.partition("/manifest/")[0]
    system = fsspec.filesystem("s3", skip_instance_cache=True)
    there = {name.partition("/sources/")[2] for name in system.find(f"{base}/sources")}
    assert there == {"one.png", "maps/m.png", "bell.wav"}


def test_what_is_gone_from_the_store_is_sent_again_whatever_the_index_says(upload, tmp_path):
    picture(tmp_path / "one.png", 64, 32)
    picture(tmp_path / "two.png", 64, 32, seed=1)
    manifest = write_jsonl(tmp_path / "m.jsonl", [{"image": "one.png"}, {"image": "two.png"}])
    base = upload(manifest).prepared.submission.manifest.partition("/manifest/")[0]
    system = fsspec.filesystem("s3", skip_instance_cache=True)
    system.rm_file(f"{base}/sources/one.png")
    system.pipe_file(f"{base}/sources/two.png", b"cut off")
    assert upload(manifest).files == 2
    assert system.cat_file(f"{base}/sources/two.png") == (tmp_path / "two.png").read_bytes()
    assert upload(manifest).files == 0


def test_a_damaged_index_counts_as_none(upload, tmp_path):
    picture(tmp_path / "one.png", 64, 32)
    manifest = write_jsonl(tmp_path / "m.jsonl", [{"image": "one.png", "prompt": "a bell"}])
    base = upload(manifest).prepared.submission.manifest.partition("/manifest/")[0]
    system = fsspec.filesystem("s3", skip_instance_cache=True)
    for content in (b"{", b"[]", b"\xff"):
        system.pipe_file(f"{base}/uploaded.json", content)
        assert upload(manifest).files == 2
    assert upload(manifest).files == 0


def test_a_folder_of_pictures_is_its_own_source(upload, tmp_path):
    folder = tmp_path / "shop"
    folder.mkdir()
    picture(folder / "a.png", 32, 32)
    (folder / "a.txt").write_text("a cup")
    done = upload(folder)
    assert done.files == 2
    assert "--source-root" not in done.prepared.submission.flags
    [row] = prepare(done.prepared.submission.manifest, Settings())[0].manifest.iter_rows()
    assert (row.prompt, row.sources[0].path) == ("a cup", "a.png")


def test_sources_that_have_no_place_in_the_folder_are_refused(upload, tmp_path):
    (tmp_path / "rows").mkdir()
    picture(tmp_path / "one.png", 32, 32)
    manifest = write_jsonl(tmp_path / "rows/m.jsonl", [{"image": "../one.png"}])
    with pytest.raises(UserError, match=r"\.\./one\.png is not below"):
        upload(manifest, source_fence=str(tmp_path))


def test_a_manifest_of_a_store_and_a_target_that_is_none_are_refused(upload, store, tmp_path):
    prepared = prepare_submission(write_jsonl(tmp_path / "m.jsonl", [{"prompt": "x"}]), "s3://b/out", Settings())
    with pytest.raises(UserError, match="must be a folder in an object store"):
        upload_inputs(prepared, (), Settings(), str(tmp_path))


def test_sources_that_are_in_a_store_stay_there(upload, store, tmp_path):
    done = upload(write_jsonl(tmp_path / "m.jsonl", [{"image": "one.png"}]), source_root=f"{store}/pictures")
    assert (done.files, done.missing) == (1, 0)
    flags = done.prepared.submission.flags
    assert flags[flags.index("--source-root") + 1] == f"{store}/pictures"
