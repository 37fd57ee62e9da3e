"""Everything that is read and checked before anything is started: manifest, model, plan."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from wanbatch.errors import RowError
from wanbatch.jobs.config.settings import Settings, image_format
from wanbatch.jobs.planning.checks import check_rows, check_settings
from wanbatch.jobs.planning.plan import Plan, Sizes, make_plan, sized_by_source
from wanbatch.manifests.reading.manifest import Manifest, read_manifest
from wanbatch.manifests.records import Source
from wanbatch.manifests.sources.loader import SourceLoader
from wanbatch.manifests.sources.web_address import is_web_address
from wanbatch.pipeline.loading.registry import ModelInfo, find


def prepare(
    manifest_path: str | Path, settings: Settings, weights: bool = True, every_source: bool = False
) -> tuple[Plan, ModelInfo]:
    """Read a manifest, find the model and plan the work; needs no torch.

    weights: also fetch the weights of a hub model. every_source: look at all sources (but those on the web) and not
    only at those that give their rows a size.
    Raises UserError with everything that is wrong.
    """
    image_format(settings)
    model = find(settings.model, settings.revision, weights=False)
    check_settings(settings, model)
    manifest = read_manifest(
        manifest_path, settings.source_root, settings.allow_http, lambda rows: check_rows(rows, model, settings)
    )
    if weights:
        model = find(settings.model, settings.revision)
    sizes, unreadable = probe(manifest, settings.allow_http, every_source)
    return make_plan(manifest, model, settings, sizes, unreadable), model


def probe(manifest: Manifest, allow_http: bool, every_source: bool) -> tuple[Sizes, dict[str, str]]:
    """Look at sources' headers, each distinct source once.

    Returns the sizes of those that give their rows a size, by the rows' places; and why others cannot be read, by
    name: their rows fail when their turn comes, and the others do not.
    """
    known: dict[tuple, tuple[int, int] | RowError] = {}
    sizes, unreadable = {}, {}
    with SourceLoader(manifest.source_root, allow_http=allow_http) as loader:
        for index, source in sized_by_source(manifest):
            found = known[source.key] = known.get(source.key) or _size(loader, source)
            if not isinstance(found, RowError):
                sizes[index] = found
            else:
                unreadable[source.name] = str(found)
        for source in _others(manifest, known) if every_source else ():
            if isinstance(found := _size(loader, source), RowError):
                unreadable[source.name] = str(found)
    return sizes, unreadable


def _others(manifest: Manifest, known: dict) -> Iterator[Source]:
    seen = set(known)
    for row in manifest.iter_rows():
        for source in row.sources:
            if source.key not in seen and not is_web_address(source.path or ""):
                seen.add(source.key)
                yield source


def _size(loader: SourceLoader, source: Source) -> tuple[int, int] | RowError:
    try:
        return loader.size(source)
    except RowError as error:
        return error
