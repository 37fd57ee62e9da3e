"""Merging adapters into a transformer's weights: what a whole run uses costs nothing in its steps."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch

from wanbatch.pipeline.adapters.files import AdapterFile
from wanbatch.pipeline.adapters.tensors import AdapterTensors, load_tensors
from wanbatch.pipeline.models.weight_merging import merged


def merge_files(transformers: Sequence[Any], files: Iterable[tuple[AdapterFile, float]]) -> None:
    """Add adapters to the weights of the transformers that they are for, one after the other, see `merge`.

    Args:
        transformers: Of a model, in their order.
        files: Adapters, each with its weight.
    """
    for file, weight in files:
        for transformer, tensors in zip(transformers, load_tensors(file), strict=False):
            merge(transformer, tensors, weight)


@torch.no_grad()
def merge(transformer: Any, tensors: AdapterTensors, weight: float = 1.0) -> None:
    """Add an adapter to the weights of a transformer, in place; computed in float32 and rounded once.

    Args:
        transformer: A diffusers `WanTransformer3DModel`, as it was loaded: its layers neither fused nor in FP8.
        tensors: Of the adapter, read for a model of this form.
        weight: How strongly it is added; a negative one takes it away.
    """
    for name, pair in tensors.pairs.items():
        parameter = transformer.get_parameter(f"{name}.weight")
        up, down = (part.to(parameter.device).float() for part in (pair.up, pair.down))
        matrix = parameter.data.flatten(1)
        parameter.data.copy_(merged(matrix, down, weight * (pair.scale * up)).view_as(parameter))
    for name, delta in tensors.deltas.items():
        parameter = transformer.get_parameter(name)
        delta = weight * delta.to(parameter.device)
        parameter.data.copy_(parameter.data.float() + delta.view_as(parameter))
