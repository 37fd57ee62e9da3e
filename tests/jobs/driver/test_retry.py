"""Making rows again: quarantined ones, changed ones; and stopping when too many fail."""

from __future__ import annotations

import json
from io import StringIO
from pathlib import Path

import pytest
from click.testing import CliRunner
from job_making import log_events, picture, rows_by_id, snapshot, write_jsonl
from local_pool import run_without_ray as run

from wanbatch.errors import UserError
from wanbatch.jobs.cli.main import main
from wanbatch.jobs.driver.run import retry
from wanbatch.jobs.reporting.progress import JsonLines
from wanbatch.jobs.reporting.text_summary import summary_text

pytestmark = pytest.mark.usefixtures("fast_retries")


def quiet(total: int, before: int) -> JsonLines:
    return JsonLines(total, before, StringIO())


@pytest.fixture
def mended(run_fast, settings, tmp_path):
    """A finished run with a missing source and a damaged one, after the missing one was put in its place."""
    (tmp_path / "bad.png").write_text("<html>")
    rows = [
        {"id": "good", "prompt": "a heart"},
        {"id": "absent", "image": "late.png", "width": 32, "height": 32},
        {"id": "damaged", "image": "bad.png", "width": 32, "height": 32},
    ]
    ran = run_fast(write_jsonl(tmp_path / "m.jsonl", rows), tmp_path / "out", settings())
    assert ran.summary.failures == {"bad_image": 1, "missing_image": 1}
    picture(tmp_path / "late.png", 32, 32, seed=1)
    return ran.out


def test_retry_makes_what_failed_and_leaves_each_row_in_one_place(mended):
    summary = retry(mended, [], quiet)
    assert (summary.made, summary.quarantined, summary.made_now, summary.exit_code) == (2, 1, 1, 3)
    assert sorted(rows_by_id(mended)) == ["absent", "good"]
    assert list(rows_by_id(mended, "failures")) == ["damaged"]


def test_retry_of_one_class_leaves_the_others(mended):
    """As it is said of such runs: `wanbatch status` says how many, `wanbatch retry` makes them again."""
    before = rows_by_id(mended, "failures")["damaged"]
    retry(mended, ["missing_image"], quiet)
    assert rows_by_id(mended, "failures") == {"damaged": before}
    assert sorted(rows_by_id(mended)) == ["absent", "good"]


def test_retry_of_a_class_that_is_not_there_names_those_that_are(mended):
    result = CliRunner().invoke(main, ["retry", str(mended), "--class", "oom"])
    assert result.exit_code == 2
    assert "no quarantined rows of class oom; there are: 1 bad_image, 1 missing_image" in result.stderr


def test_retry_of_a_folder_without_failures_says_so(changed):
    with pytest.raises(UserError, match="no quarantined rows; there are: none"):
        retry(changed.out, [], quiet)


@pytest.fixture
def changed(run_fast, settings, tmp_path):
    """A finished run of three rows whose manifest now asks something else of the second."""
    rows = [{"id": name, "prompt": f"a {name} heart"} for name in ("red", "green", "blue")]
    ran = run_fast(write_jsonl(tmp_path / "m.jsonl", rows), tmp_path / "out", settings())
    rows[1] |= {"prompt": "a yellow star", "seed": 5}
    write_jsonl(tmp_path / "m.jsonl", [rows[2], rows[1], rows[0]])  # their order is no change
    return ran


def test_a_changed_row_is_refused_with_the_remedy(changed, run_fast, settings):
    with pytest.raises(UserError, match=r"1 row changed since it was made, 'green' for one.*--rerun-changed"):
        run_fast(changed.manifest, changed.out, settings())
    assert rows_by_id(changed.out)["green"]["prompt"] == "a green heart"


def test_a_changed_row_is_made_again_on_request(changed, settings):
    before = rows_by_id(changed.out)
    summary = run(changed.manifest, changed.out, settings(), quiet, rerun_changed=True)
    after = rows_by_id(changed.out)
    assert (summary.made, summary.exit_code) == (3, 0)
    assert after["green"]["prompt"] == "a yellow star"
    assert after["green"]["sha256"] != before["green"]["sha256"]
    assert (after["red"], after["blue"]) == (before["red"], before["blue"])
    assert sorted(rows_by_id(changed.out, "timings")) == ["blue", "green", "red"]
    again = run(changed.manifest, changed.out, settings(), quiet)
    assert (again.made_now, again.exit_code) == (0, 0)


