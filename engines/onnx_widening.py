"""ONNX files in bf16 as files in fp32 with the same weights, which ONNX Runtime runs on a CPU; FP8 stays FP8."""

from __future__ import annotations

from pathlib import Path
from typing import Any

LARGEST_BYTES = 4 << 30
"""Of a file that is compared in this way: it is held in memory, twice as large."""


def widened(path: Path, target: Path) -> Path:
    """Write an ONNX file with fp32 wherever it has bf16 or fp16.

    Args:
        path: Of the file.
        target: Of the new one, in a folder of its own; its weights are in `TARGET.data`.
    """
    import onnx

    model = onnx.load(str(path))
    graph = model.graph
    del graph.value_info[:]  # types in the middle, which follow from the rest
    for value in (*graph.input, *graph.output):
        if _is_half(value.type.tensor_type.elem_type):
            value.type.tensor_type.elem_type = onnx.TensorProto.FLOAT
    for tensor in graph.initializer:
        _widen(tensor)
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.TENSOR:
                _widen(attribute.t)
            elif attribute.name in ("to", "dtype", "output_dtype") and _is_half(attribute.i):
                attribute.i = onnx.TensorProto.FLOAT
    onnx.save(model, str(target), save_as_external_data=True, location=f"{target.name}.data")
    return target


def _is_half(kind: int) -> bool:
    import onnx

    return kind in (onnx.TensorProto.BFLOAT16, onnx.TensorProto.FLOAT16)


def _widen(tensor: Any) -> None:
    import onnx

    if _is_half(tensor.data_type):
        values = onnx.numpy_helper.to_array(tensor).astype("float32")
        tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
