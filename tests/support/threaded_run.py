"""Run by test_driver.py: runs outside the main thread, with a Ray of their own; the first one is stopped.

    python threaded_run.py MANIFEST OUT

Prints, as JSON, the exit codes, how many images are made after each run, and whether signal handlers are untouched.
"""

from __future__ import annotations

import json
import signal
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import fake_pipelines
import ray
from progress_hooks import SMALL, ProgressHook

from wanbatch.jobs.config.settings import Settings
from wanbatch.jobs.driver.run import run

HANDLED = (signal.SIGINT, signal.SIGTERM)


def main(manifest: Path, out: Path) -> None:
    ray.cloudpickle.register_pickle_by_value(fake_pipelines)
    before = [signal.getsignal(number) for number in HANDLED]
    stop, settings = threading.Event(), Settings(**SMALL, unit_rows=1)

    class StopAfterTwo(ProgressHook):
        def update(self, made: int, failed: int) -> None:
            super().update(made, failed)
            if made >= 2:
                stop.set()

    def nothing() -> None:
        pass

    with ThreadPoolExecutor(1) as thread:
        progress = (lambda n, done: StopAfterTwo(n, done, nothing), lambda n, done: ProgressHook(n, done, nothing))
        first = thread.submit(run, manifest, out, settings, progress[0], fake_pipelines.load, stop=stop).result()
        second = thread.submit(run, manifest, out, settings, progress[1], fake_pipelines.load).result()
    print(
        json.dumps(
            {
                "codes": [first.exit_code, second.exit_code],
                "made": [first.made, second.made],
                "handlers_kept": before == [signal.getsignal(number) for number in HANDLED],
            }
        )
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
