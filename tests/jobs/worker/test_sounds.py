"""Sounds of rows, from the manifest to the dataset: with a small tagger, and a worker that is called directly."""

from __future__ import annotations

import json
import shutil
import tomllib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from job_making import write_jsonl
from sound_making import encoded, save_ast, tone
from worker_calls import reports_of

from wanbatch.errors import ManifestError, UserError
from wanbatch.jobs.planning.preparation import prepare
from wanbatch.jobs.worker.actor import Worker
from wanbatch.jobs.worker.messages import WorkerSetup

FAST = {"width": 32, "height": 32, "steps": 2, "guidance": 1.0}


@pytest.fixture(scope="module")
def tagger(tmp_path_factory):
    return save_ast(tmp_path_factory.mktemp("ast"))


@pytest.fixture
def heard(tmp_path, settings, tagger):
    """Settings of a run that hears, and a folder with sounds."""
    (tmp_path / "a.wav").write_bytes(encoded(tone(3.0)))
    (tmp_path / "silent.wav").write_bytes(encoded(tone() * 0))
    return lambda **given: settings(**{**FAST, "sound": "tagger", "sound_model": str(tagger), **given})


def made(tmp_path, manifest, settings) -> tuple[dict[str, dict], list[dict], pa.Schema]:
    plan, model = prepare(manifest, settings)
    (tmp_path / "out" / "_wanbatch" / "tmp").mkdir(parents=True, exist_ok=True)
    setup = WorkerSetup(
        model, str(tmp_path / "out"), str(tmp_path), False, "cpu", "float32", 2, 0, hearing=plan.hearing
    )
    worker = Worker(setup, "worker-0")
    worker.ready()
    [report] = reports_of(worker, plan.task(0, 1, "token", np.arange(len(plan))))
    tables = {kind: pq.read_table(tmp_path / "out/_wanbatch/tmp" / n) for kind, n in report.attempt.names.items()}
    data = tables.get("data")
    failures = tables["failures"].to_pylist() if "failures" in tables else []
    return {row["id"]: row for row in data.to_pylist()}, failures, data.schema


def test_what_was_heard_is_in_the_dataset_and_in_the_prompt(tmp_path, heard):
    rows = [
        {"id": "both", "prompt": "a garden", "audio": "a.wav", "seed": 1},
        {"id": "alone", "audio": "a.wav", "seed": 1},
        {"id": "none", "prompt": "a garden", "seed": 1},
        {"id": "muted", "prompt": "a garden", "audio": "a.wav", "audio_weight": 0, "seed": 1},
        {"id": "silent", "prompt": "a garden", "audio": "silent.wav"},
        {"id": "gone", "prompt": "a garden", "audio": "gone.wav"},
    ]
    manifest = write_jsonl(tmp_path / "shop.jsonl", rows)
    data, failures, schema = made(tmp_path, manifest, heard(sound_threshold=0.1, keep_audio=True))
    assert {(one["id"], one["stage"], one["error_class"]) for one in failures} == {
        ("silent", "sound", "silent_audio"),
        ("gone", "sound", "missing_audio"),
    }
    labels = [tag["label"] for tag in data["both"]["audio_tags"]]
    assert set(labels) == {"Bird", "Dog"}
    phrases = ", ".join(f"a {label.lower()}" for label in labels)
    assert data["both"]["audio_prompt"] == f"a garden, {phrases}"
    assert data["alone"]["audio_prompt"] == phrases
    assert data["both"]["prompt"] == "a garden"
    assert data["both"]["audio_source"]["path"] == "a.wav"
    assert data["both"]["audio_source"]["seconds"] == 3
    assert data["none"]["audio_source"] is data["none"]["audio"] is data["muted"]["audio_tags"] is None
    assert data["muted"]["sha256"] == data["none"]["sha256"] != data["both"]["sha256"]
    assert data["muted"]["audio"] == {"bytes": (tmp_path / "a.wav").read_bytes(), "path": "a.wav"}
    features = json.loads(schema.metadata[b"huggingface"])["info"]["features"]
    assert features["audio"] == {"_type": "Audio"}


def test_sounds_inside_a_parquet_manifest_are_read_as_datasets_writes_them(tmp_path, heard):
    audio = [{"bytes": (tmp_path / "a.wav").read_bytes(), "path": "x.wav"}, {"bytes": None, "path": "a.wav"}]
    columns = {"id": ["a", "b"], "prompt": ["a hat"] * 2, "seed": [1] * 2}
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    table = pa.table({**columns, "audio": pa.array(audio, kind)})
    pq.write_table(table, tmp_path / "shop.parquet")
    data, failures, schema = made(tmp_path, tmp_path / "shop.parquet", heard(sound_threshold=0.1))
    assert not failures
    assert "audio" not in schema.names
    assert data["a"]["sha256"] == data["b"]["sha256"]
    assert data["a"]["audio_source"]["sha256"] == data["b"]["audio_source"]["sha256"]


