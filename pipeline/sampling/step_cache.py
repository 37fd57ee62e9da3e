"""Step caches: which blocks of the transformer run at which step, and what stands in for the others.

Along a schedule most blocks add nearly the same to the hidden states from one step to the next, or change it
smoothly. So at some steps a *span* of blocks is skipped and what it would have added (its *residual*) is
predicted from the steps at which it ran. Likewise the difference that guidance is made of, between the branch
with the prompt and the one without. `docs/step-caches.md` has the formulas, sources and measurements.

This file holds the specification of a cache, which `parse` reads from a text. What it means for a row, step by
step, is in `step_plan.py`. A "step" here is one evaluation of the model.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace

from wanbatch.errors import UserError
from wanbatch.suggestions import did_you_mean

MAX_ORDER = 2
SIGMA, LOGSNR = "sigma", "logsnr"


@dataclass(frozen=True, slots=True)
class DeepCache:
    """Reuses the last residual of some blocks, except at every `interval`-th step, where all run.

    Attributes:
        blocks: How many blocks are left out.
        interval: Steps from one full evaluation to the next.
        first: Index of the first block that is left out.
    """

    blocks: int
    interval: int = 2
    first: int = 0

    @property
    def order(self) -> int:
        return 0

    @property
    def along(self) -> str:
        return SIGMA


@dataclass(frozen=True, slots=True)
class Taylor:
    """Extrapolates the residual of some blocks by a polynomial, except at every `interval`-th step, where all run.

    Attributes:
        interval: Steps from one full evaluation to the next.
        order: Of the polynomial.
        along: What it is a polynomial in, `sigma` or `logsnr`, the logarithm of (1 - sigma) / sigma.
        blocks: How many blocks are left out; None for all from `first` on.
        first: Index of the first block that is left out.
    """

    interval: int = 2
    order: int = 1
    along: str = LOGSNR
    blocks: int | None = None
    first: int = 0


@dataclass(frozen=True, slots=True)
class Adaptive:
    """As `Taylor`, but each row decides how many steps are predicted after a full one.

    Attributes:
        threshold: The largest error of a predicted residual, relative to the residual, that a row accepts. It is
            known from the row's last full step, where prediction and truth are compared, and grows with the distance.
        order: Of the polynomial.
        along: What it is a polynomial in, `sigma` or `logsnr`.
        longest: The most steps that are predicted in a row.
        blocks: How many blocks are left out; None for all from `first` on.
        first: Index of the first block that is left out.
    """

    threshold: float = 0.03
    order: int = 1
    along: str = LOGSNR
    longest: int = 4
    blocks: int | None = None
    first: int = 0


@dataclass(frozen=True, slots=True)
class Gate:
    """Leaves out the branch without the prompt where `above <= sigma <= below`.

    Attributes:
        mode: `reuse` runs it at every `interval`-th step there and extrapolates its difference to the other branch
            at the others; `skip` never runs it there, as if guidance were 1.
        above: Lowest noise level at which the gate acts.
        below: Highest noise level at which it acts.
        interval: Steps from one evaluation of the branch to the next, for `reuse`.
        order: Of the polynomial in sigma that extrapolates, for `reuse`.
    """

    mode: str = "reuse"
    above: float = 0.0
    below: float = 1.0
    interval: int = 2
    order: int = 1


Skip = DeepCache | Taylor | Adaptive
SKIPS: dict[str, type[Skip]] = {"deepcache": DeepCache, "taylor": Taylor, "adaptive": Adaptive}
NONE = "none"
GATE = "gate"


@dataclass(frozen=True, slots=True)
class Kind:
    """What an evaluation runs; rows whose next ones are of one kind can share a batch.

    Attributes:
        expert: Index of the transformer.
        full: Whether every block runs, not only those outside the span.
        guided: Whether the branch without the prompt runs, too.
    """

    expert: int
    full: bool
    guided: bool


@dataclass(frozen=True, slots=True)
class StepCache:
    """What a run's rows skip.

    Attributes:
        layers: Blocks of the model.
        skip: Which blocks are left out at which steps; None for none.
        gate: Where the branch without the prompt is left out; None for nowhere.
    """

    layers: int
    skip: Skip | None = None
    gate: Gate | None = None

    @property
    def span(self) -> range:
        """The blocks that a partial evaluation leaves out."""
        if self.skip is None:
            return range(0)
        return range(self.skip.first, self.skip.first + (self.skip.blocks or 0))

    @property
    def partial(self) -> bool:
        """Whether there is any partial evaluation at all."""
        return len(self.span) > 0 and not (isinstance(self.skip, DeepCache | Taylor) and self.skip.interval == 1)

    @property
    def measures(self) -> bool:
        """Whether full evaluations are compared with what would have been predicted."""
        return self.partial and isinstance(self.skip, Adaptive)

    @property
    def residuals_kept(self) -> int:
        """How many residuals of a row are kept to predict the next from."""
        return self.skip.order + 1 if self.skip is not None and self.partial else 0

    @property
    def along(self) -> str:
        """What residuals are extrapolated in."""
        return SIGMA if self.skip is None else self.skip.along

    @property
    def differences_kept(self) -> int:
        """How many differences between the two branches of a row are kept to predict the next from."""
        return self.gate.order + 1 if self.gate is not None and self.gate.mode == "reuse" else 0

    def blocks_run(self, kind: Kind) -> int:
        """Blocks that an evaluation runs for a row, over its branches."""
        return (self.layers - (0 if kind.full else len(self.span))) * (2 if kind.guided else 1)

    def __str__(self) -> str:
        """The specification with every default filled in; `parse` reads it back."""
        name = next((name for name, kind in SKIPS.items() if isinstance(self.skip, kind)), NONE)
        text = name if self.skip is None else _spell(name, self.skip)
        return text if self.gate is None else f"{text}+{_spell(GATE, self.gate)}"


def parse(text: str, layers: int) -> StepCache:
    """Read a specification: `none`, or a cache with its fields, `taylor:interval=3,order=1`; `+gate:...` may follow.

    Args:
        text: The specification.
        layers: Blocks of the model.

    Raises:
        UserError: If the text is not a specification, or asks for blocks that the model does not have; it says what
            is known.
    """
    first, *others = text.strip().split("+")
    name = first.partition(":")[0].strip()
    if name != NONE and name not in SKIPS:
        raise UserError(
            f"step_cache {text!r}: unknown {name!r}; known: {', '.join([NONE, *SKIPS])}"
            + did_you_mean(name, [NONE, *SKIPS])
        )
    if name == NONE and ":" in first:
        raise UserError(f"step_cache {text!r}: {NONE} has no fields")
    if len(others) > 1 or any(other.partition(":")[0].strip() != GATE for other in others):
        raise UserError(f"step_cache {text!r}: after a + only one {GATE}:... may follow")
    skip = None if name == NONE else _check_skip(_read(text, first, SKIPS[name]), text, layers)
    gate = _check_gate(_read(text, others[0], Gate), text) if others else None
    return StepCache(layers, skip, gate)


def _read(text: str, part: str, kind: type):
    """`name:field=value,...` as an object of a kind, its values not checked yet."""
    known = {field.name: str(field.type) for field in fields(kind)}
    given: dict[str, str | int | float] = {}
    for item in filter(None, (item.strip() for item in part.partition(":")[2].split(","))):
        name, equals, value = (piece.strip() for piece in item.partition("="))
        if name not in known or not equals:
            names = f"{', '.join(known)} (as name=value)"
            raise UserError(f"step_cache {text!r}: unknown field {item!r}; known: {names}{did_you_mean(name, known)}")
        if name in given:
            raise UserError(f"step_cache {text!r}: {name} is given twice")
        try:
            given[name] = {"str": str, "float": float}.get(known[name], int)(value)
        except ValueError:
            raise UserError(f"step_cache {text!r}: {name}={value} is not a number of its kind") from None
    try:
        return kind(**given)
    except TypeError:
        raise UserError(f"step_cache {text!r}: blocks must be given") from None


def _check_skip(skip: Skip, text: str, layers: int) -> Skip:
    _require_one_of(text, "along", skip.along, SIGMA, LOGSNR)
    if skip.blocks is None and 0 <= skip.first < layers:
        skip = replace(skip, blocks=layers - skip.first)
    _require(text, skip, first=(0, layers - 1), order=(0, MAX_ORDER), interval=(1, None), longest=(1, None))
    _require(text, skip, blocks=(0, None), threshold=(0, 1000))
    if skip.first + (skip.blocks or 0) > layers:
        raise UserError(
            f"step_cache {text!r}: asks for blocks {skip.first} to {skip.first + (skip.blocks or 0) - 1}, but the "
            f"model has {layers} (0 to {layers - 1}): use fewer blocks"
        )
    return skip


def _check_gate(gate: Gate, text: str) -> Gate:
    _require_one_of(text, "mode", gate.mode, "reuse", "skip")
    _require(text, gate, above=(0, 1), below=(0, 1), interval=(2, None), order=(0, MAX_ORDER))
    if gate.above >= gate.below:
        raise UserError(f"step_cache {text!r}: above={gate.above:g} must be less than below={gate.below:g}")
    return gate


def _require(text: str, part: Skip | Gate, **limits: tuple[int, int | None]) -> None:
    for name, (least, most) in limits.items():
        value = getattr(part, name, None)
        if value is not None and not (least <= value <= (math.inf if most is None else most)):
            allowed = f"at least {least}" if most is None else f"{least} to {most}"
            raise UserError(f"step_cache {text!r}: {name}={value} must be {allowed}")


def _require_one_of(text: str, name: str, value: str, *known: str) -> None:
    if value not in known:
        raise UserError(f"step_cache {text!r}: unknown {name} {value!r}; known: {', '.join(known)}")


def _spell(name: str, part: Skip | Gate) -> str:
    values = [(field.name, getattr(part, field.name)) for field in fields(part)]
    if isinstance(part, Gate) and part.mode == "skip":
        values = [(field, value) for field, value in values if field not in ("interval", "order")]
    return f"{name}:" + ",".join(f"{field}={value}" for field, value in values)
