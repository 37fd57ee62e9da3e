"""`_wanbatch/log.jsonl` after a write that was cut off: what is written behind it counts."""

from __future__ import annotations

import subprocess
import sys

import pytest

from wanbatch.manifests.dataset.event_log import LOG, log_line, parsed_events
from wanbatch.manifests.dataset.folder import OutputFolder
from wanbatch.manifests.dataset.status import read_internal_file

CUT = """
import resource, signal, sys
from wanbatch.errors import MachineryError
from wanbatch.manifests.dataset.event_log import LOG, log_line
from wanbatch.manifests.dataset.folder import OutputFolder

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # a file that may not grow ends a write as a full disk does
with OutputFolder.open(sys.argv[1], {}) as folder:
    folder.append_internal_file(LOG, log_line("started", rows=1))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    size = len(open(f"{sys.argv[1]}/_wanbatch/{LOG}", "rb").read())
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + int(sys.argv[2]), limits[1]))
    try:
        folder.append_internal_file(LOG, log_line("lost", why="no room"))
    except MachineryError as error:
        print(error)
"""


@pytest.mark.parametrize("written", [1, 9, 40, 75])
def test_what_is_written_behind_a_line_that_a_full_disk_cut_off_counts(out, written):
    ended = subprocess.run([sys.executable, "-c", CUT, out, str(written)], capture_output=True, text=True, timeout=60)
    assert "cannot be written to (File too large)" in ended.stdout, ended.stderr
    whole = log_line("started", rows=1)
    assert len(read_internal_file(out, LOG) or b"") == len(whole) + written
    with OutputFolder.open(out, {}) as folder:
        for name in ("started", "unit"):
            folder.append_internal_file(LOG, log_line(name, rows=2))
    events = parsed_events(read_internal_file(out, LOG))
    assert [(event["event"], event["rows"]) for event in events] == [("started", 1), ("started", 2), ("unit", 2)]
