"""Reading a model folder's configuration files, all of which are JSON objects."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from wanbatch.errors import UserError


def read_json(path: Path, otherwise: str) -> dict[str, Any]:
    """The object in a JSON file.

    Args:
        path: Of the file.
        otherwise: What to say if there is no such file, before its name.

    Raises:
        UserError: If there is no such file, or it cannot be read, or holds something else.
    """
    if not path.is_file():
        raise UserError(f"{otherwise}: {path} is missing")
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path}: not valid JSON: {error}") from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error
    if not isinstance(found, dict):
        raise UserError(f"{path}: holds no JSON object; get the file again")
    return found
