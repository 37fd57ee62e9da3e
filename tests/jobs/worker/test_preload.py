"""What a process imports while it waits to become a worker."""

from __future__ import annotations

import json
import os
import subprocess
import sys

from wanbatch.jobs.driver.run import PRELOAD

CODE = """
import gc, importlib, json, sys
import torch
passes = []
gc.callbacks.append(lambda phase, info: passes.append(phase))
asked, torch.version.cuda = [], "13.0"
for name in ("_lazy_init", "current_device", "device_count", "get_device_properties", "init", "is_available"):
    setattr(torch.cuda, name, lambda *given, name=name: asked.append(name))
importlib.import_module(sys.argv[1])
wanted = ("wanbatch.jobs.worker.actor", "wanbatch.pipeline.models.kernels")
missing = [name for name in wanted if name not in sys.modules]
gc.callbacks.clear()
dynamo = "torch._dynamo" in sys.modules
print(json.dumps([asked, missing, dynamo, len(passes), gc.isenabled()]))
"""


def test_another_wanbatch_than_the_commands_does_not_stay(tmp_path):
    """Which the process would find by itself, but the driver has its modules from elsewhere."""
    code = (
        "import importlib, sys\n"
        "try: importlib.import_module(sys.argv[1])\n"
        "except ImportError: print([name for name in sys.modules if name.startswith(('wanbatch', 'torch'))])"
    )
    environment = {**os.environ, "_WANBATCH_FROM": str(tmp_path / "__init__.py")}
    command = [sys.executable, "-c", code, PRELOAD]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.strip() == "[]"


def test_it_imports_the_pipeline_and_asks_for_no_gpu():
    """Which GPU it gets is only known later, and CUDA looks at that once."""
    done = subprocess.run([sys.executable, "-c", CODE, PRELOAD], capture_output=True, text=True, check=True)
    asked, missing, dynamo, passes, enabled = json.loads(done.stdout)
    assert (asked, missing, dynamo) == ([], [], False)
    assert (passes, enabled) == (0, True)  # no search for garbage meanwhile


AFTERWARDS = """
import gc, importlib, sys
importlib.import_module(sys.argv[1])
from wanbatch.jobs.worker.actor import Worker
from wanbatch.jobs.worker.messages import WorkerSetup
from wanbatch.pipeline.loading.registry import find
Worker(WorkerSetup(find(), sys.argv[2], sys.argv[2], False, "cpu", "float32", slots=2, threads=1), "worker-0").ready()
print(gc.get_freeze_count() > 10 * len(gc.get_objects()))
"""


def test_what_a_worker_has_when_it_is_ready_is_not_searched_for_garbage(tmp_path):
    (tmp_path / "_wanbatch" / "tmp").mkdir(parents=True)
    command = [sys.executable, "-c", AFTERWARDS, PRELOAD, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "True"
