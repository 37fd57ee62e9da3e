"""`_wanbatch/log.jsonl`: its name and the form of its lines, for all who write to it or read it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

LOG = "log.jsonl"
"""Inside the folder's `_wanbatch/`."""

Event = Mapping[str, Any]


def log_line(event: str, **fields: Any) -> bytes:
    """One event with its time (UTC), as a line of the log."""
    record = {"time": datetime.now(UTC).isoformat(timespec="milliseconds"), "event": event, **fields}
    return json.dumps(record).encode() + b"\n"


def parsed_events(log: bytes | None) -> list[Event]:
    """The events of a log; lines that a kill has cut off are left out."""
    found = []
    for line in (log or b"").splitlines():
        try:
            event = json.loads(line)
            event["time"] = datetime.fromisoformat(event["time"])
            found.append(event)
        except (ValueError, TypeError, KeyError):
            continue
    return found
