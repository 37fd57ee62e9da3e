"""What schedules there are: the tables `[schedule.NAME]` of a settings file, read and checked."""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import combinations
from pathlib import Path
from typing import Any, Literal, get_args
from zoneinfo import ZoneInfo

from wanbatch.errors import UserError
from wanbatch.jobs.config.run_flags import flags_of, given_settings
from wanbatch.jobs.config.schedule_names import SCHEDULE_TABLES
from wanbatch.jobs.schedule.ticks import plain_cron, zone_of
from wanbatch.manifests.storage.atomic_files import is_there
from wanbatch.manifests.storage.urls import absolute, is_url
from wanbatch.suggestions import did_you_mean

Overlap = Literal["skip", "queue"]
CatchUp = Literal["none", "latest"]

KEYS = {
    "cron": "when: five fields, like `30 2 * * *`, or `@daily` and the like",
    "timezone": "whose clock the cron is read by, like `Europe/Berlin` or `UTC`",
    "manifest": "what is made: any manifest that `wanbatch run` takes (instead of `recipe`)",
    "recipe": "what is made: a recipe of `wanbatch augment`, whose manifest grows at each tick",
    "output": "the output folder or its URL; it grows from tick to tick, and no two schedules may share it",
    "overlap": "what becomes of a tick while an earlier one still runs: `skip` (default) or `queue`",
    "catch_up": "of the ticks that were missed, run the `latest` (default) or `none`",
    "deadline": "how long after its time a tick may be started, or started again, like `90m`; default: `12h`",
    "rerun_changed": "make rows of a manifest again that changed since they were made; default: true",
    "drop_removed": "rows that manifest or recipe do not ask for any more leave the dataset; default: false",
    "address": "a Ray cluster to which a tick submits a job; default: run on this machine",
    "settings": "a table of settings of the run, as in `wanbatch.toml` itself",
}
REQUIRED = ("cron", "timezone", "output")
NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9_-]{0,50}[A-Za-z0-9])?")
DECIDED_BY_RECIPES = ("prompt", "creativity", "seed")
"""Settings that `wanbatch augment` does not take."""

UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
DEADLINE = "12h"
SHORTEST, LONGEST = timedelta(minutes=1), timedelta(days=366)


@dataclass(frozen=True, slots=True)
class Schedule:
    """One schedule, checked.

    Attributes:
        name: of its table.
        cron: five fields.
        zone: whose clock the cron is read by.
        source: the manifest or the recipe; an absolute path or a URL.
        is_recipe: whether it is a recipe.
        output: the output folder; an absolute path or a URL.
        overlap: what becomes of a tick while an earlier one still runs.
        catch_up: which of the ticks that were missed is run.
        deadline: how long after its time a tick may be started, or started again.
        rerun_changed: whether rows that changed are made again.
        drop_removed: whether rows leave the dataset that are not asked for any more.
        address: the Ray cluster that a tick is submitted to; None: this machine.
        flags: of the run, from `settings`.
    """

    name: str
    cron: str
    zone: ZoneInfo
    source: str
    is_recipe: bool
    output: str
    overlap: Overlap = "skip"
    catch_up: CatchUp = "latest"
    deadline: timedelta = timedelta(hours=12)
    rerun_changed: bool = True
    drop_removed: bool = False
    address: str | None = None
    flags: tuple[str, ...] = field(default=())


def read_schedules(file: Path) -> list[Schedule]:
    """The schedules of a settings file, in its order.

    Args:
        file: usually `wanbatch.toml`; relative paths in it start from its folder.

    Raises:
        UserError: There is no such file, no schedule in it, or something is wrong with one; the message has one line
            for each thing that is wrong.
    """
    tables = _tables(file)
    problems: list[str] = []
    found: list[Schedule] = []
    for name, table in tables.items():
        try:
            found.append(_schedule(name, table, file.absolute().parent))
        except UserError as error:
            problems.append(f"{file}: schedule {name}: {error}")
    problems += [f"{file}: {problem}" for problem in _shared_outputs(found)]
    if problems:
        raise UserError("\n".join(problems))
    return found


def missing_sources(schedules: Sequence[Schedule]) -> Iterator[str]:
    """Yield a sentence for each schedule whose manifest or recipe is not on this machine's disk."""
    for one in schedules:
        try:
            there = is_url(one.source) or is_there(one.source)
        except OSError as error:
            yield f"schedule {one.name}: {one.source}: cannot be looked at ({error.strerror})"
            continue
        if not there:
            kind = "recipe" if one.is_recipe else "manifest"
            yield f"schedule {one.name}: {one.source}: there is no such {kind}: create it, or correct `{kind}`"


def chosen(schedules: Sequence[Schedule], name: str) -> Schedule:
    """The schedule of a name. Raises UserError that lists those that there are."""
    names = [one.name for one in schedules]
    if name not in names:
        raise UserError(
            f"schedule {name}: there is none of this name; known: {', '.join(names)}{did_you_mean(name, names)}"
        )
    return schedules[names.index(name)]


