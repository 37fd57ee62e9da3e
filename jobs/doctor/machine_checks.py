"""Checks of the machine: cores, memory, shared memory, limits of processes, the encoding of names, settings."""

from __future__ import annotations

import locale
import os
import platform
import shutil
import sys
from dataclasses import dataclass

from wanbatch.jobs.doctor.check import Finding, Question, fault, ok, readable, warning
from wanbatch.jobs.driver.ray_folder import OBJECT_STORE_BYTES

SHARED_MEMORY = "/dev/shm"
LEAST_MEMORY, GOOD_MEMORY = 1 << 30, 3 << 30  # for Ray, the driver and one worker with the small model
FEW_FILES, FEW_PROCESSES = 256, 1024
WORKERS_OF_A_PROCESS = 250  # threads of Ray's processes and of two workers, on a machine with few cores


@dataclass(frozen=True, slots=True)
class MachineFacts:
    """Cores and memory that this process may use.

    Attributes:
        system: the name of the operating system and of the processor's architecture.
        python: its version.
        cores: how many may be used.
        cores_of_machine: how many there are.
        memory: bytes that are still free for this process.
        memory_limit: of its control groups, in bytes.
    """

    system: str
    python: str
    cores: int
    cores_of_machine: int
    memory: int
    memory_limit: int | None


def look_at_machine(question: Question) -> MachineFacts:
    """Find how many cores and how much memory there are."""
    from wanbatch.machine import available_memory, memory_limit, usable_cores

    return MachineFacts(
        system=f"{platform.system()} {platform.machine()}",
        python=platform.python_version(),
        cores=usable_cores(),
        cores_of_machine=os.cpu_count() or 1,
        memory=available_memory(),
        memory_limit=memory_limit(),
    )


def judge_machine(facts: MachineFacts) -> Finding:
    """Say whether there is memory for the small model at least."""
    limited = "" if facts.memory_limit is None else f", limited to {readable(facts.memory_limit)}"
    of = f" of {facts.cores_of_machine}" if facts.cores != facts.cores_of_machine else ""
    told = f"{facts.cores}{of} core{'s' if facts.cores > 1 else ''}, {readable(facts.memory)} of memory free{limited}"
    if facts.memory >= GOOD_MEMORY:
        return ok(f"{told}; {facts.system}, Python {facts.python}")
    remedy = (
        f"give the container, the pod or the job at least {readable(GOOD_MEMORY)} of memory (docker run --memory)"
        if facts.memory_limit is not None
        else f"end other programs until {readable(GOOD_MEMORY)} are free, or take a machine with more memory"
    )
    told += ": too little for Ray and a worker" if facts.memory < LEAST_MEMORY else ": may be too little for a worker"
    return fault(told, remedy) if facts.memory < LEAST_MEMORY else warning(told, remedy)


@dataclass(frozen=True, slots=True)
class SharedMemoryFacts:
    """/dev/shm. free: its free bytes; None: there is none, as on macOS."""

    free: int | None


def look_at_shared_memory(question: Question) -> SharedMemoryFacts:
    """Find how much shared memory is free."""
    return SharedMemoryFacts(shutil.disk_usage(SHARED_MEMORY).free if os.path.isdir(SHARED_MEMORY) else None)


def judge_shared_memory(facts: SharedMemoryFacts) -> Finding:
    """Say where Ray's object store will be. Pictures do not pass through it, so that it may well be on a disk."""
    if facts.free is None:
        return ok(f"no {SHARED_MEMORY} here: Ray's object store is a file")
    if facts.free >= OBJECT_STORE_BYTES:
        return ok(f"{readable(facts.free)} free in {SHARED_MEMORY}")
    return warning(
        f"{readable(facts.free)} free in {SHARED_MEMORY}, {readable(OBJECT_STORE_BYTES)} are wanted: Ray's object "
        "store is a file in its temporary folder instead, which costs no speed that a run would notice",
        "docker run --shm-size=256m, or remove what fills it",
    )


@dataclass(frozen=True, slots=True)
class LimitFacts:
    """Limits of a process (`ulimit`); None: no limit.

    Attributes:
        files: that may be open at most, as far as a process may raise it itself.
        processes: and threads of this user.
        file_size: in bytes.
    """

    files: int | None
    processes: int | None
    file_size: int | None


def look_at_limits(question: Question) -> LimitFacts:
    """Find the limits of this process."""
    import resource

    def limit(kind: int, hard: bool = False) -> int | None:
        found = resource.getrlimit(kind)[hard]
        return None if found == resource.RLIM_INFINITY else found

    root = hasattr(os, "geteuid") and os.geteuid() == 0  # for whom the number of processes has no limit
    processes = None if root else limit(resource.RLIMIT_NPROC)
    return LimitFacts(limit(resource.RLIMIT_NOFILE, hard=True), processes, limit(resource.RLIMIT_FSIZE))


def judge_limits(facts: LimitFacts) -> Finding:
    """Say whether Ray and the output fit into the limits."""
    if facts.file_size is not None:
        return fault(
            f"files may have {readable(facts.file_size)} at most: a part of the output may be larger",
            "ulimit -f unlimited",
        )
    if facts.files is not None and facts.files < FEW_FILES:
        return warning(f"{facts.files} files may be open at most, which many workers exceed", "ulimit -n 4096")
    if facts.processes is not None and facts.processes < FEW_PROCESSES:
        return warning(
            f"{facts.processes} processes and threads at most for this user; Ray and one worker take "
            f"about {WORKERS_OF_A_PROCESS}",
            "ulimit -u 4096",
        )
    files = "any number of" if facts.files is None else facts.files
    processes = "any number of" if facts.processes is None else facts.processes
    return ok(f"{files} open files, {processes} processes")


@dataclass(frozen=True, slots=True)
class LocaleFacts:
    """How this process encodes text.

    Attributes:
        names: the encoding of names of files.
        text: of text files and terminals.
    """

    names: str
    text: str


def look_at_locale(question: Question) -> LocaleFacts:
    """Find the encodings of this process."""
    return LocaleFacts(sys.getfilesystemencoding(), locale.getpreferredencoding(False))


def judge_locale(facts: LocaleFacts) -> Finding:
    """Say whether names and messages outside ASCII come out right."""
    encodings = {name.lower().replace("-", "").replace("_", "") for name in (facts.names, facts.text)}
    if encodings == {"utf8"}:
        return ok("UTF-8")
    return warning(
        f"names of files are {facts.names}, text is {facts.text}: what is not ASCII may be shown wrongly, and Ray "
        "refuses folders with such names",
        "export PYTHONUTF8=1 (or LC_ALL=C.UTF-8)",
    )


@dataclass(frozen=True, slots=True)
class SettingsFacts:
    """Where a run's settings come from, besides flags.

    Attributes:
        given: the fields that are set.
        error: why they cannot be read; empty: they can.
    """

    given: list[str]
    error: str


def look_at_settings(question: Question) -> SettingsFacts:
    """Read wanbatch.toml of the current folder and the variables, as a run does."""
    from wanbatch.errors import UserError
    from wanbatch.jobs.config.settings import read_settings

    try:
        return SettingsFacts(sorted(read_settings().model_fields_set), "")
    except (UserError, OSError) as error:
        return SettingsFacts([], str(error))


def judge_settings(facts: SettingsFacts) -> Finding:
    """Say which settings hold without flags."""
    if facts.error:
        return fault(facts.error, "mend it there, or remove it")
    if not facts.given:
        return ok("defaults: neither wanbatch.toml here nor variables set anything")
    return ok(f"wanbatch.toml and variables set {', '.join(facts.given)}")
