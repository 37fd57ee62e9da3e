"""An output folder as the next manifest: what is committed of it, with its own columns under other names."""

from __future__ import annotations

import shutil

import pyarrow as pa
import pytest
from manifest_making import record, unit_of
from output_folders import publish

from wanbatch.errors import RowError, UserError
from wanbatch.manifests.dataset.folder import OutputFolder
from wanbatch.manifests.dataset.part_files import write_attempt
from wanbatch.manifests.dataset.status import committed_rows
from wanbatch.manifests.reading import manifest as reading
from wanbatch.manifests.reading.kind import ManifestPath
from wanbatch.manifests.reading.output_folder import OutputFolderRows, source_name
from wanbatch.manifests.records import DATA_SCHEMA
from wanbatch.manifests.sources.loader import SourceLoader


def read_manifest(path, **options):
    return reading.read_manifest(path, committed_rows=committed_rows, **options)


@pytest.fixture
def first(tmp_path):
    """Four images in two units, of six that were planned; one row is quarantined."""
    with OutputFolder.open(tmp_path / "first", {}) as folder:
        folder.set_plan({"rows": 6})
        notes = pa.table({"note": ["x", "y"], "source_prompt": ["old", "older"]})
        publish(folder, 0, ["a", "b"], passthrough=notes)
        publish(folder, 1, ["c", "d"], ["bad"], passthrough=notes)
    return tmp_path / "first"


def test_each_image_is_the_source_of_a_row_with_its_id(first):
    manifest = read_manifest(first)
    assert [(row.id, row.sources[0].path, row.prompt, row.seed) for row in manifest.iter_rows()] == [
        (name, f"{name}.png", None, None) for name in "abcd"
    ]
    own = [f"source_{name}" for name in DATA_SCHEMA.names if name not in ("id", "image")]
    assert manifest.passthrough.column_names == [*own, "note", "source_source_prompt"]
    assert manifest.passthrough["source_prompt"].to_pylist() == [f"prompt of {name}" for name in "abcd"]
    assert manifest.passthrough["source_seed"].to_pylist() == [record("a").seed] * 4
    assert manifest.unused_columns == ()
    with SourceLoader(manifest.source_root) as loader:
        assert loader.load(manifest.row(3).sources[0]).pixels.shape == (32, 32, 3)


def test_what_is_not_there_yet_and_what_never_will_be_is_told(first):
    assert read_manifest(first).warnings == (
        f"{first}: holds 4 of 6 images so far, which are read; run the same command again for the other 1 once they "
        "are made",
        f"{first}: 1 row of it is quarantined; there is no image of it to read",
    )


def test_settings_of_the_first_pass_are_taken_where_it_is_asked(first):
    manifest = read_manifest(first, renames={"source_prompt": "prompt", "source_steps": "steps"})
    assert [(row.prompt, row.steps) for row in manifest.iter_rows()] == [(f"prompt of {n}", 4) for n in "abcd"]
    assert "source_steps" not in manifest.passthrough.column_names
    with pytest.raises(UserError, match=r"has no column 'prompt', which --map prompt=negative_prompt names: did you"):
        read_manifest(first, renames={"prompt": "negative_prompt"})


def test_only_committed_parts_count(first, tmp_path):
    part = first / "data/part-00001.parquet"
    shutil.copy(part, first / "data/part-00007.parquet")
    (first / "_wanbatch/orphans").mkdir(exist_ok=True)
    shutil.copy(part, first / "_wanbatch/orphans/part-00008.parquet")
    assert len(read_manifest(first)) == 4
    part.unlink()
    with pytest.raises(UserError, match=r"data/part-00001\.parquet: is gone: restore it, or run `wanbatch repair"):
        read_manifest(first)


def test_a_folder_without_images_and_one_without_its_record(tmp_path):
    with OutputFolder.open(tmp_path / "new", {}) as folder:
        folder.set_plan({"rows": 1})
        with pytest.raises(UserError, match="no image of this output folder is made yet: wait for its run"):
            read_manifest(tmp_path / "new")
    (tmp_path / "new/_wanbatch/run.json").unlink()
    with pytest.raises(UserError, match="is a folder without a manifest"):
        read_manifest(tmp_path / "new")


@pytest.mark.parametrize("inside", ["data", "timings", "data/part-00000.parquet"])
def test_a_part_of_an_output_folder_is_refused_with_the_whole(first, inside):
    with pytest.raises(UserError, match=rf"is inside an output folder of wanbatch: give the whole folder, {first}$"):
        read_manifest(first / inside)


@pytest.mark.parametrize("url", ["s3://data", "s3://data/part-00000.parquet", "hf://datasets/owner/data", "/data"])
def test_stores_and_repositories_that_are_called_data_are_looked_at_as_such(url):
    asked = []
    path = ManifestPath(url, url, not url.endswith(".parquet"), lambda folder: asked.append(folder))
    assert OutputFolderRows().find(path) is None
    assert asked in ([url], ["/", url], [])


def test_an_image_that_was_replaced_since_is_not_taken_for_the_old_one(first):
    """A row that is made again leaves its part, and those after it move up."""
    manifest = read_manifest(first)
    with OutputFolder.open(first, {}) as folder:
        notes = pa.table({"note": ["z"], "source_prompt": ["new"]})
        folder.publish(
            write_attempt(folder.url, attempt="again", **unit_of(2, ["a"], passthrough=notes)), replace=True
        )
    with SourceLoader(manifest.source_root) as loader:
        with pytest.raises(RowError, match=r"b\.png is there now: the file was changed after the manifest was read"):
            loader.load(manifest.row(0).sources[0])
        with pytest.raises(RowError):
            loader.load(manifest.row(1).sources[0])
    again = read_manifest(first)
    assert [row.id for row in again.iter_rows()] == ["b", "c", "d", "a"]


@pytest.mark.parametrize(
    ("column", "name"),
    [
        *(("id", "id"), ("image", "image"), ("prompt", "source_prompt"), ("sources", "source_sources")),
        *(("source_prompt", "source_source_prompt"), ("source_source_prompt", "source_source_source_prompt")),
        *(("note", "note"), ("source_note", "source_note"), ("evaluations", "source_evaluations")),
    ],
)
def test_the_names_of_columns_in_the_next_pass(column, name):
    assert source_name(column) == name
