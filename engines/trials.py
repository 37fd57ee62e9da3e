"""Which engines have run on this host since it was started: a worker need not try those again.

A note is a file, named by all that decides whether an engine runs: its code, PyTorch, the device, and the start of
the host, since a driver may change with it. Without a folder for notes, engines are tried each time.
"""

from __future__ import annotations

import hashlib
import json
import platform
import sys
from collections.abc import Iterable
from pathlib import Path

import torch

from wanbatch.engines.stored_engine import StoredEngine
from wanbatch.errors import UserError
from wanbatch.pipeline.loading.runtime import default_compile_cache

BOOT = Path("/proc/sys/kernel/random/boot_id")


def untried(engines: Iterable[StoredEngine]) -> list[StoredEngine]:
    """Those of some engines of which there is no note."""
    folder = _folder()
    return [one for one in engines if folder is None or not (folder / _name(one)).exists()]


def note(engines: Iterable[StoredEngine]) -> None:
    """Note that engines have run here."""
    if (folder := _folder()) is None:
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for one in engines:
            (folder / _name(one)).touch()
    except OSError:
        return  # they are tried again


def _folder() -> Path | None:
    """Where notes are; None: nowhere, for want of a home or of the host's own start."""
    try:
        return default_compile_cache() / "engines-that-ran" if BOOT.exists() else None
    except UserError:
        return None


def _name(engine: StoredEngine) -> str:
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else ""
    here = (platform.node(), BOOT.read_text().strip(), sys.prefix, str(torch.__version__), gpu)
    return hashlib.sha256(json.dumps([engine.digest, *here]).encode()).hexdigest()
