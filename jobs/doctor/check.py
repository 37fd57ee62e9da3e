"""What a check is: a probe that finds facts, and a judgement of them that knows nothing of the machine."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

Level = Literal["ok", "warning", "fault"]


@dataclass(frozen=True, slots=True)
class Question:
    """What the user wants to know.

    Attributes:
        out: an output folder, a path or a URL; None: not asked.
        model: `tiny`, a folder, or a hub id.
        revision: of a hub model.
    """

    out: str | None = None
    model: str = "tiny"
    revision: str | None = None


@dataclass(frozen=True, slots=True)
class Finding:
    """What a check found.

    Attributes:
        level: `ok`; `warning`: a run works, but not as well as it could or not as one may expect; `fault`: it
            does not.
        message: what was found, in one line.
        remedy: what to do about it, in one line; empty if there is nothing to do.
    """

    level: Level
    message: str
    remedy: str = ""


def ok(message: str) -> Finding:
    """Say that all is well."""
    return Finding("ok", message)


def warning(message: str, remedy: str) -> Finding:
    """Say what a run has to live with."""
    return Finding("warning", message, remedy)


def fault(message: str, remedy: str) -> Finding:
    """Say why a run does not work."""
    return Finding("fault", message, remedy)


def fault_of(error: str) -> Finding:
    """Say what one of wanbatch's own errors tells: its remedy is what follows the last colon."""
    message, _, remedy = error.rpartition(": ")
    return fault(message, remedy) if message else fault(error, "mend what it names")


@dataclass(frozen=True, slots=True)
class Check:
    """One check.

    Attributes:
        name: one word, which the table and `--json` show.
        facts: the class of what the probe finds: a dataclass of what JSON can hold.
        probe: finds the facts. It runs in a process of its own and may import anything; what goes wrong with what it
            looks at is a fact, what it raises a defect of the check.
        judge: says what the facts mean; it looks at nothing but them.
        seconds: that the probe may take before it counts as hung.
        hung: what to do if it hangs.
        asked: whether a question needs this check.
    """

    name: str
    facts: type[Any]
    probe: Callable[[Question], Any]
    judge: Callable[[Any], Finding]
    seconds: float = 30.0
    hung: str = "run `wanbatch doctor` again; if it hangs again, something that it looks at does not answer"
    asked: Callable[[Question], bool] = field(default=lambda question: True)


def readable(size: float) -> str:
    """A number of bytes in MB, or in GB from one of these on."""
    if size < 1 << 30:
        return f"{size / 2**20:.0f} MB"
    return f"{size / 2**30:.1f} GB" if size < 10 << 30 else f"{size / 2**30:.0f} GB"
