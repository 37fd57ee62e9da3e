"""Rows whose pictures or sounds changed under their names are found, and files that did not change are not read."""

from __future__ import annotations

import hashlib
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from augment_making import made_from, output_folder, png
from job_making import picture, write_jsonl
from manifest_making import NOW
from sound_making import encoded, tone

from wanbatch.errors import MachineryError
from wanbatch.jobs.driver import changed_sources
from wanbatch.jobs.driver.changed_sources import rows_of_changed_sources
from wanbatch.jobs.planning.preparation import prepare
from wanbatch.manifests.dataset.folder import OutputFolder


@pytest.fixture
def look(tmp_path, settings, monkeypatch):
    """Rows of three pictures that are made; returns which are to be made again, and which files were read."""
    for number in range(3):
        picture(tmp_path / f"{number}.png", 32, 32, seed=number)
        os.utime(tmp_path / f"{number}.png", (0, 0))
    black = png(np.zeros((32, 32, 3), np.uint8))
    made = [made_from(str(n), n, tmp_path / f"{n}.png", black, 32, f"{n}.png") for n in range(3)]
    manifest = write_jsonl(tmp_path / "m.jsonl", [{"id": str(n), "image": f"{n}.png"} for n in range(3)])
    out = output_folder(tmp_path / "out", manifest, made, pa.table({"label": ["a"] * 3}), (0, 2))
    read: list[str] = []
    encoded = changed_sources.SourceLoader.encoded
    monkeypatch.setattr(
        changed_sources.SourceLoader, "encoded", lambda self, one: read.append(one.path) or encoded(self, one)
    )

    def found() -> tuple[set[str], list[str]]:
        read.clear()
        plan = prepare(manifest, settings())[0]
        with OutputFolder.open(out, {"model": "tiny"}, {}) as folder:
            return rows_of_changed_sources(folder, plan), sorted(read)

    return found


def test_only_what_changed_is_made_again_and_only_what_is_newer_is_read(look, tmp_path):
    assert look() == (set(), [])
    later = NOW.timestamp() + 10
    os.utime(tmp_path / "0.png", (later, later))  # as if it had been copied again
    picture(tmp_path / "1.png", 32, 32, seed=9)
    os.utime(tmp_path / "1.png", (later, later))
    assert look() == ({"1"}, ["0.png", "1.png"])


def test_a_picture_that_is_gone_leaves_its_row_and_one_that_cannot_be_looked_at_ends_the_run(
    look, tmp_path, monkeypatch
):
    (tmp_path / "0.png").unlink()
    assert look() == (set(), [])
    stat = os.stat

    def failing(path, *arguments, **names):
        if str(path).endswith("2.png"):
            raise OSError(5, "Input/output error", str(path))
        return stat(path, *arguments, **names)

    monkeypatch.setattr(changed_sources.os, "stat", failing)
    with pytest.raises(MachineryError, match=r"2\.png: cannot be looked at \(Input/output error\)"):
        look()


def test_a_sound_that_changed_is_noticed_with_and_without_a_picture(tmp_path, settings):
    picture(tmp_path / "a.png", 32, 32)
    for name in ("low", "high"):
        (tmp_path / f"{name}.wav").write_bytes(encoded(tone(hertz=300)))
    for path in tmp_path.iterdir():
        os.utime(path, (0, 0))
    asked = {"both": {"image": "a.png", "audio": "low.wav"}, "sound": {"audio": "high.wav"}, "plain": {"prompt": "x"}}
    manifest = write_jsonl(tmp_path / "m.jsonl", [{"id": name, **row} for name, row in asked.items()])
    made = []
    for number, (name, row) in enumerate(asked.items()):
        one = made_from(name, number, tmp_path / "a.png", png(np.zeros((32, 32, 3), np.uint8)), 32, "a.png")
        heard = None
        if "audio" in row:
            digest = hashlib.sha256((tmp_path / row["audio"]).read_bytes()).hexdigest()
            heard = {"path": row["audio"], "sha256": digest, "seconds": 1.0}
        made.append(replace(one, sources=one.sources if "image" in row else (), audio_source=heard))
    columns = pa.table({"label": ["a"] * len(made)})
    out = output_folder(tmp_path / "out", manifest, made, columns, (0, 2), ["audio_source"])

    def found() -> set[str]:
        plan = prepare(manifest, settings(model="tiny"))[0]
        with OutputFolder.open(out, {"model": "tiny"}, {}) as folder:
            return rows_of_changed_sources(folder, plan)

    assert found() == set()
    later = NOW.timestamp() + 10
    (tmp_path / "high.wav").write_bytes(encoded(tone(hertz=500)))
    for name in ("low", "high"):
        os.utime(tmp_path / f"{name}.wav", (later, later))
    assert found() == {"sound"}
    (tmp_path / "low.wav").write_bytes(encoded(tone(hertz=500)))
    os.utime(tmp_path / "low.wav", (later, later))
    assert found() == {"both", "sound"}


def test_a_folder_that_is_empty_has_none(tmp_path, settings):
    picture(tmp_path / "a.png", 32, 32)
    plan = prepare(write_jsonl(tmp_path / "m.jsonl", [{"image": "a.png"}]), settings())[0]
    with OutputFolder.open(Path("out"), {"model": "tiny"}, {}) as folder:
        assert rows_of_changed_sources(folder, plan) == set()
