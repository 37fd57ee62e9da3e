"""Which engines of a store a run uses: those of its model, precision and slots, for the kind of device. No torch."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from dataclasses import dataclass

from wanbatch.engines.labels import DECODER, ENCODER, SECOND_TRANSFORMER, TEXT, TRANSFORMER
from wanbatch.engines.store import Store
from wanbatch.engines.stored_engine import AOT, BadEngine, StoredEngine
from wanbatch.errors import UserError

TRANSFORMERS = (TRANSFORMER, SECOND_TRANSFORMER)
STAGES = {
    TEXT: "text",
    ENCODER: "encode",
    TRANSFORMER: "denoise",
    SECOND_TRANSFORMER: "denoise",
    DECODER: "decode",
}
"""The stage of a picture's timing that each component is."""


@dataclass(frozen=True, slots=True)
class EngineNeeds:
    """What engines must be for, to be of use to a run.

    Attributes:
        weights: Digest of the model.
        dtype: Of the weights, such as `bfloat16`.
        slots: Rows denoised together.
        torch: Version of PyTorch.
        architecture: Of the device, see `architecture_of`.
        transformer: Whether an engine can take the transformer's place, see `takes_transformer`.
        text: Whether one can take the text encoder's, see `takes_text`.
    """

    weights: str
    dtype: str
    slots: int
    torch: str
    architecture: str
    transformer: bool = True
    text: bool = True

    def __str__(self) -> str:
        return f"this model in {self.dtype} on {self.architecture} with torch {self.torch}"


def architecture_of(device: str, capability: tuple[int, int], cpu: str) -> str:
    """What code runs on a device, such as `sm_90` or `cpu-x86_64-AVX512`.

    Args:
        device: `cuda` or `cpu`.
        capability: CUDA compute capability of the GPU.
        cpu: The instruction set that torch uses on the CPU.
    """
    return "sm_{}{}".format(*capability) if device == "cuda" else f"cpu-{platform.machine()}-{cpu}"


def select(store: Store, needs: EngineNeeds) -> list[StoredEngine]:
    """The engines that fit, whose files are on this host and are what their manifests say.

    Raises:
        UserError: An engine that fits, or the manifest of one that may, is damaged or was changed.
        MachineryError: The store cannot be read.
    """
    chosen = []
    for one in store.engines():
        if isinstance(one, BadEngine):
            if not one.stray:
                raise UserError(f"{store.location}/{one.name}: {one.reason}")
        elif fits(one, needs):
            if (problem := store.problem_here(one)) is not None:
                raise UserError(f"{store.location}/{one.key.name}: {problem}")
            chosen.append(one)
    return chosen


def fits(engine: StoredEngine, needs: EngineNeeds) -> bool:
    """Whether an engine can stand in for a part of a run's model."""
    key = engine.key
    same = (key.weights, key.dtype, key.backend, key.version, key.architecture) == (
        needs.weights,
        needs.dtype,
        AOT,
        f"torch {needs.torch}",
        needs.architecture,
    )
    if key.component in TRANSFORMERS:
        return same and needs.transformer and key.rows in (needs.slots, 2 * needs.slots)
    return same and (needs.text or key.component != TEXT)


def takes_transformer(narrow: bool, partial: bool, merged: bool = False) -> bool:
    """Whether an engine can take the transformer's place.

    Args:
        narrow: Whether the transformer runs in FP8 or INT8.
        partial: Whether a step cache leaves out blocks, for which an engine would have to give their residual.
        merged: Whether adapters have changed its weights, of which the compiler may have taken some for constants.
    """
    return not (narrow or partial or merged)


def takes_text(device: str, cached: bool) -> bool:
    """Whether an engine can take the text encoder's place.

    Args:
        device: `cuda` or `cpu`. On a GPU our own kernels run it.
        cached: Whether embeddings are kept on disk, among those that the encoder itself made.
    """
    return device == "cpu" and not cached


def digests(engines: Sequence[StoredEngine]) -> dict[str, str]:
    """What a fingerprint says of engines: the digest of each, by the part that it stands for."""
    return {one.key.label: one.digest[:16] for one in sorted(engines, key=lambda one: one.key.label)}


def sizes_of(engines: Sequence[StoredEngine]) -> set[tuple[int, int]]:
    """The sizes of pictures, width and height, that engines are for."""
    return {(one.key.width, one.key.height) for one in engines if one.key.width}


def there_instead(store: Store) -> str:
    """What a store has, in words, for those who find nothing that fits."""
    found = {
        f"{one.key.label} in {one.key.dtype} for {one.key.architecture} ({one.key.backend}, {one.key.version})"
        for one in store.engines()
        if isinstance(one, StoredEngine)
    }
    shown = sorted(found)[:6]
    more = f" and {len(found) - len(shown)} more" if len(found) > len(shown) else ""
    return ("; ".join(shown) + more) or "nothing"
