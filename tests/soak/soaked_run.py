"""Run by hammer.py: the real command with the pipeline of the soak in its workers.

python soaked_run.py NO_REAL_LEFT PAUSE run MANIFEST --out OUT ...
"""

from __future__ import annotations

import functools
import sys
from pathlib import Path

import fake_pipelines
import ray
import soak_pipeline

from wanbatch.jobs.cli.main import main
from wanbatch.jobs.driver import run as running

if __name__ == "__main__":
    for module in (fake_pipelines, soak_pipeline):
        ray.cloudpickle.register_pickle_by_value(module)
    no_real_left, pause = Path(sys.argv.pop(1)), float(sys.argv.pop(1))
    load = functools.partial(soak_pipeline.load_soak, no_real_left, pause)
    running.run = functools.partial(running.run, load=load)
    sys.argv[0] = "wanbatch"
    sys.exit(main())
