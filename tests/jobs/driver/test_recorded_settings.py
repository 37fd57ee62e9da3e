"""`retry` has the settings of its run, whatever the environment and the settings file say by now; which folder a run
takes, and how many slots it finds there."""

from __future__ import annotations

import json
from io import StringIO
from pathlib import Path

import pytest
from job_making import picture, write_jsonl

from wanbatch.errors import UserError
from wanbatch.jobs.config.settings import Settings, recorded_settings
from wanbatch.jobs.driver.resume import folder_of_run, settings_for_later
from wanbatch.jobs.driver.run import retry
from wanbatch.jobs.planning.preparation import prepare
from wanbatch.jobs.reporting.progress import JsonLines
from wanbatch.manifests.dataset.folder import OutputFolder


@pytest.fixture
def noted(settings, tmp_path, model):
    """What a run with these changes notes of its settings, as it stands in the folder."""

    def note(**changes) -> dict:
        plan, _ = prepare(write_jsonl(tmp_path / "m.jsonl", [{"prompt": "x"}]), settings(**changes))
        return json.loads(json.dumps(settings_for_later(settings(**changes), model, plan)))

    return note


def test_all_settings_are_noted_and_come_back(noted, settings, tmp_path):
    values = noted(steps=None, sigmas=[0.9, 0.5], text_cache=tmp_path / "texts", quality=None)
    assert set(values) == set(Settings.model_fields)
    assert values["steps"] is None
    found = recorded_settings(values, "run.json")
    folders = {"source_root": str(tmp_path), "source_fence": str(tmp_path), "text_cache": tmp_path / "texts"}
    expected = settings(steps=None, sigmas=[0.9, 0.5], **folders)
    assert found.model_dump() == expected.model_dump()


def test_variables_and_the_file_of_today_play_no_part(noted, monkeypatch, tmp_path):
    """Fields that the run had not set were taken from wherever `retry` was called."""
    values = noted(steps=None)
    old = {name: value for name, value in values.items() if value is not None}  # as release 0.1.0 noted them
    monkeypatch.setenv("WANBATCH_STEPS", "7")
    (tmp_path / "wanbatch.toml").write_text('guidance = 3.5\nsampler = "lcm"\n')
    assert Settings().steps == 7, "what a new run would take"
    for recorded in (values, old):
        found = recorded_settings(recorded, "run.json")
        assert (found.steps, found.guidance, found.sampler) == (None, None, None)
    (tmp_path / "wanbatch.toml").write_text("steps = = 3")
    assert recorded_settings(values, "run.json").steps is None


@pytest.mark.parametrize("change", [{"steps": 0}, {"colour": "red"}])
def test_settings_that_this_version_does_not_take_are_told_with_their_file(noted, change):
    with pytest.raises(UserError, match=rf"out/run\.json: records settings .* \({next(iter(change))}: .*use the ver"):
        recorded_settings({**noted(), **change}, "out/run.json")


def test_retry_as_the_run_was_started(run_fast, fast_retries, settings, tmp_path, monkeypatch):
    """It was refused, as the variable made the steps others, and with the file it was a traceback."""
    rows = [{"id": "late", "image": "late.png", "width": 32, "height": 32}]
    ran = run_fast(write_jsonl(tmp_path / "m.jsonl", rows), tmp_path / "out", settings(steps=None, shift=None))
    assert ran.summary.failures == {"missing_image": 1}
    picture(tmp_path / "late.png", 32, 32)
    monkeypatch.setenv("WANBATCH_SHIFT", "7")
    (tmp_path / "wanbatch.toml").write_text("steps = = 3")
    again = retry(ran.out, [], lambda total, before: JsonLines(total, before, StringIO()))
    assert (again.made, again.exit_code) == (1, 0)


def fingerprint(steps: int):
    return lambda slots: {"steps": steps, "slots": slots}


def test_a_new_run_does_not_take_the_slots_of_a_folder_that_it_does_not_use(tmp_path):
    """`--slots auto --new-run` took what the other folder's run had measured for its own settings."""
    out = tmp_path / "out"
    OutputFolder.open(out, fingerprint(2)(8)).close()
    assert folder_of_run(out, None, fingerprint(2), new_run=True) == (out, 8)
    assert folder_of_run(out, None, fingerprint(3), new_run=False) == (out, 8), "which is then refused"
    assert folder_of_run(out, None, fingerprint(3), new_run=True) == (Path(f"{out}-2"), None)
    OutputFolder.open(f"{out}-2", fingerprint(3)(2)).close()
    assert folder_of_run(str(out), None, fingerprint(3), new_run=True) == (f"{out}-2", 2)
    assert folder_of_run(out, 4, fingerprint(3), new_run=True) == (Path(f"{out}-3"), 4)


def test_devices_that_may_be_mixed_are_recorded_and_asked_for_again(run_fast, settings, tmp_path):
    manifest, out = write_jsonl(tmp_path / "m.jsonl", [{"prompt": "x"}]), tmp_path / "out"
    run_fast(manifest, out, settings(mixed_devices=True))
    assert json.loads((out / "_wanbatch/run.json").read_text())["fingerprint"]["mixed_devices"] is True
    with pytest.raises(UserError, match="mixed_devices was true, now not set"):
        run_fast(manifest, out, settings())
    assert run_fast(manifest, out, settings(mixed_devices=True)).summary.exit_code == 0
