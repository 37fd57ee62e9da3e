"""`wanbatch qualify`: whether this runtime makes of a model what it should, on the machine at hand, and how fast.

Everything is measured in one process. First the model is loaded as a worker of a run loads it, for its start, its
pictures, their bits beside neighbours and the memory that it takes; then once more with diffusers beside, on the same
weights, for diffusers' own pictures, presets against many steps, and milliseconds of each stage. What can fail is a
`Finding`; the rest are figures.
"""

from __future__ import annotations

import gc
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from wanbatch import __version__
from wanbatch.counting import number_of
from wanbatch.jobs.benchmark.compare import (
    PACKAGES,
    BenchSettings,
    diffusers_pipeline,
    hardware_of,
    largest_difference,
    made_by_diffusers,
    made_by_wanbatch,
    sample_requests,
)
from wanbatch.jobs.benchmark.stages import StageSettings, bench_stages, shared_copies
from wanbatch.jobs.config.hardware import PRESETS, ExecutionConfig, Hardware, resolve_execution
from wanbatch.jobs.config.settings import Settings
from wanbatch.jobs.planning.presets import with_preset
from wanbatch.pipeline.core.device import synchronized_time
from wanbatch.pipeline.core.requests import Request
from wanbatch.pipeline.evaluation.lpips import at_hand
from wanbatch.pipeline.evaluation.metrics import psnr_of
from wanbatch.pipeline.evaluation.quality import Meter
from wanbatch.pipeline.generate import Wan
from wanbatch.pipeline.loading.compiler import set_up_compiler
from wanbatch.pipeline.loading.modules import Modules
from wanbatch.pipeline.loading.offload import free_memory
from wanbatch.pipeline.loading.reference import check_not_converted, load_reference
from wanbatch.pipeline.loading.registry import ModelInfo
from wanbatch.pipeline.loading.residency import TEXT, VAE_PART, require_whole, weight_sizes
from wanbatch.pipeline.loading.runtime import Runtime
from wanbatch.pipeline.loading.weights import DTYPES
from wanbatch.pipeline.sampling.schedules import KEEP

MOST_DIFFERENCE = 2
"""Of 255, in fp32: what rounding to whole values makes of differences in the last bits."""
LEAST_PSNR = 25.0
"""dB, mean over the pictures, in bf16: what other orders of the same operations make of a picture over its steps."""


