"""The `wanbatch` command with a pipeline of fake_pipelines.py in its workers, and with a driver that may be killed.

    python wanbatch_with.py PIPELINE run MANIFEST --out OUT ...

WANBATCH_TEST_KILL_AT (of the environment, taken out before the command sees it): kill this process before its
Nth operation on a file of the output folder.
WANBATCH_TEST_RAY: the address of a Ray to use, instead of one of its own.
"""

from __future__ import annotations

import functools
import os
import signal
import sys

import fake_pipelines
import ray

from wanbatch.jobs.cli.main import main
from wanbatch.jobs.driver import run as running

EVENTS = {"os.link", "os.rename", "os.remove", "os.mkdir", "open"}


def kill_before(count: int, out: str) -> None:
    left = count

    def before(event: str, arguments: tuple) -> None:
        nonlocal left
        if event not in EVENTS or out not in str(arguments[0]):
            return
        if event == "open" and not any(letter in str(arguments[1]) for letter in "xwa"):
            return
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(before)


if __name__ == "__main__":
    ray.cloudpickle.register_pickle_by_value(fake_pipelines)
    kill_at = os.environ.pop("WANBATCH_TEST_KILL_AT", None)
    address = os.environ.pop("WANBATCH_TEST_RAY", None)
    pipeline = sys.argv.pop(1)
    running.run = functools.partial(running.run, load=getattr(fake_pipelines, pipeline))
    if address:
        ray.init(address=address, log_to_driver=False, logging_level="ERROR")
    if kill_at:
        kill_before(int(kill_at), os.path.abspath(sys.argv[sys.argv.index("--out") + 1]))
    sys.argv[0] = "wanbatch"
    sys.exit(main())
