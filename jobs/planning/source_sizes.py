"""Looking at the sources that give rows their sizes: each distinct one once, several at a time, politely."""

from __future__ import annotations

import threading
from collections import defaultdict, deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import chain, zip_longest
from urllib.parse import urlsplit

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from wanbatch.errors import MachineryError, RowError
from wanbatch.jobs.planning.plan import Plan
from wanbatch.manifests.reading.arrow_rows import source_of
from wanbatch.manifests.records import Source
from wanbatch.manifests.sources.loader import SourceLoader
from wanbatch.manifests.sources.size_cache import SizeCache, SourceSize
from wanbatch.manifests.sources.web_address import is_web_address
from wanbatch.manifests.storage.urls import is_url
from wanbatch.pipeline.loading.registry import ModelInfo

THREADS = 16
OF_A_DISK, OF_A_STORE, OF_A_HOST, OF_A_MANIFEST = 4, 16, 4, 1
"""How many sources are looked at at the same time: below a local folder, in an object store, of one web host, and
embedded in a manifest, whose row groups are read one after the other."""


@dataclass(frozen=True, slots=True)
class Measuring:
    """How sources are looked at.

    Attributes:
        make_loader: makes a loader; each thread has its own.
        stopped: whether to end early.
    """

    make_loader: Callable[[], SourceLoader]
    stopped: Callable[[], bool] = field(default=lambda: False)


def loading_from(plan: Plan, allow_http: bool) -> Callable[[], SourceLoader]:
    """What makes loaders of a plan's sources. allow_http: of the web's, too."""
    root, fence = plan.manifest.source_root, plan.manifest.source_fence
    return lambda: SourceLoader(root, allow_http=allow_http, fence=fence)


def size_rows(
    plan: Plan,
    model: ModelInfo,
    rows: np.ndarray,
    cache: SizeCache,
    measuring: Measuring,
    anew: Collection[int] = (),
) -> tuple[Plan, SizeCache]:
    """Give rows the sizes that follow their first sources.

    Args:
        plan: which rows are still without.
        model: decides which sizes there are.
        rows: indices of the manifest's rows that matter; those that have their size are left as they are.
        cache: what is known of sources from earlier.
        measuring: how they are looked at.
        anew: indices of rows whose sources are looked at whatever the cache says of them.

    Returns:
        The plan, in which rows are still without a size if it was stopped early; and the cache with what was found.

    Raises:
        MachineryError: An object store that holds sources does not answer.
    """
    rows = rows[plan.unsized[rows]]
    if not len(rows):
        return plan, cache
    sources, which = _first_sources(plan, rows)
    fresh = set(which[np.isin(rows, list(anew))].tolist()) if anew else set()
    with measuring.make_loader() as loader:
        keys = [loader.cache_key(source) for source in sources]
    known = [None if index in fresh else size for index, size in enumerate(cache.find(keys))]
    failed = {index for index, source in enumerate(sources) if source.name in plan.unreadable}
    found = measure(sources, known, measuring, failed)
    looked_at = np.array([index in found or index in failed for index in range(len(sources))])[which]
    sizes, unreadable = {}, {}
    for row, index in zip(rows.tolist(), which.tolist(), strict=True):
        size = found.get(index)
        if isinstance(size, SourceSize):
            sizes[row] = (size.width, size.height)
        elif size is not None:
            unreadable[sources[index].name] = str(size)
    changed = {
        keys[index]: size
        for index, size in found.items()
        if isinstance(size, SourceSize) and size is not known[index]
    }
    plan = replace(plan, source_notes={**plan.source_notes, **_notes(sources, found)})
    return plan.with_sizes(model, rows[looked_at], sizes, unreadable), cache.with_sizes(changed) if changed else cache


def with_every_source(plan: Plan, cache: SizeCache, measuring: Measuring) -> Plan:
    """The plan that knows of all sources and maps but those on the web which cannot be read, and notes of the others.

    Args:
        plan: of the manifest that names them.
        cache: what is known of sources from earlier.
        measuring: how they are looked at.

    Raises:
        MachineryError: An object store that holds sources does not answer.
    """
    mapped = np.flatnonzero(pc.is_valid(plan.manifest.rows["creativity_map"]).to_numpy())
    named = chain(
        (source for row in plan.manifest.iter_rows() for source in row.sources),
        (source for source in plan.manifest.map_sources(pa.array(mapped)) if source is not None),
    )
    distinct = {source.key: source for source in named if source.embedded or not is_web_address(source.path or "")}
    sources = [source for source in distinct.values() if source.name not in plan.unreadable]
    with measuring.make_loader() as loader:
        known = cache.find([loader.cache_key(source) for source in sources])
    found = measure(sources, known, measuring)
    errors = {sources[index].name: str(error) for index, error in found.items() if isinstance(error, RowError)}
    notes = {**plan.source_notes, **_notes(sources, found)}
    return replace(plan, unreadable={**plan.unreadable, **errors}, source_notes=notes)


