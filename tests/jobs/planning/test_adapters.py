"""Adapters of a run: found and checked before anything starts, and what they change in digests and fingerprints."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
from adapter_making import random_pairs, save_adapter
from job_making import write_jsonl
from safetensors.torch import save_file

from wanbatch.errors import NodeError, UserError
from wanbatch.jobs.config.hardware import ExecutionConfig, Hardware
from wanbatch.jobs.driver.fingerprint import fingerprint_of
from wanbatch.jobs.planning import plan as planning
from wanbatch.jobs.planning.adapters import find_adapters
from wanbatch.jobs.planning.preparation import prepare
from wanbatch.jobs.worker.adapter_files import adapters_here

ROWS = [
    {"id": "plain", "prompt": "x"},
    {"id": "styled", "prompt": "x", "style": "crayon"},
    {"id": "two", "prompt": "x", "loras": [{"name": "ink", "weight": 0.5}, {"name": "crayon", "weight": 1.0}]},
]


@pytest.fixture
def config(model_folder) -> dict:
    return json.loads((model_folder / "transformer" / "config.json").read_text())


@pytest.fixture
def files(config, tmp_path) -> dict[str, str]:
    """Registered adapters: two of low rank, and one that can be merged only."""
    crayon = save_adapter(tmp_path / "crayon.safetensors", config, random_pairs(config, 4, 1))
    ink = save_adapter(tmp_path / "ink.safetensors", config, random_pairs(config, 8, 2), "musubi")
    save_file({"diffusion_model.blocks.0.norm3.diff": torch.ones(96)}, tmp_path / "norms.safetensors")
    return {"crayon": str(crayon), "ink": f"{ink}:0.5", "norms": str(tmp_path / "norms.safetensors")}


@pytest.fixture
def planned(settings, tmp_path):
    def plan(*rows: dict, **changes):
        return prepare(write_jsonl(tmp_path / "shop.jsonl", rows), settings(**changes), weights=False)[0]

    return plan


def digests(plan) -> dict[str, str]:
    return dict(zip(plan.ids(), plan.images["digest"].to_pylist(), strict=True))


def in_effect(plan) -> dict[str, list | None]:
    """Id -> name, weight, and whether it is merged, of each adapter; the files' digests are compared."""
    rows = dict(zip(plan.ids(), plan.task(0, 1, "t", np.arange(len(plan))).images, strict=True))
    told = [one for row in rows.values() for one in row.adapters or ()]
    assert all(one["sha256"] == plan.adapters[one["name"]].file.digest for one in told)
    return {
        name: row.adapters and [(one["name"], one["weight"], one["merged"]) for one in row.adapters]
        for name, row in rows.items()
    }


def test_the_adapters_in_effect_are_told_with_their_weights(planned, files):
    plan = planned(*ROWS, {"id": "plain-2", "prompt": "y", "num_images": 2}, lora=files)
    assert plan.later[-1] == "adapters"
    assert in_effect(plan) == {
        "plain": None,
        "styled": [("crayon", 1.0, False)],
        "two": [("ink", 0.25, False), ("crayon", 1.0, False)],
        "plain-2-0": None,
        "plain-2-1": None,
    }
    merged = planned(*ROWS, lora=files, merge=["norms"])
    own = in_effect(plan)
    assert in_effect(merged) == {row["id"]: [("norms", 1.0, True), *(own[row["id"]] or ())] for row in ROWS}
    assert "adapters" not in planned(ROWS[0], lora=files).later


def test_the_column_of_adapters_changes_no_digest(planned, files, monkeypatch):
    plan = planned(*ROWS, lora=files, merge=["norms"])
    monkeypatch.setattr(planning, "with_adapters", lambda images, adapters: images)
    before = planned(*ROWS, lora=files, merge=["norms"])
    assert "adapters" not in before.later
    assert digests(plan) == digests(before)


def test_a_folder_without_the_column_gets_it_with_the_next_row_that_has_adapters(planned, files):
    plan = planned(*ROWS, lora=files)
    assert "adapters" not in plan.for_folder((), {"styled", "two"}).later
    assert "adapters" in plan.for_folder((), {"plain", "two"}).later
    assert "adapters" in plan.for_folder((), {"plain", "styled", "two"}, again={"two"}).later


def test_only_what_is_used_is_looked_at_and_the_rest_is_warned_of(planned, files):
    files["broken"] = "nowhere.safetensors"
    plan = planned(*ROWS, lora=files)
    assert list(plan.adapters) == ["crayon", "ink"]
    assert [one["coverage"] for one in plan.describe(16)["adapters"]] == [
        "30 of 30 layers, rank 4, scale 1.0",
        "30 of 30 layers, rank 8, scale 0.5",
    ]
    (warning,) = plan.all_warnings
    assert warning.startswith("the adapters 'norms', 'broken' have no effect: no row names it in style or loras")


def test_rows_without_adapters_have_the_digests_that_they_had(planned, files):
    plain = planned(ROWS[0])
    assert digests(planned(*ROWS, lora=files))["plain"] == digests(plain)["plain"]
    assert "style" not in plain.later
    assert {"style", "loras"} <= {*planned(*ROWS, lora=files).later}


