"""What the user should know of sources goes from the worker that reads them to the summary of the run."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
from fake_pipelines import FakePipeline
from icc_profiles import rgb_profile
from job_making import write_jsonl
from PIL import Image
from worker_making import context_of

from wanbatch.jobs.driver.run_counters import RunCounters
from wanbatch.jobs.planning.preparation import prepare
from wanbatch.jobs.reporting.summary import Summary
from wanbatch.jobs.reporting.text_summary import summary_text
from wanbatch.jobs.worker.messages import WorkerSetup
from wanbatch.jobs.worker.unit_task import UnitTask
from wanbatch.jobs.worker.units_in_model import generate_units
from wanbatch.manifests.sources.loader import SourceLoader
from wanbatch.manifests.sources.notes import CONVERTED, FIRST_FRAME, WORDS, NotedImages, added


def test_a_worker_counts_the_images_that_a_note_concerns(settings, tmp_path, model):
    frames = [Image.new("RGB", (32, 32), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "moving.gif", save_all=True, append_images=frames[1:])
    frames[0].save(tmp_path / "p3.png", icc_profile=rgb_profile())
    frames[0].save(tmp_path / "plain.png")
    size = {"width": 32, "height": 32, "creativity": 0.6}
    names = (["moving.gif"], ["moving.gif", "p3.png"], ["plain.png"], ["moving.gif", "none.png"])
    rows = [{"id": f"r{number}", "images": images, **size} for number, images in enumerate(names)]
    plan, _ = prepare(write_jsonl(tmp_path / "m.jsonl", rows), settings(steps=4))
    (tmp_path / "_wanbatch" / "tmp").mkdir(parents=True)
    with ThreadPoolExecutor(1) as encoders, SourceLoader(tmp_path) as loader:
        setup = WorkerSetup(model, str(tmp_path), str(tmp_path), False, "cpu", "float32", 2, 0)
        context = context_of(setup, FakePipeline(2), loader, encoders)
        task = UnitTask(context, plan.task(0, 1, "token", np.arange(4)), lambda *progress: None)
        task.load_sources()
        generate_units(task, lambda: None)
        report = task.write()
    assert report.source_notes == {
        FIRST_FRAME: NotedImages(2, "moving.gif"),  # the fourth is not made
        CONVERTED: NotedImages(1, "p3.png"),
    }


def test_counts_of_units_add_up():
    counters = RunCounters(10, 0, 0)
    counters.unit_published(2, 0, source_notes={FIRST_FRAME: NotedImages(2, "a.gif")})
    counters.unit_published(3, 0)
    counters.unit_published(3, 0, source_notes={FIRST_FRAME: NotedImages(1, "b.gif"), CONVERTED: NotedImages(3, "c")})
    assert counters.source_notes == {FIRST_FRAME: NotedImages(3, "a.gif"), CONVERTED: NotedImages(3, "c")}
    assert added({}, {}) == {}


def test_the_summary_says_them_in_words():
    notes = {FIRST_FRAME: NotedImages(1, "a.gif"), CONVERTED: NotedImages(3, "b.jpg")}
    summary = Summary("out", 4, 4, 0, {}, 0, {}, False, source_notes=notes)
    assert summary_text(summary).splitlines()[2:] == [
        f"  sources   1 picture made from a source {WORDS[FIRST_FRAME]}; a.gif for one",
        f"  sources   3 pictures made from a source {WORDS[CONVERTED]}; b.jpg for one",
    ]
