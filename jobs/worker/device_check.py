"""Whether a worker's device can run a model, and is of the kind that the run keeps to; looked at before it loads."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from wanbatch.errors import NodeError
from wanbatch.jobs.worker.messages import WorkerSetup
from wanbatch.pipeline.loading import residency

GIB = 1 << 30
FIRST_INT8 = 75  # Turing: what multiplies in INT8, by the number of its architecture


@dataclass(frozen=True, slots=True)
class Card:
    """A GPU.

    Attributes:
        name: its name.
        memory: bytes that it has in all.
        architecture: like `sm_90`.
        supported: the architectures that this build of torch has code for, like `sm_90`, and `compute_90` for those
            that it can compile code for.
        has_fp8: whether it multiplies in FP8.
    """

    name: str
    memory: int
    architecture: str
    supported: tuple[str, ...]
    has_fp8: bool


def this_card() -> Card:
    """The GPU of this process."""
    import torch

    properties = torch.cuda.get_device_properties(0)
    major, minor = properties.major, properties.minor
    return Card(
        name=torch.cuda.get_device_name(),
        memory=properties.total_memory,
        architecture=f"sm_{major}{minor}",
        supported=tuple(torch.cuda.get_arch_list()),
        has_fp8=(major, minor) >= (8, 9),
    )


def check_card(card: Card, setup: WorkerSetup, host: str) -> None:
    """Check that a GPU can run a worker's model.

    Args:
        card: the GPU.
        setup: of the worker, with the model's folder on this host.
        host: the name of this one, for the message.

    Raises:
        NodeError: It cannot, or is of another kind than the run's.
    """
    where = f"host {host}: its {card.name}"
    check_kind(card.name, setup, host)
    if not runs_on(card.architecture, card.supported):
        there = ", ".join(card.supported)
        raise NodeError(
            f"{where} is {card.architecture}, for which this build of PyTorch has no code ({there}): install another "
            "build there, or keep the node out with --accelerator-type or --label-selector"
        )
    if setup.runtime.fp8 and not card.has_fp8:
        raise NodeError(f"{where} has no FP8: use --precision bf16, or --accelerator-type for cards that have it")
    if setup.runtime.int8 and int(card.architecture.removeprefix("sm_")) < FIRST_INT8:
        raise NodeError(f"{where} has no INT8: use --precision bf16, or --accelerator-type for cards that have it")
    eight_bits = setup.runtime.fp8 or setup.runtime.int8
    folder, pixels = Path(setup.model.folder), setup.model.width * setup.model.height
    offload, text_fp8 = setup.runtime.offload, setup.runtime.text_fp8
    merged = setup.runtime.merged_rows
    needed = needed_bytes(folder, setup.dtype, offload, eight_bits, setup.slots, pixels, text_fp8, merged)
    if card.memory < needed and merged:
        raise NodeError(
            f"{where} has {card.memory / GIB:.1f} GiB of memory, and the model with weights for each of "
            f"{setup.slots} slots needs {needed / GIB:.1f} GiB: use fewer --slots, --precision fp8, or "
            "--row-adapters added"
        )
    if card.memory < needed:
        raise NodeError(
            f"{where} has {card.memory / GIB:.1f} GiB of memory, and the model needs {needed / GIB:.1f} GiB: keep "
            "such cards out with --accelerator-type or --label-selector, or use --precision fp8, --text-precision "
            "fp8 or a smaller model"
        )


def check_kind(name: str, setup: WorkerSetup, host: str) -> None:
    """Check that a device is of the kind that the run keeps to.

    Args:
        name: of the device, as fingerprints have it.
        setup: of the worker.
        host: the name of this one, for the message.

    Raises:
        NodeError: It is of another kind.
    """
    if setup.device_kind not in (None, name):
        raise NodeError(
            f"host {host}: has {name}, and this run makes its pictures on {setup.device_kind}; other kinds make "
            "other last bits: keep it out with --accelerator-type or --label-selector, or allow it with "
            "--mixed-devices"
        )


def runs_on(architecture: str, supported: tuple[str, ...]) -> bool:
    """Whether code for some architectures runs on a GPU of another one.

    Code for `sm_80` runs on `sm_86`, too, not on `sm_90`; from `compute_80` code for all later ones is compiled.

    Args:
        architecture: of the GPU, like `sm_86`.
        supported: what there is code for; empty: it is not known.
    """
    number = int(architecture.removeprefix("sm_"))
    for one in supported:
        kind, _, text = one.partition("_")
        digits = "".join(character for character in text if character.isdigit())
        if not digits:
            continue
        same_major = int(digits) // 10 == number // 10 and int(digits) <= number
        if (kind == "sm" and same_major) or (kind == "compute" and int(digits) <= number):
            return True
    return not supported


def needed_bytes(
    folder: Path,
    dtype: str,
    offload: bool,
    eight_bits: bool,
    slots: int = 1,
    pixels: int = 0,
    text_fp8: bool = False,
    merged: bool = False,
) -> int:
    """Bytes of memory that a model needs on a GPU, at least.

    Args:
        folder: of the model.
        dtype: of its weights there, as torch calls it.
        offload: whether its parts may take turns.
        eight_bits: whether the transformers' weights are in FP8 or INT8.
        slots: rows denoised together.
        pixels: of a picture.
        text_fp8: whether the text encoder's are in FP8.
        merged: whether each slot has weights of its own.
    """
    sizes = residency.weight_sizes(folder, dtype, eight_bits, text_fp8, slots if merged else 0)
    needs = [needed for _, needed in residency.choices(sizes, residency.working_for(folder, slots, pixels))]
    return min(needs) if offload else needs[0]


def cpu_kind() -> str | None:
    """The kind of this CPU, as fingerprints have it; None: torch is not loaded, so no picture depends on it."""
    torch = sys.modules.get("torch")
    return None if torch is None else f"cpu {torch.backends.cpu.get_cpu_capability()}"
