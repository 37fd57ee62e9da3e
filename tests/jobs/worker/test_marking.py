"""What workers write of a picture's origin: into its file, into its row, signed or not."""

from __future__ import annotations

import hashlib
import io
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest
from fake_pipelines import FakePipeline
from job_making import write_jsonl
from PIL import Image
from signing_certificates import write_certificate
from worker_making import context_of

from wanbatch import __version__
from wanbatch.jobs.planning.preparation import prepare
from wanbatch.jobs.worker.messages import WorkerSetup
from wanbatch.jobs.worker.unit_task import UnitTask
from wanbatch.jobs.worker.units_in_model import generate_units
from wanbatch.manifests.columns import ALWAYS
from wanbatch.manifests.dataset.content_credentials import Signer, SigningFiles
from wanbatch.manifests.dataset.image_formats import ImageFormat
from wanbatch.manifests.dataset.mark_reading import read_marks
from wanbatch.manifests.dataset.origin_marks import OriginMark
from wanbatch.manifests.digital_source import ALTERED, COMPOSITE, GENERATED
from wanbatch.manifests.sources.loader import SourceLoader

SIZE = {"width": 32, "height": 32}
ROWS = [
    {"id": "text", "prompt": "a heart", **SIZE},
    {"id": "edit", "prompt": "a heart", "image": "photo.png", "creativity": 0.6, **SIZE},
    {"id": "kept", "image": "photo.png", "creativity": 0, **SIZE},
    {"id": "kept-synthetic", "image": "synthetic.png", "creativity": 0, **SIZE},
    {"id": "unused", "prompt": "a heart", "image": "photo.png", "creativity": 1, **SIZE},
]
TERMS = {"text": GENERATED, "edit": COMPOSITE, "kept": ALTERED, "kept-synthetic": COMPOSITE, "unused": GENERATED}


@pytest.fixture
def made(settings, tmp_path, model):
    """Makes the rows with a worker that is set up so; id -> its row of `data/`."""
    Image.new("RGB", (32, 32), "red").save(tmp_path / "photo.png")
    synthetic = OriginMark(COMPOSITE, "another tool").metadata("00")
    (tmp_path / "synthetic.png").write_bytes(ImageFormat().encode(np.zeros((32, 32, 3), np.uint8), synthetic))
    (tmp_path / "_wanbatch" / "tmp").mkdir(parents=True)
    plan, _ = prepare(write_jsonl(tmp_path / "m.jsonl", ROWS), settings(steps=4))

    def run(signer: Signer | None = None, later=ALWAYS, **setup) -> dict[str, dict]:
        own = WorkerSetup(model, str(tmp_path), str(tmp_path), False, "cpu", "float32", 2, 0, **setup)
        with ThreadPoolExecutor(1) as encoders, SourceLoader(tmp_path) as loader:
            context = context_of(own, FakePipeline(2), loader, encoders, signer=signer)
            task = replace(plan.task(0, 1, "token", np.arange(len(ROWS))), later=later)
            unit = UnitTask(context, task, lambda *progress: None)
            unit.load_sources()
            generate_units(unit, lambda: None)
            written = tmp_path / "_wanbatch" / "tmp" / unit.write().attempt.names["data"]
        rows = {row["id"]: row for row in pq.read_table(written).to_pylist()}
        written.unlink()
        return rows

    return run


def marks_of(row: dict, folder):
    (folder / "picture").write_bytes(row["image"]["bytes"])
    return read_marks(folder / "picture")


@pytest.mark.parametrize("format", ["png", "webp", "jpeg"])
def test_every_file_and_every_row_say_how_the_picture_came_to_be(made, tmp_path, format):
    rows = made(format=ImageFormat(format))
    marks = {name: marks_of(row, tmp_path) for name, row in rows.items()}
    assert {name: mark.term for name, mark in marks.items()} == TERMS
    assert {name for name, row in rows.items() if not row["is_synthetic"]} == {"kept"}
    assert {row["wanbatch_version"] for row in rows.values()} == {__version__}
    assert {mark.tool for mark in marks.values()} == {f"wanbatch {__version__}"}
    assert all(marks[name].made_sha256 == row["sha256"] for name, row in rows.items())
    assert not any(mark.prompt or mark.settings or mark.parameters for mark in marks.values())


def test_the_pixels_are_those_that_the_model_made(made):
    for row in made(embed_settings=True).values():
        pixels = np.asarray(Image.open(io.BytesIO(row["image"]["bytes"])))
        assert hashlib.sha256(pixels.tobytes()).hexdigest() == row["sha256"]


def test_settings_are_embedded_on_demand(made, tmp_path, model):
    rows = made(embed_settings=True)
    mark = marks_of(rows["edit"], tmp_path)
    assert mark.prompt == "a heart"
    assert mark.settings["creativity"] == 0.6
    assert mark.settings["seed"] == rows["edit"]["seed"]
    assert f"Seed: {rows['edit']['seed']}" in mark.parameters
    assert mark.settings["model"] == model.name.rpartition("/")[2]
    assert str(tmp_path).encode() not in rows["edit"]["image"]["bytes"], "no folder of this machine"
    assert b"photo.png" not in rows["edit"]["image"]["bytes"]


def test_a_folder_that_was_begun_without_the_columns_gets_none(made):
    assert not {"is_synthetic", "wanbatch_version"} & made(later=())["text"].keys()


def test_signed_pictures_are_valid(made, tmp_path):
    pytest.importorskip("c2pa")
    files = SigningFiles(*map(str, write_certificate(tmp_path / "certificate")))
    rows = made(Signer(files), signing=files, format=ImageFormat("jpeg"))
    for name, row in rows.items():
        credentials = marks_of(row, tmp_path).credentials
        assert (credentials.state, credentials.term) == ("Valid", TERMS[name])
