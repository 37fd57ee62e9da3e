"""Settings that name files and folders of this machine, as paths that hold in any current folder."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, get_args

from wanbatch.jobs.config.adapter_texts import in_any_folder
from wanbatch.jobs.config.settings import Settings
from wanbatch.manifests.storage.urls import absolute

FOLDERS = ("source_root", "source_fence", "engines")
"""Settings that name a folder or its URL."""

NAMES_OR_PATHS = ("model", "sound", "sound_model")
"""Settings that name a file or a folder, if there is one, or something else, such as a model of the hub."""

CACHES = ("compile_cache", "text_cache", "model_cache")
"""Folders that a run fills. In `~` they are in the home of whoever runs it, on whatever machine."""


def path_fields() -> tuple[str, ...]:
    """The settings that are paths by their type."""
    fields = Settings.model_fields.items()
    return tuple(name for name, field in fields if Path in (field.annotation, *get_args(field.annotation)))


def in_any_current_folder(settings: Settings) -> Settings:
    """The same settings, with absolute paths."""
    changed: dict[str, Any] = {"lora": {name: in_any_folder(text) for name, text in settings.lora.items()}}
    for name in (*path_fields(), *FOLDERS, *NAMES_OR_PATHS):
        value = getattr(settings, name)
        if value is None or (name in CACHES and str(value).startswith("~")):
            continue
        path = absolute(os.path.expanduser(value))
        if name in path_fields():
            changed[name] = Path(path)
        elif name in FOLDERS or os.path.exists(os.path.expanduser(value)):
            changed[name] = path
    return settings.model_copy(update=changed)
