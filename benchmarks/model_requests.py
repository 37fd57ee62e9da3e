"""Requests as a model's own defaults have them, for the benchmarks."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from wanbatch.pipeline.core.requests import Request
from wanbatch.pipeline.loading.registry import ModelInfo


def request_of(info: ModelInfo, **changes: Any) -> Request:
    """A request with the defaults of a model, made from its prompt alone.

    Args:
        info: Of the model.
        changes: Fields that differ from the defaults.
    """
    plain = Request(
        id="0",
        prompt="",
        negative_prompt=info.negative_prompt,
        sources=(),
        creativity=1.0,
        seed=0,
        width=info.width,
        height=info.height,
        steps=info.steps,
        guidance=info.guidance,
        guidance_2=info.guidance_2,
        shift=info.shift,
        sampler=info.sampler,
        schedule=info.schedule,
    )
    return replace(plain, **changes)
