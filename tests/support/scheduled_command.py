"""In place of `wanbatch` in ticks: notes in its folder that it was started and how it ended, and waits for a file.

    python scheduled_command.py run MANIFEST --out OUT ...

It ends with the number in the file `go` once that is there, and with 130 after SIGTERM, as a run does. With `cut`
before the number it ends as a process does that Ray ends.
"""

import atexit
import json
import os
import signal
import sys
import time
from pathlib import Path

CALLS = Path("calls.jsonl")


def note(what: str) -> None:
    variables = {name: value for name, value in os.environ.items() if name.startswith("WANBATCH_")}
    line = {"what": what, "pid": os.getpid(), "arguments": sys.argv[1:], **variables}
    with open(CALLS, "a") as file:
        file.write(json.dumps(line) + "\n")


def drained(*_: object) -> None:
    note("drained")
    sys.exit(130)


if said := os.environ.pop("WANBATCH_SCHEDULED_END", None):
    atexit.register(os.write, int(said), b".")
signal.signal(signal.SIGTERM, drained)
note("started")
print("hello from the run", flush=True)
while not (go := Path("go")).exists() or not (code := go.read_text()):
    time.sleep(0.02)
note("ended")
if code.startswith("cut "):
    os._exit(int(code.removeprefix("cut ")))
sys.exit(int(code))
