"""`_wanbatch/log.jsonl`: its name and the form of its lines, for all who write to it or read it."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

LOG = "log.jsonl"
"""Inside the folder's `_wanbatch/`."""


def log_line(event: str, **fields: Any) -> bytes:
    """One event with its time (UTC), as a line of the log."""
    record = {"time": datetime.now(UTC).isoformat(timespec="milliseconds"), "event": event, **fields}
    return json.dumps(record).encode() + b"\n"
