"""What `plan` says a run will take: by its own folder, another one, the benchmark table; and its first rows."""

from __future__ import annotations

import json
import re
import runpy
from datetime import timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from click.testing import CliRunner
from job_making import write_jsonl
from report_folders import BEGIN, fill_folder, record_of, timing_of

from wanbatch.jobs.cli.main import main
from wanbatch.jobs.config.settings import Settings
from wanbatch.jobs.planning import gpu_memory, rates
from wanbatch.jobs.planning.estimates import estimate
from wanbatch.jobs.planning.first_rows import first_rows, table_lines
from wanbatch.jobs.planning.forecast import forecast
from wanbatch.jobs.planning.preparation import prepare
from wanbatch.jobs.planning.rates import TABLE, Rates, rates_of_gpu, rates_of_records
from wanbatch.jobs.planning.slot_turns import MAX_IN_MODEL, ONE_BY_ONE
from wanbatch.manifests.dataset.committed_parts import CommittedParts
from wanbatch.manifests.records import data_table, timing_table
from wanbatch.pipeline.loading.residency import Residency

ROOT = Path(__file__).parents[3]
CACHES = ("taylor:interval=2", "none", "adaptive:threshold=0.1")
RUNS = json.loads((ROOT / "benchmarks/results/h200-runs.json").read_text(encoding="utf-8"))["runs"]


def planned(folder: Path, *rows: dict, **settings):
    return prepare(write_jsonl(folder / "rows.jsonl", rows), Settings(**settings), weights=False)[0]


def records(count: int, seconds_of_an_evaluation: float, **changes):
    """Images of 64x64 and timings, each a unit by itself, whose denoising takes so long an evaluation."""
    images = [record_of(number, b"x", (), **changes) for number in range(count)]
    timings = []
    for number in range(count):
        steps = 4 + number % 5
        cost = {"denoise_seconds": steps * seconds_of_an_evaluation, "decode_seconds": 0.2, "text_seconds": 0.01}
        blocks = {"steps_full": steps, "steps_cached": 0, "blocks_full": steps * 10, "blocks_cached": 0}
        old = timing_of(number, number, 4)
        values = {name: getattr(old, name) for name in old.__dataclass_fields__} | cost | blocks
        timings.append(type(old)(**values | {"started": BEGIN + timedelta(seconds=number)}))
    return data_table(images), timing_table(timings)


def test_what_was_timed_is_what_is_expected(tmp_path):
    """Rows like the recorded ones take what those took, for each creativity, size and number of steps."""
    data, timings = records(40, 0.05)
    timed = rates_of_records(data, timings, {"step_cache": "none", "format": "png"}, 40 * 8000, "out")
    plan = planned(tmp_path, {"prompt": "a", "steps": 10, "guidance": 3}, width=64, height=64)
    found = estimate(plan, timed, Settings())
    assert found.seconds is not None
    busy = 10 * 0.05 + 0.2 + 0.01
    assert found.seconds.middle == pytest.approx(busy * timed.held, rel=0.02)
    assert found.seconds.least < found.seconds.middle < found.seconds.most
    assert found.bytes.middle == pytest.approx(8000)
    assert (found.images, found.evaluations) == (1, 10)


def test_timings_of_images_that_are_leaving_do_not_count():
    """A look may find data parts without them and timings still with them: each part takes its name in turn."""
    data, timings = records(40, 0.05)
    left = data.slice(0, 30)
    assert rates_of_records(left, timings, {}, 1, "out") == rates_of_records(left, timings.slice(0, 30), {}, 1, "out")


def test_guidance_and_size_count(tmp_path):
    data, timings = records(40, 0.05)
    timed = rates_of_records(data, timings, {}, 1, "out")

    def seconds(**changes) -> float:
        found = estimate(planned(tmp_path, {"prompt": "a", "steps": 10, **changes}), timed, Settings())
        assert found.seconds is not None
        return found.seconds.middle

    base = seconds(width=64, height=64, guidance=3)
    assert seconds(width=64, height=64, guidance=1) == pytest.approx(
        (base / timed.held - 0.25) * timed.held, rel=0.02
    )
    assert seconds(width=128, height=128, guidance=3) > 3.9 * base - 0.1


def test_a_step_cache_is_counted_as_it_was_recorded(tmp_path):
    data, timings = records(40, 0.05)
    index = timings.schema.get_field_index("blocks_cached")
    half = timings.set_column(index, timings.schema.field(index), timings["blocks_full"].cast(pa.int32()))
    cached = rates_of_records(data, half, {"step_cache": "taylor:interval=2"}, 1, "out")
    assert cached.blocks_run == 0.5
    plan = planned(tmp_path, {"prompt": "a", "steps": 10}, width=64, height=64)
    same, without, unknown = (estimate(plan, cached, Settings(step_cache=name)) for name in CACHES)
    assert same.seconds is not None
    assert without.seconds is not None
    assert unknown.seconds is not None
    assert without.seconds.middle > 1.5 * same.seconds.middle
    assert unknown.seconds.middle == without.seconds.middle
    assert unknown.notes == (f"what the step cache {CACHES[2]} saves is not known before and not taken off",)


