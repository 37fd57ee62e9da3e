"""Plans of TensorRT as engines: torch tensors in and out, on PyTorch's current stream, without copies."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from wanbatch.engines import tensorrt
from wanbatch.errors import UserError


class PlanEngine:
    """A plan on the GPU of this process.

    The output is written into one tensor for each shape, which the next call with that shape writes again.

    Args:
        plan: The file.
        backend: Of the library that built it.

    Raises:
        UserError: The library does not load it here.
    """

    def __init__(self, plan: Path, backend: str):
        self._trt = tensorrt.library(backend)
        logger = tensorrt.quiet_logger(self._trt)
        self._engine = self._trt.Runtime(logger).deserialize_cuda_engine(plan.read_bytes())
        if self._engine is None:
            raise UserError(f"{plan}: {backend} does not load it here: {logger.last or 'it gives no reason'}")
        self._context = self._engine.create_execution_context()
        names = [self._engine.get_tensor_name(index) for index in range(self._engine.num_io_tensors)]
        self._inputs = [name for name in names if self._is_input(name)]
        (self._output,) = (name for name in names if not self._is_input(name))
        self._outputs: dict[tuple[int, ...], Tensor] = {}

    def __call__(self, *inputs: Tensor) -> Tensor:
        """The output of a graph for its inputs, which must lie on the GPU.

        Raises:
            ValueError: An input has another type or size than the plan was built for.
        """
        kept = []
        for name, given in zip(self._inputs, inputs, strict=True):
            wanted = self._dtype(name)
            if given.dtype != wanted or not given.is_cuda:
                raise ValueError(f"{name}: is {given.dtype} on {given.device}; the plan takes {wanted} on a GPU")
            kept.append(given.contiguous())
            if not self._context.set_input_shape(name, tuple(given.shape)):
                raise ValueError(f"{name}: the plan takes no {tuple(given.shape)}")
            self._context.set_tensor_address(name, kept[-1].data_ptr())
        shape = tuple(self._context.get_tensor_shape(self._output))
        if shape not in self._outputs:
            self._outputs[shape] = torch.empty(shape, dtype=self._dtype(self._output), device=inputs[0].device)
        self._context.set_tensor_address(self._output, self._outputs[shape].data_ptr())
        if not self._context.execute_async_v3(torch.cuda.current_stream().cuda_stream):
            raise RuntimeError("the plan did not run")
        return self._outputs[shape]

    def _is_input(self, name: str) -> bool:
        return self._engine.get_tensor_mode(name) == self._trt.TensorIOMode.INPUT

    def _dtype(self, name: str) -> torch.dtype:
        kinds: dict[Any, torch.dtype] = {
            self._trt.DataType.FLOAT: torch.float32,
            self._trt.DataType.HALF: torch.float16,
            self._trt.DataType.BF16: torch.bfloat16,
            self._trt.DataType.INT64: torch.int64,
            self._trt.DataType.INT32: torch.int32,
        }
        return kinds[self._engine.get_tensor_dtype(name)]
