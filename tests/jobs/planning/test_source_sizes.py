"""Sizes that follow sources: which are looked at, how many at a time, and what is kept of them."""

from __future__ import annotations

import os
import threading
import time
from collections import Counter

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from job_making import picture, write_jsonl
from manifest_making import encoded
from web_server import LOCAL, QUICK, serving

from wanbatch.errors import MachineryError, RowError
from wanbatch.jobs.planning.preparation import read_plan
from wanbatch.jobs.planning.source_sizes import OF_A_HOST, Measuring, loading_from, measure, size_rows
from wanbatch.manifests.records import Source
from wanbatch.manifests.sources.http import Fetcher
from wanbatch.manifests.sources.loader import SourceLoader
from wanbatch.manifests.sources.size_cache import SizeCache, SourceSize


class CountingLoader(SourceLoader):
    """Counts what is read of sources, in a counter that it is given."""

    def __init__(self, counter: Counter, *given, **options):
        super().__init__(*given, **options)
        self._counter = counter

    def _open(self, source):
        self._counter[source.path] += 1
        return super()._open(source)


@pytest.fixture
def counter() -> Counter:
    return Counter()


@pytest.fixture
def counting(tmp_path, counter) -> Measuring:
    return Measuring(lambda: CountingLoader(counter, tmp_path))


@pytest.fixture
def read(settings, tmp_path):
    """Reads rows as a plan without sizes; returns it and the model."""
    return lambda *rows: read_plan(write_jsonl(tmp_path / "shop.jsonl", rows), settings(width=128, height=128), False)


def sizes(plan) -> list[tuple[int, int]]:
    return list(zip(plan.images["width"].to_pylist(), plan.images["height"].to_pylist(), strict=True))


def test_only_the_wanted_rows_are_looked_at_and_each_source_once(read, tmp_path, counting, counter):
    """Every start used to open every source of the whole manifest."""
    for number in range(4):
        picture(tmp_path / f"{number}.png", 400, 100)
    rows = [{"image": f"{number % 4}.png"} for number in range(12)] + [{"prompt": "x"}]
    plan, model = read(*rows, {"image": "0.png", "width": 64, "height": 64}, {"image": "none.png"})
    assert counter == {}
    assert plan.unsized.tolist() == [True] * 12 + [False, False, True]
    plan, cache = size_rows(plan, model, np.array([0, 1, 4, 12, 14]), SizeCache(), counting)
    assert counter == {"0.png": 1, "1.png": 1}, "rows 0 and 4 have the same source, and one is not there"
    assert [sizes(plan)[row] for row in (0, 1, 2, 4, 12, 13)] == [(256, 64)] * 2 + [(128, 128)] + [(256, 64)] + [
        (128, 128),
        (64, 64),
    ]
    assert plan.unsized.tolist() == [False, False, True, True, False] + [True] * 7 + [False] * 3
    assert plan.unreadable == {"none.png": f"none.png does not exist in {tmp_path}"}
    assert len(cache) == 2


def test_a_size_that_is_known_is_not_read_again_unless_the_file_changed(read, tmp_path, counting, counter):
    for name in ("a.png", "b.png"):
        picture(tmp_path / name, 400, 100)
    plan, model = read({"image": "a.png"}, {"image": "b.png"})
    everything = np.arange(2)
    _, cache = size_rows(plan, model, everything, SizeCache(), counting)
    counter.clear()
    picture(tmp_path / "b.png", 100, 400)
    os.utime(tmp_path / "b.png", ns=(5, 5))
    again, later = size_rows(plan, model, everything, cache, counting)
    assert counter == {"b.png": 1}
    assert sizes(again) == [(256, 64), (64, 256)]
    assert len(later) == 2
    counter.clear()
    size_rows(plan, model, everything, later, counting, anew={0})
    assert counter == {"a.png": 1}


def test_embedded_images_and_passthrough_paths_of_the_same_name(tmp_path, settings):
    """The path of an embedded image is only a name: two rows may have the same one."""
    images = [{"bytes": encoded(*size), "path": "same.png"} for size in ((400, 100), (100, 400), (100, 100))]
    pq.write_table(pa.table({"image": images}), tmp_path / "shop.parquet", row_group_size=2)
    plan, model = read_plan(tmp_path / "shop.parquet", settings(width=128, height=128), False)
    measuring = Measuring(loading_from(plan, False))
    sized, cache = size_rows(plan, model, np.arange(3), SizeCache(), measuring)
    assert sizes(sized) == [(256, 64), (64, 256), (128, 128)]
    again, same = size_rows(plan, model, np.arange(3), cache, measuring)
    assert sizes(again) == sizes(sized)
    assert same is cache


def test_web_sources_are_asked_for_side_by_side_but_not_too_many_of_one_host(tmp_path):
    """One after the other, 12 answers that take 0.2 s each were 2.4 s; all at once would be rude."""
    lock, running, most = threading.Lock(), [0], [0]

    def slow(handler) -> None:
        with lock:
            running[0] += 1
            most[0] = max(most[0], running[0])
        time.sleep(0.2)
        with lock:
            running[0] -= 1
        handler.give(200, encoded(8, 4))

    with serving() as server:
        sources = [Source(f"{server.url}/{number}") for number in range(12)]
        server.answers.update({f"/{number}": slow for number in range(12)})
        fetcher = Fetcher(1 << 20, LOCAL, retries=QUICK)
        measuring = Measuring(lambda: SourceLoader(tmp_path, allow_http=True, fetcher=fetcher))
        found = measure(sources, [None] * 12, measuring)
    assert [found[place] for place in range(12)] == [SourceSize(8, 4, None)] * 12
    assert most[0] == OF_A_HOST


def test_a_stop_ends_it_and_the_rest_stays_without_a_size(read, tmp_path, counter):
    for number in range(40):
        picture(tmp_path / f"{number}.png", 400, 100)
    plan, model = read(*({"image": f"{number}.png"} for number in range(40)))
    measuring = Measuring(lambda: CountingLoader(counter, tmp_path), lambda: sum(counter.values()) >= 5)
    plan, cache = size_rows(plan, model, np.arange(40), SizeCache(), measuring)
    looked_at = int((~plan.unsized).sum())
    assert 5 <= looked_at == len(cache) == sum(counter.values()) < 40


def test_a_failing_store_ends_the_others_too(tmp_path, counter):
    for number in range(50):
        picture(tmp_path / f"{number}.png", 32, 32)

    class Failing(CountingLoader):
        def measure(self, source, known=None):
            if source.path == "3.png":
                raise MachineryError("the store is away")
            return super().measure(source, known)

    sources = [Source(f"{number}.png") for number in range(50)]
    with pytest.raises(MachineryError, match="the store is away"):
        measure(sources, [None] * 50, Measuring(lambda: Failing(counter, tmp_path)))
    assert sum(counter.values()) < 50


def test_what_cannot_be_read_is_told_in_the_order_of_the_sources(tmp_path):
    found = measure([Source(f"{n}.png") for n in range(30)], [None] * 30, Measuring(lambda: SourceLoader(tmp_path)))
    assert list(found) == list(range(30))
    assert all(isinstance(error, RowError) and error.kind == "missing_image" for error in found.values())
