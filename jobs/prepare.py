"""Everything that is read and checked before anything is started: manifest, model, plan."""

from __future__ import annotations

from pathlib import Path

from wanbatch.errors import RowError
from wanbatch.jobs.plan import Plan, Sizes, make_plan, sized_by_source
from wanbatch.jobs.settings import Settings, image_format
from wanbatch.manifests.read import Manifest, read_manifest
from wanbatch.manifests.rows import Source
from wanbatch.manifests.sources import SourceLoader
from wanbatch.pipeline.models import ModelInfo, find


def prepare(manifest_path: str | Path, settings: Settings, weights: bool = True) -> tuple[Plan, ModelInfo]:
    """Read a manifest, find the model and plan the work; needs no torch.

    weights: also fetch the weights of a hub model.
    Raises UserError with everything that is wrong.
    """
    image_format(settings)
    manifest = read_manifest(manifest_path, settings.source_root, settings.allow_http)
    model = find(settings.model, settings.revision, weights)
    return make_plan(manifest, model, settings, probe_sizes(manifest, settings.allow_http)), model


def probe_sizes(manifest: Manifest, allow_http: bool = False) -> Sizes:
    """Sizes of the sources that give their rows a size, from the images' headers, each distinct source once.

    A source that cannot be read has none: its row fails when its turn comes, and the others do not.
    """
    known: dict[tuple, tuple[int, int] | None] = {}
    found = {}
    with SourceLoader(manifest.source_root, allow_http=allow_http) as loader:
        for index, source in sized_by_source(manifest):
            if source.key not in known:
                known[source.key] = _size(loader, source)
            if (size := known[source.key]) is not None:
                found[index] = size
    return found


def _size(loader: SourceLoader, source: Source) -> tuple[int, int] | None:
    try:
        return loader.size(source)
    except RowError:
        return None
