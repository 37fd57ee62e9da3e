"""Planning: every default resolved, rows that can share a batch together. Needs no Ray and no weights."""

from __future__ import annotations

import hashlib
import json
import resource
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from command_line import invoke
from example_rows import MIXED
from hypothesis import HealthCheck, given, seed
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from job_making import environment, picture, snapshot, write_jsonl

from wanbatch.jobs.planning.preparation import prepare
from wanbatch.jobs.planning.seeds import derived_seed


@pytest.fixture
def planned(settings, tmp_path):
    """Plans rows in tmp_path; returns the plan."""

    def plan(*rows: dict, **changes):
        plan, _ = prepare(write_jsonl(tmp_path / "shop.jsonl", rows), settings(**changes), weights=False)
        return plan

    return plan


def images(plan) -> dict[str, dict]:
    return {row["id"]: row for row in plan.images.to_pylist()}


# ---- defaults


def test_creativity_defaults(planned, tmp_path):
    picture(tmp_path / "a.png", 32, 32)
    plan = planned(
        {"id": "text", "prompt": "a heart"},
        {"id": "source", "image": "a.png"},
        {"id": "blend", "images": ["a.png", "a.png"]},
        {"id": "given", "image": "a.png", "creativity": 0.0},
        {"id": "few", "image": "a.png", "steps": 1, "shift": 5.0},
        {"id": "listed", "image": "a.png", "sigmas": [1.0, 0.9, 0.7]},
        steps=8,
    )
    found = {name: row["creativity"] for name, row in images(plan).items()}
    assert found == {"text": 1.0, "source": 0.6, "blend": 0.6, "given": 0.0, "few": 1 - 1e-6, "listed": 0.7}


@pytest.mark.parametrize(
    ("size", "orientation", "expected"),
    [
        ((100, 100), None, (128, 128)),
        ((400, 100), None, (256, 64)),  # four times as wide as high, of about 128x128 pixels
        ((100, 400), None, (64, 256)),
        ((400, 100), 6, (64, 256)),  # stored lying, shown standing
        ((400, 100), 3, (256, 64)),  # upside down
        ((3000, 10), None, (2208, 32)),
    ],
)
def test_size_follows_the_source(planned, tmp_path, size, orientation, expected):
    picture(tmp_path / "a.jpg", *size, orientation=orientation)
    plan = planned({"id": "r", "image": "a.jpg"}, width=128, height=128)
    row = images(plan)["r"]
    assert (row["width"], row["height"]) == expected


def test_size_of_a_blend_follows_its_first_source(planned, tmp_path):
    picture(tmp_path / "wide.png", 400, 100)
    picture(tmp_path / "tall.png", 100, 400)
    plan = planned({"id": "r", "images": ["wide.png", "tall.png"]}, width=128, height=128)
    assert (images(plan)["r"]["width"], images(plan)["r"]["height"]) == (256, 64)


def test_size_given_by_the_row_wins_over_the_source(planned, tmp_path):
    picture(tmp_path / "wide.png", 400, 100)
    plan = planned({"id": "r", "image": "wide.png", "width": 64, "height": 96})
    assert (images(plan)["r"]["width"], images(plan)["r"]["height"]) == (64, 96)


def test_rows_win_over_settings_and_settings_over_the_model(planned, model):
    rows = [{"id": "own", "prompt": "x", "steps": 7, "guidance": 1.5}, {"id": "not", "prompt": "x"}]
    plan = planned(*rows, steps=3, shift=2.0, negative_prompt="dots")
    found = images(plan)
    assert (found["own"]["steps"], found["not"]["steps"]) == (7, 3)
    assert (found["own"]["guidance"], found["not"]["guidance"]) == (1.5, model.guidance)
    assert (found["not"]["shift"], found["not"]["negative_prompt"]) == (2.0, "dots")
    assert found["not"]["sampler"] == model.sampler


SIGMAS = [1.0, 0.75, 0.5]


