"""What a process imports while it waits to become a worker."""

from __future__ import annotations

import json
import subprocess
import sys

from wanbatch.jobs.driver.run import PRELOAD

CODE = """
import importlib, json, sys
import torch
asked, torch.version.cuda = [], "13.0"
for name in ("_lazy_init", "current_device", "device_count", "get_device_properties", "init", "is_available"):
    setattr(torch.cuda, name, lambda *given, name=name: asked.append(name))
importlib.import_module(sys.argv[1])
wanted = ("wanbatch.jobs.worker.actor", "wanbatch.pipeline.models.kernels")
missing = [name for name in wanted if name not in sys.modules]
print(json.dumps({"asked": asked, "missing": missing, "dynamo": "torch._dynamo" in sys.modules}))
"""


def test_it_imports_the_pipeline_and_asks_for_no_gpu():
    """Which GPU it gets is only known later, and CUDA looks at that once."""
    done = subprocess.run([sys.executable, "-c", CODE, PRELOAD], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == {"asked": [], "missing": [], "dynamo": False}
