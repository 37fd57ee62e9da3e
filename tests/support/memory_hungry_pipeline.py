"""A pipeline that really runs out of memory: it asks torch for some for each slot, under RLIMIT_AS."""

from __future__ import annotations

import resource
from collections.abc import Iterator, Sequence
from pathlib import Path

from fake_pipelines import FakePipeline

from wanbatch.pipeline.core.requests import Failed, Request, Result
from wanbatch.pipeline.loading.registry import ModelInfo

ROW_BYTES = 300 << 20
ROOM = 2.5 * ROW_BYTES


class MemoryHungryPipeline(FakePipeline):
    """Has memory for two rows, and for none whose id begins with `huge-`."""

    def generate(self, requests: Sequence[Request]) -> Iterator[Result | Failed]:
        import torch

        size = ROW_BYTES * self.slots * (4 if any(request.id.startswith("huge-") for request in requests) else 1)
        activations = torch.empty(size, dtype=torch.uint8)
        for request in requests:
            yield self.result(request)
        del activations


def load(model: ModelInfo, device: str, dtype: str, slots: int) -> MemoryHungryPipeline:
    import torch

    torch.ones(8).sum()
    taken = int(Path("/proc/self/status").read_text().split("VmSize:")[1].split()[0]) << 10
    resource.setrlimit(resource.RLIMIT_AS, (int(taken + ROOM), resource.getrlimit(resource.RLIMIT_AS)[1]))
    return MemoryHungryPipeline(slots)
