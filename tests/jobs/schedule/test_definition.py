"""The tables of schedules in a settings file: what is wrong with one is one line, before anything starts."""

from __future__ import annotations

from datetime import timedelta

import pytest

from wanbatch.errors import UserError
from wanbatch.jobs.cli.main import main
from wanbatch.jobs.config.settings import read_settings
from wanbatch.jobs.schedule.commands import tick_commands, tick_environment
from wanbatch.jobs.schedule.definition import missing_sources, read_schedules
from wanbatch.jobs.schedule.ticks import next_tick

GOOD = {"cron": '"30 2 * * *"', "timezone": '"Europe/Berlin"', "manifest": '"shop.jsonl"', "output": '"out/shop"'}


def written(tmp_path, text: str):
    path = tmp_path / "wanbatch.toml"
    path.write_text(text)
    return path


def table(name: str = "nightly", *without: str, **fields: str) -> str:
    given = {key: value for key, value in {**GOOD, **fields}.items() if key not in without}
    return f"[schedule.{name}]\n" + "".join(f"{key} = {value}\n" for key, value in given.items())


def test_the_smallest_one_and_its_defaults(tmp_path):
    [one] = read_schedules(written(tmp_path, "steps = 4\n" + table()))
    assert (one.name, one.cron, one.zone.key, one.is_recipe) == ("nightly", "30 2 * * *", "Europe/Berlin", False)
    assert (one.source, one.output) == (str(tmp_path / "shop.jsonl"), str(tmp_path / "out/shop"))
    assert (one.overlap, one.catch_up, one.deadline) == ("skip", "latest", timedelta(hours=12))
    assert tick_commands(one, ("wanbatch",)) == [
        ["wanbatch", "run", one.source, "--out", one.output, "--rerun-changed"]
    ]


def test_everything_that_can_be_said(tmp_path):
    text = table(
        "weekly", "manifest",
        recipe='"sets/cups.toml"', output='"s3://shop/cups/"', overlap='"queue"', catch_up='"none"', deadline='"90m"',
        rerun_changed="false", drop_removed="true", address='"http://head:8265"',
    )  # fmt: skip
    text += '[schedule.weekly.settings]\nsteps = 12\nstrict = true\nmap = {caption = "prompt"}\nsigmas = [1.0, 0.5]\n'
    [one] = read_schedules(written(tmp_path, text))
    assert one.deadline == timedelta(minutes=90)
    [submitted] = tick_commands(one, ("wanbatch",))
    recipe = str(tmp_path / "sets/cups.toml")
    assert submitted[:7] == ["wanbatch", "augment", recipe, "--run", "--out", "s3://shop/cups", "--submit-to"]
    flags = ["--steps", "12", "--sigmas", "1.0,0.5", "--map", "caption=prompt", "--strict"]
    assert submitted[7:] == ["http://head:8265", "--drop-removed", *flags]
    [one] = read_schedules(written(tmp_path, table(drop_removed="true")))
    assert tick_commands(one, ("wanbatch",))[0][-2:] == ["--rerun-changed", "--drop-removed"]


def test_what_the_commands_see_of_the_time(tmp_path):
    [one] = read_schedules(written(tmp_path, table()))
    due = next_tick(one.cron, one.zone, next_tick(one.cron, one.zone, _day(2026, 7, 1)))
    assert tick_environment(one, due) == {
        "WANBATCH_SCHEDULED_TIME": "2026-07-02T02:30:00+02:00",
        "WANBATCH_SCHEDULED_RUN": "nightly-20260702T003000Z",
    }


@pytest.mark.parametrize("address", [None, "http://head:8265"])
@pytest.mark.parametrize("kind", ["manifest", "recipe"])
def test_the_commands_are_understood(tmp_path, kind, address):
    """Each is one that the command line takes, with all its flags."""
    fields = {"recipe": '"cups.toml"'} if kind == "recipe" else {}
    if address:
        fields["address"] = f'"{address}"'
    text = table("nightly", *(["manifest"] if kind == "recipe" else []), **fields)
    [one] = read_schedules(written(tmp_path, text + "[schedule.nightly.settings]\nsteps = 3\nstrict = true\n"))
    commands = tick_commands(one, ("wanbatch",))
    assert [words[1] for words in commands] == {
        ("manifest", False): ["run"],
        ("recipe", False): ["augment"],
        ("manifest", True): ["submit"],
        ("recipe", True): ["augment"],
    }[kind, bool(address)]
    for _, *words in commands:
        name, command, rest = main.resolve_command(main.make_context("wanbatch", ["plan"]), words)
        parsed = command.make_context(name, rest).params
        assert str(parsed["out"]) == one.output
        assert address in (None, parsed.get("submit_to"), parsed.get("address"))
    assert (parsed["steps"], parsed["strict"]) == (3, True)


