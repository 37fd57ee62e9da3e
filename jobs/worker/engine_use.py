"""A worker's engines: those of its own device, tried in a process of their own before the model is loaded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from wanbatch.engines import selection
from wanbatch.engines.selection import EngineNeeds
from wanbatch.engines.store import Store
from wanbatch.engines.stored_engine import StoredEngine
from wanbatch.errors import MachineryError, NodeError, UserError
from wanbatch.jobs.planning.engine_stores import open_engines
from wanbatch.jobs.worker.context import ImagePipeline
from wanbatch.jobs.worker.messages import EngineChoice, WorkerSetup
from wanbatch.pipeline.sampling.step_cache import parse

if TYPE_CHECKING:
    from wanbatch.pipeline.generate import Wan


@dataclass(frozen=True, slots=True)
class EnginesHere:
    """The engines that a worker uses.

    Attributes:
        store: where they are.
        engines: that fit the worker's device.
        host: the name of this one, for messages.
    """

    store: Store
    engines: Sequence[StoredEngine]
    host: str

    def use_in(self, pipeline: ImagePipeline) -> None:
        """Have a loaded model run with the engines.

        Raises:
            NodeError: They do not go with it.
        """
        from wanbatch.engines.runtime import LoadedParts, put_engines

        wan = cast("Wan", pipeline)
        if not self.engines:
            return
        if wan.placement.offloader is not None:
            raise NodeError(
                f"host {self.host}: engines need the whole model on the GPU, which may have no room for it: use "
                "--offload never, or no --engines"
            )
        parts = LoadedParts(
            text=wan.text.model,
            transformers=wan.experts,
            vae=wan.vae,
            vae_module=wan.frame_vae,
            stride=wan.stride,
            channels=wan.channels,
            dtype=wan.dtype,
            device=wan.device,
        )
        try:
            replaced = put_engines(parts, self.store, self.engines)
        except UserError as error:
            raise NodeError(f"host {self.host}: {error}") from error
        wan.replace_parts(replaced.text, replaced.transformers, replaced.vae, replaced.stages)


def engines_here(setup: WorkerSetup, choice: EngineChoice, host: str) -> EnginesHere:
    """The engines of a store that fit a worker's device, each of which has run once on this host.

    Args:
        setup: of the worker.
        choice: which engines it is to use.
        host: the name of this one, for messages.

    Raises:
        NodeError: The store cannot be read here or has other engines than the driver chose, an engine does not run
            here, or there is none and it is required.
    """
    from wanbatch.engines import probe

    try:
        store = open_engines(choice.store)
        found = selection.select(store, needs_here(setup))
    except (UserError, MachineryError, OSError) as error:
        raise NodeError(f"host {host}: {error}") from error
    if choice.digests is not None and selection.digests(found) != dict(choice.digests):
        raise NodeError(
            f"host {host}: in {choice.store} it finds other engines than the host of this command: share one store "
            "with every host that has workers"
        )
    if choice.required and not found:
        raise NodeError(f"host {host}: {choice.store} has no engine for its device: build it there, or keep it out")
    if (failure := probe.failure_of(store, found)) is not None:
        raise NodeError(f"host {host}: {failure}: build it again on this host, or run without --engines")
    return EnginesHere(store, found, host)


def needs_here(setup: WorkerSetup) -> EngineNeeds:
    """What engines must be for, to be of use to a worker in this process."""
    import torch

    capability = torch.cuda.get_device_capability() if setup.device == "cuda" else (0, 0)
    runtime = setup.runtime
    return EngineNeeds(
        weights=setup.model.digest,
        dtype=setup.dtype,
        slots=setup.slots,
        torch=str(torch.__version__),
        architecture=selection.architecture_of(setup.device, capability, torch.backends.cpu.get_cpu_capability()),
        transformer=selection.takes_transformer(
            runtime.fp8 or runtime.int8,
            parse(runtime.step_cache, setup.model.layers).partial,
            any(one.merged for one in setup.adapters),
        ),
        text=selection.takes_text(setup.device, runtime.text_cache is not None),
    )
