"""Plans of TensorRT as engines: torch tensors in and out, on PyTorch's current stream, without copies."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from wanbatch.engines import tensorrt
from wanbatch.errors import MachineryError, UserError


class PlanEngine:
    """A plan on the GPU of this process.

    The output is written into one tensor for each shape, which the next call with that shape writes again.

    Args:
        plan: The file.
        backend: Of the library that built it.
        cache: Where the kernels that TensorRT for RTX compiles for this card are kept (`keep`); None: nowhere.

    Raises:
        UserError: The library does not load it here.
    """

    def __init__(self, plan: Path, backend: str, cache: Path | None = None):
        self._trt = tensorrt.library(backend)
        logger = tensorrt.quiet_logger(self._trt)
        self._engine = self._trt.Runtime(logger).deserialize_cuda_engine(plan.read_bytes())
        if self._engine is None:
            raise UserError(f"{plan}: {backend} does not load it here: {logger.last or 'it gives no reason'}")
        self._cache_file = cache if backend == tensorrt.RTX else None
        self._cache: Any = None
        self._context = self._engine.create_execution_context(*self._settings())
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

    def keep(self) -> None:
        """Write the kernels that were compiled for this card to the file of the cache, if there is to be one.

        Raises:
            MachineryError: The disk refuses.
        """
        if self._cache_file is None:
            return
        try:
            self._cache_file.parent.mkdir(parents=True, exist_ok=True)
            temporary = self._cache_file.with_suffix(f".{os.getpid()}")
            temporary.write_bytes(bytes(self._cache.serialize()))
            os.replace(temporary, self._cache_file)
        except OSError as error:
            raise MachineryError(f"{self._cache_file}: cannot be written ({error.strerror})") from error

    def _settings(self) -> tuple[Any, ...]:
        """What a context is made with: the cache, which the library takes only if it is of this card and driver."""
        if self._cache_file is None:
            return ()
        settings = self._engine.create_runtime_config()
        self._cache = settings.create_runtime_cache()
        if self._cache_file.exists():
            self._cache.deserialize(self._cache_file.read_bytes())
        settings.set_runtime_cache(self._cache)
        return (settings,)

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
