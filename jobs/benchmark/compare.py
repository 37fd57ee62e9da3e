"""`wanbatch bench`: this runtime against diffusers, in one process and in turn, on the same weights and rows.

First each stage by itself (`stages.py`), then whole pictures. The contenders are what a user would pick:
`WanPipeline` in a loop, the same over lists of prompts, and that compiled. Each round runs every contender once;
the figures are medians over the rounds. Compilation and the first call of each are outside them.
"""

from __future__ import annotations

import json
import platform
import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import WanPipeline

from wanbatch import __version__
from wanbatch.jobs.benchmark.stages import StageSettings, bench_stages, shared_copies, short_search_for_garbage
from wanbatch.jobs.config.hardware import ExecutionConfig, cpu_name
from wanbatch.manifests.storage.user_files import write_file
from wanbatch.pipeline.core.device import synchronized_time
from wanbatch.pipeline.core.requests import Failed, Request
from wanbatch.pipeline.generate import Wan
from wanbatch.pipeline.loading.compiler import set_up_compiler
from wanbatch.pipeline.loading.modules import Modules
from wanbatch.pipeline.loading.offload import free_memory
from wanbatch.pipeline.loading.random_model import pipeline_of, random_modules, size_of_random
from wanbatch.pipeline.loading.reference import load_reference
from wanbatch.pipeline.loading.registry import ModelInfo
from wanbatch.pipeline.loading.residency import require_whole
from wanbatch.pipeline.loading.runtime import Runtime
from wanbatch.pipeline.loading.weights import DTYPES

PACKAGES = ("torch", "diffusers", "transformers")


@dataclass(frozen=True, slots=True)
class BenchSettings:
    """What is measured, and how often.

    Attributes:
        images: Images that each contender makes in each round; 0: only the stages are measured.
        batch: Slots of this runtime, and prompts in one call of diffusers.
        rounds: How often every contender runs; the figures are medians over the rounds.
        steps: Denoising steps of every image.
        guidance: Classifier-free guidance scale of every image.
        width: Pixels.
        height: Pixels.
        compiled: Whether compiled diffusers is a contender too.
        stages: Whether each stage is also measured by itself.
    """

    images: int = 8
    batch: int = 4
    rounds: int = 3
    steps: int = 30
    guidance: float = 3.0
    width: int = 128
    height: int = 128
    compiled: bool = True
    stages: bool = True


def bench(
    info: ModelInfo,
    execution: ExecutionConfig,
    runtime: Runtime,
    settings: BenchSettings,
    command: str,
    **smaller: dict,
) -> dict[str, Any]:
    """Measure one model and return the figures as plain values for JSON.

    Args:
        info: The model; those of `random_model.random_info` get random weights.
        execution: Device and precision of all contenders.
        runtime: How this runtime executes the model; offloading is left out.
        settings: What is measured.
        command: The command line, to be kept with the figures.
        smaller: Changes of the random model's configuration, see `random_modules`.
    """
    device, dtype = torch.device(execution.device), DTYPES[execution.dtype]
    if runtime.compile:
        set_up_compiler(runtime.compile_cache)
    size = size_of_random(info.name)
    if size is None:
        pixels, free = settings.width * settings.height, free_memory(device)
        require_whole(Path(info.folder), info.name, execution.dtype, settings.batch, pixels, free)
    modules = load_reference(info, device, dtype) if size is None else random_modules(device, dtype, size, **smaller)
    wan = Wan(shared_copies(modules), device, settings.batch, replace(runtime, offload=False))
    result: dict[str, Any] = {
        "model": info.name,
        "command": command,
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "hardware": hardware_of(execution.device),
        "versions": {"wanbatch": __version__, **{name: version(name) for name in PACKAGES}},
        "settings": {**asdict(settings), **asdict(execution)},
        "backends": wan.backends,
    }
    if settings.stages:
        per_token = bool(diffusers_pipeline(info, modules).config.expand_timesteps)
        height, width = settings.height, settings.width
        one = StageSettings(settings.batch, height, width, settings.rounds, settings.compiled, per_token)
        result |= bench_stages(wan, modules, one)
    if settings.images:
        result |= _whole_pictures(info, wan, modules, settings)
    if device.type == "cuda":
        result["peak_memory_bytes"] = torch.cuda.max_memory_allocated()
    return result


def _whole_pictures(info: ModelInfo, wan: Wan, modules: Modules, settings: BenchSettings) -> dict[str, Any]:
    requests = sample_requests(info, settings)
    contenders = _contenders(info, wan, modules, settings)
    pictures = {name: make(requests) for name, make in contenders.items()}  # warm-up, and what is compared below
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    with short_search_for_garbage():
        for _ in range(settings.rounds):
            for name, make in contenders.items():
                begin = synchronized_time(wan.device)
                make(requests)
                seconds[name].append(synchronized_time(wan.device) - begin)
    ours = pictures["wanbatch"]
    return {
        "images_per_second": {
            name: round(settings.images / statistics.median(times), 4) for name, times in seconds.items()
        },
        "spread": {name: round(max(times) / min(times), 3) for name, times in seconds.items()},
        "max_pixel_difference": {
            name: max(largest_difference(a, b) for a, b in zip(ours, theirs, strict=True))
            for name, theirs in pictures.items()
            if name != "wanbatch"
        },
    }


def write(result: dict[str, Any], path: Path) -> None:
    """Write the figures as JSON, whole; folders that are missing are made. Raises UserError if that fails."""
    write_file(path, (json.dumps(result, indent=2) + "\n").encode())


