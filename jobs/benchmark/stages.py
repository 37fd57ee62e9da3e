"""Each stage of `wanbatch bench` by itself: ours, diffusers eager and diffusers compiled, on the same weights.

Figures are milliseconds a picture (of the transformer: a step and picture), medians over rounds in which every
contender runs once. Ours also get what the arithmetic alone would take at the measured rate of matrix products.
"""

from __future__ import annotations

import copy
import gc
import statistics
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from wanbatch.pipeline.core.device import synchronized_time
from wanbatch.pipeline.core.prompts import PADDING_KEYS, TEXT_LENGTHS, TEXT_TOKENS
from wanbatch.pipeline.evaluation import flops
from wanbatch.pipeline.generate import Wan
from wanbatch.pipeline.loading.modules import Modules
from wanbatch.pipeline.loading.single_frame import single_frame_transformer
from wanbatch.pipeline.models.dit import FrameTransformer

OURS = "wanbatch"
THEIRS, COMPILED = "diffusers eager", "diffusers compiled"
TEXT_WORDS = 39  # of a prompt: about 40 tokens
BULK = 256  # prompts in bulk
MATMUL = {"cuda": 8192, "cpu": 1024}  # side of the square matrices whose product is the measured rate


@dataclass(frozen=True, slots=True)
class StageSettings:
    """How each stage is measured.

    Attributes:
        slots: Rows in a batch.
        height: Pixels.
        width: Pixels.
        rounds: How often every contender runs.
        compiled: Whether compiled diffusers is a contender too.
        per_token: Whether diffusers gives the transformer one noise level for each token, as it does for TI2V-5B.
    """

    slots: int
    height: int
    width: int
    rounds: int
    compiled: bool
    per_token: bool = True


@dataclass(frozen=True, slots=True, eq=False)
class GuidedStep:
    """What one guided step of every slot takes: prompts of 40 tokens, and then negative prompts of 120.

    Attributes:
        latents: [2 * slots, channels, height, width].
        timestep: [2 * slots].
        embeds: [2 * slots, length, text_dim], zero past each prompt's own length.
        lengths: int64 [2 * slots].
        patch: Height and width of a token.
    """

    latents: Tensor
    timestep: Tensor
    embeds: Tensor
    lengths: Tensor
    patch: tuple[int, int]

    @classmethod
    def random(
        cls, config: Any, size: tuple[int, int], slots: int, device: torch.device, dtype: torch.dtype
    ) -> GuidedStep:
        """Inputs for a `WanTransformer3DModel`. size: height and width of its latents."""
        torch.manual_seed(0)
        rows, length = 2 * slots, TEXT_LENGTHS[2]
        latents = torch.randn(rows, config.in_channels, *size, device=device)
        lengths = torch.tensor([40] * slots + [120] * slots, device=device)
        embeds = torch.randn(rows, length, config.text_dim, device=device, dtype=dtype)
        embeds *= (torch.arange(length, device=device) < lengths[:, None])[..., None]
        timestep = torch.linspace(10, 990, rows, device=device)
        return cls(latents, timestep, embeds, lengths, tuple(config.patch_size[1:]))

    def ours(self, frame: FrameTransformer) -> Callable[[], Tensor]:
        """The step by our transformer: all rows in one evaluation."""
        context = frame.context(self.embeds, self.lengths, TEXT_TOKENS)
        return lambda: frame(self.latents, self.timestep, context)

    def diffusers(self, transformer: Any, per_token: bool, calls: int = 1) -> Callable[[], Tensor]:
        """The step by diffusers' transformer.

        Args:
            transformer: A `WanTransformer3DModel`.
            per_token: Whether it gets one noise level for each token, see `StageSettings`.
            calls: Among how many calls the rows are divided; its pipeline makes two.
        """
        rows, length, dim = self.embeds.shape
        padded = torch.cat([self.embeds, self.embeds.new_zeros(rows, TEXT_TOKENS - length, dim)], dim=1)
        height, width = self.latents.shape[2] // self.patch[0], self.latents.shape[3] // self.patch[1]
        times = self.timestep[:, None].expand(-1, height * width) if per_token else self.timestep
        video = self.latents[:, :, None].to(self.embeds.dtype)
        parts = list(zip(video.chunk(calls), times.chunk(calls), padded.chunk(calls), strict=True))
        return lambda: torch.cat([transformer(*part, return_dict=False)[0] for part in parts])


