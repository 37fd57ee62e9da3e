"""The settings file that `wanbatch tune` writes: what it chose, and the evidence for it as comments.

A file that is there already keeps its order and its comments. The exception is a block of comments at the very
top that starts with `HEADING`: that is the evidence of an earlier `wanbatch tune`, and new evidence replaces it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import tomlkit
from tomlkit.exceptions import ParseError

from wanbatch.errors import UserError
from wanbatch.jobs.config.schedule_names import SCHEDULE_TABLES
from wanbatch.jobs.config.settings import ADAPTERS, Settings
from wanbatch.jobs.tuning.candidates import Candidate
from wanbatch.jobs.tuning.result import TuningResult
from wanbatch.manifests.storage.atomic_files import write_atomic

HEADING = "# Written by `wanbatch tune`"
TUNED = ("steps", "sampler", "schedule", "step_cache")  # settings that are chosen
REPLACED = (*TUNED, "sigmas")  # settings whose given values play no part: `sigmas` says what `steps` does


def file_fields(settings: Settings, candidate: Candidate) -> dict[str, Any]:
    """Return what the file has to hold: what was given besides what is tuned, since a run has to repeat it."""
    given = {name: getattr(settings, name) for name in Settings.model_fields if name in settings.model_fields_set}
    kept = {name: value for name, value in given.items() if name not in REPLACED and value not in (None, {})}
    chosen = asdict(candidate)
    return {**kept, **{name: chosen[name] for name in TUNED}}


def evidence_comments(result: TuningResult) -> list[str]:
    """Return the lines of the evidence, each a comment."""
    evidence = result.evidence
    lines = [
        "Rows with steps, sampler, schedule or sigmas of their own keep them.",
        f"goal       {result.goal}",
        f"measured   {evidence['time']} on {evidence['hardware']}",
        f"versions   {evidence['versions']}",
        f"model      {evidence['model']}, digest {evidence['model_digest'][:16]}",
        f"manifest   {evidence['manifest']}, digest {evidence['manifest_digest'][:16]}",
        *result.summary(),
        "",
        *result.table(),
    ]
    return [f"{HEADING}, which replaces this block of comments when it is run again.", *map(_comment, lines)]


def updated_text(text: str, fields: Mapping[str, Any], comments: list[str]) -> str:
    """Return the text of a settings file with new fields and evidence.

    Args:
        text: The old file; empty if there is none.
        fields: All settings that the file has to hold; others are removed from it. Its schedules stay, as
            `[schedules.NAME]`, and so do its `[adapters]`, in place of the field `lora`.
        comments: The lines of the evidence.

    Raises:
        tomlkit.exceptions.ParseError: The old file is not TOML.
    """
    document = tomlkit.parse(_without_evidence(text))
    schedules = {name: document.pop(name) for name in SCHEDULE_TABLES if isinstance(document.get(name), dict)}
    adapters = document.pop(ADAPTERS) if isinstance(document.get(ADAPTERS), dict) else None
    wanted = {name: value for name, value in fields.items() if adapters is None or name != "lora"}
    for name in [name for name in document if name not in wanted]:
        del document[name]
    for name, value in wanted.items():
        plain = _plain(value)
        if document.get(name) != plain:
            document[name] = plain
    if adapters is not None:
        document[ADAPTERS] = adapters
    if schedules:  # under the name that leaves `schedule` to the setting
        document[SCHEDULE_TABLES[1]] = {name: one for tables in schedules.values() for name, one in tables.items()}
    return "\n".join([*comments, "", document.as_string()])


def update_settings_file(path: Path, fields: Mapping[str, Any], comments: list[str]) -> None:
    """Write a settings file, or update the one that is there, whole or not at all; see `updated_text`.

    Raises:
        UserError: It cannot be read or written.
    """
    try:
        text = path.read_text(encoding="utf-8-sig") if path.exists() else ""
        write_atomic(path, updated_text(text, fields, comments).encode())
    except ParseError as error:
        raise UserError(f"{path}: {error}") from error
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror or error})") from error


def _plain(value: Any) -> Any:
    """A setting as TOML has it."""
    if isinstance(value, bool | int | float | dict):
        return value
    return list(value) if isinstance(value, tuple) else str(value)


def _comment(text: str) -> str:
    """Return text as a comment; TOML allows no control characters in one."""
    return "".join(letter if letter.isprintable() else " " for letter in f"# {text}").rstrip()


def _without_evidence(text: str) -> str:
    lines = text.splitlines(keepends=True)
    if not text.startswith(HEADING):
        return text
    rest = next((index for index, line in enumerate(lines) if not line.startswith("#")), len(lines))
    return "".join(lines[rest:]).removeprefix("\n")
