"""What a run's settings mean on the hardware that it runs on: presets and `auto` resolved to what is done."""

from __future__ import annotations

import platform
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wanbatch.errors import UserError
from wanbatch.pipeline.loading.converted import Converted
from wanbatch.pipeline.loading.runtime import MERGED, Runtime, default_compile_cache

if TYPE_CHECKING:
    from wanbatch.jobs.config.settings import Settings  # needs pydantic, which benchmarks on a bare GPU do without

DTYPES = {"fp32": "float32", "bf16": "bfloat16", "fp8": "bfloat16", "int8": "bfloat16"}
FP8_CAPABILITY = (8, 9)  # Ada, Hopper, Blackwell
INT8_CAPABILITY = (7, 5)  # Turing and all later ones
CPU_INFO = Path("/proc/cpuinfo")

# What a preset chooses where no setting says otherwise, on a GPU that has FP8 and on one that has not.
PRESETS: dict[str, dict[bool, dict[str, Any]]] = {
    "exact": {True: {"precision": "bf16"}, False: {"precision": "bf16"}},
    "balanced": {True: {"precision": "fp8"}, False: {"precision": "bf16"}},
    "fast": {True: {"precision": "fp8"}, False: {"precision": "bf16"}},
}


@dataclass(frozen=True, slots=True)
class Hardware:
    """The GPUs that this process can use; none by default.

    Attributes:
        gpus: How many GPUs torch sees.
        capability: CUDA compute capability of the first one, (major, minor).
        name: Name of the first one.
        torch: The version of torch, with its build.
        cpu: The instruction set that torch uses on the CPU, which decides the last bits there.
    """

    gpus: int = 0
    capability: tuple[int, int] = (0, 0)
    name: str = ""
    torch: str = ""
    cpu: str = ""

    def device_name(self, device: str) -> str:
        """The kind of `cuda` or `cpu` device: devices of another kind make other bits."""
        return self.name if device == "cuda" else f"cpu {self.cpu}"

    @property
    def has_fp8(self) -> bool:
        """Whether the GPU multiplies matrices in FP8."""
        return self.gpus > 0 and self.capability >= FP8_CAPABILITY


@dataclass(frozen=True, slots=True)
class ExecutionConfig:
    """How a model is executed; besides the rows and the model, this decides the pixels.

    Attributes:
        device: `cuda` or `cpu`.
        precision: `fp32`, `bf16`, `fp8` or `int8`; never `auto`.
        compile: Whether the model is compiled.
    """

    device: str
    precision: str
    compile: bool

    @property
    def dtype(self) -> str:
        """The torch name of the dtype of weights and activations outside FP8 layers."""
        return DTYPES[self.precision]

    def runtime(self, settings: Settings, step_cache: str = "none") -> Runtime:
        """Return how workers run the model.

        Args:
            settings: Those of the run, for the folders of its caches and whether it offloads.
            step_cache: The step cache with its defaults filled in.
        """
        return Runtime(
            compile=self.compile,
            fp8=self.precision == "fp8",
            int8=self.precision == "int8",
            text_fp8=settings.text_precision == "fp8",
            merged_rows=settings.row_adapters == MERGED,
            compile_cache=_absolute(settings.compile_cache),
            text_cache=_absolute(settings.text_cache),
            offload=self.device == "cuda" and settings.offload == "auto" and settings.row_adapters != MERGED,
            step_cache=step_cache,
        )


def detect_hardware() -> Hardware:
    """Return the GPUs that torch sees in this process."""
    import torch

    without_gpu = Hardware(torch=str(torch.__version__), cpu=torch.backends.cpu.get_cpu_capability())
    if not torch.cuda.is_available():
        return without_gpu
    return replace(
        without_gpu,
        gpus=torch.cuda.device_count(),
        capability=torch.cuda.get_device_capability(),
        name=torch.cuda.get_device_name(),
    )


def resolve_execution(settings: Settings, hardware: Hardware, converted: Converted | None = None) -> ExecutionConfig:
    """Resolve `auto` and the preset; a setting that is given wins over the preset.

    Args:
        settings: As the user gave them.
        hardware: What the model runs on.
        converted: How the model was converted, which `auto` goes by if the weights are not there in more.

    Raises:
        UserError: The settings ask for something that the hardware does not have, or there is no folder to keep
            compiled code in.
    """
    if settings.device == "cuda" and not hardware.gpus:
        raise UserError("setting device: cuda was asked for, but torch sees no GPU; use --device cpu or auto")
    device = ("cuda" if hardware.gpus else "cpu") if settings.device == "auto" else settings.device
    precision: str = settings.precision
    if precision == "auto":
        precision = "fp32" if device == "cpu" else PRESETS[settings.preset][hardware.has_fp8]["precision"]
        if converted is not None and not converted.runs_in(precision):
            precision = converted.precision
    if precision == "fp8" and device == "cuda" and not hardware.has_fp8:
        instead = "--precision bf16"
        if converted is not None and not converted.runs_in("bf16"):
            instead = f"--model {converted.source}"
        raise UserError(
            f"setting precision: {hardware.name} has no FP8, which Ada, Hopper and Blackwell GPUs have; use {instead}"
        )
    if precision == "int8" and device == "cuda" and hardware.capability < INT8_CAPABILITY:
        raise UserError(
            f"setting precision: {hardware.name} has no INT8, which GPUs have since Turing; use --precision bf16"
        )
    compiled = device == "cuda" if settings.compile == "auto" else settings.compile == "always"
    if compiled and settings.compile_cache is None:
        default_compile_cache()
    return ExecutionConfig(device, precision, compiled)


def cpu_name() -> str:
    """Return the processor's model name, or its architecture where the system does not tell the name."""
    try:
        lines = CPU_INFO.read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(names, "") or platform.processor() or platform.machine()


def describe_device(device: str) -> str:
    """Return the name of the GPU, or of the processor with the number of threads that torch uses.

    Args:
        device: `cuda` or `cpu`.
    """
    import torch

    if device == "cuda":
        return torch.cuda.get_device_name()
    return f"{cpu_name()}, {torch.get_num_threads()} threads"


def _absolute(path: Path | None) -> str | None:
    return None if path is None else str(path.expanduser().absolute())
