"""Probes that hang, die, or talk where the answer belongs; `wanbatch doctor` runs them in processes of their own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from wanbatch.jobs.doctor.check import Finding, Question, ok


@dataclass(frozen=True, slots=True)
class Said:
    """What a probe was asked."""

    model: str


def judge(facts: Said) -> Finding:
    return ok(f"it was asked of {facts.model}")


def talk(question: Question) -> Said:
    print("a library says hello")
    subprocess.run(["echo", "so does a process"], check=True)
    return Said(question.model)


def hang(question: Question) -> Said:
    """With a child that hangs too; its number is left in the folder `model`."""
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    Path(question.model, "pid").write_text(str(child.pid))
    time.sleep(600)
    return Said("never")


def die(question: Question) -> Said:
    os.kill(os.getpid(), signal.SIGSEGV)
    return Said("never")


def fail(question: Question) -> Said:
    raise KeyError("a bug of the check")