@torch.inference_mode()
def bench_stages(wan: Wan, modules: Modules, settings: StageSettings) -> dict[str, Any]:
    """Measure every stage and return the figures as plain values for JSON.

    Args:
        wan: This runtime, made of `shared_copies` of the same modules.
        modules: The loaded model.
        settings: How each stage is measured.
    """
    device = wan.device
    rates = {"bf16" if wan.dtype == torch.bfloat16 else "fp32": _matmul_rate(device, wan.dtype, settings.rounds)}
    if wan.runtime.fp8 and device.type == "cuda":
        rates["fp8"] = _fp8_rate(device, settings.rounds)
    stages = {
        "denoise": _denoise(wan, modules, settings),
        "decode": _decode(wan, modules, settings),
        "encode": _encode(wan, modules, settings),
        "text": _text(wan, modules, settings),
    }
    best = max(rates.values())
    for name, work in _work(modules, settings).items():
        for contender, figures in stages[name].items():
            rate = rates.get("fp8", best) if name == "denoise" and contender == OURS else min(rates.values())
            figures |= _arithmetic(work, figures["ms"], rate)
    return {"tflops_of_a_matmul": {name: _short(rate / 1e12) for name, rate in rates.items()}, "stages": stages}


def shared_copy(module: Any) -> Any:
    """Return a copy of a module that shares its parameters, so that it can be compiled or changed by itself."""
    return copy.deepcopy(module, {id(parameter): parameter for parameter in module.parameters()})


def shared_copies(modules: Modules) -> Modules:
    """Return copies of all parts of a model that share their parameters with it."""
    second = modules.low_noise_transformer
    return Modules(
        tokenizer=modules.tokenizer,
        text_encoder=shared_copy(modules.text_encoder),
        transformer=shared_copy(modules.transformer),
        low_noise_transformer=None if second is None else shared_copy(second),
        boundary=modules.boundary,
        vae=shared_copy(modules.vae),
    )


def compare(
    contenders: Mapping[str, Callable[[], object]], device: torch.device, rounds: int, pictures: int
) -> dict[str, dict[str, float]]:
    """Time contenders in turn and return the figures of each: `ms`, `spread` and `warm_up_seconds`.

    Args:
        contenders: What is called, by name.
        device: Where the work happens; it is waited for.
        rounds: How often each contender is called, after two calls that count as warm-up (they may compile).
        pictures: Images made by one call; `ms` is the median milliseconds of one of them.
    """
    found: dict[str, dict[str, float]] = {}
    for name, function in contenders.items():
        begin = synchronized_time(device)
        function()
        function()
        found[name] = {"warm_up_seconds": round(synchronized_time(device) - begin, 2)}
    times: dict[str, list[float]] = {name: [] for name in contenders}
    with short_search_for_garbage():
        for _ in range(rounds):
            for name, function in contenders.items():
                begin = synchronized_time(device)
                function()
                times[name].append(synchronized_time(device) - begin)
    for name, seconds in times.items():
        found[name]["ms"] = _short(statistics.median(seconds) * 1000 / pictures)
        found[name]["spread"] = round(max(seconds) / min(seconds), 3)
    return found


@contextmanager
def short_search_for_garbage() -> Iterator[None]:
    """Keep what is there already out of Python's search for garbage, as workers do.

    In a process that has compiled something a search of all of it takes tenths of a second, and would be in the time
    of whoever is measured just then.
    """
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def _arithmetic(work: float, milliseconds: float, rate: float) -> dict[str, float]:
    """Return the rate that a stage reached, and what its arithmetic alone would take.

    Args:
        work: Floating-point operations of one image (or step and image).
        milliseconds: Measured time of the same.
        rate: Operations a second of a large matrix product on this device.
    """
    reached = work / milliseconds * 1000
    return {
        "tflops": _short(reached / 1e12),
        "share_of_matmul_rate": _short(reached / rate),
        "floor_ms": _short(work / rate * 1000),
    }


def _short(value: float) -> float:
    """Round to four significant digits."""
    return float(f"{value:.4g}")


def _work(modules: Modules, settings: StageSettings) -> dict[str, float]:
    """Return the operations of each stage for one image; of the transformer for one guided step."""
    config = modules.transformer.config
    stride = modules.vae.config.scale_factor_spatial * config.patch_size[1]
    tokens = settings.height * settings.width // stride**2
    encode, decode = flops.vae_flops(modules.vae.config, settings.height, settings.width)
    return {
        "denoise": 2 * flops.transformer_flops(config, tokens, TEXT_LENGTHS[2] + PADDING_KEYS),
        "decode": decode,
        "encode": encode,
        "text": flops.text_flops(modules.text_encoder.config.to_dict(), TEXT_WORDS + 1),
    }


