"""What a run's settings mean on the machine that it runs on: presets and `auto` resolved. Pure, but for `look`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wanbatch.errors import UserError
from wanbatch.jobs.config.settings import Settings
from wanbatch.pipeline.loading.runtime import Runtime

DTYPES = {"fp32": "float32", "bf16": "bfloat16", "fp8": "bfloat16"}
FP8_CAPABILITY = (8, 9)  # Ada, Hopper, Blackwell

# What a preset chooses where no setting says otherwise, on a GPU that has FP8 and on one that has not.
PRESETS: dict[str, dict[bool, dict[str, Any]]] = {
    "exact": {True: {"precision": "bf16"}, False: {"precision": "bf16"}},
    "balanced": {True: {"precision": "fp8"}, False: {"precision": "bf16"}},
    "fast": {True: {"precision": "fp8"}, False: {"precision": "bf16"}},
}


@dataclass(frozen=True, slots=True)
class Hardware:
    """gpus: that torch sees. capability: of the first one. name: its name."""

    gpus: int = 0
    capability: tuple[int, int] = (0, 0)
    name: str = ""

    @property
    def fp8(self) -> bool:
        return self.gpus > 0 and self.capability >= FP8_CAPABILITY


@dataclass(frozen=True, slots=True)
class ExecutionConfig:
    """What decides the pixels besides the rows and the model. device: `cuda` or `cpu`. precision: not `auto`."""

    device: str
    precision: str
    compile: bool

    @property
    def dtype(self) -> str:
        """Of weights and activations outside FP8 layers, as torch calls it."""
        return DTYPES[self.precision]

    def runtime(self, settings: Settings, step_cache: str = "none") -> Runtime:
        """How workers run the model. step_cache: with its defaults filled in."""
        return Runtime(
            compile=self.compile,
            fp8=self.precision == "fp8",
            compile_cache=_text(settings.compile_cache),
            text_cache=_text(settings.text_cache),
            offload=self.device == "cuda" and settings.offload == "auto",
            step_cache=step_cache,
        )


def look() -> Hardware:
    """The machine of this process."""
    import torch

    if not torch.cuda.is_available():
        return Hardware()
    return Hardware(torch.cuda.device_count(), torch.cuda.get_device_capability(), torch.cuda.get_device_name())


def choose(settings: Settings, machine: Hardware) -> ExecutionConfig:
    """A setting that is given wins over the preset. Raises UserError for what the machine does not have."""
    if settings.device == "cuda" and not machine.gpus:
        raise UserError("setting device: cuda was asked for, but torch sees no GPU; use --device cpu or auto")
    device = ("cuda" if machine.gpus else "cpu") if settings.device == "auto" else settings.device
    precision = settings.precision
    if precision == "auto":
        precision = "fp32" if device == "cpu" else PRESETS[settings.preset][machine.fp8]["precision"]
    if precision == "fp8" and device == "cuda" and not machine.fp8:
        raise UserError(
            f"setting precision: {machine.name} has no FP8, which Ada, Hopper and Blackwell GPUs have; use "
            "--precision bf16"
        )
    compiled = device == "cuda" if settings.compile == "auto" else settings.compile == "always"
    return ExecutionConfig(device, precision, compiled)


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path.expanduser().absolute())
