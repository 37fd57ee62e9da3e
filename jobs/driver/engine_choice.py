"""Which engines a run uses, decided before it starts: what the fingerprint, the workers and the user are told."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from wanbatch.engines import selection
from wanbatch.engines.selection import EngineNeeds
from wanbatch.errors import UserError
from wanbatch.jobs.config.hardware import ExecutionConfig, Hardware
from wanbatch.jobs.config.settings import Settings
from wanbatch.jobs.planning.adapters import NamedAdapter
from wanbatch.jobs.planning.engine_stores import open_engines
from wanbatch.jobs.planning.plan import Plan
from wanbatch.jobs.worker.messages import EngineChoice
from wanbatch.pipeline.loading.registry import ModelInfo
from wanbatch.pipeline.sampling.step_cache import parse


@dataclass(frozen=True, slots=True)
class ChosenEngines:
    """The engines of a run.

    Attributes:
        choice: what workers are told; None: the run uses no store.
        digests: of those that fit the driver's idea of the device, by the part that each stands for.
        sizes: of pictures, width and height, that some of them are for.
        warnings: what the user should know, a sentence each.
    """

    choice: EngineChoice | None = None
    digests: Mapping[str, str] = field(default_factory=dict)
    sizes: frozenset[tuple[int, int]] = frozenset()
    warnings: Sequence[str] = ()

    def checked_for(self, plan: Plan) -> ChosenEngines:
        """The same, with a warning of the sizes of pictures in a plan that no engine is for.

        Raises:
            UserError: There are such sizes, and engines are required.
        """
        if self.choice is None or not self.sizes:
            return self
        others = sorted(_sizes_in(plan) - self.sizes)
        if not others:
            return self
        words = ", ".join(f"{width}x{height}" for width, height in others[:4]) + (", ..." if others[4:] else "")
        what = f"{self.choice.store} has no engines for pictures of {words}"
        remedy = "build them with `wanbatch engines build --size`"
        if self.choice.required:
            raise UserError(f"setting require_engines: {what}: {remedy}, or leave it out")
        told = (*self.warnings, f"{what}: these are made without; {remedy}")
        return ChosenEngines(self.choice, self.digests, self.sizes, told)


def choose_engines(
    settings: Settings,
    model: ModelInfo,
    execution: ExecutionConfig,
    slots: int,
    hardware: Hardware,
    adapters: Iterable[NamedAdapter] = (),
) -> ChosenEngines:
    """The engines of a run's store that fit its model, precision, slots and kind of device.

    Args:
        settings: of the run.
        model: which model it is.
        execution: device, precision and compilation.
        slots: rows denoised together.
        hardware: that a worker has.
        adapters: of the run.

    Raises:
        UserError: There is no store, an engine in it is damaged or was changed, or there is none that fits and one is
            required.
        MachineryError: The store cannot be read.
    """
    if settings.engines is None:
        if settings.require_engines:
            raise UserError("setting require_engines: needs engines, too: give --engines a store")
        return ChosenEngines()
    store = open_engines(settings.engines)
    needs = _needs(settings, model, execution, slots, hardware, adapters)
    found = selection.select(store, needs)
    digests = selection.digests(found)
    choice = EngineChoice(store.location, None if settings.mixed_devices else digests, settings.require_engines)
    if found:
        why = f"precision {execution.precision}, step cache {settings.step_cache} or merged adapters"
        warnings = () if needs.transformer else (f"the transformer runs without an engine, because of {why}",)
        return ChosenEngines(choice, digests, frozenset(selection.sizes_of(found)), warnings)
    what = f"{store.location} has no engine for {needs} and {slots} slots"
    there = selection.there_instead(store)
    if settings.require_engines and not settings.mixed_devices:
        raise UserError(
            f"setting require_engines: {what}; it has: {there}. Build one with `wanbatch engines build`, or leave it "
            "out"
        )
    return ChosenEngines(choice, warnings=(f"{what}, so none is used; it has: {there}",))


def _needs(
    settings: Settings,
    model: ModelInfo,
    execution: ExecutionConfig,
    slots: int,
    hardware: Hardware,
    adapters: Iterable[NamedAdapter],
) -> EngineNeeds:
    """What engines must be for, to be of use to a run."""
    return EngineNeeds(
        weights=model.digest,
        dtype=execution.dtype,
        slots=slots,
        torch=hardware.torch,
        architecture=selection.architecture_of(execution.device, hardware.capability, hardware.cpu),
        transformer=selection.takes_transformer(
            execution.precision in ("fp8", "int8"),
            parse(settings.step_cache, model.layers).partial,
            any(one.merged for one in adapters),
        ),
        text=selection.takes_text(execution.device, settings.text_cache is not None),
    )


def _sizes_in(plan: Plan) -> set[tuple[int, int]]:
    """Width and height of the pictures of a plan, as far as they are known."""
    pairs = zip(plan.images["width"].to_pylist(), plan.images["height"].to_pylist(), strict=True)
    return {(width, height) for width, height in pairs if width and height}
