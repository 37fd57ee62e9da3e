"""Run by hammer.py: the real command with the pipeline of the soak in its workers.

    python soaked_run.py NO_REAL_LEFT PAUSE run MANIFEST --out OUT ...

With `SOAK_FAULTS` in the environment ("SEED SECONDS LOG"), system calls on files of OUT fail now and then, and the
command is run again in this process as long as it says that this may help; each of its exit codes is noted in LOG.
"""

from __future__ import annotations

import functools
import json
import os
import sys
from datetime import UTC, datetime
from pathlib import Path

import fake_pipelines
import ray
import soak_pipeline
from fault_injector import FaultInjector

from wanbatch.jobs.cli.main import main
from wanbatch.jobs.driver import run as running

DONE = (0, 3, 130)


def run_with_faults(arguments: list[str], seed: str, seconds: float, log: Path) -> int:
    """Run the command until it is done; faults end it and it is run again."""
    out = Path(arguments[arguments.index("--out") + 1])
    ray.init(address="local", include_dashboard=False, log_to_driver=False, object_store_memory=100 << 20)
    FaultInjector(out, log, seed, seconds).start()
    while (code := main(arguments, standalone_mode=False)) not in DONE:
        record = {"time": datetime.now(UTC).isoformat(timespec="milliseconds"), "kind": "ended", "code": code}
        with log.open("a") as file:
            file.write(json.dumps(record) + "\n")
        if code == 1:
            return code
    return code


if __name__ == "__main__":
    for module in (fake_pipelines, soak_pipeline):
        ray.cloudpickle.register_pickle_by_value(module)
    no_real_left, pause = Path(sys.argv.pop(1)), float(sys.argv.pop(1))
    load = functools.partial(soak_pipeline.load_soak, no_real_left, pause)
    running.run = functools.partial(running.run, load=load)
    sys.argv[0] = "wanbatch"
    if faults := os.environ.get("SOAK_FAULTS"):
        seed, seconds, log = faults.split(" ", 2)
        sys.exit(run_with_faults(sys.argv[1:], seed, float(seconds), Path(log)))
    sys.exit(main())
