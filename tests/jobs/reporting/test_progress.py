"""What a run shows: JSON lines for programs, a bar for people, a summary for both."""

from __future__ import annotations

import io
import json
import os
import pty
import re
import shutil
import subprocess
import termios
from dataclasses import replace
from itertools import pairwise

import pytest
from click.testing import CliRunner
from job_making import WANBATCH, command, environment, rows_by_id, write_jsonl

from wanbatch.jobs.cli.main import main
from wanbatch.jobs.reporting.progress import HEARTBEAT_SECONDS, Bar, JsonLines, progress_for
from wanbatch.jobs.reporting.text_summary import stage_seconds, summary_text
from wanbatch.manifests.dataset.event_log import Speed


def events(text: str) -> list[dict]:
    return [json.loads(line) for line in text.splitlines()]


# ---- JSON lines


@pytest.mark.parametrize(("name", "made", "failed"), [("mixed", 15, 0), ("faulty", 3, 7)])
def test_json_lines_of_a_run(request, name, made, failed):
    """Each line is one object; stages come in order; counts never pass the total and end at it.

    There are none before images are made, then at once what is there.
    """
    found = events(request.getfixturevalue(name).progress)
    assert [event.get("stage") for event in found[:3]] == ["starting", "making", None]
    assert (found[2]["event"], found[2]["made"], found[2]["failed"]) == ("progress", 0, 0)
    assert [event.get("stage") for event in found[-2:]] == ["done", None]
    stages = [event["stage"] for event in found if event["event"] == "stage"]
    assert stages == ["starting", "making", "done"]
    counts = [event for event in found if event["event"] == "progress"]
    assert counts
    assert all(event["made"] + event["failed"] <= event["total"] for event in counts)
    last = counts[-1]
    assert (last["total"], last["made"], last["failed"]) == (made + failed, made, failed)
    assert last["pictures_per_second"] > 0
    assert last["seconds_left"] == 0


def test_json_lines_count_earlier_runs_but_do_not_take_them_for_speed():
    """The speed is that of pictures that were made; by failed ones, too, the others are done sooner."""
    stream, now = io.StringIO(), [0.0]
    lines = JsonLines(20, 6, stream, clock=lambda: now[0])
    lines.stage("starting")
    now[0] = 3.0  # which is no part of it
    lines.stage("making")
    lines.update(5, 1)
    now[0] = 7.0
    lines.update(6, 2)  # not shown so soon after the last one
    now[0] = 13.0
    lines.update(7, 3)
    now[0] = 20.0  # and neither is ending them
    lines.close()
    before, first, last = [event for event in events(stream.getvalue()) if event["event"] == "progress"]
    assert (before["made"], before["failed"], before["pictures_per_second"], before["seconds_left"]) == (
        5,
        1,
        0,
        None,
    )
    assert (first["made"], last["made"], last["failed"], last["total"]) == (7, 7, 3, 20)
    # two made and two failed since the start, ten left
    assert last["pictures_per_second"] == first["pictures_per_second"] == 0.2
    assert last["seconds_left"] == 25


def test_a_bar_shows_the_speed_of_pictures_that_were_made():
    screen = io.StringIO()
    bar = Bar(100_000, 30_000, screen)
    bar.stage("making")
    bar.update(20_000, 10_000)
    bar._bar.start_t -= 10_000
    bar.update(25_000, 35_000)
    bar._bar.start_t -= 90_000  # workers take long to end, which is no part of it
    bar.stage("done")
    bar.close()
    shown = screen.getvalue().split("\r")[-1]
    assert re.search(r"60000/100000 pictures, 35000 failed ·  0\.50 pictures/s · 3:4\d:\d\d left", shown), shown


def test_a_speed_that_is_measured_elsewhere_is_shown_in_place_of_ones_own():
    """Made ones are the speed; failed ones, too, shorten the time left."""
    stream, now = io.StringIO(), [0.0]
    lines = JsonLines(20, 0, stream, clock=lambda: now[0])
    for seconds, speed in ((10.0, None), (20.0, Speed(1.0, 2.0))):
        now[0] = seconds
        lines.measured(speed)
        lines.update(8, 2)
    found = [(event["pictures_per_second"], event["seconds_left"]) for event in events(stream.getvalue())]
    assert found == [(0.0, None), (1.0, 5.0)]

    screen = io.StringIO()
    bar = Bar(3700, 0, screen)
    bar.measured(None)
    bar.update(80, 20)
    bar.measured(Speed(0.5, 1.0))
    bar.update(80, 20)
    unknown, known = [line for line in screen.getvalue().split("\r") if "100/3700" in line]
    assert re.search(r" \? pictures/s · \? left", unknown), unknown
    assert re.search(r" 0.50 pictures/s · 1:00:00 left", known), known
    bar.close()