def test_time_that_workers_wait_counts_and_pauses_between_runs_do_not():
    data, timings = records(30, 0.05)
    steady = rates_of_records(data, timings, {}, 1, "out")
    started = timings["started"].to_pylist()
    late = [value + timedelta(hours=9) if index >= 15 else value for index, value in enumerate(started)]
    place = timings.schema.get_field_index("started")
    paused = timings.set_column(place, timings.schema.field(place), pa.array(late, timings.schema.field(place).type))
    assert rates_of_records(data, paused, {}, 1, "out").held < steady.held + 0.5
    assert steady.held == pytest.approx(30 / np.sum([(4 + n % 5) * 0.05 + 0.21 for n in range(30)]), rel=0.1)


def test_a_few_units_say_less_than_many():
    few, many = (rates_of_records(*records(count, 0.05), {}, 1, "out") for count in (3, 40))
    assert few.high - few.low > many.high - many.low


@pytest.mark.parametrize("run", RUNS[:2], ids=lambda run: run["name"])
def test_the_benchmark_table_foretells_whole_runs_on_a_gpu(run, tmp_path):
    """Within 25 % of runs that were measured, from parts that were timed by themselves."""
    fp8 = "--precision fp8" in run["command"]
    rows = run["summary"]["made_now"]
    row = {"prompt": "a", "width": 1280, "height": 704, "steps": 50, "guidance": 5}
    row |= {"steps": 4, "guidance": 1} if fp8 else {}
    plan = planned(tmp_path, *[row] * rows)
    timed = rates_of_gpu("h200", "fp8" if fp8 else "bf16")
    found = estimate(plan, timed, Settings(slots=8)).seconds
    assert found is not None
    measured = run["summary"]["seconds"]["make"]
    assert found.middle == pytest.approx(measured, rel=0.25)
    assert found.least <= measured <= found.most


def test_estimates_are_within_a_quarter_of_a_run_on_a_gpu(monkeypatch):
    """Four kinds of rows in two sizes; the file has what its script derives from the seconds that were measured."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    script = runpy.run_path(str(ROOT / "benchmarks" / "foresee_again.py"))
    result = json.loads(script["RESULT"].read_text(encoding="utf-8"))
    assert result[script["KEY"]] == script["derived"](result)
    as_made, full = result[script["KEY"]]["ways"].values()
    for name, found in as_made.items():
        assert found["ratio"] == pytest.approx(1, abs=0.25)
        assert full[name]["device_seconds"] < found["device_seconds"]


@pytest.mark.parametrize("known", [[0, 2], [1]])
def test_some_units_of_a_real_run_foretell_the_others(known):
    """Of the small model on a machine of its own: units of other sizes, guidance and fill."""
    parts = CommittedParts.open(ROOT / "tests/data/release-0.1.0/dataset")
    data, timings = parts.table("data", rates.DATA_COLUMNS), parts.table("timings", rates.TIMING_COLUMNS)
    assert data is not None
    assert timings is not None
    chosen = pc.is_in(timings["unit"], pa.array(known, pa.int64()))
    found = rates_of_records(data, timings.filter(chosen), {}, 1, "out")
    others = rates_of_records(data, timings.filter(pc.invert(chosen)), {}, 1, "out")
    per_work = [one.denoising for one in (found, others)]
    assert per_work[0] == pytest.approx(per_work[1], rel=0.25)


def test_slots_that_stay_empty_are_paid_for(tmp_path):
    """One image takes the time of a whole batch; eight take that of two."""
    data, timings = records(40, 0.05)
    timed = rates_of_records(data, timings, {}, 1, "out")
    row = {"prompt": "a", "steps": 10, "width": 64, "height": 64, "guidance": 3}
    one, eight = (estimate(planned(tmp_path, *[row] * count), timed, Settings()).seconds for count in (1, 8))
    assert one is not None
    assert eight is not None
    denoising, rest = 10 * 0.05, 0.2 + 0.01
    assert one.middle / timed.held == pytest.approx(denoising + rest, rel=0.03)
    assert eight.middle / timed.held == pytest.approx(2 * denoising + 8 * rest, rel=0.03)


def test_slots_stay_full_across_units(tmp_path):
    """Forty rows of which a unit has eight, in four slots: the end of a unit leaves none empty."""
    data, timings = records(40, 0.05)
    timed = rates_of_records(data, timings, {}, 1, "out")
    rows = [{"prompt": "a", "steps": 4 + 8 * (n % 2), "width": 64, "height": 64, "guidance": 3} for n in range(40)]
    plan, settings = planned(tmp_path, *rows), Settings(unit_rows=8)
    full, drained = (
        estimate(plan, timed, settings, in_model=number).seconds for number in (MAX_IN_MODEL, ONE_BY_ONE)
    )
    assert full is not None
    assert drained is not None
    turns, rest = 20 * (4 + 12) / 4, 40 * 0.21
    assert full.middle / timed.held == pytest.approx(turns * 0.05 + rest, rel=0.1)
    assert drained.middle > 1.05 * full.middle


def test_every_worker_has_slots_of_its_own(tmp_path):
    """Eight rows are two rounds of four slots for one worker, and as many for each of eight."""
    data, timings = records(40, 0.05)
    timed = rates_of_records(data, timings, {}, 1, "out")
    plan = planned(tmp_path, *[{"prompt": "a", "steps": 10, "width": 64, "height": 64, "guidance": 3}] * 24)
    one, eight = (estimate(plan, timed, Settings(workers=count, slots=8)).seconds for count in (1, 8))
    assert one is not None
    assert eight is not None
    assert eight.middle == pytest.approx(one.middle), "units are no smaller than the slots"
    one, seven = (estimate(plan, timed, Settings(workers=count, slots=4)).seconds for count in (1, 7))
    assert one is not None
    assert seven is not None
    assert seven.middle == pytest.approx(one.middle)


def test_slots_are_counted_as_workers_counted_them():
    """Half of the slots that were computed had no row, so a row's evaluation took half of what it seems to."""
    data, timings = records(40, 0.05)
    counts = (timings["steps_full"].to_numpy() + timings["steps_cached"].to_numpy()).tolist()
    events = [
        {"event": "unit", "unit": number, "attempt": 1, "evaluations": count, "slot_steps": count * 2.0}
        for number, count in enumerate(counts)
    ]
    supposed, counted, partly = (
        rates_of_records(data, timings, {}, 1, "out", its) for its in ([], events, events[:20])
    )
    assert counted.denoising == pytest.approx(2 * supposed.denoising), "four slots were supposed for each row"
    assert supposed.denoising < partly.denoising < counted.denoising


