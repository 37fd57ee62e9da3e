"""Exceptions of the pipeline: memory that runs out, a broken device, a row that cannot be made."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from wanbatch.errors import DeviceError, RowError
from wanbatch.jobs.worker.context import ImagePipeline
from wanbatch.pipeline.core.requests import Failed, Request, Result

_DEVICE_ERROR = re.compile(r"CUDA error|CUBLAS_STATUS|CUDNN_STATUS|device-side assert")
_OUT_OF_MEMORY = re.compile(
    r"DefaultCPUAllocator: can't allocate memory|CUDA error: out of memory|_STATUS_ALLOC_FAILED"
)


@dataclass(frozen=True, slots=True)
class PipelineFailure:
    """What an exception of the pipeline means.

    Attributes:
        message: the exception's class and text; not the exception, whose traceback holds tensors.
        out_of_memory: the device's memory or the host's ran out.
        device_broken: the device's context is broken, as CUDA's errors leave it.
    """

    message: str
    out_of_memory: bool
    device_broken: bool

    @classmethod
    def of(cls, error: Exception) -> PipelineFailure:
        """Tell an exception apart by its class and its text."""
        import torch

        memory = isinstance(error, torch.OutOfMemoryError | MemoryError) or bool(_OUT_OF_MEMORY.search(str(error)))
        device = isinstance(error, torch.AcceleratorError) or bool(_DEVICE_ERROR.search(str(error)))
        return cls(f"{type(error).__name__}: {error}", memory, device and not memory)

    @property
    def error_class(self) -> str:
        """The error class of a row that the failure is traced to."""
        return "oom" if self.out_of_memory else "error"


def generate_or_fail(
    pipeline: ImagePipeline,
    device: str,
    requests: Sequence[Request],
    more: Callable[[], Sequence[Request]] | None = None,
    spares: bool = True,
) -> Iterator[Result | Failed]:
    """Generate images; where the pipeline raises an exception, find the rows that it comes from.

    Memory that runs out makes the pipeline let go of what it keeps for coming rows, once, and then halves its slots,
    for good. Another exception is traced to its row by trying the halves of what is left.

    Args:
        pipeline: what generates.
        device: `cuda` or `cpu`.
        requests: for the images.
        more: gives further requests, see `ImagePipeline.generate`; not asked again after an exception. None: there
            are none.
        spares: whether the pipeline may have memory that it keeps for coming rows.

    Yields:
        One outcome for each request, in any order.

    Raises:
        DeviceError: The device is in a bad state.
    """
    asked = list(requests)
    if not asked:
        return
    done, failure = set(), None
    try:
        made = pipeline.generate(requests) if more is None else pipeline.generate(requests, _noted(more, asked))
        for outcome in made:
            done.add(outcome.request.id)
            yield outcome
    except Exception as error:  # noqa: BLE001  any failure of one row must not take the others with it
        failure = PipelineFailure.of(error)
    if failure is None:
        return
    if failure.device_broken:
        raise DeviceError(failure.message)
    left = [request for request in asked if request.id not in done]
    if failure.out_of_memory and ((spares and spare_memory(pipeline, device)) or halve_slots(pipeline, device)):
        yield from generate_or_fail(pipeline, device, left, spares=False)
    elif len(asked) == 1:
        yield from (Failed(request, RowError("generate", failure.error_class, failure.message)) for request in left)
    else:
        middle = max(1, len(left) // 2)
        yield from generate_or_fail(pipeline, device, left[:middle], spares=spares)
        yield from generate_or_fail(pipeline, device, left[middle:], spares=spares)


def _noted(more: Callable[[], Sequence[Request]], asked: list[Request]) -> Callable[[], Sequence[Request]]:
    """The same, but what it gives is added to a list."""

    def further() -> Sequence[Request]:
        coming = more()
        asked.extend(coming)
        return coming

    return further


def spare_memory(pipeline: ImagePipeline, device: str) -> bool:
    """Free what the pipeline keeps on the device for coming rows alone. False if that is nothing."""
    freed = pipeline.spare_memory()
    if freed:
        _empty_cache(device)
    return freed > 0


def halve_slots(pipeline: ImagePipeline, device: str) -> bool:
    """Go on with half the rows in a batch, from now on. False if there is only one already."""
    if pipeline.slots == 1:
        return False
    _empty_cache(device)
    pipeline.use_slots(pipeline.slots // 2)
    return True


def _empty_cache(device: str) -> None:
    import torch

    if device == "cuda":
        torch.cuda.empty_cache()