def test_json_lines_do_not_flood():
    stream = io.StringIO()
    lines = JsonLines(1000, 0, stream)
    for made in range(1000):
        lines.update(made, 0)
    lines.close()
    assert HEARTBEAT_SECONDS >= 1
    assert len(events(stream.getvalue())) == 2


def test_which_progress_is_shown():
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    assert isinstance(progress_for(3, 0, io.StringIO()), JsonLines)
    bar = progress_for(3, 0, Terminal())
    assert isinstance(bar, Bar)
    bar.close()


# ---- the real command on a terminal


@pytest.fixture(scope="session")
def terminal(sources, model_folder, tmp_path_factory):
    """The real command with its stderr on a terminal: one bad row of seven. (exit code, stdout, screen, folder)"""
    folder = tmp_path_factory.mktemp("terminal")
    rows = [{"id": f"r{number}", "prompt": "a red heart"} for number in range(6)]
    manifest = write_jsonl(sources / "terminal.jsonl", [*rows, {"id": "bad", "image": "nowhere.png"}])
    options = ["--model", model_folder, "--width", 32, "--height", 32, "--steps", 2, "--unit-rows", 3]
    master, slave = pty.openpty()
    termios.tcsetwinsize(slave, (40, 120))
    process = subprocess.Popen(
        [WANBATCH, *map(str, ["run", manifest, "--out", "out", *options])],
        cwd=folder,
        env=environment(TERM="xterm"),
        stdout=subprocess.PIPE,
        stderr=slave,
    )
    os.close(slave)
    screen = b""
    try:
        while True:
            try:
                data = os.read(master, 65536)
            except OSError:  # the other end is closed
                break
            if not data:
                break
            screen += data
        told = process.communicate(timeout=60)[0].decode()
    finally:
        process.kill()
        os.close(master)
    return process.returncode, told, screen.decode(), folder / "out"


def test_bar_on_a_terminal(terminal):
    """Pictures, failed ones, speed and time left, redrawn in place."""
    _, _, screen, _ = terminal
    drawn = [line for line in re.split(r"[\r\n]+", screen) if line.strip()]
    assert drawn[0].startswith("starting |")
    assert any(line.startswith("making |") for line in drawn)
    stages = [line.split(" |")[0].split(" (")[0] for line in drawn if "pictures" in line]
    assert list(dict.fromkeys(stages)) == ["starting", "making", "done"]
    assert stages == sorted(stages, key=["starting", "making", "done"].index), "one after the other"
    assert all("| 0/7 pictures ·" in line for line in drawn if line.startswith("starting"))
    last = [line for line in drawn if "pictures" in line][-1]
    assert last.startswith("done |")
    assert re.search(r"\| 7/7 pictures, 1 failed · +[\d.]+ pictures/s · 00:00 left", last), last
    made = [int(found[1]) for line in drawn if (found := re.search(r"\| (\d+)/7 ", line))]
    assert all(one <= other for one, other in pairwise(made))


def test_nothing_else_is_on_the_terminal(terminal):
    """No warnings, no chatter of libraries, no JSON."""
    _, _, screen, _ = terminal
    rest = [line for line in re.split(r"[\r\n]+", screen) if line.strip() and "pictures" not in line]
    assert rest == []


def test_summary_of_the_real_command(terminal, sources):
    code, told, _, out = terminal
    assert code == 3
    lines = told.splitlines()
    assert lines[0] == "6 of 7 pictures made, 1 failed"
    assert lines[1].split() == ["output", "out"]
    assert re.search(
        r"time +prepare [\d.]+ s, start [\d.]+ s, make [\d.]+ s, stop [\d.]+ s, total [\d.]+ s; [\d.]+ pictures/s",
        told,
    )
    stages = next(line for line in lines if line.split()[0] == "stages")
    for stage in ("text", "denoise", "decode"):
        assert re.search(rf"{stage} [\d.]+ s \(\d+%\)", stages)
    assert [line.split() for line in lines[4:]] == [
        ["failed", "1", "missing_image"],
        ["bad:", "source:", "nowhere.png", "does", "not", "exist", "in", str(sources)],
        ["wanbatch", "retry", "out", "makes", "them", "again", "once", "the", "cause", "is", "mended"],
    ]
    assert sorted(rows_by_id(out)) == [f"r{number}" for number in range(6)]


def test_status_of_a_finished_folder(terminal):
    out = terminal[3]
    ended = command("status", out, cwd=out.parent)
    assert (ended.code, ended.err) == (0, "")
    lines = [" ".join(line.split()) for line in ended.out.splitlines()]
    assert lines[:3] == [f"{out}: 6 of 7 pictures made, 1 failed, 0 left", "failed 1 missing_image", "state no run"]
    assert re.fullmatch(r"speed \d+\.\d\d pictures/s", lines[3])
    assert len(lines) == 4


def test_status_as_json(mixed):
    result = CliRunner().invoke(main, ["status", str(mixed.out), "--json"])
    assert result.exit_code == 0
    found = json.loads(result.stdout)
    expected = {"rows": 15, "done": 15, "quarantined": 0, "pending": 0, "failures": {}, "units": 6, "holder": None}
    assert expected.items() <= found.items()
    assert found["fingerprint"]["seed"] == 9


