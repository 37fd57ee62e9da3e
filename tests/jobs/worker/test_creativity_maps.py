"""Creativity maps as workers make them: from boxes and pictures, at the size that an image is made at."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from job_making import picture, write_jsonl
from PIL import Image

from wanbatch.errors import RowError, UserError
from wanbatch.jobs.planning.preparation import prepare
from wanbatch.jobs.worker.creativity_maps import CreativityMaps
from wanbatch.jobs.worker.requests import request_for
from wanbatch.manifests.sources.loader import SourceLoader


@pytest.fixture
def mapped(settings, tmp_path):
    """The map of a row whose source has 64x32 pixels, made at 32x32: the middle of the source."""

    def make(row: dict, size=(64, 32)):
        picture(tmp_path / "a.png", *size)
        rows = [{"id": "a", "image": "a.png", "width": 32, "height": 32, **row}]
        image = prepare(write_jsonl(tmp_path / "m.jsonl", rows), settings(steps=20))[0].task(0, 1, "", [0]).images[0]
        with SourceLoader(tmp_path) as loader:
            return CreativityMaps(loader).of(image, size), image

    return make


def boxes(*given: tuple[list[float], float]) -> dict:
    return {"creativity": 0.5, "creativity_boxes": [{"box": box, "creativity": value} for box, value in given]}


def test_a_row_without_has_none(mapped):
    assert mapped({"creativity": 0.5})[0] is None


@pytest.mark.parametrize("box", [[20, 4, 12, 8], [20 / 64, 4 / 32, 12 / 64, 8 / 32]])
def test_a_box_is_where_the_source_has_it(mapped, box):
    """The source is cut to its middle: its column 16 becomes column 0."""
    values = mapped(boxes((box, 0.0)))[0].values
    expected = np.full((32, 32), 0.5, np.float32)
    expected[4:12, 4:16] = 0
    assert np.array_equal(values, expected)


def test_a_box_is_scaled_with_its_source_and_takes_whole_pixels(mapped):
    values = mapped(boxes(([10, 10, 3, 3], 0.0)), size=(128, 64))[0].values
    assert (values == 0.5).all(), "what is cut off is not there"
    values = mapped(boxes(([41, 11, 4, 4], 0.0)), size=(128, 64))[0].values
    rows, columns = np.nonzero(values == 0)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (5, 7, 4, 6)


def test_of_boxes_that_overlap_the_last_counts(mapped):
    values = mapped(boxes(([16, 0, 32, 32], 1.0), ([24, 8, 8, 8], 0.0), ([28, 8, 8, 8], 0.25)))[0].values
    assert values[8, 8] == 0
    assert values[8, 12] == np.float32(0.25)
    assert values[0, 0] == 1


def test_a_box_over_the_edge_fails_its_row(mapped):
    with pytest.raises(
        RowError, match=r"creativity_boxes\[1\].box \[60.* over the edge of its source of 64x32"
    ) as told:
        mapped(boxes(([0, 0, 4, 4], 0.0), ([60, 0, 8, 4], 0.0)))
    assert (told.value.stage, told.value.kind) == ("source", "bad_box")
    assert mapped(boxes(([0, 0, 4, 4], 0.0), ([60, 0, 4, 4], 0.0)))[0] is not None


def test_a_map_is_cut_as_its_source_is(mapped, tmp_path):
    grey = np.tile(np.arange(128, dtype=np.uint8) * 2, (64, 1))
    Image.fromarray(grey).save(tmp_path / "map.png")
    values = mapped({"creativity_map": "map.png", "keep_pixels": True})[0]
    assert values.keep_pixels
    assert values.kept_up_to == 0
    assert mapped({"creativity_map": "map.png", "keep_pixels": True, "keep_pixels_up_to": 0.2})[0].kept_up_to == 0.2
    assert np.allclose(values.values[0], (np.arange(64)[16:48] * 4 + 1) / 255, atol=1e-6)


def test_black_keeps_and_white_changes_exactly(mapped, tmp_path):
    Image.fromarray(np.repeat(np.array([[0, 255]], np.uint8), 32, axis=1).repeat(32, axis=0)).save(
        tmp_path / "map.png"
    )
    values = mapped({"creativity_map": "map.png"})[0].values
    assert set(np.unique(values[:, :15])) == {0}
    assert set(np.unique(values[:, 17:])) == {1}


def test_a_map_of_another_shape_fails_its_row(mapped, tmp_path):
    Image.new("L", (32, 32)).save(tmp_path / "map.png")
    with pytest.raises(RowError, match="the map has 32x32 pixels and its source 64x32: give a map of the same shape"):
        mapped({"creativity_map": "map.png"})
    Image.new("L", (128, 64)).save(tmp_path / "map.png")
    assert (mapped({"creativity_map": "map.png"})[0].values == 0).all()


def test_a_map_that_is_not_there_fails_its_row(mapped):
    with pytest.raises(RowError) as told:
        mapped({"creativity_map": "none.png"})
    assert told.value.kind == "missing_image"


def test_the_model_is_asked_to_start_at_the_highest(mapped):
    made, image = mapped(boxes(([0, 0, 8, 8], 0.8)))
    assert request_for(image, (), made).creativity == 0.8
    assert request_for(replace(image, starting_level=0.9), (), made).creativity == 0.9


@pytest.mark.parametrize("form", ["struct", "bytes", "arrow", "no path"])
def test_a_map_inside_its_manifest_is_the_map_of_a_file_and_read_once_for_all_variants(
    settings, tmp_path, monkeypatch, form
):
    picture(tmp_path / "a.png", 64, 32)
    files = []
    for number in range(3):
        grey = np.tile(np.arange(128, dtype=np.uint8) + 40 * number, (64, 1))
        Image.fromarray(grey).save(tmp_path / f"map{number}.png")
        files.append((tmp_path / f"map{number}.png").read_bytes())
    source = (tmp_path / "a.png").read_bytes()
    maps = [{"bytes": data, "path": f"map{number}.png"} for number, data in enumerate(files)]
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    if form == "bytes":
        maps, kind = files, pa.binary()
    elif form == "no path":
        maps = [{**one, "path": None} for one in maps]
    columns = {
        "id": ["x", "y", "z"],
        "image": [{"bytes": source, "path": "a.png"}] * 3,
        "creativity_map": pa.array(maps, kind),
        "num_images": [3, 1, 2],
        "width": [32] * 3,
        "height": [32] * 3,
    }
    manifest = tmp_path / ("m.arrow" if form == "arrow" else "m.parquet")
    if form == "arrow":
        with pa.OSFile(str(manifest), "wb") as file, pa.ipc.new_file(file, pa.table(columns).schema) as writer:
            writer.write_table(pa.table(columns))
    else:
        pq.write_table(pa.table(columns), manifest)
    plan = prepare(manifest, settings(steps=20))[0]
    images = plan.task(0, 1, "", range(6)).images
    named = "(embedded)" if form in ("bytes", "no path") else "map0.png"
    assert {image.creativity_map for image in images[:3]} == {named}
    by_path = [{"id": one.id, "image": "a.png", "creativity_map": f"map{n}.png", "width": 32, "height": 32}
               for one, n in zip(images, [0, 0, 0, 1, 2, 2], strict=True)]  # fmt: skip
    others = (
        prepare(write_jsonl(tmp_path / "m.jsonl", by_path), settings(steps=20))[0].task(0, 1, "", range(6)).images
    )
    read: list[object] = []
    with SourceLoader(tmp_path) as loader:
        load = loader.load
        monkeypatch.setattr(loader, "load", lambda source: read.append(source) or load(source))
        inside, outside = CreativityMaps(loader), CreativityMaps(loader)
        for one, other in zip(images, others, strict=True):
            ours, theirs = (maps.of(image, (64, 32)) for maps, image in ((inside, one), (outside, other)))
            assert np.array_equal(ours.values, theirs.values)
    assert len(read) == 6  # three of each


def test_what_is_wrong_with_a_map_in_a_manifest_is_told_with_its_row(settings, tmp_path):
    picture(tmp_path / "a.png", 64, 32)
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    columns = {"image": ["a.png"], "creativity_map": pa.array([{"bytes": None, "path": None}], kind)}
    pq.write_table(pa.table(columns), tmp_path / "m.parquet")
    (image,) = prepare(tmp_path / "m.parquet", settings(steps=20))[0].task(0, 1, "", [0]).images
    assert (image.creativity_map, image.map_source, image.creativity) == (None, None, 0.6)  # the row gives none
    rows = [{"image": "a.png", "creativity_map": "../out.png"}]
    with pytest.raises(UserError, match=r"m\.jsonl:1: creativity_map '\.\./out\.png' "):
        prepare(write_jsonl(tmp_path / "m.jsonl", rows), settings())
    grouped = {
        "blend_group": ["g", "g"],
        "image": ["a.png", "a.png"],
        "creativity_map": pa.array([{"bytes": b"1"}, {"bytes": b"2"}], pa.struct([("bytes", pa.binary())])),
    }
    pq.write_table(pa.table(grouped), tmp_path / "g.parquet")
    with pytest.raises(
        UserError, match=r"g\.parquet row 1: blend group 'g' has an embedded creativity_map in several"
    ):
        prepare(tmp_path / "g.parquet", settings())
    pq.write_table(pa.table({"image": ["a.png"], "creativity_map": [["a.png"]]}), tmp_path / "l.parquet")
    with pytest.raises(UserError, match=r"column 'creativity_map' is list.*must be paths \(text\), encoded images"):
        prepare(tmp_path / "l.parquet", settings())