def unreadable_sources(sources: Sequence[Source], make_loader: Callable[[], SourceLoader]) -> dict[int, str]:
    """What is wrong with sources, by their index. Those on the web are not looked at.

    Nothing, if a store that holds them does not answer: this is asked about a manifest that is wrong anyway.
    """
    on_the_web = {i for i, one in enumerate(sources) if not one.embedded and is_web_address(one.path or "")}
    try:
        found = measure(sources, [None] * len(sources), Measuring(make_loader), on_the_web)
    except MachineryError:
        return {}
    return {index: f"image {error}" for index, error in found.items() if isinstance(error, RowError)}


def _notes(sources: Sequence[Source], found: Mapping[int, SourceSize | RowError]) -> dict[str, frozenset[str]]:
    """The notes of the sources that have any, by their names."""
    return {sources[i].name: its.notes for i, its in found.items() if isinstance(its, SourceSize) and its.notes}


def measure(
    sources: Sequence[Source],
    known: Sequence[SourceSize | None],
    measuring: Measuring,
    skipped: Collection[int] = (),
) -> Mapping[int, SourceSize | RowError]:
    """Look at sources, several at a time.

    Args:
        sources: distinct ones.
        known: what was measured of each before; it comes back as it is where it still holds.
        measuring: how they are looked at.
        skipped: indices of sources that are not looked at.

    Returns:
        Index among the sources -> size, or why there is none; of all of them, unless it was stopped early.

    Raises:
        MachineryError: An object store that holds sources does not answer.
    """
    found: dict[int, SourceSize | RowError] = {}
    ended = threading.Event()

    def work(queue: deque[int]) -> None:
        """Takes sources out of a queue that other threads may take from, too."""
        with measuring.make_loader() as loader:
            while not (ended.is_set() or measuring.stopped()):
                try:
                    index = queue.popleft()
                except IndexError:
                    return
                try:
                    found[index] = loader.measure(sources[index], known[index])
                except RowError as error:
                    found[index] = error
                except BaseException:
                    ended.set()
                    raise

    with ThreadPoolExecutor(THREADS, "sources") as pool:
        working = [pool.submit(work, queue) for queue in _in_turn(_queues(sources, skipped, measuring))]
        try:
            for one in working:
                one.result()
        finally:
            ended.set()
    return dict(sorted(found.items()))


def _queues(
    sources: Sequence[Source], skipped: Collection[int], measuring: Measuring
) -> list[tuple[deque[int], int]]:
    """The sources by where they are, and how many of each are looked at at the same time."""
    with measuring.make_loader() as loader:
        below = OF_A_STORE if is_url(loader.root) else OF_A_DISK
    queues: dict[str, deque[int]] = defaultdict(deque)
    limits: dict[str, int] = {}
    for index, source in enumerate(sources):
        if index in skipped:
            continue
        if source.embedded:
            where, limit = f"manifest {source.file}", OF_A_MANIFEST
        elif is_web_address(source.path or ""):
            where, limit = f"host {urlsplit(source.path or '').hostname}", OF_A_HOST
        else:
            where, limit = "folder", below
        queues[where].append(index)
        limits[where] = limit
    return [(queue, min(limits[where], len(queue))) for where, queue in queues.items()]


def _in_turn(queues: Sequence[tuple[deque[int], int]]) -> Iterator[deque[int]]:
    """Each queue once, then each that may have a second thread once more, and so on."""
    for turn in zip_longest(*([queue] * times for queue, times in queues)):
        yield from (queue for queue in turn if queue is not None)


def _first_sources(plan: Plan, rows: np.ndarray) -> tuple[list[Source], np.ndarray]:
    """The distinct first sources of rows, and for each row which one it is."""
    lists = plan.manifest.rows["sources"].take(pa.array(rows)).combine_chunks()
    first = lists.values.take(lists.offsets[:-1]) if lists.offset == 0 else pc.list_element(lists, 0)
    embedded = pc.is_valid(first.field("file"))
    own = pa.array([f"\0{row}" for row in rows.tolist()]) if pc.any(embedded).as_py() else None
    names = first.field("path") if own is None else pc.if_else(embedded, own, first.field("path"))
    coded = names.dictionary_encode()
    which = coded.indices.to_numpy()
    _, indices = np.unique(which, return_index=True)
    values = first.take(pa.array(indices)).to_pylist()
    return [source_of(value, plan.manifest.files) for value in values], which
