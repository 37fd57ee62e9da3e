"""Checks of Ray: the folder of its files, and whether it starts and runs something."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass

from wanbatch.jobs.doctor.check import Finding, Question, fault_of, ok, readable, warning
from wanbatch.jobs.driver.ray_folder import named

PROXIES = ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")


@dataclass(frozen=True, slots=True)
class TempFacts:
    """The folder of Ray's files.

    Attributes:
        wanted: the one that it would take itself.
        variable: the one that says so.
        fault: why it cannot be used; empty: it can.
        used: the one that a run takes; empty: there is none.
        free: bytes that are free there.
        error: why there is none.
    """

    wanted: str
    variable: str
    fault: str
    used: str
    free: int
    error: str


def look_at_temp(question: Question) -> TempFacts:
    """Find the folder of Ray's files."""
    from wanbatch.errors import MachineryError, UserError
    from wanbatch.jobs.driver.ray_folder import find_folder, look_at, rays_choice

    wanted, variable = rays_choice()
    why = look_at(wanted, own=False).fault
    try:
        found, _ = find_folder()
    except (UserError, MachineryError) as error:
        return TempFacts(wanted, variable, why, "", 0, str(error))
    return TempFacts(wanted, variable, why, found.path, found.free, "")


def judge_temp(facts: TempFacts) -> Finding:
    """Say where Ray's files will be."""
    if facts.error:
        return fault_of(facts.error)
    if not facts.fault:
        return ok(f"{facts.used}, {readable(facts.free)} free")
    return warning(
        f"{named(facts.wanted, facts.variable)} {facts.fault}; Ray's files are in {facts.used} during a run",
        f"export {facts.variable or 'TMPDIR'}={facts.used}, or nothing",
    )


@dataclass(frozen=True, slots=True)
class RayFacts:
    """A Ray that was started for this check.

    Attributes:
        version: of the package.
        error: why it did not start; empty: it did.
        seconds: until a worker of it had run something.
        pid_of_worker: the process of that worker.
        address: what it listens on.
        ray_address: RAY_ADDRESS.
        under_uv: whether `uv run` started this process.
        proxies: the variables of proxies that are set.
    """

    version: str
    error: str
    seconds: float
    pid_of_worker: int
    address: str
    ray_address: str
    under_uv: bool
    proxies: list[str]


def start_ray(question: Question) -> RayFacts:
    """Start a Ray as a run does, and run something in a worker."""
    import psutil

    from wanbatch.errors import WanbatchError
    from wanbatch.jobs.driver.ray_session import ensure_ray_can_start, local_ray, ray_version, run_in_a_worker

    begin, error, pid, address = time.monotonic(), "", 0, ""
    try:
        ensure_ray_can_start()
        with local_ray():
            pid, address = run_in_a_worker(lambda: os.getpid())  # Ray takes no builtin
            seconds = time.monotonic() - begin
    except WanbatchError as raised:
        error, seconds = str(raised), time.monotonic() - begin
    parents = (parent.name() for parent in psutil.Process().parents())
    return RayFacts(
        version=ray_version(),
        error=error,
        seconds=round(seconds, 1),
        pid_of_worker=pid,
        address=address,
        ray_address=os.environ.get("RAY_ADDRESS", ""),
        under_uv="uv" in parents,
        proxies=[name for name in PROXIES if os.environ.get(name)],
    )


def judge_ray(facts: RayFacts) -> Finding:
    """Say whether Ray works, and what it does not follow."""
    if facts.error:
        return fault_of(facts.error)
    told = f"Ray {facts.version} starts in {facts.seconds:.0f} s and listens on {facts.address} alone"
    if facts.ray_address:
        return warning(
            f"{told}; RAY_ADDRESS={facts.ray_address} is not used: a run has a Ray of its own on this machine",
            "unset RAY_ADDRESS",
        )
    apart = ["the current folder is not uploaded, though `uv run` started this"] if facts.under_uv else []
    apart += [f"{', '.join(facts.proxies)} do not concern it"] if facts.proxies else []
    return ok("; ".join([told, *apart]))
