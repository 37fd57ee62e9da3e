"""`wanbatch schedule export --format kubernetes`: CronJobs that run or submit manifests and recipes. Pure."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from wanbatch.errors import UserError
from wanbatch.jobs.config.run_flags import flags_of, given_settings
from wanbatch.jobs.schedule.commands import tick_commands
from wanbatch.jobs.schedule.cron_fields import cron_fields, listed
from wanbatch.jobs.schedule.decisions import HELD, MACHINERY
from wanbatch.jobs.schedule.definition import Schedule
from wanbatch.manifests.storage.urls import is_url

LONGEST_NAME = 52
NO_CATCH_UP_SECONDS = 60
GRACE_SECONDS = 120
RETRIES = 6


def cron_job(
    schedule: Schedule,
    image: str,
    *,
    claim: str | None = None,
    gpus: int = 0,
    settings: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """A CronJob of Kubernetes (batch/v1), as JSON values.

    Args:
        schedule: which one.
        image: of the container, with wanbatch in it.
        claim: `NAME:PATH`: a PersistentVolumeClaim, and the path at which the container has it; local paths must be
            below.
        gpus: of the container.
        settings: those of the file that hold for all runs, which the container does not have.

    Raises:
        UserError: Its cron or a path says what a CronJob cannot.
    """
    own = {flag for flag in schedule.flags if flag.startswith("--")}
    common = given_settings(dict(settings or {}))
    flags = [flag for name, value in common.items() for flag in _flags(name, value, own)]
    whole = replace(schedule, flags=(*flags, *schedule.flags))
    (command,) = tick_commands(whole, ("wanbatch",))
    volume, path = _claim(claim)
    _check_paths(schedule, path)
    container: dict[str, Any] = {"name": "wanbatch", "image": image, "command": command}
    if gpus:
        container["resources"] = {"limits": {"nvidia.com/gpu": str(gpus)}}
    return {
        "apiVersion": "batch/v1",
        "kind": "CronJob",
        "metadata": {"name": _name(schedule), "labels": {"app.kubernetes.io/name": "wanbatch"}},
        "spec": {
            "schedule": _cron(schedule),
            "timeZone": schedule.zone.key,
            "concurrencyPolicy": "Forbid",
            "startingDeadlineSeconds": _deadline(schedule),
            "jobTemplate": {"spec": _job(_pod(container, volume, path))},
        },
    }


def _pod(container: dict[str, Any], volume: str, path: str) -> dict[str, Any]:
    pod: dict[str, Any] = {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": GRACE_SECONDS,
        "containers": [container],
    }
    if volume:
        container["volumeMounts"] = [{"name": "data", "mountPath": path}]
        pod["volumes"] = [{"name": "data", "persistentVolumeClaim": {"claimName": volume}}]
    return pod


def _flags(name: str, value: Any, own: set[str]) -> list[str]:
    """The flags of a setting of the file, unless the schedule has another value, or it is off, as by default."""
    flag = f"--{name.replace('_', '-')}"
    return [] if flag in own or value in (None, False) else flags_of({name: value})


def _job(pod: dict[str, Any]) -> dict[str, Any]:
    """The Job: a pod that a node lost or that ended with 4 or 75 is started again, others are not."""
    rules = [
        {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
        {"action": "Count", "onExitCodes": {"operator": "In", "values": [HELD, MACHINERY, 137]}},
        {"action": "FailJob", "onExitCodes": {"operator": "NotIn", "values": [0]}},
    ]
    return {"backoffLimit": RETRIES, "podFailurePolicy": {"rules": rules}, "template": {"spec": pod}}


def _deadline(schedule: Schedule) -> int:
    if schedule.catch_up == "none":
        return NO_CATCH_UP_SECONDS
    return int(schedule.deadline.total_seconds())


def _cron(schedule: Schedule) -> str:
    """The cron in numbers, since Kubernetes knows neither L nor 7 for Sunday, and reads `*/2` in a day otherwise."""
    fields = cron_fields(schedule.cron)
    if not fields.is_plain or (fields.both and not (fields.every_day or fields.every_weekday)):
        raise UserError(
            f"schedule {schedule.name}: cron {schedule.cron!r}: a CronJob knows neither L nor #, and no day that "
            "must be both one of the month and a weekday: run it with `wanbatch schedule run`"
        )
    return " ".join(
        (
            listed(fields.minutes, 60),
            listed(fields.hours, 24),
            "*" if fields.any_day else listed(fields.days, 31),
            listed(fields.months, 12),
            "*" if fields.any_day else listed(fields.weekdays, 7),
        )
    )


def _name(schedule: Schedule) -> str:
    name = f"wanbatch-{schedule.name}".lower().replace("_", "-")
    if len(name) > LONGEST_NAME:
        raise UserError(
            f"schedule {schedule.name}: a CronJob's name has at most {LONGEST_NAME} characters, {name!r} has "
            f"{len(name)}: give it a shorter one"
        )
    return name


def _claim(claim: str | None) -> tuple[str, str]:
    if claim is None:
        return "", ""
    found = re.fullmatch(r"([a-z0-9]([a-z0-9.-]*[a-z0-9])?):(/[^:]*)", claim)
    if found is None:
        raise UserError(f"--claim {claim}: must be NAME:PATH, like shop-data:/srv/shop")
    return found[1], os.path.normpath(found[3])


def _check_paths(schedule: Schedule, mounted: str) -> None:
    """Raise UserError for a path that the container does not have."""
    for path in (schedule.source, schedule.output):
        if not is_url(path) and not (mounted and f"{path}/".startswith(f"{mounted.rstrip('/')}/")):
            raise UserError(
                f"schedule {schedule.name}: {path}: is not in the container: name a volume that it is on, with "
                "--claim NAME:PATH, or use the URL of an object store"
            )


def for_kubectl(objects: Sequence[Mapping[str, Any]]) -> str:
    """Objects as YAML, as `kubectl apply -f` takes it."""
    import yaml

    return yaml.safe_dump_all(objects, sort_keys=False, default_flow_style=False, width=10_000)
