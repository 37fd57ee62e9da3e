"""`wanbatch qualify` on a small model: what it finds, and that it notices what is wrong."""

from __future__ import annotations

import json
import weakref
from html.parser import HTMLParser
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from wanbatch.jobs.benchmark import compare
from wanbatch.jobs.benchmark import qualify as qualifying
from wanbatch.jobs.cli.main import main
from wanbatch.jobs.config.hardware import ExecutionConfig, Hardware
from wanbatch.jobs.config.settings import Settings
from wanbatch.pipeline.generate import Wan

SMALL = ("--width", "32", "--height", "32", "--steps", "2", "--prompts", "2", "--reference-steps", "3")
QUICK = ("--rounds", "1", "--batch", "2", "--device", "cpu")


class Pictures(HTMLParser):
    """Counts the pictures of a page; there is nothing in it that another file has."""

    def __init__(self) -> None:
        super().__init__()
        self.inline, self.elsewhere = 0, 0

    def handle_starttag(self, tag, attrs):
        for name, value in attrs:
            if name in ("src", "href") and value and not value.startswith("#"):
                self.inline += value.startswith("data:image/")
                self.elsewhere += not value.startswith("data:")


@pytest.fixture
def qualified(model_folder, tmp_path):
    """Runs the command; returns its exit code, its JSON and the text of its page."""

    def run() -> tuple[int, dict, str]:
        done = CliRunner().invoke(main, ["qualify", "--model", str(model_folder), "--out", "q", *SMALL, *QUICK])
        assert done.exception is None or isinstance(done.exception, SystemExit), done.output
        return (
            done.exit_code,
            json.loads((tmp_path / "q/qualify.json").read_text()),
            (tmp_path / "q/qualify.html").read_text(),
        )

    return run


def test_a_model_that_is_run_as_diffusers_runs_it_is_good(qualified):
    code, data, page = qualified()
    assert code == 0
    assert [finding["good"] for finding in data["findings"]] == [True, True, True]
    assert set(data["presets"]) == {"exact", "balanced", "fast"}
    assert data["presets"]["exact"]["psnr"] > 5
    assert set(data["stages"]) == {"denoise", "decode", "encode", "text"}
    assert data["start"]["load_seconds"] > 0
    seen = Pictures()
    seen.feed(page)
    assert seen.inline == 2 * 6  # ours, diffusers', many steps, three presets
    assert seen.elsewhere == 0


def test_pictures_bits_and_start_are_those_of_a_model_that_is_loaded_as_a_run_loads_it(
    qualified, model_folder, monkeypatch
):
    """And it is gone before diffusers is loaded, so that a GPU need not hold the model twice."""
    load, load_reference = Wan.load.__func__, qualifying.load_reference
    own, seen, made = [], [], qualifying.made_by_wanbatch

    def loaded(cls, *given, **named):
        wan = load(cls, *given, **named)
        own.append(weakref.ref(wan))
        return wan

    def reference(*given):
        seen.append([one() for one in own])
        return load_reference(*given)

    def spoilt(wan, requests):
        pictures = made(wan, requests)
        return [255 - picture for picture in pictures] if any(one() is wan for one in own) else pictures

    monkeypatch.setattr(qualifying, "bench_stages", lambda *given: {"stages": {}})
    monkeypatch.setattr(Wan, "load", classmethod(loaded))
    monkeypatch.setattr(qualifying, "load_reference", reference)
    assert qualified()[0] == 0
    assert seen == [[None]]
    monkeypatch.setattr(qualifying, "made_by_wanbatch", spoilt)
    code, data, _ = qualified()
    assert code == 2
    assert [finding["good"] for finding in data["findings"]] == [False, True, True]


def test_a_converted_model_is_refused_before_it_is_loaded(model_folder, tmp_path, monkeypatch):
    assert CliRunner().invoke(main, ["convert", str(model_folder), "converted"]).exit_code == 0
    monkeypatch.setattr(qualifying.Wan, "load", None)  # would fail
    done = CliRunner().invoke(main, ["qualify", "--model", "converted", *SMALL, *QUICK])
    assert done.exit_code == 2
    assert f"--model {model_folder}" in done.output


def test_another_picture_than_that_of_diffusers_is_wrong(qualified, monkeypatch):
    monkeypatch.setattr(qualifying, "bench_stages", lambda *given: {"stages": {}})
    theirs = qualifying.made_by_diffusers
    monkeypatch.setattr(qualifying, "made_by_diffusers", lambda *given: [255 - picture for picture in theirs(*given)])
    code, data, page = qualified()
    assert code == 2
    assert {finding["name"]: finding["good"] for finding in data["findings"]}["the pictures of diffusers"] is False
    assert ">wrong<" in page