def test_another_file_or_weight_changes_the_digests_of_the_rows_that_use_it(planned, files, config, tmp_path):
    before = digests(planned(*ROWS, lora=files))
    weight = digests(planned(*ROWS, lora=files | {"ink": files["ink"].replace(":0.5", ":0.6")}))
    assert {name for name in before if before[name] != weight[name]} == {"two"}
    shutil.copy(tmp_path / "crayon.safetensors", tmp_path / "same.safetensors")
    moved = digests(planned(*ROWS, lora=files | {"crayon": str(tmp_path / "same.safetensors")}))
    assert moved == before
    save_adapter(tmp_path / "crayon.safetensors", config, random_pairs(config, 4, 3))
    changed = digests(planned(*ROWS, lora=files))
    assert {name for name in before if before[name] != changed[name]} == {"styled", "two"}


def test_only_merged_adapters_are_part_of_the_fingerprint(planned, files, settings, model):
    def fingerprint(plan, **given):
        execution = ExecutionConfig("cpu", "fp32", False)
        return fingerprint_of(settings(**given), model, execution, 4, Hardware(), adapters=plan.adapters.values())

    without = fingerprint(planned(ROWS[0]))
    assert "merged_adapters" not in without
    assert fingerprint(planned(*ROWS, lora=files), lora=files) == without
    merged = fingerprint(planned(ROWS[0], lora=files, merge=["ink"]), lora=files, merge=["ink"])
    assert [(one["name"], one["weight"]) for one in merged["merged_adapters"]] == [("ink", 0.5)]
    assert {name for name in merged if merged[name] != without.get(name)} == {"merged_adapters"}


def test_rows_with_adapters_are_in_units_of_their_own(planned, files):
    plan = planned(*ROWS, lora=files)
    assert [np.array(plan.ids())[unit].tolist() for unit in plan.units(16)] == [["plain"], ["styled", "two"]]


def test_unknown_names_are_all_told_before_anything_else(planned, files):
    rows = [
        {"id": "a", "prompt": "x", "style": "crayom"},
        {"id": "b", "prompt": "x", "loras": [{"name": "neon"}, {"name": "ink"}]},
        {"id": "c", "prompt": "x", "style": "ink", "loras": [{"name": "ink"}]},
    ]
    with pytest.raises(UserError) as error:
        planned(*rows, lora=files)
    said = str(error.value).splitlines()
    assert len(said) == 3
    assert "shop.jsonl:1: style: adapter 'crayom' is unknown (did you mean crayon?): use one of crayon, " in said[0]
    assert "shop.jsonl:2: loras: adapter 'neon' is unknown" in said[1]
    assert "shop.jsonl:3: names adapter 'ink' twice" in said[2]


@pytest.mark.parametrize(
    ("rows", "given", "said"),
    [
        ([{"prompt": "x"}], {"merge": ["neon"]}, "setting merge: adapter 'neon' is unknown: use one of crayon, "),
        ([{"prompt": "x"}], {"merge": ["ink", "ink"]}, "setting merge: names adapter 'ink' twice"),
        ([{"prompt": "x", "style": "ink"}], {"merge": ["ink"]}, "shop.jsonl:1: style: names adapter 'ink', which is"),
        (
            [{"prompt": "x", "style": "norms"}],
            {},
            "adapter 'norms' cannot be used by single rows: it changes blocks.0.norm2, and rows can change",
        ),
    ],
)
def test_adapters_that_cannot_be_used_so(planned, files, rows, given, said):
    with pytest.raises(UserError) as error:
        planned(*rows, lora=files, **given)
    assert said in str(error.value)


@pytest.mark.parametrize(
    ("where", "said"),
    [
        ("nowhere.safetensors", "adapter nowhere.safetensors: there is no such file; give a .safetensors file"),
        ("ftp://example.org/a.safetensors", "such addresses are not supported: give one of https:// or s3://"),
        ("folder", "holds 2 .safetensors files (crayon.safetensors, ink.safetensors): name the one, like"),
        ("owner/name", "is not in the cache"),
    ],
)
def test_files_that_are_not_there(planned, files, tmp_path, monkeypatch, where, said):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    (tmp_path / "folder").mkdir()
    for name in ("crayon", "ink"):
        shutil.copy(tmp_path / f"{name}.safetensors", tmp_path / "folder")
    with pytest.raises(UserError) as error:
        planned({"prompt": "x", "style": "a"}, lora={"a": where})
    assert said in str(error.value)


def test_a_worker_does_not_start_with_another_file(settings, files, model, config, tmp_path, planned):
    plan = planned(*ROWS, lora=files)
    adapters = find_adapters(plan.manifest, settings(lora=files), model).values()

    def here(adapters) -> None:
        assert adapters_here([*adapters], {}, model, "host-1") == tuple(adapters)

    here(adapters)
    save_adapter(tmp_path / "ink.safetensors", config, random_pairs(config, 8, 5))
    with pytest.raises(NodeError, match=r"host host-1: adapter 'ink': .* is not the file that this command read"):
        here(adapters)
    (tmp_path / "ink.safetensors").unlink()
    with pytest.raises(NodeError, match="cannot be read, which the host of this command reads"):
        here(adapters)
