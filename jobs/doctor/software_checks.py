"""Checks of what is installed: the packages that wanbatch needs, and PyTorch with its GPUs."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from wanbatch.jobs.doctor.check import Finding, Question, fault, ok, readable, warning

DRIVER = "/dev/nvidiactl"
MEMORY_OF_REAL_MODEL = 20 << 30  # of a GPU, for Wan2.2 TI2V-5B whose parts take turns; docs/performance.md


@dataclass(frozen=True, slots=True)
class Package:
    """A package that wanbatch needs.

    Attributes:
        requirement: as wanbatch declares it.
        installed: its version here; empty: it is not installed.
        fits: whether that version is one of those that are declared.
    """

    requirement: str
    installed: str
    fits: bool


@dataclass(frozen=True, slots=True)
class PackageFacts:
    """The packages that wanbatch needs.

    Attributes:
        wanbatch: its version.
        packages: those that a run needs; empty: wanbatch was not installed as a package.
        extras: for each optional part of wanbatch, whether all its packages are installed.
    """

    wanbatch: str
    packages: list[Package]
    extras: dict[str, bool]


def look_at_packages(question: Question) -> PackageFacts:
    """Compare what is installed with what wanbatch declares."""
    from importlib import metadata

    from packaging.requirements import Requirement

    from wanbatch import __version__

    def package(requirement: Requirement) -> Package:
        try:
            version = metadata.version(requirement.name)
        except metadata.PackageNotFoundError:
            return Package(f"{requirement.name}{requirement.specifier}", "", False)
        fits = requirement.specifier.contains(version, prereleases=True)
        return Package(f"{requirement.name}{requirement.specifier}", version, fits)

    try:
        found = metadata.distribution("wanbatch")
    except metadata.PackageNotFoundError:
        return PackageFacts(__version__, [], {})
    required = [Requirement(text) for text in found.requires or ()]
    always = [one for one in required if one.marker is None or one.marker.evaluate({"extra": ""})]
    extras = {
        extra: all(package(one).fits for one in required if one.marker and one.marker.evaluate({"extra": extra}))
        for extra in found.metadata.get_all("Provides-Extra") or ()
    }
    return PackageFacts(__version__, [package(one) for one in always], extras)


def judge_packages(facts: PackageFacts) -> Finding:
    """Say which packages are missing or of another version."""
    if not facts.packages:
        return warning(
            f"wanbatch {facts.wanbatch} is used without being installed", "pip install the folder of wanbatch"
        )
    wrong = [package for package in facts.packages if not package.fits]
    if wrong:
        told = ", ".join(f"{one.requirement} ({one.installed or 'not installed'})" for one in wrong)
        names = " ".join(f"'{one.requirement}'" for one in wrong)
        return fault(f"wanted: {told}", f"pip install {names}")
    extras = ", ".join(
        name for name, there in sorted(facts.extras.items()) if there and name not in ("test", "check")
    )
    return ok(
        f"wanbatch {facts.wanbatch} with its {len(facts.packages)} packages"
        + (f"; extras: {extras}" if extras else "")
    )


@dataclass(frozen=True, slots=True)
class Gpu:
    """A GPU as torch sees it. memory and free are bytes; capability is like `9.0`."""

    name: str
    memory: int
    free: int
    capability: str


@dataclass(frozen=True, slots=True)
class GpuFacts:
    """PyTorch, the driver and the GPUs.

    Attributes:
        torch: its version; empty: it cannot be imported.
        error: of importing torch, or of looking for GPUs.
        cuda_build: the version of CUDA or ROCm that torch was built for; empty: none.
        architectures: those that torch was built for, like `sm_90`.
        driver: the version of the NVIDIA driver; empty: none, or it does not say.
        driver_there: whether the driver is loaded.
        visible: CUDA_VISIBLE_DEVICES; None: not set.
        gpus: those that torch sees.
        triton: whether Triton is installed.
        compiler: whether a C compiler is, which Triton needs.
        model: the model that is asked for.
    """

    torch: str
    error: str
    cuda_build: str
    architectures: list[str]
    driver: str
    driver_there: bool
    visible: str | None
    gpus: list[Gpu]
    triton: bool
    compiler: bool
    model: str


def look_at_gpus(question: Question) -> GpuFacts:
    """Find what torch and the driver know of GPUs."""
    import importlib.util
    import os
    import warnings

    version, error, build, architectures, gpus = "", "", "", [], []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            import torch

            version, build = str(torch.__version__), str(torch.version.cuda or torch.version.hip or "")
            if torch.cuda.is_available():
                architectures = torch.cuda.get_arch_list()
                gpus = [_gpu(index) for index in range(torch.cuda.device_count())]
        except Exception as raised:  # noqa: BLE001  a broken installation or driver is what the user wants to know
            error = str(raised).strip().splitlines()[0] if str(raised).strip() else type(raised).__name__
    error = error or next((str(one.message).splitlines()[0] for one in caught if "CUDA" in str(one.message)), "")
    return GpuFacts(
        torch=version,
        error=error,
        cuda_build=build,
        architectures=list(architectures),
        driver=_driver(),
        driver_there=Path(DRIVER).exists(),
        visible=os.environ.get("CUDA_VISIBLE_DEVICES"),
        gpus=gpus,
        triton=importlib.util.find_spec("triton") is not None,
        compiler=any(shutil.which(name) for name in (os.environ.get("CC") or "cc", "gcc", "clang")),
        model=question.model,
    )


def judge_gpus(facts: GpuFacts) -> Finding:
    """Say what models run on."""
    if not facts.torch:
        return fault(f"PyTorch cannot be imported: {facts.error}", "pip install --force-reinstall torch")
    torch = f"torch {facts.torch}"
    if not facts.gpus:
        return _judge_no_gpu(facts, torch)
    first = facts.gpus[0]
    told = f"{len(facts.gpus)} x {first.name} ({readable(first.memory)}), {torch}, driver {facts.driver or 'unknown'}"
    if facts.error:
        return fault(f"{told}: {facts.error}", "update the driver, or `--device cpu`")
    if facts.architectures and not _built_for(first.capability, facts.architectures):
        return fault(
            f"{told}: this torch is built for {', '.join(facts.architectures)}, not for {first.capability}",
            "install a torch that is built for this GPU: https://pytorch.org/get-started/locally",
        )
    if not facts.triton or not facts.compiler:
        missing = "Triton" if not facts.triton else "a C compiler"
        return fault(
            f"{told}: {missing} is missing, which compiling the model needs",
            f"{'pip install triton' if not facts.triton else 'apt-get install gcc'}, or run with --compile never",
        )
    if facts.model != "tiny" and min(gpu.free for gpu in facts.gpus) < MEMORY_OF_REAL_MODEL:
        least = min(facts.gpus, key=lambda gpu: gpu.free)
        return warning(
            f"{told}: {readable(least.free)} of {readable(least.memory)} free, perhaps too little for a model of 5B",
            "end what else uses the GPU (`nvidia-smi` lists it), or use a GPU of 24 GB",
        )
    return ok(f"{told}, Triton")


def _judge_no_gpu(facts: GpuFacts, torch: str) -> Finding:
    there = f"NVIDIA driver {facts.driver}".strip() if facts.driver_there or facts.driver else ""
    if there and not facts.cuda_build:
        return fault(
            f"{there} is here, but {torch} is built without CUDA",
            "install a torch with CUDA: https://pytorch.org/get-started/locally; or run with --device cpu",
        )
    if there and facts.visible is not None:
        return fault(
            f"{there} is here, but CUDA_VISIBLE_DEVICES={facts.visible!r} hides its GPUs",
            "unset CUDA_VISIBLE_DEVICES",
        )
    if there:
        return fault(
            f"{there} is here, but {torch} sees no GPU: {facts.error or 'it does not say why'}",
            f"update the driver to one for CUDA {facts.cuda_build}, or install a torch for an older CUDA",
        )
    if facts.model != "tiny":
        return warning(
            f"no GPU, {torch}: {facts.model} would run on the CPU, for minutes or hours a picture",
            "run on a machine with a GPU, or with --model tiny",
        )
    return ok(f"no GPU, {torch}: models run on the CPU")


def _built_for(capability: str, architectures: list[str]) -> bool:
    """Whether code for a GPU is there: built for its architecture or an earlier one of the same generation."""
    major, minor = (int(part) for part in capability.split("."))
    for name in architectures:
        number = "".join(character for character in name.partition("_")[2] if character.isdigit())
        if not number:
            return True  # of another maker
        built_major, built_minor = int(number[:-1]), int(number[-1])
        if (built_major == major and built_minor <= minor) or (name.startswith("compute") and built_major <= major):
            return True
    return False


def _gpu(index: int) -> Gpu:
    import torch

    free, total = torch.cuda.mem_get_info(index)
    major, minor = torch.cuda.get_device_capability(index)
    return Gpu(torch.cuda.get_device_name(index), total, free, f"{major}.{minor}")


def _driver() -> str:
    """The version of the NVIDIA driver, as nvidia-smi says it."""
    if not (tool := shutil.which("nvidia-smi")):
        return ""
    command = [tool, "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip().splitlines()[0] if done.returncode == 0 and done.stdout.strip() else ""
