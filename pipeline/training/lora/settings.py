"""Every number of an adapter's training, in one place."""

from __future__ import annotations

from dataclasses import dataclass

from wanbatch.errors import UserError
from wanbatch.pipeline.adapters.files import HIGH, LOW
from wanbatch.pipeline.training.float8_base import BASE_PRECISIONS, BF16
from wanbatch.pipeline.training.optimizers import ADAMW, OPTIMIZERS

LEVELS = ("logit_normal", "uniform")
EXPERTS = {"high": (HIGH,), "low": (LOW,), "both": (HIGH, LOW)}
"""Which transformers of A14B are trained."""


@dataclass(frozen=True, slots=True)
class LoraSettings:
    """How an adapter is trained.

    Attributes:
        seed: Of everything that is random.
        rank: Of every layer's change.
        alpha: The change is scaled by alpha / rank; None: the rank.
        rate: The highest learning rate.
        warm_up: Steps in which it rises.
        steps: In all.
        batch: Pictures in a step.
        accumulate: Batches in a step of the optimizer.
        shift: Of the noise levels; None: the model's own.
        levels: How noise levels are drawn before the shift, one of `LEVELS`.
        dropout: Part of the captions that the empty prompt replaces, so that guidance goes on working.
        weight_decay: Of AdamW.
        average: Decay of the average of the weights, which is what is saved; 0: the weights themselves.
        held_out: Part of the pictures that are kept apart to measure on; at least one if there are four and more.
        save_every: Steps from one kept state to the next.
        sample_every: Steps from one set of sample pictures to the next; 0: none on the way.
        sample_steps: Steps of Euler of a sample picture.
        checkpointing: Compute blocks again in the backward pass instead of keeping them: less memory, a third slower.
        optimizer: One of `OPTIMIZERS`.
        base_precision: Of the frozen layers, one of `BASE_PRECISIONS`; bf16 is fp32 for small models and on a CPU.
        expert: Which transformers of A14B are trained, one of `EXPERTS`; None: the model has one.
    """

    seed: int = 0
    rank: int = 16
    alpha: float | None = None
    rate: float = 1e-4
    warm_up: int = 20
    steps: int = 1500
    batch: int = 1
    accumulate: int = 1
    shift: float | None = None
    levels: str = "logit_normal"
    dropout: float = 0.05
    weight_decay: float = 0.01
    average: float = 0.99
    held_out: float = 0.1
    save_every: int = 250
    sample_every: int = 250
    sample_steps: int = 20
    checkpointing: bool = False
    optimizer: str = ADAMW
    base_precision: str = BF16
    expert: str | None = None

    def __post_init__(self) -> None:
        for what, value, known in (
            ("noise levels", self.levels, LEVELS),
            ("optimizer", self.optimizer, OPTIMIZERS),
            ("base precision", self.base_precision, BASE_PRECISIONS),
            ("expert", self.expert, (None, *EXPERTS)),
        ):
            if value not in known:
                raise UserError(f"unknown {what} {value!r}; there are {', '.join(filter(None, known))}")
        for name in ("rank", "steps", "batch", "accumulate"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} is {getattr(self, name)}: must be at least 1")
        if not 0 <= self.dropout < 1:
            raise UserError(f"dropout is {self.dropout:g}: must be at least 0 and below 1")