@pytest.mark.parametrize(
    ("limit", "stopped"),
    [
        ("1", True),
        pytest.param("10%", True, marks=pytest.mark.slow),
        pytest.param("2", False, marks=pytest.mark.slow),
        ("50%", False),
    ],
)
def test_too_many_failures_stop_a_run_and_keep_what_is_done(run_fast, settings, tmp_path, limit, stopped):
    rows = [{"id": "first", "prompt": "a heart"}]
    rows += [{"id": f"gone-{i}", "image": f"gone-{i}.png", "width": 32, "height": 32} for i in range(2)]
    rows += [{"id": f"later-{i}", "prompt": "a star"} for i in range(7)]
    chosen = settings(unit_rows=1, max_failures=limit)
    ran = run_fast(write_jsonl(tmp_path / "m.jsonl", rows), tmp_path / "out", chosen)
    assert ran.summary.exit_code == (5 if stopped else 3)
    assert ran.summary.stopped_by == ("max_failures" if stopped else None)
    assert (ran.summary.pending > 0) is stopped
    assert "first" in rows_by_id(ran.out)
    assert [len(log_events(ran.out, ended)) for ended in ("stopped", "finished")] == [stopped, not stopped]
    assert ("stopped, too many failed" in summary_text(ran.summary)) is stopped


def test_status_tells_the_speed(changed):
    result = CliRunner().invoke(main, ["status", str(changed.out), "--json"])
    found = json.loads(result.stdout)
    assert found["pictures_per_second"] > 0
    assert found["seconds_left"] is None  # nothing goes on
    assert "pictures/s" in CliRunner().invoke(main, ["status", str(changed.out)]).stdout


@pytest.mark.slow
def test_new_run_leaves_a_folder_of_other_settings_alone(run_fast, settings, tmp_path):
    manifest = write_jsonl(tmp_path / "m.jsonl", [{"id": "a", "prompt": "a red heart"}])
    out = tmp_path / "out"
    run_fast(manifest, out, settings())
    before = snapshot(out)
    with pytest.raises(UserError, match=r"steps was 2, now 3\..*--new-run"):
        run(manifest, out, settings(steps=3), quiet)
    second = run(manifest, out, settings(steps=3), quiet, new_run=True)
    assert (Path(second.out), second.made_now) == (tmp_path / "out-2", 1)
    again = run(manifest, out, settings(steps=3), quiet, new_run=True)
    assert (Path(again.out), again.made_now) == (tmp_path / "out-2", 0), "the same command goes on with its own"
    third = run(manifest, out, settings(steps=1), quiet, new_run=True)
    assert Path(third.out) == tmp_path / "out-3"
    first = run(manifest, out, settings(), quiet, new_run=True)
    assert (Path(first.out), first.made_now) == (out, 0)
    assert snapshot(out).items() >= before.items() - {("_wanbatch/log.jsonl", before["_wanbatch/log.jsonl"])}


@pytest.mark.slow
def test_a_source_that_is_gone_later_changes_nothing_of_what_is_made(run_fast, settings, tmp_path):
    """Its row took its size from it; the picture stays, and is not told to have changed."""
    picture(tmp_path / "wide.png", 96, 48, seed=1)
    rows = [{"id": "sized", "image": "wide.png"}, {"id": "late", "image": "later.png"}]
    ran = run_fast(write_jsonl(tmp_path / "m.jsonl", rows), tmp_path / "out", settings())
    assert ran.summary.failures == {"missing_image": 1}
    size = [(row["width"], row["height"]) for row in rows_by_id(ran.out).values()]
    (tmp_path / "wide.png").rename(tmp_path / "later.png")
    again = retry(ran.out, [], quiet)
    assert (again.made, again.made_now, again.exit_code) == (2, 1, 0)
    made = rows_by_id(ran.out)
    assert [(made[name]["width"], made[name]["height"]) for name in ("sized", "late")] == size * 2


def test_a_folder_goes_on_with_a_manifest_that_asks_for_all_it_holds(run_fast, settings, tmp_path):
    rows = [{"id": name, "prompt": "a heart"} for name in ("a", "b")]
    ran = run_fast(write_jsonl(tmp_path / "m.jsonl", rows), tmp_path / "out", settings())
    before = snapshot(ran.out)
    other = write_jsonl(tmp_path / "other.jsonl", [rows[0], {"id": "c", "prompt": "a star"}])
    with pytest.raises(UserError, match=r"holds 1 image that .*other\.jsonl does not ask for, 'b' for one"):
        run(other, ran.out, settings(), quiet)
    assert snapshot(ran.out) == before