def _denoise(wan: Wan, modules: Modules, settings: StageSettings) -> dict[str, dict[str, float]]:
    """Measure one guided step of every slot."""
    model, device = modules.transformer, wan.device
    stride = modules.vae.config.scale_factor_spatial
    size = settings.height // stride, settings.width // stride
    step = GuidedStep.random(model.config, size, settings.slots, device, wan.dtype)
    contenders: dict[str, Callable[[], Tensor]] = {OURS: step.ours(wan.experts[0])}
    if wan.runtime.fp8:
        exact = single_frame_transformer(shared_copy(model), replace(wan.runtime, fp8=False), device)
        contenders[f"{OURS}, without fp8"] = step.ours(exact)
    contenders[THEIRS] = step.diffusers(shared_copy(model), settings.per_token)
    if settings.compiled:
        compiled = shared_copy(model)
        compiled.compile_repeated_blocks(fullgraph=True)
        contenders[COMPILED] = step.diffusers(compiled, settings.per_token)
    found = compare(contenders, device, settings.rounds, settings.slots)
    reference = contenders[THEIRS]()[:, :, 0].float()
    for name, function in contenders.items():
        result = function().float()
        result = result[:, :, 0] if result.ndim == 5 else result
        found[name]["difference"] = float((result - reference).norm() / reference.norm())
    return found


def _decode(wan: Wan, modules: Modules, settings: StageSettings) -> dict[str, dict[str, float]]:
    vae, config = modules.vae, modules.vae.config
    stride = config.scale_factor_spatial
    latent = torch.randn(config.z_dim, settings.height // stride, settings.width // stride, device=wan.device)
    video = latent[None, :, None].to(wan.dtype)
    contenders: dict[str, Callable[[], object]] = {
        OURS: lambda: wan.decode_latent(latent),
        THEIRS: lambda: vae.decode(video, return_dict=False)[0],
    }
    if settings.compiled:
        compiled = shared_copy(vae)
        compiled.decoder.compile()
        contenders[COMPILED] = lambda: compiled.decode(video, return_dict=False)[0]
    return compare(contenders, wan.device, settings.rounds, 1)


def _encode(wan: Wan, modules: Modules, settings: StageSettings) -> dict[str, dict[str, float]]:
    pixels = torch.randint(0, 255, (settings.height, settings.width, 3), dtype=torch.uint8)
    video = pixels.permute(2, 0, 1)[None, :, None].to(wan.device, wan.dtype) / 127.5 - 1
    contenders: dict[str, Callable[[], object]] = {
        OURS: lambda: wan.encode_image(pixels.numpy()),
        THEIRS: lambda: modules.vae.encode(video, return_dict=False)[0].mode(),
    }
    if settings.compiled:
        compiled = shared_copy(modules.vae)
        compiled.encoder.compile()
        contenders[COMPILED] = lambda: compiled.encode(video, return_dict=False)[0].mode()
    return compare(contenders, wan.device, settings.rounds, 1)


def _text(wan: Wan, modules: Modules, settings: StageSettings) -> dict[str, dict[str, float]]:
    """Measure distinct prompts of about 40 tokens: ours in bulk, diffusers' one by one, padded to 512 tokens."""
    device, encoder = wan.device, modules.text_encoder
    prompts = [f"{index} " + "a red heart " * (TEXT_WORDS // 3) for index in range(BULK)]
    few = prompts[:2]

    def ours() -> None:
        wan.text.forget()
        wan.text.encode(prompts)

    def theirs() -> None:
        for prompt in few:
            given = modules.tokenizer(prompt, padding="max_length", max_length=TEXT_TOKENS, return_tensors="pt")
            encoder(given.input_ids.to(device), given.attention_mask.to(device))

    found = compare({OURS: ours}, device, settings.rounds, BULK)
    return found | compare({THEIRS: theirs}, device, settings.rounds, len(few))


def _matmul_rate(device: torch.device, dtype: torch.dtype, rounds: int) -> float:
    side = MATMUL[device.type]
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    return 2 * side**3 / compare({"": lambda: a @ b}, device, max(rounds, 5), 1)[""]["ms"] * 1000


def _fp8_rate(device: torch.device, rounds: int) -> float:
    side = MATMUL["cuda"]
    a, b = (torch.randn(side, side, device=device).to(torch.float8_e4m3fn) for _ in range(2))
    one = torch.ones(side, 1, device=device)

    def product() -> Tensor:
        return torch._scaled_mm(a, b.t(), scale_a=one, scale_b=one.t(), out_dtype=torch.bfloat16, use_fast_accum=True)

    return 2 * side**3 / compare({"": product}, device, max(rounds, 5), 1)[""]["ms"] * 1000
