"""Settings of a table in a file, such as those of a schedule, as the flags of `wanbatch run`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from wanbatch.errors import UserError
from wanbatch.jobs.config.settings import GivenSettings, Settings, accepted_instead
from wanbatch.jobs.config.unknown_settings import instead_of


def given_settings(values: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of a table, checked; variables and the file's own settings play no part.

    Args:
        values: by field, as TOML has them.
    Returns:
        The fields that are given, as JSON values.
    Raises:
        UserError: One is not known, or not accepted; the message names it and the likely one.
    """
    try:
        return GivenSettings(**values).model_dump(mode="json", include=set(values))
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0]) if first["loc"] else ""
        if first["type"] == "extra_forbidden":
            raise UserError(f"settings: unknown field {name!r}: {instead_of(name, Settings.model_fields)}") from error
        said = accepted_instead(name, first["input"]) if name in Settings.model_fields else first["msg"]
        raise UserError(f"settings: {name} is {first['input']!r}: must be {said}") from error


def flags_of(values: Mapping[str, Any]) -> list[str]:
    """The flags of `wanbatch run` that set the same as some values.

    Args:
        values: by field, from `given_settings`.
    Raises:
        UserError: A value has no flag.
    """
    flags: list[str] = []
    for name, value in values.items():
        flag = f"--{name.replace('_', '-')}"
        if value is True:
            flags.append(flag)
        elif value is False or value is None:
            raise UserError(f"settings: {name} is false, which no flag says: leave it out; false is its default")
        elif isinstance(value, dict):
            flags += [word for column, target in value.items() for word in (flag, f"{column}={target}")]
        else:
            flags += [flag, ",".join(map(str, value)) if isinstance(value, list) else str(value)]
    return flags