def test_a_gpu_without_room_for_all_of_the_model_is_refused_before_it_is_loaded(model_folder, monkeypatch):
    monkeypatch.setattr(qualifying, "free_memory", lambda device: 1 << 20)
    monkeypatch.setattr(qualifying, "load_reference", None)  # would fail
    monkeypatch.setattr(qualifying.Wan, "load", None)
    done = CliRunner().invoke(main, ["qualify", "--model", str(model_folder), *SMALL, *QUICK])
    assert done.exit_code == 2
    assert "this needs all of" in done.output
    assert "0.0 GiB are free: use a larger GPU" in done.output


def test_a_preset_without_room_beside_the_exact_one_is_left_out_and_said(model, monkeypatch):
    monkeypatch.setattr(qualifying, "free_memory", lambda device: 1 << 10)
    monkeypatch.setattr(qualifying, "resolve_execution", lambda of, hardware: ExecutionConfig("cpu", "fp8", False))
    exact = ExecutionConfig("cpu", "fp32", False)
    wan = SimpleNamespace(device=torch.device("cpu"))
    found = qualifying._presets(model, Settings(), Hardware(), exact, (wan, None), [], [], {})
    assert set(found.not_tried) == {"exact", "balanced", "fast"}
    assert found.not_tried["fast"].endswith("beside the weights in fp32, and 0.0 GB are free")
    assert "not tried: exact, balanced, fast" in found.findings[0].said


def test_bits_that_depend_on_neighbours_are_noticed(monkeypatch):
    calls = iter(range(9))
    request = qualifying.Request("a", "x", "", (), 1.0, 1, 32, 32, 2, 1.0, None, "euler")
    picture = np.zeros((4, 4, 3), dtype=np.uint8)

    def drifting(wan, requests):
        number = next(calls)
        return [picture + (number > 0 and index == 0) for index, _ in enumerate(requests)]

    monkeypatch.setattr(qualifying, "made_by_wanbatch", drifting)
    found = qualifying._bits(None, [request, request], drifting(None, [request, request]))
    assert not found.good
    assert "1 of 2" in found.said


def test_the_time_of_a_preset_has_no_first_use_in_it_and_one_picture_is_made_before(model, monkeypatch):
    clock, used, made = [0.0], {"none"}, []  # `qualify` has made pictures with neither cache nor other precision
    picture = np.zeros((32, 32, 3), dtype=np.uint8)

    class Runner(SimpleNamespace):
        def use_step_cache(self, text: str) -> None:
            self.cache = text

    def make(runner, requests):
        clock[0] += len(requests) + (0 if runner.cache in used else 1000)
        used.add(runner.cache)
        made.append((runner.cache, len(requests)))
        return [picture for _ in requests]

    monkeypatch.setattr(qualifying, "made_by_wanbatch", make)
    monkeypatch.setattr(qualifying, "synchronized_time", lambda device: clock[0])
    monkeypatch.setattr(qualifying, "at_hand", lambda: False)
    exact = ExecutionConfig("cpu", "fp32", False)
    loaded = (Runner(device=torch.device("cpu")), None)
    requests = [qualifying.Request(str(n), "x", "", (), 1.0, 1, 32, 32, 2, 1.0, None, "euler") for n in range(2)]
    found = qualifying._presets(model, Settings(), Hardware(), exact, loaded, requests, [picture] * 2, {})
    assert {name: one["seconds_a_picture"] for name, one in found.figures.items()} == dict.fromkeys(
        ("exact", "balanced", "fast"), 1.0
    )
    caches = {name: one["step_cache"] for name, one in found.figures.items()}
    expected = [("none", 2)]
    for name in ("balanced", "fast"):
        expected += [(caches[name], 2)] if caches[name] == "none" else [(caches[name], 1), (caches[name], 2)]
    assert made == expected


def test_a_disk_that_refuses_meanwhile_is_named_and_the_figures_are_told(model_folder, tmp_path, monkeypatch):
    measure = compare.bench

    def bench(*given: Any) -> dict[str, Any]:
        (tmp_path / "full").write_text("")  # where the folder was to be
        return measure(*given)

    monkeypatch.setattr(compare, "bench", bench)
    given = ["--model", str(model_folder), "--out", "full/q.json", *SMALL[:6], "--rounds", "1", "--images", "0"]
    done = CliRunner().invoke(main, ["bench", "--no-compiled", "--no-stages", "--device", "cpu", *given])
    assert done.exit_code == 2
    assert "full/q.json: cannot be written" in done.stderr
    assert done.stdout.startswith("CPU, ")