def test_sigmas_replace_steps_shift_and_schedule(planned):
    plan = planned({"id": "own", "prompt": "x", "sigmas": SIGMAS}, {"id": "not", "prompt": "x"}, schedule="karras")
    found = images(plan)
    names = ("steps", "shift", "schedule", "sigmas")
    assert [found["own"][name] for name in names] == [3, None, None, SIGMAS]
    assert [found["not"][name] for name in names] == [2, 3.0, "karras", None]
    assert plan.describe(4)["model_evaluations"] == 5
    own, other = plan.task(0, 1, "token", [0, 1]).images
    assert (own.sigmas, other.sigmas) == (tuple(SIGMAS), None)


def test_sigmas_of_the_run_are_for_rows_that_say_nothing_of_the_schedule(planned, settings):
    rows = [{"id": "silent", "prompt": "x"}, {"id": "own", "prompt": "x", "sigmas": [1, 0.3]}]
    rows += [{"id": name, "prompt": "x", name: value} for name, value in (("steps", 7), ("shift", 2.0))]
    rows += [{"id": "schedule", "prompt": "x", "schedule": "beta"}]
    found = images(planned(*rows, steps=None, sigmas=SIGMAS))
    assert {name: row["sigmas"] for name, row in found.items() if row["sigmas"]} == {
        "silent": SIGMAS,
        "own": [1.0, 0.3],
    }
    assert (found["steps"]["steps"], found["shift"]["shift"], found["schedule"]["schedule"]) == (7, 2.0, "beta")


@pytest.mark.parametrize("change", [{"schedule": "beta"}, {"sigmas": SIGMAS}, {"sampler": "heun"}])
def test_the_digest_tells_another_schedule(planned, change):
    [plain] = images(planned({"prompt": "x"})).values()
    [again] = images(planned({"prompt": "x"})).values()
    [changed] = images(planned({"prompt": "x", **change})).values()
    assert plain["digest"] == again["digest"] != changed["digest"]


@pytest.mark.parametrize(
    ("sampler", "expected"), [("euler", 5 + 3), ("heun", 9 + 5), ("res_2s", 9 + 5), ("lcm", 5 + 3)]
)
def test_evaluations_of_every_kind_of_solver(planned, tmp_path, sampler, expected):
    """Five steps, and three of them from the source's level on; a last step is one evaluation."""
    picture(tmp_path / "a.png", 32, 32)
    rows = [{"prompt": "x"}, {"image": "a.png", "creativity": 0.8}]
    assert planned(*rows, steps=5, sampler=sampler).describe(4)["model_evaluations"] == expected


# ---- seeds


def test_seeds_are_derived_as_documented(planned):
    plan = planned({"id": "a", "prompt": "x"}, {"id": "b", "prompt": "x", "num_images": 2}, seed=12)

    def hashed(text: str) -> int:
        return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") // 2

    found = {name: row["seed"] for name, row in images(plan).items()}
    assert found == {"a": hashed("12\0a\0" + "0"), "b-0": hashed("12\0b\0" + "0"), "b-1": hashed("12\0b\0" + "1")}


def test_given_seeds_count_up_with_the_variant(planned):
    plan = planned({"id": "b", "prompt": "x", "num_images": 3, "seed": 2**63 - 2})
    assert [row["seed"] for row in images(plan).values()] == [2**63 - 2, 2**63 - 1, 0]


def test_derived_seeds_spread():
    """Neighbouring ids, variants and run seeds have seeds of their own, in 63 bits."""
    seeds = {derived_seed(run, str(row), variant) for run in range(5) for row in range(200) for variant in range(5)}
    assert len(seeds) == 5000
    assert 0 <= min(seeds) < 2**56
    assert 2**63 - 2**56 < max(seeds) < 2**63


# ---- units


ROW = st.fixed_dictionaries(
    {"prompt": st.sampled_from(["a heart", "a star", "a circle"])},
    optional={
        "size": st.sampled_from([(32, 32), (64, 32), (32, 64)]),
        "guidance": st.sampled_from([0.0, 1.0, 1.5, 5.0]),
        "num_images": st.integers(1, 4),
        "image": st.sampled_from(["a.png", "b.png"]),
        "steps": st.integers(1, 9),
    },
)