@dataclass(frozen=True, slots=True)
class QualifyOptions:
    """What is measured.

    Attributes:
        prompts: pictures of each comparison.
        reference_steps: steps of the pictures that presets are compared with.
        slots: rows that this runtime denoises together.
        rounds: how often each stage is timed.
    """

    prompts: int = 6
    reference_steps: int = 100
    slots: int = 4
    rounds: int = 5


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is as it should be, or is not.

    Attributes:
        name: what was looked at.
        good: whether it is right.
        said: what was found, a sentence.
    """

    name: str
    good: bool
    said: str


@dataclass(frozen=True, slots=True)
class Qualification:
    """What was found of a model.

    Attributes:
        data: everything in numbers and words, as JSON values.
        pictures: by the name of what made them, in the order of `data["prompts"]`; uint8 [height, width, 3].
    """

    data: dict[str, Any]
    pictures: Mapping[str, Sequence[np.ndarray]]

    @property
    def good(self) -> bool:
        """Whether nothing is wrong."""
        return all(finding["good"] for finding in self.data["findings"])


def qualify(
    info: ModelInfo, settings: Settings, hardware: Hardware, options: QualifyOptions, command: str
) -> Qualification:
    """Measure a model.

    Args:
        info: Of the model.
        settings: As the user gave them; every preset is tried on top of them.
        hardware: What the model runs on.
        options: What is measured.
        command: The command line, to be kept with the figures.
    """
    execution = resolve_execution(settings.model_copy(update={"preset": "exact"}), hardware)
    bench = _bench_settings(info, settings, options)
    _check_room(info, execution, bench)
    runtime = replace(execution.runtime(settings), offload=False)
    requests = sample_requests(info, bench)
    alone = _alone(info, execution, runtime, bench, requests)
    wan, modules = _loaded(info, execution, runtime, bench)
    pictures: dict[str, Sequence[np.ndarray]] = {"wanbatch": alone.pictures}
    pipeline = diffusers_pipeline(info, modules)
    pictures["diffusers"] = made_by_diffusers(pipeline, requests, 1)
    parity = _parity(pictures, execution)
    references = made_by_wanbatch(wan, [_of_many_steps(request, options.reference_steps) for request in requests])
    pictures[f"{options.reference_steps} steps"] = references
    presets = _presets(info, settings, hardware, execution, (wan, modules), requests, references, pictures)
    first = requests[0]
    per_token = bool(pipeline.config.expand_timesteps)
    one = StageSettings(options.slots, first.height, first.width, options.rounds, False, per_token)
    stages = bench_stages(wan, modules, one)
    data = {
        **_heading(info, command, execution),
        "settings": {**asdict(options), **asdict(execution), **_settings_of(first)},
        "backends": wan.backends,
        "prompts": [request.prompt for request in requests],
        "findings": [asdict(finding) for finding in (parity, alone.bits, *presets.findings)],
        "presets": presets.figures,
        "presets_not_tried": presets.not_tried,
        "start": alone.start,
        **stages,
        "peak_memory_bytes": alone.peak_memory,
        "peak_memory_bytes_with_diffusers": _peak_memory(wan.device),
    }
    return Qualification(data, pictures)


def _check_room(info: ModelInfo, execution: ExecutionConfig, bench: BenchSettings) -> None:
    """Raises UserError if there is no room for the model, or if it has no weights that diffusers reads."""
    check_not_converted(info)
    device, pixels = torch.device(execution.device), bench.width * bench.height
    require_whole(Path(info.folder), info.name, execution.dtype, bench.batch, pixels, free_memory(device))


@dataclass(frozen=True, slots=True)
class _Alone:
    start: dict[str, float]
    pictures: Sequence[np.ndarray]
    bits: Finding
    peak_memory: int | None


def _alone(
    info: ModelInfo, execution: ExecutionConfig, runtime: Runtime, bench: BenchSettings, requests: Sequence[Request]
) -> _Alone:
    """What this runtime does without diffusers, loaded as a worker of a run loads it; all of it leaves afterwards."""
    device = torch.device(execution.device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    begin = synchronized_time(device)
    wan = Wan.load(info, execution.device, execution.dtype, bench.batch, runtime, examples=requests[:1])
    loaded = synchronized_time(device)
    made_by_wanbatch(wan, requests[:1])
    first = synchronized_time(device)
    pictures = made_by_wanbatch(wan, requests)
    start = {"load_seconds": round(loaded - begin, 2), "first_picture_seconds": round(first - loaded, 2)}
    alone = _Alone(start, pictures, _bits(wan, requests, pictures), _peak_memory(device))
    del wan
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    return alone


def _peak_memory(device: torch.device) -> int | None:
    """Bytes that tensors took at most so far; None on a CPU."""
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None


def _loaded(
    info: ModelInfo, execution: ExecutionConfig, runtime: Runtime, bench: BenchSettings
) -> tuple[Wan, Modules]:
    """This runtime, and what diffusers runs, on the same weights."""
    device = torch.device(execution.device)
    if runtime.compile:
        set_up_compiler(runtime.compile_cache)
    modules = load_reference(info, device, DTYPES[execution.dtype])
    return Wan(shared_copies(modules), device, bench.batch, runtime), modules


def _heading(info: ModelInfo, command: str, execution: ExecutionConfig) -> dict[str, Any]:
    """What was qualified, when and on what."""
    return {
        "format": 2,
        "model": info.name,
        "revision": info.revision,
        "digest": info.digest,
        "command": command,
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "hardware": hardware_of(execution.device),
        "versions": {"wanbatch": __version__, **{name: version(name) for name in PACKAGES}},
    }


def _bench_settings(info: ModelInfo, settings: Settings, options: QualifyOptions) -> BenchSettings:
    return BenchSettings(
        images=options.prompts,
        batch=options.slots,
        steps=settings.steps or info.steps,
        guidance=info.guidance if settings.guidance is None else settings.guidance,
        width=settings.width or info.width,
        height=settings.height or info.height,
    )


def _settings_of(request: Request) -> dict[str, Any]:
    names = ("width", "height", "steps", "guidance", "shift", "sampler", "schedule")
    return {name: getattr(request, name) for name in names}


def _parity(pictures: Mapping[str, Sequence[np.ndarray]], execution: ExecutionConfig) -> Finding:
    """Whether our pictures are those of diffusers."""
    pairs = list(zip(pictures["wanbatch"], pictures["diffusers"], strict=True))
    largest = max(largest_difference(ours, theirs) for ours, theirs in pairs)
    psnr = float(np.mean([psnr_of(ours, theirs) for ours, theirs in pairs]))
    if execution.dtype == "float32":
        good, bound = largest <= MOST_DIFFERENCE, f"at most {MOST_DIFFERENCE} of 255 is right in fp32"
    else:
        good, bound = psnr >= LEAST_PSNR, f"{LEAST_PSNR:g} dB or more is right in {execution.precision}"
    said = f"{psnr:.1f} dB, largest difference {largest} of 255, over {number_of(len(pairs), 'pictures')}; {bound}"
    return Finding("the pictures of diffusers", good, said)


def _bits(wan: Wan, requests: Sequence[Request], together: Sequence[np.ndarray]) -> Finding:
    """Whether pictures have the same bits beside other neighbours: in another order, alone, in another length."""
    backwards = made_by_wanbatch(wan, requests[::-1])[::-1]
    other = replace(requests[-1], id="other", prompt="a", seed=99, steps=max(1, requests[-1].steps - 1))
    same = sum(np.array_equal(one, two) for one, two in zip(together, backwards, strict=True))
    alike = np.array_equal(made_by_wanbatch(wan, [requests[0], other])[0], together[0])
    which = f"{same} of {number_of(len(requests), 'pictures')} {'has' if same == 1 else 'have'}"
    said = f"{which} the same bits in the opposite order"
    if not alike:
        said += "; the first one has others beside another neighbour"
    return Finding("bits beside neighbours", alike and same == len(requests), said)


def _of_many_steps(request: Request, steps: int) -> Request:
    return replace(request, steps=steps, sigmas=None, creativity_steps=KEEP)


@dataclass(frozen=True, slots=True)
class _Presets:
    figures: dict[str, dict[str, Any]]
    not_tried: dict[str, str]
    findings: Sequence[Finding]


def _presets(
    info: ModelInfo,
    settings: Settings,
    hardware: Hardware,
    exact: ExecutionConfig,
    loaded: tuple[Wan, Modules],
    requests: Sequence[Request],
    references: Sequence[np.ndarray],
    pictures: dict[str, Sequence[np.ndarray]],
) -> _Presets:
    """How near every preset is to many steps, and its pictures."""
    wan, modules = loaded
    meter = Meter(("psnr", "lpips") if at_hand() else ("psnr",), wan.device)
    truth = {request.id: picture for request, picture in zip(requests, references, strict=True)}
    figures: dict[str, dict[str, Any]] = {}
    not_tried: dict[str, str] = {}
    for preset in PRESETS:
        of = with_preset(settings.model_copy(update={"preset": preset}))
        execution = resolve_execution(of, hardware)
        runner = wan
        if execution.precision != exact.precision:
            if (needed := _bytes_beside(info, execution)) > (free := free_memory(wan.device)):
                lacking = f"needs {needed / 1e9:.1f} GB beside the weights in {exact.precision}"
                not_tried[preset] = f"{execution.precision} {lacking}, and {free / 1e9:.1f} GB are free"
                continue
            runtime = replace(execution.runtime(of, of.step_cache), offload=False)
            runner = Wan(shared_copies(modules), wan.device, wan.slots, runtime)
        runner.use_step_cache(of.step_cache)
        asked = [_by_preset(request, info, of) for request in requests]
        made, seconds = _timed(runner, asked, used=runner is wan and of.step_cache == "none")
        pictures[f"preset {preset}"] = made
        score = meter.score({request.id: picture for request, picture in zip(asked, made, strict=True)}, truth)
        figures[preset] = {
            "precision": execution.precision,
            "step_cache": of.step_cache,
            "sampler": asked[0].sampler,
            "steps": asked[0].steps,
            "psnr": round(score.psnr, 2),
            "worst_psnr": round(score.worst_psnr, 2),
            "lpips": None if score.lpips is None else round(score.lpips, 4),
            "seconds_a_picture": round(seconds / len(asked), 4),
        }
        wan.use_step_cache("none")
    finite = all(np.isfinite(one["psnr"]) and one["psnr"] > 0 for one in figures.values())
    said = f"all {len(figures)} make pictures" + (f"; not tried: {', '.join(not_tried)}" if not_tried else "")
    return _Presets(figures, not_tried, [Finding("presets", finite, said)])


def _timed(runner: Wan, requests: Sequence[Request], used: bool) -> tuple[list[np.ndarray], float]:
    """Pictures, and the seconds that they took.

    What a first use compiles and records is no part of them: where the runner was not used so before, one picture is
    made first, with all its steps. The two steps of `Wan.warm_up` would not do, as a step cache gives nothing there.
    """
    if not used:
        made_by_wanbatch(runner, requests[:1])
    begin = synchronized_time(runner.device)
    made = made_by_wanbatch(runner, requests)
    return made, synchronized_time(runner.device) - begin


def _bytes_beside(info: ModelInfo, execution: ExecutionConfig) -> int:
    """What a model's transformers in eight bits take beside the model that is there already."""
    sizes = weight_sizes(Path(info.folder), execution.dtype, eight_bits=True)
    return sum(size for name, size in sizes.items() if name not in (TEXT, VAE_PART))


def _by_preset(request: Request, info: ModelInfo, of: Settings) -> Request:
    return replace(request, steps=of.steps or request.steps, sampler=of.sampler or info.sampler)
