"""Runs the checks: each probe in a process of its own, with a deadline, so that none can hang or end the others."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any

from pydantic import TypeAdapter

from wanbatch.jobs.doctor.check import Check, Finding, Question, fault
from wanbatch.jobs.doctor.registry import CHECKS

AT_ONCE = 4
LINES_OF_A_DEFECT = 3


@dataclass(frozen=True, slots=True)
class Result:
    """What came of a check.

    Attributes:
        check: its name.
        finding: what it found.
        facts: what it saw, as JSON has it; None: its probe did not come to an end.
    """

    check: str
    finding: Finding
    facts: Any


def examine(question: Question, checks: Sequence[Check] = CHECKS) -> Iterator[Result]:
    """Run all checks that a question needs, several at once, and yield their results in their order.

    Args:
        question: what the user wants to know.
        checks: which there are.
    """
    with ThreadPoolExecutor(AT_ONCE) as pool:
        yield from pool.map(lambda check: run(check, question), [check for check in checks if check.asked(question)])


def run(check: Check, question: Question) -> Result:
    """Run one check. A probe that hangs or fails is a fault.

    Args:
        check: one of the registry, or one whose probe can be imported by its module and name.
        question: what the user wants to know.
    """
    where = f"{check.probe.__module__}:{check.probe.__qualname__}"
    with tempfile.TemporaryFile() as printed:
        process = subprocess.Popen(
            [sys.executable, "-m", "wanbatch.jobs.doctor.probe_process", where, json.dumps(asdict(question))],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=printed,
            start_new_session=True,  # so that whatever it starts can be ended with it
        )
        try:
            answer, _ = process.communicate(timeout=check.seconds)
        except subprocess.TimeoutExpired:
            _end(process)
            return Result(check.name, fault(f"no answer within {check.seconds:.0f} s", check.hung), None)
        if process.returncode != 0:
            printed.seek(0)
            return Result(check.name, _defect(check, process.returncode, printed.read()), None)
    found = json.loads(answer)
    return Result(check.name, check.judge(TypeAdapter(check.facts).validate_python(found)), found)


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a process and all that it started. One that a dead disk holds is not waited for."""
    with suppress(OSError):
        os.killpg(process.pid, signal.SIGKILL)
    with suppress(subprocess.TimeoutExpired):
        process.communicate(timeout=5)


def _defect(check: Check, code: int, printed: bytes) -> Finding:
    lines = [line.strip() for line in printed.decode(errors="replace").splitlines() if line.strip()]
    how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
    told = " / ".join(lines[-LINES_OF_A_DEFECT:]) or "it said nothing"
    return fault(f"the check itself ended with {how}: {told[:500]}", "please report this, with the line above")