@seed(1)
@hypothesis_settings(
    max_examples=25, deadline=None, database=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(rows=st.lists(ROW, min_size=1, max_size=30), unit_rows=st.integers(1, 9))
def test_units(planned, tmp_path, rows, unit_rows):
    """Every image once, no unit too large, no mixed classes, and no more units than that takes."""
    for name in ("a.png", "b.png"):
        if not (tmp_path / name).exists():
            picture(tmp_path / name, 32, 32)
    lines = [{k: v for k, v in row.items() if k != "size"} for row in rows]
    for line, row in zip(lines, rows, strict=True):
        if "size" in row:
            line["width"], line["height"] = row["size"]
    plan = planned(*lines)
    units = plan.units(unit_rows)
    assert sorted(np.concatenate(units).tolist()) == list(range(len(plan)))
    found = plan.images.to_pylist()
    kinds = [(row["width"], row["height"], row["guidance"] > 1) for row in found]
    for unit in units:
        assert 1 <= len(unit) <= unit_rows
        assert len({kinds[place] for place in unit}) == 1
    assert len(units) == sum(-(-count // unit_rows) for count in Counter(kinds).values())


def test_a_task_carries_rows_sources_and_passthrough(planned, tmp_path):
    picture(tmp_path / "a.png", 32, 32)
    rows = [{"id": f"r{i}", "prompt": f"p{i}", "tag": i * 10} for i in range(4)]
    plan = planned(*rows, {"id": "s", "images": ["a.png", "a.png"], "blend_weights": [1, 3], "num_images": 2})
    task = plan.task(5, 2, "token", np.array([5, 3, 0]))
    assert (task.unit, task.attempt, task.attempt_token) == (5, 2, "token")
    assert [image.id for image in task.images] == ["s-1", "r3", "r0"]
    assert [source.weight for source in task.images[0].sources] == [0.25, 0.75]
    assert task.passthrough.equals(pa.table({"tag": [None, 30, 0]}))


# ---- the command


def plan_command(*arguments: object, cwd: Path, timeout: float = 120) -> subprocess.CompletedProcess:
    """`wanbatch plan` that afterwards says which heavy modules it has loaded and its peak memory."""
    code = """
import atexit, json, sys
def tell():
    heavy = sorted({"torch", "ray", "diffusers", "transformers", "tensorflow"} & set(sys.modules))
    status = open("/proc/self/status").read()  # getrusage would tell the peak of whoever started this process
    print(json.dumps({"heavy": heavy, "mib": int(status.split("VmHWM:")[1].split()[0]) / 1024}), file=sys.stderr)
atexit.register(tell)
from wanbatch.jobs.cli.main import main
main()
"""
    return subprocess.run(
        [sys.executable, "-c", code, "plan", *map(str, arguments)],
        cwd=cwd,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=timeout,
    )


def test_plan_counts_loads_nothing_and_writes_nothing(model_folder, sources, tmp_path):
    manifest = write_jsonl(sources / "planned.jsonl", MIXED)
    before = snapshot(sources)
    options = ["--model", model_folder, "--unit-rows", 4, "--width", 32, "--height", 32, "--steps", 2]
    done = plan_command(manifest, "--json", *options, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    described = json.loads(done.stdout)
    assert (described["rows"], described["images"], described["units"]) == (14, 15, 6)
    assert described["sizes"] == {"32x32": 12, "96x32": 1, "64x64": 1, "64x32": 1}
    assert (described["manifest"], described["model"]) == (str(manifest), str(model_folder))
    assert described["with_sources"] == 7
    # two steps each and three of one row, none at creativity 0; a schedule cut at the source's noise level has less;
    # heun evaluates twice in a step, but once in the last one
    evaluations = {"plain": 2, "00000001": 2, "wide-one": 3, "i2i-keep": 0, "i2i-some": 1, "i2i-most": 2}
    evaluations |= {"i2i-default": 2, "turned": 3, "several": 3 * 2, "two": 1, "group": 1, "shifted": 2 * 2}
    assert described["model_evaluations"] == sum(evaluations.values())
    assert json.loads(done.stderr.splitlines()[-1])["heavy"] == []
    assert snapshot(sources) == before
    assert list(tmp_path.iterdir()) == []


def test_plan_as_text(model_folder, manifest, tmp_path):
    path = manifest({"prompt": "a heart"}, {"prompt": "a star", "num_images": 2, "width": 96, "height": 32})
    done = invoke("plan", path, "--model", model_folder, "--steps", 5)
    assert done.exit_code == 0, done.stderr
    lines = [" ".join(line.split()) for line in done.stdout.splitlines()]
    assert lines[0].endswith("shop.jsonl: 2 rows, 3 images in 2 units")
    assert lines[1].endswith("unipc, 15 evaluations in all, 5 an image")
    assert lines[2:5] == ["96x32 2 images", "64x64 1 image", "sources 0 images start from one or more"]
    assert "estimate 3 images left, 15 evaluations" in lines


@pytest.mark.parametrize(
    ("kind", "rows", "mib"),
    [
        pytest.param("text", 100_000, 500, marks=pytest.mark.slow),
        pytest.param("source", 100_000, 500, marks=pytest.mark.slow),
        ("source", 20_000, 300),
    ],
)
def test_100_000_rows_plan_in_20_seconds_and_500_mb(model_folder, tmp_path, kind, rows, mib):
    """Fewer in less memory: what every row takes shows there too."""
    picture(tmp_path / "a.png", 64, 64)
    with open(tmp_path / "many.jsonl", "w") as file:
        for number in range(rows):
            row = {"id": f"item-{number:06d}", "prompt": f"a photo of article number {number} on a white table"}
            if kind == "source":
                row |= {"image": "a.png", "creativity": (0, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1)[number % 8]}
            row |= {"seed": number, "sku": f"{number * 7919:012d}", "stock": number % 97}
            file.write(json.dumps(row) + "\n")
    begin = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = plan_command("many.jsonl", "--json", "--model", model_folder, cwd=tmp_path)
    end = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["images"] == rows
    told = json.loads(done.stderr.splitlines()[-1])
    assert told["heavy"] == []
    assert told["mib"] < mib
    seconds = end.ru_utime + end.ru_stime - begin.ru_utime - begin.ru_stime
    assert seconds < 20  # of processor time: what else the machine does shall not count


def test_plan_tells_which_sources_cannot_be_read_and_what_passes_through(manifest, model_folder, tmp_path):
    picture(tmp_path / "a.png", 64, 64)
    (tmp_path / "bad.png").write_text("<html>")
    rows = [
        {"image": "a.png", "label": 1},
        {"image": "bad.png", "width": 64, "height": 64},
        {"images": ["a.png", "none.png"], "promt": "a typo"},
    ]
    done = invoke("plan", manifest(*rows), "--model", model_folder)
    assert done.exit_code == 0, done.stderr
    lines = [" ".join(line.split()) for line in done.stdout.splitlines()]
    assert "columns passed through unchanged: label, promt" in lines
    assert "warning 2 sources cannot be read; their rows will fail:" in lines
    assert lines[-2].startswith("bad.png is an HTML page, not an image")
    assert lines[-1] == f"none.png does not exist in {tmp_path}"
    found = json.loads(invoke("plan", manifest(*rows), "--json", "--model", model_folder).stdout)
    assert set(found["unreadable_sources"]) == {"bad.png", "none.png"}


def test_plan_tells_which_creativity_maps_cannot_be_read(manifest, model_folder, tmp_path):
    picture(tmp_path / "a.png", 64, 64)
    rows = [
        {"image": "a.png", "prompt": "x", "creativity_map": "a.png"},
        {"image": "a.png", "prompt": "x", "creativity_map": "mask.png"},
    ]
    found = json.loads(invoke("plan", manifest(*rows), "--json", "--model", model_folder).stdout)
    assert found["unreadable_sources"] == {"mask.png": f"mask.png does not exist in {tmp_path}"}