def test_the_table_is_derived_from_the_results(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    derived = runpy.run_path(str(ROOT / "benchmarks" / "device_speeds.py"))["derived"]()
    assert json.loads((ROOT / "jobs/planning" / TABLE).read_text(encoding="utf-8")) == derived


def plan_command(*arguments: object) -> tuple[int, str, str]:
    result = CliRunner().invoke(main, ["plan", *map(str, arguments)])
    return result.exit_code, result.stdout, result.stderr


def test_the_command_by_an_earlier_run(tmp_path):
    """The model of the folder is tiny, as is the plan's."""
    rows = [{"id": f"row-{number:06d}", "prompt": "a", "sede": 1} for number in range(24)]
    write_jsonl(tmp_path / "rows.jsonl", rows)
    fill_folder(tmp_path / "earlier", 2, 8, 2)
    code, out, err = plan_command("rows.jsonl", "--like", tmp_path / "earlier")
    assert code == 0, err
    assert "estimate  24 images left" in out
    assert re.search(r"^ +\d.*s of a worker \(.*s to .*s\), loading", out, re.MULTILINE), out
    assert f"by 14 images of {tmp_path / 'earlier'}" in out
    assert out.index("warning   1 column passes") > out.index("first rows")
    found = forecast(prepare("rows.jsonl", Settings())[0], Settings(), "tiny", "earlier")
    assert found.images == 24 - 16, "what is made or failed is not counted"
    assert found.rates is not None
    assert found.rates.origin == "14 images of earlier"
    found = forecast(prepare("rows.jsonl", Settings())[0], Settings(), "tiny", "earlier", again=["row-000003"])
    assert found.images == 24 - 16 + 1
    first = json.loads(plan_command("rows.jsonl", "--json")[1])["first_rows"]
    assert [row["id"] for row in first] == [f"row-{number:06d}" for number in range(10)]


def test_the_command_by_the_table_marks_it(tmp_path):
    write_jsonl(tmp_path / "rows.jsonl", [{"prompt": "a"}])
    code, out, _ = plan_command("rows.jsonl", "--gpu", "h100")
    assert code == 0
    assert re.search(r"s of a GPU \(.* s to .* s\), loading the model aside", out), out
    write_jsonl(tmp_path / "many.jsonl", [{"prompt": "a", "num_images": 1000}] * 10)
    _, out, _ = plan_command("many.jsonl", "--gpu", "h100", "--steps", 1000)
    assert re.search(r" [\d.]+ GPU hours: \d+ h \d+ min \(", out), out
    assert "no H100 was measured" in out
    assert "of the 5B model" in out
    for precision in ("fp32", "int8"):
        code, _, err = plan_command("rows.jsonl", "--gpu", "h100", "--precision", precision)
        assert (code, f"{precision} is not in the table of GPUs; with --gpu: bf16, fp8" in err) == (2, True)
    code, out, _ = plan_command("rows.jsonl")
    assert "time: not known; --like OUT" in out


def test_a_model_that_the_table_knows_has_times_of_its_own(monkeypatch):
    table = rates.benchmark_table()
    other = {**table["gpus"]["h200"], "transformer": [40, 5120, 13824], "denoising": {"bf16": 1.0}, "results": ["a"]}
    table["gpus"]["h200"]["others"] = {"a14b": other}
    monkeypatch.setattr(rates, "benchmark_table", lambda: table)
    known = rates_of_gpu("h200", "bf16", (40, 5120, 13824))
    assert (known.denoising, known.notes) == (1.0, ())
    assert known.origin == "the benchmarks of A14B with random weights on an NVIDIA H200 (a)"
    of_the_5b = rates_of_gpu("h200", "bf16", (30, 3072, 14336))
    assert (of_the_5b.denoising < 1e-6, of_the_5b.notes) == (True, ())
    unknown = rates_of_gpu("h200", "bf16", (6, 384, 1536))
    assert (unknown.denoising, unknown.notes) == (of_the_5b.denoising, (rates.OF_THE_5B,))


def test_the_results_of_larger_models_become_times_of_the_table():
    script = runpy.run_path(str(ROOT / "benchmarks" / "device_speeds.py"))
    found = {
        "settings": {"slots": 4, "steps": 20},
        "hardware": {"device": "NVIDIA H200"},
        "1280x704": {
            "step": {
                "wanbatch bf16": {"ms": 300.0},
                "wanbatch fp8": {"ms": 200.0},
                "diffusers compiled": {"ms": 400},
            },
            "pictures": {"wanbatch bf16": {"seconds": 24.4}, "wanbatch fp8": {"seconds": 16.4}},
        },
    }
    made = script["_large"]("a14b", found, "a14b-h200.json", 0.001)
    assert made["denoising"]["bf16"] == pytest.approx(1.5 * made["denoising"]["fp8"])
    assert made["coding"] * 1280 * 704 == pytest.approx(0.1 - 0.001)


def test_plan_says_how_much_memory_of_a_gpu_a_large_model_needs(tmp_path, monkeypatch):
    write_jsonl(tmp_path / "rows.jsonl", [{"prompt": "a"}, {"prompt": "b", "width": 2048, "height": 2048}])
    assert json.loads(plan_command("rows.jsonl", "--json")[1])["gpu_memory_bytes"] == {}
    monkeypatch.setattr(gpu_memory, "SMALL", 0)
    found = json.loads(plan_command("rows.jsonl", "--json", "--slots", "4")[1])["gpu_memory_bytes"]
    assert list(found) == [str(Residency()), str(Residency(True)), str(Residency(True, True, True))]
    assert sorted(found.values(), reverse=True) == list(found.values())
    more = json.loads(plan_command("rows.jsonl", "--json", "--slots", "64")[1])["gpu_memory_bytes"]
    assert more[str(Residency())] > found[str(Residency())]
    told = plan_command("rows.jsonl", "--precision", "fp8")[1].splitlines()
    assert [line.split(" GB ")[1] for line in told if " of a GPU " in line] == [
        "of a GPU in fp8 where all of the model is on the device",
        "of a GPU in fp8 where the text encoder takes turns with the rest",
        "of a GPU in fp8 where all parts of the model take turns on the device",
    ]


def test_folders_that_say_nothing_are_refused(tmp_path):
    write_jsonl(tmp_path / "rows.jsonl", [{"prompt": "a"}])
    fill_folder(tmp_path / "failed", 1, 2, 2)
    for like in ("nowhere", "failed"):
        code, _, err = plan_command("rows.jsonl", "--like", like)
        assert (code, f"{like}: has no timing records" in err) == (2, True)
    code, _, err = plan_command("rows.jsonl", "--like", "failed", "--gpu", "h100")
    assert (code, "give one of them" in err) == (2, True)


def test_the_table_of_rows_is_aligned_and_leaves_out_empty_columns(tmp_path):
    plan = planned(tmp_path, {"prompt": "word " * 40, "seed": 5}, {"prompt": "b", "seed": 2**62})
    head, first, second = table_lines(first_rows(plan))
    assert "sources" not in head
    assert head.index("prompt") == first.index("word") == second.index("b", 40)
    assert len(first) < 180


def test_rates_of_a_device_are_said_to_be_of_a_gpu_or_not():
    assert Rates("NVIDIA H200", 1, 1, 1, 1, 1, 1, "x").is_gpu
    assert not Rates("cpu AVX512", 1, 1, 1, 1, 1, 1, "x").is_gpu