# ---- summary


def test_summary_of_failures_is_short_and_complete(faulty):
    text = summary_text(faulty.summary)
    lines = [line.strip() for line in text.splitlines()]
    assert lines[0] == "3 of 10 pictures made, 7 failed"
    assert "failed    2 bad_image, 2 error, 2 missing_image, 1 nan" in lines
    shown = [line for line in lines if re.match(r"[\w-]+: (source|generate|decode): ", line)]
    assert len(shown) == 5
    assert lines[-2] == f"... all of them are in {faulty.out / 'failures'}"
    assert lines[-1].startswith(f"wanbatch retry {faulty.out} ")
    (faulty.out.parent / "my pictures").symlink_to(faulty.out)
    elsewhere = replace(faulty.summary, out=str(faulty.out.parent / "my pictures"))
    assert f"wanbatch retry '{faulty.out.parent}/my pictures' " in summary_text(elsewhere)


def test_summary_is_one_line_a_failure(faulty):
    """The message of one of the failures has two lines."""
    assert "second line" in rows_by_id(faulty.out, "failures")["raise-1"]["message"]
    told = summary_text(faulty.summary).splitlines()
    assert len(told) == 12
    assert "raise-1: generate: ValueError: no picture of raise-1 and a second line" in map(str.strip, told)


def test_stage_seconds_are_those_of_the_timings(mixed):
    rows = rows_by_id(mixed.out, "timings").values()
    sums = stage_seconds(mixed.out)
    for stage in ("text", "encode", "denoise", "decode", "image"):
        assert sums[stage] == pytest.approx(sum(row[f"{stage}_seconds"] for row in rows))
        assert sums[stage] > 0


def test_a_damaged_part_does_not_end_the_summary_of_a_run(faulty, tmp_path):
    """What an earlier run left is not looked at; what cannot be read of this one is said in its place."""
    out = shutil.copytree(faulty.out, tmp_path / "out")
    told = replace(faulty.summary, out=str(out))
    parts = sorted((out / "timings").iterdir())
    parts[0].write_bytes(b"PAR1 no footer PAR1")
    later = replace(told, first_unit=1)
    assert stage_seconds(out, 1) == stage_seconds(faulty.out, 1) != stage_seconds(faulty.out)
    assert summary_text(later) == summary_text(replace(later, out=str(faulty.out))).replace(str(faulty.out), str(out))
    (out / "failures" / min(path.name for path in (out / "failures").iterdir())).write_bytes(b"PAR1 nor here PAR1")
    lines = summary_text(told).splitlines()
    unread = [
        line.split(" (")[0] for line in lines if line.endswith(f": `wanbatch repair {out}` finds what is damaged")
    ]
    assert unread == ["  stages    cannot be read", "            cannot be read"]
    assert [line.split()[0] for line in lines[:5]] == [
        line.split()[0] for line in summary_text(later).splitlines()[:5]
    ]


# ---- programs, and terminals of other sizes


@pytest.mark.slow
def test_run_as_json(manifest, model_folder, tmp_path):
    """stdout is one JSON object, stderr JSON lines: both for programs."""
    options = ["--model", model_folder, "--width", 32, "--height", 32, "--steps", 2, "--json"]
    ended = command("run", manifest({"id": "a", "prompt": "x"}), *options, cwd=tmp_path)
    assert ended.code == 0, ended.err
    summary = json.loads(ended.out)
    expected = {"out": "out/shop", "rows": 1, "made": 1, "made_now": 1, "quarantined": 0, "pending": 0}
    assert expected.items() <= summary.items()
    assert events(ended.err)[0] == {"event": "stage", "stage": "starting"}
    assert list(rows_by_id(tmp_path / "out" / "shop")) == ["a"]


@pytest.mark.parametrize("columns", [44, 60, 80, 97, 120, 200])
def test_figures_are_not_cut_on_a_narrow_terminal(columns):
    """1060/3000 that ends as 1060/30 is another number."""
    master, slave = pty.openpty()
    termios.tcsetwinsize(slave, (20, columns))
    with os.fdopen(slave, "w") as terminal:
        bar = Bar(3000, 0, terminal)
        bar.stage("draining")
        bar._bar.start_t -= 100  # so that the speed is a usual one
        bar.update(1060, 12)
        bar.close()
        shown = b""
        while not shown.endswith(b"\n"):  # with which it ends
            shown += os.read(master, 65536)
    os.close(master)
    lines = [line.strip() for line in shown.decode().split("\r") if "1072" in line]
    assert lines
    assert all(re.search(r"\b1072/3000\b.*12 failed.* left$", line) for line in lines), lines
    assert all(("█" in line) == (columns >= 80) for line in lines)
    assert max(len(line) for line in lines) <= columns
