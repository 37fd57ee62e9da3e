"""What is asked of a cluster: a manifest, an output folder and flags, as one command with a name. No Ray."""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import shlex
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wanbatch import __version__
from wanbatch.errors import UserError
from wanbatch.jobs.cluster.job_entrypoint import SHARED, UPLOAD
from wanbatch.jobs.config.adapter_texts import registered
from wanbatch.jobs.config.flag_words import flag_words
from wanbatch.jobs.config.setting_paths import (
    CACHES,
    FOLDERS,
    NAMES_OR_PATHS,
    in_any_current_folder,
    path_fields,
)
from wanbatch.jobs.config.settings import PREFIX, Settings
from wanbatch.manifests.storage.urls import is_url

ID_PREFIX = "wanbatch"
ENTRYPOINT = "wanbatch.jobs.cluster.job_entrypoint"
OF_THE_CLUSTER = ("address",)
"""Settings that say on which Ray a run is; a submitted run is on the one that it was submitted to."""

REMEDIES = {
    "source_root": UPLOAD,
    "source_fence": UPLOAD,
    "model": f"{SHARED}, its URL in a store, or a hub id",
    "sound_model": f"{SHARED}, or a hub id",
    "lora": f"{SHARED}, or a hub id",
}
"""What to do about a file that a setting names and that the cluster does not see; others: `SHARED`."""

NOT_COMPARED = (*CACHES, "c2pa_key")
"""Settings that name what a run fills, or what nobody but workers reads."""

STOP_MARGIN_SECONDS = 15
"""What a job that is stopped gets beyond `--drain-seconds`, before Ray kills it."""

STOP_VARIABLE = "RAY_JOB_STOP_WAIT_TIME_S"
"""By which Ray knows how long that is."""

NEVER_SENT = ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_AUTH_MODE", "RAY_JOB_HEADERS")
_SECRET = re.compile(r"TOKEN|SECRET|PASSWORD|CREDENTIAL|API_KEY|ACCESS_KEY", re.IGNORECASE)
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


@dataclass(frozen=True, slots=True)
class Submission:
    """What is asked of a cluster.

    Attributes:
        manifest: an absolute path or a URL.
        out: the output folder, likewise.
        flags: of `wanbatch run`, as words.
        content: digest of what the manifest holds; empty if it cannot be read here.
        needed: absolute paths of folders and files that the cluster must have, and what to do about one that it
            does not see.
        variables: environment variables of the job.
        drain_seconds: how long the run may go on after it is asked to stop.
    """

    manifest: str
    out: str
    flags: tuple[str, ...] = ()
    content: str = ""
    needed: Mapping[str, str] = field(default_factory=dict)
    variables: Mapping[str, str] = field(default_factory=dict)
    drain_seconds: float = 20.0

    @property
    def digest(self) -> str:
        """The same for two submissions that ask for the same."""
        asked = [self.manifest, self.content, self.out, *self.flags]
        return hashlib.sha256(json.dumps(asked).encode()).hexdigest()[:16]

    def id(self, attempt: int) -> str:
        """The submission id of an attempt, from 1."""
        return f"{ID_PREFIX}-{self.digest}-{attempt}"

    @property
    def command(self) -> tuple[str, ...]:
        """`wanbatch run` with its arguments."""
        return ("run", self.manifest, "--out", self.out, *self.flags)

    @property
    def on_this_cluster(self) -> tuple[str, ...]:
        """The flag by which a run uses the cluster that it is started on."""
        return ("--address", "auto") if "address" in Settings.model_fields else ()

    @property
    def stop_seconds(self) -> int:
        """How long the run has to end after it was asked to stop."""
        return math.ceil(self.drain_seconds) + STOP_MARGIN_SECONDS

    def entrypoint(self, python: str, expected: Mapping[str, Any]) -> str:
        """The shell command of the job.

        Args:
            python: the interpreter, as the cluster's shell finds it.
            expected: what `job_entrypoint.py` checks before it begins.
        """
        words = (python, "-m", ENTRYPOINT, json.dumps(expected, sort_keys=True), *self.command, *self.on_this_cluster)
        return f"exec {shlex.join(words)}"

    def runtime_env(self, package: Path) -> dict[str, Any]:
        """The job's environment: this package and variables, never the working directory."""
        variables = {STOP_VARIABLE: str(self.stop_seconds), **self.variables}
        return {"py_modules": [str(package)], "env_vars": variables}

    @property
    def metadata(self) -> dict[str, str]:
        """What the list of jobs says of it."""
        return {"wanbatch": __version__, "manifest": self.manifest, "out": self.out}


def flags_of(settings: Settings) -> tuple[str, ...]:
    """The flags that give exactly these settings where nothing else is set, with absolute paths.

    Args:
        settings: from flags, variables and the file of this machine, which the cluster does not have.
    """
    words: list[str] = []
    settings = in_any_current_folder(settings)
    for name, model_field in Settings.model_fields.items():
        value = getattr(settings, name)
        if name in OF_THE_CLUSTER or value == model_field.get_default(call_default_factory=True) or value is None:
            continue
        words += flag_words(name, value)
    return tuple(words)


def needed_paths(settings: Settings) -> dict[str, str]:
    """Absolute paths of this machine that a run with these settings reads, so that the cluster must have them.

    Returns:
        What to do, by path, if the cluster does not see it.
    """
    given = in_any_current_folder(settings)
    named = {name: [getattr(given, name)] for name in (*FOLDERS, *NAMES_OR_PATHS, *path_fields())}
    named["lora"] = [registered(text).path for text in given.lora.values()]
    found: dict[str, str] = {}
    for name, values in named.items():
        for path in (str(value) for value in values if value is not None and name not in NOT_COMPARED):
            if not is_url(path) and (os.path.isabs(path) or name not in (*NAMES_OR_PATHS, "lora")):
                found[path] = REMEDIES.get(name, SHARED)
    return found


def variables_of(asked: Collection[str], environment: Mapping[str, str]) -> tuple[dict[str, str], list[str]]:
    """The job's environment variables.

    Args:
        asked: `NAME=VALUE`, or `NAME` for the value that it has here.
        environment: of this process.

    Returns:
        The variables; and a warning for each that looks like a secret, since whoever sees the cluster's jobs sees it.

    Raises:
        UserError: One is not set, is Ray's own way to the cluster, or is a setting.
    """
    variables: dict[str, str] = {}
    for text in asked:
        name, equals, value = text.partition("=")
        if not _NAME.fullmatch(name):
            raise UserError(f"--env {text}: must be NAME=VALUE, or the NAME of a variable of this machine")
        if name in NEVER_SENT:
            raise UserError(
                f"--env {name}: is how this machine reaches the cluster and is never sent there: leave it out"
            )
        if name.startswith(PREFIX):
            flag = name[len(PREFIX) :].lower().replace("_", "-")
            raise UserError(f"--env {name}: is a setting: give --{flag} instead")
        if not equals and name not in environment:
            raise UserError(f"--env {name}: is not set here: give --env {name}=VALUE, or export it")
        variables[name] = value if equals else environment[name]
    warnings = [
        f"--env {name}: whoever can see the jobs of the cluster can read its value: give the cluster's nodes their "
        "own credentials where you can (a role, a mounted secret)"
        for name in variables
        if _SECRET.search(name)
    ]
    return variables, warnings
