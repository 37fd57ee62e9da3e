"""Where a run's workers will be: on this machine, or on the nodes of a cluster that this process is connected to."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from wanbatch.jobs.config.cuda_driver import hardware_here
from wanbatch.jobs.config.hardware import ExecutionConfig, Hardware
from wanbatch.jobs.config.settings import AUTO, Settings
from wanbatch.jobs.driver.batch_size import Measure, measure_here
from wanbatch.jobs.driver.cluster_nodes import Placement, kind_to_use
from wanbatch.jobs.driver.cluster_session import connected, hardware_there, nodes, placement_of, run_on_a_node
from wanbatch.jobs.driver.cpu_workers import workers_here
from wanbatch.jobs.worker.model_files import local_model
from wanbatch.manifests.dataset.fingerprint import ENVIRONMENT
from wanbatch.manifests.dataset.status import recorded_fingerprint
from wanbatch.pipeline.loading.registry import ModelInfo
from wanbatch.pipeline.loading.runtime import Runtime

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Site:
    """Where a run's workers will be.

    Attributes:
        hardware: that one of them will have.
        workers: how many there can be now.
        placement: what each needs.
        measure: measures a batch size there; None: as this machine does.
    """

    hardware: Hardware
    workers: int
    placement: Placement
    measure: Measure | None = None


FindSite = Callable[[Settings, "str | Path"], Site]
"""Of the settings, with the preset applied, and the output folder."""


def site_finder(address: str | None, stack: ExitStack) -> FindSite:
    """What finds where a run's workers will be.

    Args:
        address: of the cluster; None: this machine.
        stack: at its end this process leaves the cluster that finding connects it to.
    """
    if address is None:
        return this_machine

    def find(settings: Settings, out: str | Path) -> Site:
        stack.enter_context(connected(address))
        return the_cluster(settings, out)

    return find


def this_machine(settings: Settings, out: str | Path) -> Site:
    """This machine, with a worker for each of its GPUs; without one, with as many as a small model has room for."""
    for name in ("label_selector", "accelerator_type"):
        if getattr(settings, name):
            _log.warning("--%s has no effect without a cluster: --address gives one", name.replace("_", "-"))
    hardware = hardware_here(settings.device)
    device = "cuda" if hardware.gpus and settings.device != "cpu" else "cpu"
    workers = _wanted(settings) or (hardware.gpus if device == "cuda" else workers_here(settings.threads))
    return Site(hardware, workers, placement_of(settings, device, None, on_cluster=False))


def the_cluster(settings: Settings, out: str | Path) -> Site:
    """The cluster that this process is connected to; one node of it is asked what it has.

    Raises:
        UserError: Its nodes have no wanbatch, or another version.
        MachineryError: No node can have a worker, in time, or Ray fails.
    """
    there = nodes()
    labelled = placement_of(settings, "cuda", None, on_cluster=True)
    with_gpus = [node for node in there if labelled.workers_on(node)]
    device = settings.device
    if device == AUTO:
        device = "cuda" if with_gpus or settings.accelerator_type else "cpu"
    accelerator = settings.accelerator_type
    if device == "cuda" and accelerator is None and not settings.mixed_devices:
        accelerator, others = kind_to_use(with_gpus, _device_of(out))
        if accelerator is not None:
            _log.warning(
                "the cluster has GPUs of several kinds, whose pictures differ in their last bits: this run uses %s "
                "alone, and not %s; --accelerator-type takes another kind, --mixed-devices all",
                accelerator,
                ", ".join(others),
            )
    placement = placement_of(settings, device, accelerator, on_cluster=True)
    largest = max((node.cpus for node in there), default=0)
    placement = replace(placement, cpus=max(1, min(placement.cpus, largest)))  # or no node could ever have one
    hardware = hardware_there(settings, placement)
    workers = _wanted(settings) or max(1, placement.workers_in(nodes()))
    hardware = replace(hardware, gpus=workers if device == "cuda" else 0)
    return Site(hardware, workers, placement, partial(_measure_there, settings, placement))


def _wanted(settings: Settings) -> int | None:
    return None if settings.workers in (None, AUTO) else int(settings.workers)


def _device_of(out: str | Path) -> str | None:
    """The kind of device that an output folder was filled with so far."""
    name = (recorded_fingerprint(out) or {}).get(ENVIRONMENT, {}).get("device_name")
    return None if name is None else str(name)


def _measure_there(
    settings: Settings,
    placement: Placement,
    model: ModelInfo,
    kind: tuple[int, int, bool],
    execution: ExecutionConfig,
    runtime: Runtime,
) -> dict[int, float]:
    def measured() -> dict[int, float]:
        return measure_here(local_model(model, settings.model_cache), kind, execution, runtime)

    return run_on_a_node(measured, placement, settings.start_deadline)
