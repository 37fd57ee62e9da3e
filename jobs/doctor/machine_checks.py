"""Checks of the machine: cores, memory, shared memory, limits of processes, the encoding of names, settings."""

from __future__ import annotations

import locale
import os
import platform
import shutil
import sys
from dataclasses import dataclass

from wanbatch.jobs.doctor.check import Finding, Question, fault, fault_of, ok, readable, warning
from wanbatch.jobs.driver.ray_folder import OBJECT_STORE_BYTES, SHARED_MEMORY, shared_memory_error

LEAST_MEMORY, GOOD_MEMORY = 1 << 30, 3 << 30  # for Ray, the driver and one worker with the small model
FEW_FILES = 256


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
    """/dev/shm.

    Attributes:
        free: its free bytes; None: there is none, as on macOS.
        error: why nothing can be made there; empty: it can.
    """

    free: int | None
    error: str = ""


def look_at_shared_memory(question: Question) -> SharedMemoryFacts:
    """Find how much shared memory is free."""
    free = shutil.disk_usage(SHARED_MEMORY).free if os.path.isdir(SHARED_MEMORY) else None
    return SharedMemoryFacts(free, shared_memory_error())


def judge_shared_memory(facts: SharedMemoryFacts) -> Finding:
    """Say where Ray's object store will be. Pictures do not pass through it, so that it may well be on a disk."""
    if facts.error:
        return warning(
            f"nothing can be made in {SHARED_MEMORY} ({facts.error}): Ray's object store is a file in its temporary "
            "folder instead, which costs no speed that a run would notice",
            f"mount -o remount,rw {SHARED_MEMORY}, or nothing",
        )
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
        threads: how many more can be started; None: any number.
        threads_error: why Ray cannot start its own; empty: it can.
        file_size: in bytes.
    """

    files: int | None
    threads: int | None
    threads_error: str
    file_size: int | None


def look_at_limits(question: Question) -> LimitFacts:
    """Find the limits of this process."""
    import resource

    from wanbatch.errors import MachineryError
    from wanbatch.jobs.driver.ray_session import ensure_threads
    from wanbatch.machine import room_for_threads

    def limit(kind: int, hard: bool = False) -> int | None:
        found = resource.getrlimit(kind)[hard]
        return None if found == resource.RLIM_INFINITY else found

    rooms, refused = room_for_threads(), ""
    try:
        ensure_threads(rooms)
    except MachineryError as error:
        refused = str(error)
    return LimitFacts(
        files=limit(resource.RLIMIT_NOFILE, hard=True),
        threads=min(rooms.values(), default=None),
        threads_error=refused,
        file_size=limit(resource.RLIMIT_FSIZE),
    )


def judge_limits(facts: LimitFacts) -> Finding:
    """Say whether Ray and the output fit into the limits."""
    if facts.file_size is not None:
        return fault(
            f"files may have {readable(facts.file_size)} at most: a part of the output may be larger",
            "ulimit -f unlimited",
        )
    if facts.files is not None and facts.files < FEW_FILES:
        return warning(f"{facts.files} files may be open at most, which many workers exceed", "ulimit -n 4096")
    if facts.threads_error:
        return fault_of(facts.threads_error)
    files = "any number of" if facts.files is None else facts.files
    threads = "any number of" if facts.threads is None else facts.threads
    return ok(f"{files} open files, {threads} more threads")


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
class ZoneFacts:
    """The time zones that this machine knows, which schedules need.

    Attributes:
        known: how many.
        error: why one of them cannot be read; empty: it can.
    """

    known: int
    error: str


def look_at_zones(question: Question) -> ZoneFacts:
    """Count the time zones, and read one that changes its clocks."""
    from zoneinfo import ZoneInfo, ZoneInfoNotFoundError, available_timezones

    known = len(available_timezones())
    try:
        ZoneInfo.no_cache("Europe/Berlin")
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        return ZoneFacts(known, str(error))
    return ZoneFacts(known, "")


def judge_zones(facts: ZoneFacts) -> Finding:
    """Say whether schedules can have time zones."""
    if facts.known and not facts.error:
        return ok(f"{facts.known} time zones")
    why = f"time zones cannot be read ({facts.error})" if facts.known else "this machine has no time zone data"
    return warning(f"{why}: `wanbatch schedule` refuses every timezone", "pip install tzdata")


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
