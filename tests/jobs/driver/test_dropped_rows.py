"""`--drop-removed`: rows that the manifest does not ask for any more leave the dataset, and nothing else changes."""

from __future__ import annotations

import json
import subprocess
import sys
from functools import partial
from io import StringIO
from pathlib import Path

import pytest
from click.testing import CliRunner
from datasets import load_dataset
from job_making import environment, log_events, picture, rows_by_id, snapshot, write_jsonl
from local_pool import run_without_ray

from wanbatch.errors import UserError
from wanbatch.jobs.cli.main import main
from wanbatch.jobs.reporting.progress import JsonLines
from wanbatch.jobs.reporting.text_summary import summary_text
from wanbatch.manifests.dataset.repair import repair
from wanbatch.manifests.dataset.status import status

SUPPORT = Path(__file__).parents[2] / "support"
run = partial(run_without_ray, progress=lambda total, before: JsonLines(total, before, StringIO()))

ROWS = [
    {"id": "a", "prompt": "a heart"},
    {"id": "b", "prompt": "a star"},
    {"image": "left.png", "blend_group": "both", "creativity": 0.8},
    {"image": "right.png", "blend_group": "both"},
    {"id": "many", "prompt": "a moon", "num_images": 2},
    {"id": "absent", "image": "absent.png", "width": 32, "height": 32},
    {"id": "gone", "image": "gone.png", "width": 32, "height": 32},
]
LEAVING = {"b", "many-0", "many-1", "gone"}
STAYING = {"a", "both"}


STEPS = [
    ("os.link", "/_wanbatch/commits/", 4),
    ("os.rename", "/timings/part-", 0),
    ("os.rename", "/data/part-", 0),
    ("os.rename", "/README.md", 0),
    ("os.rename", "/_wanbatch/run.json", 0),
]
"""Where the command is killed: (event, a part of a path, rows that the next one takes out)."""


@pytest.fixture(scope="module")
def chosen(settings):
    return settings(unit_rows=2, threads=1)


@pytest.fixture(scope="module")
def fill(run_fast, chosen):
    def call(folder: Path):
        """A finished run, whose manifest lacks three of its rows now: four images, of which one is quarantined."""
        for number, name in enumerate(("left", "right")):
            picture(folder / f"{name}.png", 32, 32, seed=number)
        ran = run_fast(write_jsonl(folder / "m.jsonl", ROWS), folder / "out", chosen)
        assert rows_by_id(ran.out).keys() == (STAYING | LEAVING) - {"gone"}
        write_jsonl(folder / "m.jsonl", [row for row in ROWS if row.get("id") not in ("b", "many", "gone")])
        return ran

    return call


@pytest.fixture
def filled(fill, tmp_path):
    return fill(tmp_path)


def loaded(out: Path, cache: Path) -> set[str]:
    return set(load_dataset(str(out), split="train", cache_dir=str(cache))["id"])


def require_gone(out: Path) -> None:
    """All who look at the dataset say that it has what stays, and nothing else."""
    assert rows_by_id(out).keys() == rows_by_id(out, "timings").keys() == STAYING
    assert rows_by_id(out, "failures").keys() == {"absent"}
    found = status(out)
    assert [found[name] for name in ("rows", "done", "quarantined", "pending")] == [3, 2, 1, 0]
    assert repair(out).whole
    told = CliRunner().invoke(main, ["report", str(out)])
    assert told.exit_code == 0, told.output
    counts = json.loads((out / "report.json").read_text())["counts"]
    assert [counts[name] for name in ("rows", "made", "failed", "left")] == [3, 2, 1, 0]


def test_rows_leave_and_the_others_stay_as_they_are(filled, chosen, tmp_path):
    before, cache = rows_by_id(filled.out), tmp_path / "cache"
    assert loaded(filled.out, cache) == before.keys()
    summary = run(filled.manifest, filled.out, chosen, drop_removed=True)
    counts = summary.rows, summary.made, summary.quarantined, summary.made_now, summary.removed, summary.exit_code
    assert counts == (3, 2, 1, 0, 4, 3)
    assert summary.removed_failed == 1
    assert "  removed   3 pictures and 1 failed row that the manifest does not ask for any more\n" in summary_text(
        summary
    )
    require_gone(filled.out)
    assert rows_by_id(filled.out) == {name: before[name] for name in STAYING}
    assert loaded(filled.out, cache) == STAYING, "what datasets has kept is not taken for it"
    assert [event["rows"] for event in log_events(filled.out, "rows_removed")] == [4]
    again = run(filled.manifest, filled.out, chosen)
    assert (again.removed, again.made_now, again.made) == (0, 0, 2)


def test_a_row_that_comes_back_is_made_again_as_it_was(filled, chosen):
    before = rows_by_id(filled.out)
    run(filled.manifest, filled.out, chosen, drop_removed=True)
    write_jsonl(filled.manifest, ROWS)
    back = run(filled.manifest, filled.out, chosen)
    assert (back.made, back.made_now, back.quarantined) == (5, 3, 2)
    assert {name: row["seed"] for name, row in rows_by_id(filled.out).items()} == {
        name: row["seed"] for name, row in before.items()
    }