def table(result: dict[str, Any]) -> str:
    """Return the figures as a few lines of text."""
    lines = [f"{result['hardware']['device']}, {result['model']}, {result['settings']['precision']}"]
    for name, rate in result.get("tflops_of_a_matmul", {}).items():
        lines.append(f"  a large matrix product in {name}: {rate:.2f} TFLOP/s")
    for stage, contenders in result.get("stages", {}).items():
        per = "step and picture" if stage == "denoise" else "prompt" if stage == "text" else "picture"
        lines.append(f"{stage}, ms a {per} (not below {contenders['wanbatch']['floor_ms']:.2f} at that rate)")
        for name, figures in contenders.items():
            share = f"{figures['tflops']:8.2f} TFLOP/s, {figures['share_of_matmul_rate']:.0%} of a matrix product"
            lines.append(f"  {name:<28} {figures['ms']:9.2f} {share}")
    if speeds := result.get("images_per_second"):
        lines.append(f"whole pictures, {result['settings']['steps']} steps")
        for name, speed in speeds.items():
            ratio = speeds["wanbatch"] / speed
            lines.append(f"  {name:<28} {speed:8.3f} pictures/s   wanbatch is {ratio:.2f} x that")
    return "\n".join(lines)


def sample_requests(info: ModelInfo, settings: BenchSettings) -> list[Request]:
    """Requests for as many pictures as the settings say, from text alone."""
    things = ("red heart", "yellow star", "green tree", "dog", "castle", "sailboat")
    return [
        Request(
            id=str(index),
            prompt=f"a large {things[index % len(things)]} on a striped purple background, picture {index}",
            negative_prompt=info.negative_prompt,
            sources=(),
            creativity=1.0,
            seed=index,
            width=settings.width,
            height=settings.height,
            steps=settings.steps,
            guidance=settings.guidance,
            guidance_2=info.guidance_2 if settings.guidance == info.guidance else None,
            shift=info.shift,
            sampler=info.sampler,
            schedule=info.schedule,
        )
        for index in range(settings.images)
    ]


def _contenders(
    info: ModelInfo, wan: Wan, modules: Modules, settings: BenchSettings
) -> dict[str, Callable[[Sequence[Request]], list[np.ndarray]]]:
    pipeline = diffusers_pipeline(info, modules)
    contenders = {
        "wanbatch": lambda requests: made_by_wanbatch(wan, requests),
        "diffusers loop": lambda requests: made_by_diffusers(pipeline, requests, 1),
        "diffusers batched": lambda requests: made_by_diffusers(pipeline, requests, settings.batch),
    }
    if settings.compiled:
        compiled = diffusers_pipeline(info, shared_copies(modules))
        for transformer in (compiled.transformer, compiled.transformer_2):
            if transformer is not None:
                transformer.compile_repeated_blocks(fullgraph=True)
        compiled.vae.decoder.compile()
        contenders["diffusers compiled, batched"] = lambda requests: made_by_diffusers(
            compiled, requests, settings.batch
        )
    return contenders


def diffusers_pipeline(info: ModelInfo, modules: Modules) -> Any:
    """Build diffusers' own pipeline on loaded modules."""
    if (size := size_of_random(info.name)) is not None:
        pipeline: Any = pipeline_of(modules, size)
    else:
        second = modules.low_noise_transformer
        pipeline = WanPipeline.from_pretrained(
            info.folder,
            tokenizer=modules.tokenizer,
            text_encoder=modules.text_encoder,
            transformer=modules.transformer,
            vae=modules.vae,
            **({} if second is None else {"transformer_2": second}),
        )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def made_by_wanbatch(wan: Wan, requests: Sequence[Request]) -> list[np.ndarray]:
    """Pictures of this runtime, uint8 [height, width, 3], in the order of the requests."""
    wan.text.forget()  # each round encodes the prompts anew, as diffusers does
    pictures: dict[str, np.ndarray] = {}
    for outcome in wan.generate(requests):
        if isinstance(outcome, Failed):
            raise outcome.error
        pictures[outcome.request.id] = outcome.pixels
    return [pictures[request.id] for request in requests]


def made_by_diffusers(pipeline: Any, requests: Sequence[Request], batch: int) -> list[np.ndarray]:
    """Pictures of diffusers' own pipeline, `batch` prompts in a call."""
    pictures: list[np.ndarray] = []
    for first in range(0, len(requests), batch):
        group = requests[first : first + batch]
        one = group[0]
        frames = pipeline(
            prompt=[request.prompt for request in group],
            negative_prompt=[request.negative_prompt for request in group],
            width=one.width,
            height=one.height,
            num_frames=1,
            num_inference_steps=one.steps,
            guidance_scale=one.guidance,
            guidance_scale_2=one.guidance_2,
            generator=[torch.Generator("cpu").manual_seed(request.seed) for request in group],
            output_type="pil",
        ).frames
        pictures += [np.asarray(frame[0]) for frame in frames]
    return pictures


def largest_difference(ours: np.ndarray, theirs: np.ndarray) -> int:
    """The largest difference of any value of two pictures."""
    return int(np.abs(ours.astype(int) - theirs.astype(int)).max())


def hardware_of(device: str) -> dict[str, Any]:
    """What the device is, as JSON values."""
    if device == "cuda":
        properties = torch.cuda.get_device_properties(0)
        return {"device": properties.name, "memory_bytes": properties.total_memory, "cuda": torch.version.cuda}
    return {
        "device": f"CPU, {torch.get_num_threads()} threads",
        "machine": platform.machine(),
        "processor": cpu_name(),
    }
