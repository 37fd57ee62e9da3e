"""The pipeline of the soak: the tiny model for rows named `real-`, a fake pipeline for all others."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from fake_pipelines import FakePipeline

from wanbatch.pipeline.core.requests import Failed, Request, Result
from wanbatch.pipeline.loading.registry import ModelInfo


class SoakPipeline(FakePipeline):
    """wan: the real pipeline; None once no real row is left, so that workers start fast. pause: seconds a row."""

    def __init__(self, wan, pause: float, slots: int):
        super().__init__(slots)
        self.wan, self.pause = wan, pause

    def generate(self, requests: Sequence[Request]) -> Iterator[Result | Failed]:
        real = [request for request in requests if request.id.startswith("real-")]
        if real:
            yield from self.wan.generate(real)
        for request in requests:
            if request not in real:
                time.sleep(self.pause)
                yield from super().generate([request])


def load_soak(
    no_real_left: Path, pause: float, model: ModelInfo, device: str, dtype: str, slots: int
) -> SoakPipeline:
    """no_real_left: a file that is there once all real rows are made."""
    if no_real_left.exists():
        return SoakPipeline(None, pause, slots)
    from wanbatch.pipeline.generate import Wan

    return SoakPipeline(Wan.load(model, device, dtype, slots), pause, slots)
