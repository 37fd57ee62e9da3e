"""What a worker on a CPU has, for units that are made in the process of a test."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

from wanbatch.jobs.worker.context import ImagePipeline, WorkerContext
from wanbatch.jobs.worker.messages import WorkerSetup
from wanbatch.manifests import records
from wanbatch.manifests.sources.loader import SourceLoader


def context_of(
    setup: WorkerSetup, pipeline: ImagePipeline, sources: SourceLoader, encoders: ThreadPoolExecutor, **more: Any
) -> WorkerContext:
    """The context of the first worker.

    Args:
        setup: what the driver told it.
        pipeline: what makes its pictures.
        sources: what reads its sources.
        encoders: threads that encode.
        more: other fields of the context.
    """
    return WorkerContext(
        setup=setup,
        name="worker-0",
        host="here",
        device="cpu",
        pipeline=pipeline,
        backends=records.Backends(),
        sources=sources,
        encoders=encoders,
        **more,
    )
