"""CUDA graphs: what an evaluation launches is recorded once and replayed with one launch.

An evaluation of the 5B model is some 400 launches, 20 to 40 ms of a processor's time. A GPU that has more to do than
that never waits for them; with few tokens it would. So graphs are used for small batches only, where they pay.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

MOST_TOKENS = 4096  # of a batch: with more, an H200 takes longer for an evaluation than the host for its launches


@dataclass(frozen=True, slots=True, eq=False)
class _Recorded:
    graph: torch.cuda.CUDAGraph
    inputs: Sequence[Tensor]
    outputs: Sequence[Tensor]


class CudaGraphs:
    """Recorded functions of tensors, by a key of the caller's.

    All tensors that a function reads besides its inputs must stay where they are as long as this lives.
    """

    def __init__(self) -> None:
        self._recorded: dict[Hashable, _Recorded | None] = {}
        self._pool = torch.cuda.graph_pool_handle()

    def run(self, key: Hashable, function: Callable[..., Sequence[Tensor]], *inputs: Tensor) -> Sequence[Tensor]:
        """What the function gives. The first call runs it as it is, which also compiles and sets up what it uses.

        Args:
            key: Names the function; the same key means the same function and the same shapes of inputs.
            function: What is recorded at the second call.
            inputs: Copied to where the recorded function reads them.
        """
        if key not in self._recorded:
            self._recorded[key] = None
            return function(*inputs)
        recorded = self._recorded[key]
        if recorded is None:
            recorded = self._recorded[key] = self._record(function, inputs)
        for ours, given in zip(recorded.inputs, inputs, strict=True):
            ours.copy_(given)
        recorded.graph.replay()
        return [output.clone() for output in recorded.outputs]

    def _record(self, function: Callable[..., Sequence[Tensor]], inputs: Sequence[Tensor]) -> _Recorded:
        own = [tensor.clone() for tensor in inputs]
        graph = torch.cuda.CUDAGraph()
        # Only what this thread does is recorded: others may be moving pictures.
        with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
            outputs = function(*own)
        return _Recorded(graph, own, outputs)


def worth_capturing(device: torch.device, tokens: int) -> bool:
    """Whether graphs are of use for evaluations of so many tokens."""
    return device.type == "cuda" and tokens <= MOST_TOKENS
