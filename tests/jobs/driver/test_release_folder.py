"""A folder of release 0.1.0 (tests/data/release-0.1.0) is gone on with, and its rows still give the same pixels."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from datasets import load_dataset
from PIL import Image

from wanbatch.errors import UserError
from wanbatch.jobs.config.settings import Settings
from wanbatch.manifests.columns import LATER
from wanbatch.manifests.dataset.status import status
from wanbatch.pipeline.loading.converting import convert
from wanbatch.pipeline.loading.registry import find

ROOT = Path(__file__).parents[3]
RELEASE = ROOT / "tests" / "data" / "release-0.1.0"
CPU_FAMILY, CAPABILITY = ("AuthenticAMD", "25"), "AVX512"  # of the machine that made it


@pytest.fixture
def released(tmp_path) -> Path:
    """A copy of the folder, its manifest and the images that this names."""
    shutil.copytree(RELEASE, tmp_path / "release")
    shutil.copytree(ROOT / "examples" / "images", tmp_path / "release" / "images")
    return tmp_path / "release"


def rows(out: Path, kind: str = "data") -> dict[str, dict]:
    """Id -> row of `data/`, or of another kind of part."""
    return {row["id"]: row for part in sorted(out.glob(f"{kind}/*")) for row in pq.read_table(part).to_pylist()}


def same_cpu() -> bool:
    """Whether this machine's CPU is of the kind that made the folder; others may round differently."""
    said = dict(
        (name.strip(), value.strip())
        for name, _, value in (line.partition(":") for line in Path("/proc/cpuinfo").read_text().splitlines())
    )
    family = said.get("vendor_id"), said.get("cpu family")
    return family == CPU_FAMILY and torch.backends.cpu.get_cpu_capability() == CAPABILITY


def test_the_same_command_has_nothing_to_do(run_fast, released):
    before = {path: path.read_bytes() for path in released.glob("dataset/*/*.parquet")}
    ran = run_fast(released / "manifest.jsonl", released / "dataset", Settings(model="tiny"), load=None)
    assert (ran.summary.made, ran.summary.made_now, ran.summary.quarantined) == (16, 0, 1)
    assert {path: path.read_bytes() for path in released.glob("dataset/*/*.parquet")} == before


def test_a_converted_model_goes_on_with_it(run_fast, released, tmp_path):
    """It stands for the model that it was made of."""
    convert(find(), "tiny", tmp_path / "converted", "fp32", torch.device("cpu"))
    ran = run_fast(
        released / "manifest.jsonl", released / "dataset", Settings(model=str(tmp_path / "converted")), load=None
    )
    assert (ran.summary.made, ran.summary.made_now, ran.summary.quarantined) == (16, 0, 1)


def test_a_grown_manifest_adds_to_it(run_fast, released, caplog):
    shop = {"shop": "south", "price": 4}
    added = [
        {"id": "new-1", "prompt": "a blue star", "steps": 2, **shop},
        {"id": "new-2", "prompt": "a heart", "image": "images/dog.png", "creativity": 0.6, "steps": 4, **shop},
    ]
    with (released / "manifest.jsonl").open("a") as file:
        file.writelines(json.dumps(row) + "\n" for row in added)
    ran = run_fast(released / "manifest.jsonl", released / "dataset", Settings(model="tiny"), load=None)
    assert (ran.summary.made, ran.summary.made_now, ran.summary.quarantined) == (18, 2, 1)
    assert "had its sources decoded by another version (version was 1, now 2)" in caplog.text
    assert '"event": "sources_decoded_otherwise"' in (released / "dataset" / "_wanbatch" / "log.jsonl").read_text()
    found = rows(released / "dataset")
    assert found.keys() >= {"owl", "group", "new-1", "new-2"}
    assert not any(row.keys() & {*LATER} for row in found.values()), "it was begun without these columns"
    loaded = load_dataset(str(released / "dataset"), split="train", cache_dir=str(released / "cache"))
    assert len(loaded) == 18
    assert {row["id"]: row["shop"] for row in loaded}["new-1"] == "south"


def test_another_setting_is_refused(run_fast, released):
    with pytest.raises(UserError, match="steps was 30, now 29"):
        run_fast(released / "manifest.jsonl", released / "dataset", Settings(model="tiny", steps=29), load=None)
    assert status(released / "dataset")["done"] == 16


def test_it_learns_the_environment_that_decides_bits_and_keeps_to_it(run_fast, released):
    with (released / "manifest.jsonl").open("a") as file:
        file.write('{"id": "new-1", "prompt": "a blue star", "steps": 2}\n')
    run_fast(released / "manifest.jsonl", released / "dataset", Settings(model="tiny"), load=None)
    environment = status(released / "dataset")["fingerprint"]["environment"]
    assert environment["torch"] == torch.__version__
    assert environment["device_name"] == f"cpu {torch.backends.cpu.get_cpu_capability()}"
    assert environment["backends"] == dict.fromkeys(("text", "encode", "denoise", "decode"), "eager-float32")
    run_json = released / "dataset" / "_wanbatch" / "run.json"
    run_json.write_text(run_json.read_text().replace(f'"torch": "{torch.__version__}"', '"torch": "2.0.0"'))
    with pytest.raises(UserError, match=r'environment\.torch was "2\.0\.0", now'):
        run_fast(released / "manifest.jsonl", released / "dataset", Settings(model="tiny"), load=None)


def test_workers_that_compute_a_stage_in_another_way_make_nothing(run_fast, released):
    out = released / "dataset"
    run_json = json.loads((out / "_wanbatch" / "run.json").read_text())
    run_json["fingerprint"]["environment"] = {"backends": {"denoise": "kernels-bfloat16"}}
    (out / "_wanbatch" / "run.json").write_text(json.dumps(run_json))
    with (released / "manifest.jsonl").open("a") as file:
        file.write('{"id": "new-1", "prompt": "a blue star", "steps": 2}\n')
    with pytest.raises(UserError, match=r'backends\.denoise was "kernels-bfloat16", now "eager-float32"'):
        run_fast(released / "manifest.jsonl", out, Settings(model="tiny"), load=None)
    assert status(out)["done"] == 16


def test_a_changed_row_is_found_by_the_digest_of_the_release(run_fast, released):
    manifest = released / "manifest.jsonl"
    manifest.write_text(
        manifest.read_text().replace("a large owl in the center under", "a small owl in the center under")
    )
    with pytest.raises(UserError, match="1 row changed since it was made, 'owl'"):
        run_fast(manifest, released / "dataset", Settings(model="tiny"), load=None)


@pytest.mark.slow
def test_the_same_rows_give_the_same_pixels(run_fast, released):
    """Bit for bit on the kind of CPU that the folder was made on; on others within one grey level."""
    ran = run_fast(released / "manifest.jsonl", released / "again", Settings(model="tiny"), load=None)
    assert ran.summary.made_now == 16
    ours, theirs = rows(released / "again"), rows(released / "dataset")
    assert ours.keys() == theirs.keys()
    timings = rows(released / "again", "timings")
    assert {name: row["evaluations"] for name, row in ours.items()} == {
        name: row["steps_full"] + row["steps_cached"] for name, row in timings.items()
    }
    if same_cpu():
        assert {name: row["sha256"] for name, row in ours.items()} == {n: row["sha256"] for n, row in theirs.items()}
    for name, row in ours.items():
        pixels, expected = (
            np.asarray(Image.open(io.BytesIO(r["image"]["bytes"]))).astype(int) for r in (row, theirs[name])
        )
        assert np.abs(pixels - expected).max() <= 1, name