def _day(*date: int):
    from datetime import UTC, datetime

    return datetime(*date, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (table(cron='"61 2 * * *"'), "schedule nightly: cron '61 2 * * *': minute '61' must be 0 to 59, a list"),
        (table(cron='"0 0 31 2 *"'), "schedule nightly: cron '0 0 31 2 *': never fires: its months have no day 31"),
        (table(timezone='"Europe/Berln"'), "timezone 'Europe/Berln': there is none of this name"),
        (table(timezone='"Europe/Berln"'), "did you mean Europe/Berlin?"),
        (table(crn='"1"'), "unknown key 'crn'; known: cron, timezone, manifest, recipe, output"),
        (table(overlaps='"skip"'), "did you mean overlap?"),
        (table("nightly", "timezone"), "timezone is missing: whose clock the cron is read by, like Europe/Berlin"),
        (table("nightly", "output"), "output is missing: the output folder or its URL"),
        (table("nightly", "manifest"), "must have one of manifest and recipe"),
        (table(recipe='"cups.toml"'), "must have one of manifest and recipe, not both"),
        (table(overlap='"skipp"'), "overlap is 'skipp': must be skip or queue; did you mean skip?"),
        (table(catch_up='"all"'), "catch_up is 'all': must be none or latest"),
        (table(deadline="90"), "deadline is 90: must be a number and s, m, h or d, from 1m to 366d, like 90m or 12h"),
        (table(deadline='"10s"'), "; the nearest is 1m"),
        (table(deadline='"400d"'), "; the nearest is 366d"),
        (table(rerun_changed='"yes"'), "rerun_changed is 'yes': must be true or false, without quotes"),
        (table(manifest="7"), "manifest is 7: must be text in quotes"),
        (table(output='"ftp://shop/out"'), "such addresses are not supported here"),
        (table() + "[schedule.nightly.settings]\nstep = 3\n", "settings: unknown field 'step': did you mean steps?"),
        (table() + "[schedule.nightly.settings]\nsteps = 0\n", "settings: steps is 0: must be an integer from 1"),
        (table() + '[schedule.nightly.settings]\npreset = "fats"\n', "did you mean fast?"),
        (table() + "[schedule.nightly.settings]\nstrict = false\n", "settings: strict is false, which no flag says"),
        (table('"every night"'), "a name has at most 52 of the characters"),
        (table() + table("daily"), "schedules nightly and daily: share the output"),
        (table() + table("daily", output='"out/shop/../shop/"'), "schedules nightly and daily: share the output"),
        (table() + table("daily", output='"out/shop/more"'), "the output of one is inside that of the other"),
        ('[schedule]\ncron = "1"\n', "[schedule] has the key 'cron', but a schedule has a name"),
        ("steps = 4\n", "has no schedules: add a table like [schedule.nightly]"),
        ('schedule = "karras"\n' + table(), "where `schedule` also sets the noise schedule, call the tables"),
        ("[schedule.nightly\n", "Expected ']'"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_one_line(tmp_path, text, told):
    path = written(tmp_path, text)
    with pytest.raises(UserError) as caught:
        read_schedules(path)
    assert str(caught.value).startswith(str(path))
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


def test_all_that_is_wrong_is_told_at_once(tmp_path):
    path = written(tmp_path, table(cron='"x"') + table("daily", timezone='"Nowhere"') + table("weekly"))
    with pytest.raises(UserError) as caught:
        read_schedules(path)
    assert [line.split(": ")[1] for line in str(caught.value).splitlines()] == ["schedule nightly", "schedule daily"]


@pytest.mark.parametrize("content", [b"\xff\xfe", None])
def test_a_file_that_cannot_be_read(tmp_path, content):
    path = tmp_path / "wanbatch.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match="no such file" if content is None else "is not UTF-8 text"):
        read_schedules(path)


def test_sources_that_are_not_there(tmp_path):
    text = table() + table("daily", output='"a"', manifest='"s3://shop/rows.parquet"')
    schedules = read_schedules(written(tmp_path, text))
    [problem] = missing_sources(schedules)
    assert problem.startswith(f"schedule nightly: {tmp_path / 'shop.jsonl'}: there is no such manifest")


def test_schedules_are_no_settings_of_a_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    written(tmp_path, "steps = 4\n" + table())
    assert (read_settings().steps, read_settings().schedule) == (4, None)
    written(tmp_path, 'schedule = "karras"\n' + table().replace("[schedule.", "[schedules."))
    assert read_settings().schedule == "karras"
    assert [one.name for one in read_schedules(tmp_path / "wanbatch.toml")] == ["nightly"]


def test_a_scheduled_run_may_have_its_variables(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANBATCH_SCHEDULED_TIME", "2026-07-02T02:30:00+02:00")
    monkeypatch.setenv("WANBATCH_SCHEDULED_RUN", "nightly-20260702T003000Z")
    assert read_settings().steps is None
    monkeypatch.setenv("WANBATCH_SCHEDULED", "1")
    with pytest.raises(UserError, match="variable WANBATCH_SCHEDULED sets nothing"):
        read_settings()
