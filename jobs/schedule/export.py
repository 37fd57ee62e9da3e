"""`wanbatch schedule export`: schedules as files for cron, systemd or Kubernetes."""

from __future__ import annotations

import sys
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from wanbatch.errors import UserError
from wanbatch.jobs.config.schedule_names import SCHEDULE_TABLES
from wanbatch.jobs.schedule.definition import Schedule
from wanbatch.jobs.schedule.export_cron import crontab
from wanbatch.jobs.schedule.export_kubernetes import cron_job, for_kubectl
from wanbatch.jobs.schedule.export_systemd import systemd_units
from wanbatch.manifests.storage.atomic_files import make_folder, write_atomic


def exported(
    kind: str,
    schedules: Sequence[Schedule],
    file: Path,
    state: Path,
    *,
    image: str | None,
    claim: str | None,
    gpus: int,
) -> tuple[dict[str, str], list[str]]:
    """Schedules as files.

    Args:
        kind: `cron`, `systemd` or `kubernetes`.
        schedules: which ones.
        file: absolute path of the settings file that they are in.
        state: absolute path of the folder of their ledger.
        image, claim, gpus: of CronJobs.

    Returns:
        The name of each file and its text; and a warning for each thing that the other scheduler does not do.

    Raises:
        UserError: A schedule says what the other scheduler cannot, or something is missing.
    """
    warnings = list(_left_out(kind, schedules))
    if kind == "kubernetes":
        if image is None:
            raise UserError("--image is missing: name the image of the container, with wanbatch in it")
        common = _common_settings(file)
        jobs = [cron_job(one, image, claim=claim, gpus=gpus, settings=common) for one in schedules]
        return {"wanbatch-cronjobs.yaml": for_kubectl(jobs)}, warnings
    if unused := [flag for flag, value in (("--image", image), ("--claim", claim), ("--gpus", gpus)) if value]:
        raise UserError(f"{unused[0]} is for --format kubernetes alone: leave it out")
    commands = [_tick_command(one, file, state) for one in schedules]
    if kind == "cron":
        return {"wanbatch.crontab": crontab(list(zip(schedules, commands, strict=True)), str(file.parent))}, warnings
    units: dict[str, str] = {}
    for one, command in zip(schedules, commands, strict=True):
        units |= systemd_units(one, command, str(file.parent))
    return units, warnings


def write_files(folder: Path, files: Mapping[str, str]) -> Iterator[Path]:
    """Write files into a folder, in place of those of the same names, and yield their paths. Raises UserError."""
    for name, text in files.items():
        try:
            make_folder(folder)
            write_atomic(folder / name, text.encode())
        except OSError as error:
            raise UserError(
                f"{folder / name}: cannot be written ({error.strerror}): choose another folder"
            ) from error
        yield folder / name


def _tick_command(schedule: Schedule, file: Path, state: Path) -> list[str]:
    words = [sys.executable, "-m", "wanbatch.jobs.cli", "schedule", "tick", schedule.name]
    return [*words, "--file", str(file), "--state", str(state)]


def _left_out(kind: str, schedules: Sequence[Schedule]) -> Iterator[str]:
    for one in schedules:
        if one.overlap == "queue" and kind != "cron":
            yield f"schedule {one.name}: overlap = queue: {kind} skips a tick while an earlier one runs"
        if kind == "kubernetes":
            yield (
                f"schedule {one.name}: a CronJob keeps no ledger and does not tell the run its scheduled time; exit "
                "code 3, some rows quarantined, counts as a failed Job"
            )


def _common_settings(file: Path) -> dict[str, Any]:
    content = tomllib.loads(file.read_text(encoding="utf-8-sig"))
    return {
        name: value for name, value in content.items() if name not in SCHEDULE_TABLES or not isinstance(value, dict)
    }
