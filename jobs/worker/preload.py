"""What a worker's process imports before it is a worker: Ray imports this module in processes that wait for work.

So they import PyTorch and the pipeline while the driver still plans. Nothing here may ask for a GPU: which one the
process gets is only known once it is a worker.
"""

from importlib import import_module
from importlib.util import find_spec

import torch

import wanbatch.jobs.worker.actor
import wanbatch.pipeline.generate  # noqa: F401

if torch.version.cuda and find_spec("triton"):  # our own kernels
    for name in ("dit_fused", "umt5_fused", "vae_fused"):
        import_module(f"wanbatch.pipeline.models.{name}")
