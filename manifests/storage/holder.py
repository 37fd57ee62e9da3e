"""Who writes to an output folder: what a writer records about itself, and the error that names it to others."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from wanbatch.errors import FolderHeldError


def describe_this_process() -> dict[str, Any]:
    """The `host`, the `pid` and the present time as `since` (UTC, ISO 8601) of this process."""
    since = datetime.now(UTC).isoformat(timespec="seconds")
    return {"host": socket.gethostname(), "pid": os.getpid(), "since": since}


def folder_held_error(folder: str, holder: Mapping[str, Any] | None) -> FolderHeldError:
    """The error for a folder that another process writes to.

    Args:
        folder: its path or URL.
        holder: `host`, `pid` and `since` of the other process; None if they are not known.
    """
    who = f"pid {holder['pid']} on {holder['host']} since {holder['since']}" if holder else "another process"
    return FolderHeldError(
        f"{folder}: another run writes to this folder ({who}): wait for it, or choose another folder"
    )
