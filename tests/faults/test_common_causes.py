"""Faults that all rows share: they stop the run and quarantine nobody."""

from __future__ import annotations

import functools

import fake_pipelines
from fault_making import require_whole
from job_making import commits, log_events, picture, rows_by_id

from wanbatch.jobs.reporting.text_summary import summary_text
from wanbatch.manifests.dataset.status import status


def rows(count: int) -> list[dict]:
    return [{"id": f"r{index:03d}", "prompt": "x"} for index in range(count)]


def names(count: int) -> set[str]:
    return {row["id"] for row in rows(count)}


def test_a_bug_that_fails_every_row_quarantines_nobody(run_rows, tmp_path):
    """Without a circuit breaker all 40 were quarantined, with exit code 3, and a mended version made none of them."""
    broken, out = tmp_path / "broken", tmp_path / "out"
    broken.touch()
    load = functools.partial(fake_pipelines.load_raising, broken)
    summary = run_rows(rows(40), load=load, workers=2)
    assert (summary.exit_code, summary.stopped_by) == (6, "circuit_breaker")
    assert (summary.made, summary.quarantined, summary.pending) == (0, 0, 40)
    assert commits(out) == []
    [event] = log_events(out, "stopped")
    assert event["by"] == "circuit_breaker"
    for told in (event["cause"], summary_text(summary)):
        assert "RuntimeError: the kernel was built for another device" in told
        assert "--circuit-breaker off" in told
    broken.unlink()
    assert run_rows(rows(40), load=load, workers=2).exit_code == 0
    require_whole(out, names(40))


def test_a_fault_that_begins_in_the_middle_leaves_its_rows_pending(run_rows, tmp_path):
    broken, out = tmp_path / "broken", tmp_path / "out"
    load = functools.partial(fake_pipelines.load_raising, broken)

    def break_it() -> None:
        if status(out)["units"] >= 10:
            broken.touch()

    summary = run_rows(rows(80), load=load, hook=break_it)
    assert summary.exit_code == 6, "without a circuit breaker: 3, and all after the tenth quarantined"
    assert summary.quarantined == 0
    assert 10 <= summary.made < 80
    broken.unlink()
    assert run_rows(rows(80), load=load).exit_code == 0
    require_whole(out, names(80))


def test_switched_off_it_quarantines_row_by_row(run_rows, tmp_path):
    broken = tmp_path / "broken"
    broken.touch()
    load = functools.partial(fake_pipelines.load_raising, broken)
    summary = run_rows(rows(20), load=load, circuit_breaker="off")
    assert (summary.exit_code, summary.failures) == (3, {"error": 20})
    require_whole(tmp_path / "out", set(), names(20))


def test_sources_that_are_all_missing_stop_a_run_and_some_do_not(run_rows, tmp_path):
    """A wrong --source-root, as it were; what is there beside the missing ones makes them the rows' own fault."""
    missing = [{"id": f"gone-{index}", "image": "nowhere.png", "width": 32, "height": 32} for index in range(12)]
    summary = run_rows(missing)
    assert (summary.exit_code, summary.quarantined, summary.pending) == (6, 0, 12)
    assert "nowhere.png does not exist" in str(summary.stop_cause)
    assert run_rows([*missing, *rows(1)]).exit_code == 3
    require_whole(tmp_path / "out", names(1), {row["id"] for row in missing})


def test_a_folder_of_sources_that_leaves_in_the_middle_costs_no_row(run_rows, tmp_path):
    """A mount that is gone: nothing is found below it, which would else be 60 missing images."""
    sources, away, out = tmp_path / "sources", tmp_path / "away", tmp_path / "out"
    sources.mkdir()
    picture(sources / "one.png", 32, 32)
    asked = [{**row, "image": "one.png", "width": 32, "height": 32} for row in rows(80)]

    def leave() -> None:
        if sources.is_dir() and status(out)["units"] >= 10:
            sources.rename(away)

    summary = run_rows(asked, hook=leave, source_root=str(sources))
    assert (summary.exit_code, summary.quarantined) == (6, 0)
    assert 10 <= summary.made < 80
    assert f"the folder {sources} is gone: is it mounted?" in str(summary.stop_cause)
    away.rename(sources)
    assert run_rows(asked, source_root=str(sources)).exit_code == 0
    assert set(rows_by_id(out)) == names(80)


def test_rows_of_one_bad_kind_among_good_ones_are_quarantined(run_rows, tmp_path):
    """What is held back for a while is committed in the end, once."""
    mixed = [{"id": f"{'raise' if index % 3 == 0 else 'good'}-{index}", "prompt": "x"} for index in range(30)]
    summary = run_rows(mixed, load=fake_pipelines.load_with_rows_that_raise, workers=2)
    bad = {row["id"] for row in mixed if row["id"].startswith("raise")}
    assert (summary.exit_code, summary.failures) == (3, {"error": 10})
    require_whole(tmp_path / "out", {row["id"] for row in mixed} - bad, bad)


def test_a_limit_of_failures_counts_those_that_are_held_back(run_rows, tmp_path):
    """Nothing is made yet, so nothing is committed yet."""
    bad = [{"id": f"raise-{index}", "prompt": "x"} for index in range(30)]
    summary = run_rows(bad, load=fake_pipelines.load_with_rows_that_raise, max_failures="3")
    assert (summary.exit_code, summary.stopped_by) == (5, "max_failures")
    assert summary.quarantined >= 4
    assert summary.pending > 0
    require_whole(tmp_path / "out", set(), {row["id"] for row in bad[: summary.quarantined]})
