"""`_wanbatch/log.jsonl`: what happened in the runs of a folder, one JSON object a line.

It has ids and digests of rows; their prompts only with `--log-prompts`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from wanbatch.manifests.dataset.event_log import (
    LOG,
    Event,
    last_run,
    log_line,
    parsed_events,
)
from wanbatch.manifests.dataset.folder import OutputFolder
from wanbatch.manifests.dataset.status import read_internal_file


class RunLog:
    """Appends events to the log of a folder that this process holds."""

    def __init__(self, folder: OutputFolder):
        self._folder = folder

    def write(self, event: str, **fields: Any) -> None:
        """Append one event with its time (UTC).

        Raises:
            MachineryError: The disk or the store refuses it.
        """
        self._folder.append_internal_file(LOG, log_line(event, **fields))


def events_of_last_run(out: str | Path) -> list[Event]:
    """The events of the last run of a folder; none if there is no log."""
    return last_run(parsed_events(read_internal_file(out, LOG)))