def _tables(file: Path) -> dict[str, Any]:
    """The tables of the schedules by name. Raises UserError."""
    example = "add a table like [schedule.nightly] (docs/schedules.md)"
    try:
        content = tomllib.loads(file.read_bytes().decode("utf-8-sig"))
    except FileNotFoundError:
        raise UserError(f"{file}: there is no such file: write it, or name another one with --file") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{file}: is not UTF-8 text: save it as UTF-8") from error
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"{file}: {error}{_twice(error)}") from error
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror or error})") from error
    tables: dict[str, Any] = {}
    for key in SCHEDULE_TABLES:
        if isinstance(table := content.get(key), dict):
            if shared := sorted(tables.keys() & table):
                raise UserError(
                    f"{file}: schedule {shared[0]}: is there as [schedule.{shared[0]}] and as "
                    f"[schedules.{shared[0]}]: keep one"
                )
            tables |= table
    if not tables:
        raise UserError(f"{file}: has no schedules: {example}")
    if bare := [key for key, value in tables.items() if not isinstance(value, dict)]:
        raise UserError(f"{file}: [schedule] has the key {bare[0]!r}, but a schedule has a name: {example}")
    return tables


def _twice(error: tomllib.TOMLDecodeError) -> str:
    """The remedy if the noise schedule and the schedules have one name in one file."""
    if not any(words in str(error) for words in ("Cannot overwrite", "Cannot declare", "mutate immutable")):
        return ""
    return ": where `schedule` also sets the noise schedule, call the tables [schedules.NAME]"


def _schedule(name: str, table: Mapping[str, Any], folder: Path) -> Schedule:
    if not NAME.fullmatch(name):
        raise UserError(
            "a name has at most 52 of the characters A-Z a-z 0-9 _ -, with a letter or digit at both ends"
        )
    _check_keys(table)
    is_recipe = "recipe" in table
    address = _text(table, "address") if "address" in table else None
    given = table.get("settings", {})
    if is_recipe and isinstance(given, dict) and (decided := [name for name in DECIDED_BY_RECIPES if name in given]):
        raise UserError(f"settings: {decided[0]} is what a recipe decides: set it there")
    if not isinstance(given, dict):
        raise UserError("settings must be a table, like [schedule.nightly.settings]")
    return Schedule(
        name=name,
        cron=plain_cron(_text(table, "cron")),
        zone=zone_of(_text(table, "timezone")),
        source=_location(_text(table, "recipe" if is_recipe else "manifest"), folder),
        is_recipe=is_recipe,
        output=_location(_text(table, "output"), folder),
        overlap=_word(table, "overlap", get_args(Overlap), "skip"),
        catch_up=_word(table, "catch_up", get_args(CatchUp), "latest"),
        deadline=_duration(table.get("deadline", DEADLINE)),
        rerun_changed=_boolean(table, "rerun_changed", True),
        drop_removed=_boolean(table, "drop_removed", False),
        address=address,
        flags=tuple(flags_of(given_settings(given))),
    )


def _check_keys(table: Mapping[str, Any]) -> None:
    for key in table:
        if key not in KEYS:
            raise UserError(f"unknown key {key!r}; known: {', '.join(KEYS)}{did_you_mean(key, KEYS)}")
    for key in REQUIRED:
        if key not in table:
            raise UserError(f"{key} is missing: {KEYS[key].replace('`', '')}")
    if ("manifest" in table) == ("recipe" in table):
        raise UserError("must have one of manifest and recipe" + (", not both" if "recipe" in table else ""))


def _text(table: Mapping[str, Any], key: str) -> str:
    value = table[key]
    if not isinstance(value, str) or not value.strip():
        raise UserError(f"{key} is {value!r}: must be text in quotes")
    return value


def _word(table: Mapping[str, Any], key: str, words: Sequence[str], default: str) -> Any:
    value = table.get(key, default)
    if value not in words:
        raise UserError(f"{key} is {value!r}: must be {' or '.join(words)}{did_you_mean(str(value), words)}")
    return value


def _boolean(table: Mapping[str, Any], key: str, default: bool) -> bool:
    value = table.get(key, default)
    if not isinstance(value, bool):
        raise UserError(f"{key} is {value!r}: must be true or false, without quotes")
    return value


def _duration(value: Any) -> timedelta:
    """A length of time like `90m`."""
    rule = "must be a number and s, m, h or d, from 1m to 366d, like 90m or 12h"
    found = re.fullmatch(r"(\d{1,9})\s*([smhd])", value.strip().lower()) if isinstance(value, str) else None
    if found is None:
        near = f"; did you mean {value}s?" if isinstance(value, int) and not isinstance(value, bool) else ""
        raise UserError(f"deadline is {value!r}: {rule}{near}")
    length = timedelta(seconds=int(found[1]) * UNITS[found[2]])
    if not SHORTEST <= length <= LONGEST:
        raise UserError(f"deadline is {value!r}: {rule}; the nearest is {'1m' if length < SHORTEST else '366d'}")
    return length


def _location(text: str, folder: Path) -> str:
    """A path from the folder of the file, or a URL. Raises UserError for a URL of a kind that is not known."""
    absolute(text)
    return absolute(text if is_url(text) else str(folder / Path(text).expanduser()))


def _shared_outputs(schedules: Sequence[Schedule]) -> Iterator[str]:
    for one, other in combinations(schedules, 2):
        first, second = os.path.realpath(one.output), os.path.realpath(other.output)
        if is_url(one.output) or is_url(other.output):
            first, second = one.output, other.output
        if first == second:
            yield f"schedules {one.name} and {other.name}: share the output {one.output}: give each one of its own"
        elif f"{first}/".startswith(f"{second}/") or f"{second}/".startswith(f"{first}/"):
            yield (
                f"schedules {one.name} and {other.name}: the output of one is inside that of the other "
                f"({one.output}, {other.output}): give each a folder of its own"
            )
