"""A run looks only at sources of rows that are still to be made, and an interrupted one does not begin anew."""

from __future__ import annotations

import logging
from io import StringIO
from pathlib import Path

import pytest
from job_making import log_events, picture, rows_by_id, write_jsonl
from manifest_making import NOW

from wanbatch.errors import MachineryError
from wanbatch.jobs.driver import source_sizing
from wanbatch.jobs.driver.run import retry, run
from wanbatch.jobs.driver.run_context import prepare_run
from wanbatch.jobs.driver.source_sizing import CACHE, read_size_cache, size_what_is_pending
from wanbatch.jobs.reporting.progress import JsonLines
from wanbatch.manifests.dataset.folder import OutputFolder
from wanbatch.manifests.dataset.part_files import write_attempt
from wanbatch.manifests.records import Failure
from wanbatch.manifests.sources import loader as loading


@pytest.fixture
def opened(monkeypatch) -> list[str]:
    """The names of the files whose headers were read in this process."""
    found: list[str] = []
    real = loading.read_header
    monkeypatch.setattr(
        loading, "read_header", lambda file, *given, **more: found.append(_name(file)) or real(file, *given, **more)
    )
    return found


def _name(file) -> str:
    return Path(f"/proc/self/fd/{file.fileno()}").resolve().name


@pytest.fixture
def four(tmp_path) -> Path:
    """A manifest of four rows with a source each."""
    for number in range(4):
        picture(tmp_path / f"{number}.png", 96, 48, seed=number)
    return write_jsonl(tmp_path / "m.jsonl", ({"id": f"r{n}", "image": f"{n}.png"} for n in range(4)))


def quarantine(folder: OutputFolder, unit: int, name: str, kind: str = "missing_image") -> None:
    failure = Failure(name, 0, "source", kind, "gone", 1, unit, NOW)
    folder.publish(write_attempt(folder.url, unit, "t", None, [], [failure]))


def never() -> bool:
    return False


def test_sources_of_rows_that_are_done_are_left_alone(settings, four, tmp_path, opened):
    """Each start used to open all of them, before the folder was looked at."""
    context = prepare_run(four, tmp_path / "out", settings())
    assert opened == [], "nothing is looked at before the folder is known"
    with OutputFolder.open(context.out, context.fingerprint) as folder:
        quarantine(folder, 0, "r1")
        plan = size_what_is_pending(folder, context, set(), never)
    assert sorted(opened) == ["0.png", "2.png", "3.png"]
    assert plan.unsized.tolist() == [False, True, False, False]
    assert len(read_size_cache(str(context.out))) == 3


def test_a_second_start_takes_the_sizes_of_the_first(settings, four, tmp_path, opened):
    context = prepare_run(four, tmp_path / "out", settings(width=128, height=128))
    with OutputFolder.open(context.out, context.fingerprint) as folder:
        first = size_what_is_pending(folder, context, set(), never)
        del opened[:]
        picture(tmp_path / "2.png", 48, 96, seed=9)
        second = size_what_is_pending(folder, context, set(), never)
        assert opened == ["2.png"], "it is another file now"
        assert second.images["width"].to_pylist() != first.images["width"].to_pylist()
        assert second.images["width"].to_pylist()[3] == first.images["width"].to_pylist()[3]
        del opened[:]
        quarantine(folder, 0, "r0", "changed_image")
        size_what_is_pending(folder, context, {"r0"}, never)
        assert opened == ["0.png"], "a row that is made again is looked at anew, whatever the cache says"


def test_a_start_that_is_broken_off_while_it_measures_keeps_what_it_has(settings, four, tmp_path, monkeypatch):
    monkeypatch.setattr(source_sizing, "ROWS_AT_ONCE", 1)
    real = loading.SourceLoader.measure

    def measure(self, source, known=None):
        if source.path == "2.png":
            raise MachineryError("the store is away")
        return real(self, source, known)

    monkeypatch.setattr(loading.SourceLoader, "measure", measure)
    context = prepare_run(four, tmp_path / "out", settings())
    with OutputFolder.open(context.out, context.fingerprint) as folder:
        with pytest.raises(MachineryError, match="the store is away"):
            size_what_is_pending(folder, context, set(), never)
        assert len(read_size_cache(folder.url)) == 2


def test_a_damaged_cache_is_told_of_and_made_anew(settings, four, tmp_path, opened, caplog):
    context = prepare_run(four, tmp_path / "out", settings())
    with OutputFolder.open(context.out, context.fingerprint) as folder:
        size_what_is_pending(folder, context, set(), never)
        file = Path(folder.url) / "_wanbatch" / CACHE
        file.write_bytes(file.read_bytes()[:-9])
        del opened[:]
        with caplog.at_level(logging.WARNING):
            size_what_is_pending(folder, context, set(), never)
    [warning] = caplog.records
    assert str(file) in warning.getMessage()
    assert len(opened) == 4
    assert len(read_size_cache(str(context.out))) == 4


def test_a_stopped_start_looks_at_nothing(settings, four, tmp_path, opened):
    context = prepare_run(four, tmp_path / "out", settings())
    with OutputFolder.open(context.out, context.fingerprint) as folder:
        plan = size_what_is_pending(folder, context, set(), lambda: True)
    assert (opened, plan.unsized.tolist()) == ([], [True] * 4)


@pytest.mark.slow
def test_the_whole_run_goes_on_and_retries(run_here, settings, four, tmp_path, opened):
    """One source is missing at first; then the manifest grows. Sizes are those of the sources each time."""
    (tmp_path / "1.png").rename(tmp_path / "away.png")
    ran = run_here(four, tmp_path / "out", settings())
    assert (ran.summary.made, ran.summary.failures) == (3, {"missing_image": 1})
    assert sorted(opened) == ["0.png", "2.png", "3.png"]
    del opened[:]
    (tmp_path / "away.png").rename(tmp_path / "1.png")
    again = retry(ran.out, [], lambda total, before: JsonLines(total, before, StringIO()))
    assert (again.made, again.made_now) == (4, 1)
    assert opened == ["1.png"], "and the example of what is made is known"
    assert len({(row["width"], row["height"]) for row in rows_by_id(ran.out).values()}) == 1
    del opened[:]
    last = run(four, ran.out, settings(), lambda total, before: JsonLines(total, before, StringIO()))
    assert (last.made_now, opened) == (0, [])
    assert [event["pending"] for event in log_events(ran.out, "started")] == [4, 1, 0]