def test_digests_of_rows_without_a_sound_do_not_depend_on_how_sounds_are_heard(tmp_path, heard, settings):
    def digests(rows, settings) -> list[str]:
        return prepare(write_jsonl(tmp_path / "shop.jsonl", rows), settings)[0].images["digest"].to_pylist()

    plain, sound = {"id": "a", "prompt": "x"}, {"id": "b", "prompt": "x", "audio": "a.wav"}
    [before] = digests([plain], settings(**FAST))
    same, first = digests([plain, sound], heard())
    _, other = digests([plain, sound], heard(sound_threshold=0.5))
    assert same == before
    assert first != other


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"audio": "../a.wav"}, "audio '../a.wav'"),
        ({"audio": ""}, "audio '' is empty"),
        ({"audio": ["a.wav"]}, "must be a path, or a struct"),
        ({"audio": "a.wav", "audio_weight": 2}, "must be a number from 0"),
        ({"audio_weight": 0.5}, "has audio_weight but no audio"),
    ],
)
def test_bad_sounds_of_rows_are_refused_with_their_line(tmp_path, heard, row, message):
    manifest = write_jsonl(tmp_path / "shop.jsonl", [{"prompt": "x", **row}])
    with pytest.raises(ManifestError, match=rf"shop\.jsonl:1: .*{message}"):
        prepare(manifest, heard())


def test_a_sound_that_nothing_hears_is_refused_before_the_run(tmp_path, settings, model_folder):
    manifest = write_jsonl(tmp_path / "shop.jsonl", [{"prompt": "x", "audio": "a.wav"}])
    with pytest.raises(ManifestError, match=r"shop\.jsonl:1: audio: model .* give --sound tagger or --sound with"):
        prepare(manifest, settings(model=str(model_folder)))


def test_settings_of_sounds_without_effect_are_told(tmp_path, heard, settings):
    manifest = write_jsonl(tmp_path / "shop.jsonl", [{"prompt": "x"}])
    warnings = prepare(manifest, heard(keep_audio=True))[0].all_warnings
    assert warnings == tuple(
        f"setting {name}: has no effect, since no row has audio" for name in ("sound", "keep_audio")
    )
    with pytest.raises(UserError, match="setting sound_top: is of taggers alone: give --sound tagger"):
        prepare(manifest, settings(sound_top=2))


def test_noise_leaves_a_row_as_it_is_without_a_sound_and_the_dataset_says_so(tmp_path, settings):
    noise = np.random.default_rng(0).standard_normal((32_000, 1), dtype=np.float32) / 10
    (tmp_path / "noise.wav").write_bytes(encoded(noise))
    shutil.copy(Path(__file__).parents[3] / "examples" / "sounds" / "bird.wav", tmp_path)
    asked = {"prompt": "a dog", "seed": 1}
    rows = [
        {"id": "noise", **asked, "audio": "noise.wav"},
        {"id": "none", **asked},
        {"id": "bird", **asked, "audio": "bird.wav"},
        {"id": "alone", "audio": "noise.wav"},
    ]
    small = settings(model="tiny", width=64, height=64, steps=2, guidance=1.0)
    data, failures, _ = made(tmp_path, write_jsonl(tmp_path / "shop.jsonl", rows), small)
    assert [(one["id"], one["error_class"]) for one in failures] == [("alone", "nothing_heard")]
    assert data["noise"]["sha256"] == data["none"]["sha256"] != data["bird"]["sha256"]
    assert [data[name]["audio_tags"] for name in ("noise", "none", "bird")] == [[], None, None]
    assert data["noise"]["audio_source"]["path"] == "noise.wav"


def test_the_rows_and_the_table_of_the_page_are_taken(tmp_path, heard):
    root = Path(__file__).parents[3]
    page = (root / "docs" / "sound.md").read_text(encoding="utf-8")
    rows = [row for block in page.split("```json\n")[1:] for row in block.split("```")[0].splitlines()]
    assert [json.loads(row)["id"] for row in rows] == ["garden", "alone", "changed"]
    (tmp_path / "images").mkdir()
    shutil.copy(root / "examples" / "images" / "dog.png", tmp_path / "images")
    (tmp_path / "m.jsonl").write_text("\n".join(rows))
    table = page.split("```toml\n")[1].split("```")[0]
    assert tomllib.loads(table)["Speech"] == ""
    (tmp_path / "phrases.toml").write_text(table)
    assert len(prepare(tmp_path / "m.jsonl", heard(sound_phrases=tmp_path / "phrases.toml"))[0]) == 3
