"""The command's first step: importing all that it is made of, which Ctrl-C ends without a traceback."""

from __future__ import annotations

import os
import signal
from typing import Any

from wanbatch.jobs.schedule.own_end import say_own_end


def main(**options: Any) -> None:
    """Run the command line. options: of click's `main`."""
    say_own_end(os.environ)
    answers = signal.getsignal(signal.SIGINT) is signal.default_int_handler  # it is not ignored, as behind `nohup`
    if answers:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from wanbatch.jobs.cli.main import main as command

    if answers:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    command(**options)
