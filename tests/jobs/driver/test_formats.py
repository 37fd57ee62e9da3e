"""Pictures in other formats, and by a compiled model."""

from __future__ import annotations

import io

import numpy as np
import pytest
from datasets import load_dataset
from job_making import decoded, log_events, rows_by_id, write_jsonl
from PIL import Image

from wanbatch.jobs.reporting.contact_sheet import contact_sheet


@pytest.fixture(scope="module")
def plain(run_fast, settings, sources, tmp_path_factory):
    """A run whose pictures are those of its sources."""
    rows = [{"id": name.partition(".")[0], "image": name} for name in ("wide.png", "square.png", "tall.jpg")]
    manifest = write_jsonl(sources / "formats.jsonl", rows)
    return run_fast(manifest, tmp_path_factory.mktemp("plain") / "out", settings())


@pytest.mark.parametrize(("name", "suffix", "kind"), [("webp", ".webp", "WEBP"), ("jpeg", ".jpg", "JPEG")])
def test_pictures_in_other_formats(run_fast, settings, plain, tmp_path, name, suffix, kind):
    """The same pixels are made; the hash is of these, also where the file has lost some."""
    ran = run_fast(plain.manifest, tmp_path / "out", settings(format=name))
    png, rows = rows_by_id(plain.out), rows_by_id(ran.out)
    assert rows.keys() == png.keys() == {"wide", "square", "tall"}
    for key, row in rows.items():
        assert row["image"]["path"] == f"{key}{suffix}"
        assert row["sha256"] == png[key]["sha256"]
        image = Image.open(io.BytesIO(row["image"]["bytes"]))
        assert (image.format, image.mode) == (kind, "RGB")
        error = np.abs(np.asarray(image).astype(int) - decoded(png[key]))
        assert (error.max() == 0) == (name == "webp")
        assert error.mean() < 6
    assert f"| `format` | `{name}` |" in (ran.out / "README.md").read_text()
    assert contact_sheet(ran.out, tmp_path / "sheet.png") == 3
    loaded = load_dataset(str(ran.out), split="train", cache_dir=str(tmp_path / "cache"))
    assert loaded[0]["image"].size == (png[loaded[0]["id"]]["width"], png[loaded[0]["id"]]["height"])


@pytest.mark.slow
@pytest.mark.timeout(900)  # a compiler on a busy machine
def test_compiled_in_workers(run_here, settings, tmp_path):
    """Warmed up before the first unit, and reported; the pictures differ by rounding only."""
    rows = [{"id": name, "prompt": "a heart", "seed": number} for number, name in enumerate("abc")]
    manifest = write_jsonl(tmp_path / "m.jsonl", rows)
    chosen = settings(compile="always", compile_cache=tmp_path / "code")
    ran, plain = run_here(manifest, tmp_path / "out", chosen), run_here(manifest, tmp_path / "plain", settings())
    [ready] = log_events(ran.out, "worker_ready")
    assert ready["warm_up_seconds"] > 0
    assert ran.summary.seconds["start"] > ran.summary.seconds["warm_up"] > 0
    assert "warm_up" not in plain.summary.seconds
    backends = rows_by_id(ran.out, "timings")["a"]["backends"]
    assert (backends["denoise"], backends["text"]) == ("compiled-float32", "eager-float32")
    assert any(path.is_file() for path in (tmp_path / "code").rglob("*"))
    compiled, eager = rows_by_id(ran.out), rows_by_id(plain.out)
    for name in "abc":
        assert np.abs(decoded(compiled[name]).astype(int) - decoded(eager[name])).max() <= 1
