"""`_wanbatch/log.jsonl`: what happened in the runs of a folder, one JSON object a line. No prompts."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from wanbatch.errors import MachineryError


class RunLog:
    """Appends events to a file."""

    def __init__(self, path: Path):
        self.path = path

    def write(self, event: str, **fields: Any) -> None:
        """Append one event with its time (UTC). Raises MachineryError if the disk refuses."""
        record = {"time": datetime.now(UTC).isoformat(timespec="milliseconds"), "event": event, **fields}
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(record) + "\n")
        except OSError as error:
            raise MachineryError(f"{self.path}: cannot be written to ({error.strerror or error})") from error


def speed(path: Path) -> float | None:
    """Images a second of the run that wrote last, from its first unit's begin to its last unit's end.

    None if it has not finished a unit yet or there is no log.
    """
    images, begin, end = 0, None, None
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    for line in lines:
        try:
            event = json.loads(line)
        except ValueError:  # cut off by a kill
            continue
        if event["event"] == "started":
            images, begin = 0, None
        elif event["event"] == "unit":
            end = datetime.fromisoformat(event["time"])
            begin = begin or end - timedelta(seconds=event["busy_seconds"])
            images += event["made"] + event["failed"]
    return images / (end - begin).total_seconds() if begin and end and end > begin else None
