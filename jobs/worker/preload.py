"""What a worker's process imports before it is a worker: Ray imports this module in processes that wait for work.

So they import PyTorch and the pipeline while the driver still plans. Nothing here may ask for a GPU: which one the
process gets is only known once it is a worker. Nor is it known where the driver has its modules from: if that is
elsewhere, nothing stays imported.
"""

import gc
import os
import sys
from importlib import import_module
from importlib.util import find_spec

import wanbatch

KERNELS = ("dit_fused", "umt5_fused", "vae_fused")  # what needs Triton, of `pipeline/models/`


def import_pipeline() -> None:
    """Import what a worker needs, without a search for garbage meanwhile or in it, which takes an eighth of the time.

    Raises:
        ImportError: It cannot be imported; the worker, which tries again, says why.
    """
    gc.disable()
    try:
        import torch

        import_module("wanbatch.jobs.worker.actor")
        import_module("wanbatch.pipeline.generate")
        for name in KERNELS if torch.version.cuda and find_spec("triton") else ():
            import_module(f"wanbatch.pipeline.models.{name}")
    except Exception as error:  # any other one would end the process
        raise ImportError(str(error)) from error
    finally:
        gc.freeze()
        gc.enable()


if os.environ.get("_WANBATCH_FROM", wanbatch.__file__) != wanbatch.__file__:
    for other in [name for name in sys.modules if name.partition(".")[0] == "wanbatch"]:
        del sys.modules[other]
    raise ImportError("the command uses another wanbatch than this process finds")
import_pipeline()
