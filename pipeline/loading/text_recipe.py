"""What decides the bits of text embeddings, as the name under which a cache keeps them."""

from __future__ import annotations

from importlib.metadata import version

import torch

from wanbatch.pipeline.loading.registry import ModelInfo
from wanbatch.pipeline.models.own_kernels import kernels_usable


def text_recipe(info: ModelInfo, device: torch.device, dtype: str, batch_tokens: int, fp8: bool = False) -> str:
    """Everything that decides the bits of a text embedding besides the prompt.

    Args:
        info: Of the model.
        device: Where it is encoded.
        dtype: Of the weights.
        batch_tokens: In each batch on a GPU.
        fp8: Whether weights are kept in FP8.
    """
    if device.type == "cuda":
        how = "kernels" if kernels_usable(device) else "eager"
        kind = f"{torch.cuda.get_device_name(device)} {torch.version.cuda} {batch_tokens} {how}"
    else:
        kind = f"cpu {torch.backends.cpu.get_cpu_capability()} {torch.get_num_threads()}"
    dtype += " fp8 weights" if fp8 else ""
    return f"{info.digest} {dtype} {kind} torch {torch.__version__} transformers {version('transformers')}"
