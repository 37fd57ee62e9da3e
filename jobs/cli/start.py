"""The command's first step: importing all that it is made of, which Ctrl-C ends without a traceback."""

from __future__ import annotations

import signal
from typing import Any


def main(**options: Any) -> None:
    """Run the command line. options: of click's `main`."""
    answers = signal.getsignal(signal.SIGINT) is signal.default_int_handler  # it is not ignored, as behind `nohup`
    if answers:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from wanbatch.jobs.cli.main import main as command

    if answers:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    command(**options)
