"""A model's files on the host of a worker: fetched or copied once, however many workers it has, then used offline."""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from wanbatch.errors import MachineryError, NodeError, UserError
from wanbatch.jobs.planning.host_copies import one_at_a_time
from wanbatch.jobs.planning.model_copies import copied, find_model
from wanbatch.manifests.storage.urls import is_url
from wanbatch.pipeline.loading.registry import TINY, ModelInfo, cached_of_hub, find

TRIES, FIRST_PAUSE = 6, 5.0  # of fetching, from a hub that is busy; seconds
_log = logging.getLogger(__name__)


def local_model(model: ModelInfo, cache: str | os.PathLike[str] | None, host: str = "") -> ModelInfo:
    """Find a model's files on this host, and get them here if they are not.

    Args:
        model: as the driver found it on its own host.
        cache: folder that keeps a copy of a model folder; None: it is used where it is.
        host: the name of this one, for messages.

    Returns:
        The model with its folder here. From now on nothing of this process asks the hub.

    Raises:
        NodeError: Its files cannot be had here, or are others than the driver's.
    """
    try:
        found = _locate(model, None if cache is None else Path(cache).expanduser().absolute())
    except (UserError, MachineryError, OSError) as error:
        raise NodeError(f"host {host}: {error}") from error
    if model.digest and found.digest != model.digest:
        raise NodeError(
            f"host {host}: the model in {found.folder} is not the one that this command found in {model.folder}: "
            "copy it anew, or share one folder with every host"
        )
    stay_offline()
    return replace(model, folder=found.folder)


def _locate(model: ModelInfo, cache: Path | None) -> ModelInfo:
    if model.name == TINY:
        return find(TINY)
    if model.revision is not None:
        return _of_hub(model)
    if is_url(model.name):
        return find_model(model.name, cache=cache)
    if not os.path.isdir(model.folder):
        raise UserError(
            f"there is no model folder {model.folder}, which the host of this command has: share it with every host "
            "that has workers, or give a hub model or a folder in an object store (s3://...)"
        )
    files = model.digest if model.converted is None else model.converted.digest
    return find(model.folder if cache is None else str(copied(Path(model.folder), cache, files)))


def _of_hub(model: ModelInfo) -> ModelInfo:
    """The snapshot of a hub model in this host's cache; only the first worker of a host asks the hub."""
    with one_at_a_time(f"{model.name}@{model.revision}"):
        if (found := _complete_snapshot(model)) is not None:
            return found
        return _patiently(lambda: find(model.name, model.revision))


def _complete_snapshot(model: ModelInfo) -> ModelInfo | None:
    """What is here already, without a word to the hub; None: it is not, or not all of it."""
    folder = cached_of_hub(model.name, str(model.revision))
    if folder is not None:
        with suppress(OSError, ValueError, UserError):
            found = find(folder)
            if found.digest == model.digest:
                return found
    return None


def _patiently(fetch: Callable[[], ModelInfo]) -> ModelInfo:
    """Try again after pauses that double: a hub that many hosts ask at once answers 429."""
    for attempt in range(1, TRIES):
        try:
            return fetch()
        except UserError as error:
            pause = FIRST_PAUSE * 2 ** (attempt - 1)
            _log.warning("%s; trying again in %.0f s", error, pause)
            time.sleep(pause)
    return fetch()


def stay_offline() -> None:
    """Have nothing of this process ask the hub from now on."""
    os.environ["HF_HUB_OFFLINE"] = os.environ["TRANSFORMERS_OFFLINE"] = "1"
    if (constants := sys.modules.get("huggingface_hub.constants")) is not None:
        constants.HF_HUB_OFFLINE = True  # type: ignore[attr-defined]  # read when it was imported