def test_rows_leave_while_others_come_and_change(filled, chosen):
    """In one run, with a column that is new, too."""
    rows = [{**row, "note": "kept"} for row in ROWS if row.get("id") not in ("b", "many", "gone")]
    rows[0] |= {"prompt": "a red heart"}
    write_jsonl(filled.manifest, [{"id": "new", "prompt": "a sun", "note": "came"}, *rows])
    with pytest.raises(UserError, match="1 row changed since it was made, 'a' for one"):
        run(filled.manifest, filled.out, chosen, drop_removed=True)
    assert LEAVING - {"gone"} <= rows_by_id(filled.out).keys(), "what is refused takes nothing out"
    summary = run(filled.manifest, filled.out, chosen, drop_removed=True, rerun_changed=True)
    assert (summary.made, summary.made_now, summary.removed) == (3, 2, 4)
    found = rows_by_id(filled.out)
    assert {name: (row["prompt"], row["note"]) for name, row in found.items()} == {
        "new": ("a sun", "came"),
        "a": ("a red heart", "kept"),
        "both": (found["both"]["prompt"], None),
    }


def test_without_the_flag_the_refusal_names_it_and_how_many(filled, chosen):
    before = snapshot(filled.out)
    with pytest.raises(UserError, match=r"holds 4 images that .*m\.jsonl does not ask for, 'b' for one") as refused:
        run(filled.manifest, filled.out, chosen)
    assert "take these 4 out of the dataset with `wanbatch run --drop-removed`" in str(refused.value)
    assert snapshot(filled.out) == before


def test_another_manifest_empties_no_dataset(filled, chosen):
    other = write_jsonl(filled.manifest.parent / "other.jsonl", [{"id": "x", "prompt": "a star"}])
    before = snapshot(filled.out)
    with pytest.raises(UserError, match=r"other\.jsonl asks for none of the 7 images .*so all would leave it"):
        run(other, filled.out, chosen, drop_removed=True)
    assert snapshot(filled.out) == before


def arguments(filled, chosen) -> list[str]:
    given = ["--width", "32", "--height", "32", "--steps", "2", "--unit-rows", "2", "--threads", "1"]
    return [str(filled.manifest), "--out", str(filled.out), "--model", str(chosen.model), *given, "--drop-removed"]


def test_plan_says_how_many_would_leave_and_takes_none(filled, chosen):
    before = snapshot(filled.out)
    told = CliRunner().invoke(main, ["plan", *arguments(filled, chosen)])
    assert f"  removed   3 images and 1 failed row of {filled.out} would leave it\n" in told.output, told.output
    told = CliRunner().invoke(main, ["plan", *arguments(filled, chosen), "--json"])
    found = json.loads(told.stdout)
    assert (found["removed"], found["removed_failed"]) == (4, 1)
    assert snapshot(filled.out) == before
    write_jsonl(filled.manifest, [{"id": "x", "prompt": "a star"}])
    told = CliRunner().invoke(main, ["plan", *arguments(filled, chosen)])
    assert (told.exit_code, "all would leave it" in told.stderr) == (2, True)


def test_submit_passes_the_flag_on(filled, chosen):
    told = CliRunner().invoke(main, ["submit", *arguments(filled, chosen), "--emit", "slurm"])
    assert told.exit_code == 0, told.output
    (line,) = (line for line in told.stdout.splitlines() if " run " in line)
    assert "--drop-removed" in line


@pytest.fixture(scope="module")
def killed(fill, chosen, tmp_path_factory):
    """A filled folder for each step, with its rows as they were before the command that was killed there."""
    runs = [fill(tmp_path_factory.mktemp("killed")) for _ in STEPS]
    found = [(ran, rows_by_id(ran.out)) for ran in runs]
    commands = [[*step[:2], "run", *arguments(ran, chosen)] for step, ran in zip(STEPS, runs, strict=True)]
    done = subprocess.run(
        [sys.executable, SUPPORT / "killed_command.py"],
        cwd=tmp_path_factory.mktemp("here"),
        env=environment(),
        input="".join(json.dumps(command) + "\n" for command in commands),
        capture_output=True,
        text=True,
        timeout=400,
    )
    assert done.stdout.split() == ["-9"] * len(STEPS), done.stderr
    return found


@pytest.mark.parametrize("step", range(len(STEPS)), ids=[f"{event}-{name}" for event, name, _ in STEPS])
def test_the_command_killed_between_its_steps(killed, chosen, step):
    (filled, before), (_, _, left) = killed[step], STEPS[step]
    summary = run(filled.manifest, filled.out, chosen, drop_removed=True)
    assert (summary.removed, summary.made_now, summary.exit_code) == (left, 0, 3)
    require_gone(filled.out)
    assert rows_by_id(filled.out) == {name: before[name] for name in STAYING}
