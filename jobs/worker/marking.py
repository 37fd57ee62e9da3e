"""What the file of an image says of its origin."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePath

from wanbatch import __version__
from wanbatch.jobs.planning.units import Image
from wanbatch.jobs.worker.messages import WorkerSetup
from wanbatch.manifests.columns import RESOLVED
from wanbatch.manifests.dataset.origin_marks import OriginMark
from wanbatch.manifests.digital_source import term_of

TOOL = f"wanbatch {__version__}"
EMBEDDED = tuple(name for name in RESOLVED if name != "keywords")
"""Settings of an image that stand in its file if that was asked for: those that decide pixels."""


def mark_of(image: Image, sources: Sequence[str | None], setup: WorkerSetup) -> OriginMark:
    """The mark of an image.

    Args:
        image: as it was planned.
        sources: what each of its sources says of its own origin, of `digital_source`.
        setup: of the worker that makes it.
    """
    term = term_of(image.starting_level, sources)
    if not setup.embed_settings:
        return OriginMark(term, TOOL)
    model = setup.model
    name = model.name if model.revision is not None else PurePath(model.name).name  # no folders of this machine
    settings = {column: getattr(image, column) for column in EMBEDDED}
    if image.adapters is not None:
        settings["adapters"] = image.adapters
    return OriginMark(
        term, TOOL, {**settings, "model": name, "revision": model.revision, "step_cache": setup.runtime.step_cache}
    )
