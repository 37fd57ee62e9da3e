"""`wanbatch origin`, and the flags of marks and signatures."""

from __future__ import annotations

import json

import pyarrow.parquet as pq
import pytest
from command_line import GOOD, invoke, refused
from job_making import write_jsonl
from manifest_making import encoded
from picture_folders import fill
from signing_certificates import write_certificate

from wanbatch.jobs.config.settings import Settings
from wanbatch.jobs.driver.run_context import prepare_run
from wanbatch.jobs.planning.preparation import prepare


@pytest.fixture
def picture(tmp_path):
    out = fill(tmp_path / "out", ["cat", "dog"])
    row = pq.read_table(out / "data" / "part-00000.parquet").to_pylist()[1]
    (tmp_path / "dog.png").write_bytes(row["image"]["bytes"])
    return tmp_path / "dog.png"


def test_a_picture_and_its_row(picture):
    result = invoke("origin", picture, "--in", "out")
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines() == [
        f"{picture}: made by a model (trainedAlgorithmicMedia)",
        "  tool      wanbatch 0.1.0",
        "  pixels    those that were made",
        "  row       'dog' of out, found by its pixels",
        "            data/part-00000.parquet row 1",
        "            row 1 of the manifest as it was then; it may have changed since: join on id",
    ]
    found = json.loads(invoke("origin", picture, "--in", "out", "--json").stdout)
    assert found["term"] == "trainedAlgorithmicMedia"
    assert found["row"]["values"]["prompt"] == "prompt of dog"
    assert "row" not in json.loads(invoke("origin", picture, "--json").stdout)


def test_a_picture_without_marks(picture, tmp_path):
    (tmp_path / "plain.png").write_bytes(encoded())
    lines = invoke("origin", "plain.png", "--in", "out").stdout.splitlines()
    assert lines == [
        "plain.png: has no mark of origin (which does not say that no model made it)",
        "  row       none in out",
    ]


def test_a_folder_that_is_none(picture):
    (line,) = refused(invoke("origin", picture, "--in", "nowhere"))
    assert line.startswith("nowhere: is no output folder of wanbatch")


def test_signing_needs_a_certificate_and_a_key_that_are_there(run_bad, tmp_path):
    manifest = write_jsonl(tmp_path / "m.jsonl", [GOOD])
    certificate, key = write_certificate(tmp_path / "certificate")
    assert "needs c2pa_key, too: give --c2pa-key" in run_bad(manifest, "--c2pa-cert", certificate)[0]
    assert "needs c2pa_cert, too" in run_bad(manifest, "--c2pa-key", key)[0]
    (line,) = run_bad(manifest, "--c2pa-cert", certificate, "--c2pa-key", "none.pem")
    assert line == f"setting c2pa_key: {tmp_path}/none.pem: No such file or directory: give a PEM file that is there"


def test_prompts_that_a_file_does_not_hold_whole_are_warned_of(tmp_path, model_folder):
    manifest = write_jsonl(tmp_path / "m.jsonl", [GOOD, {"prompt": "é" * 5000}])
    common = {"model": str(model_folder), "width": 32, "height": 32}
    plan, _ = prepare(manifest, Settings(**common, embed_settings=True))
    assert "the files of 1 image have only the first 4095 characters of their prompt embedded" in plan.warnings[0]
    assert not any("embedded" in warning for warning in prepare(manifest, Settings(**common))[0].warnings)


def test_marks_are_no_part_of_what_a_folder_is_resumed_by(tmp_path, settings):
    manifest = write_jsonl(tmp_path / "m.jsonl", [GOOD])
    certificate, key = write_certificate(tmp_path / "certificate")
    marked = {"embed_settings": True, "c2pa_cert": certificate, "c2pa_key": key}
    plain, full = (prepare_run(manifest, tmp_path / "out", settings(**more)) for more in ({}, marked))
    assert plain.fingerprint == full.fingerprint
    assert full.plan_note()["settings"]["c2pa_key"] == str(key), "`retry` signs, too"
    assert key.read_text().splitlines()[1] not in json.dumps(full.plan_note())
