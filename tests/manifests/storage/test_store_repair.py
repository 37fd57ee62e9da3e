"""Recovery and repair of output folders in an object store: nothing is removed that may be data."""

import pytest
from manifest_making import unit_of
from store_folders import publish, put

from wanbatch.errors import MachineryError, UserError
from wanbatch.manifests.dataset.folder import OutputFolder
from wanbatch.manifests.dataset.part_files import write_attempt
from wanbatch.manifests.dataset.repair import repair
from wanbatch.manifests.dataset.status import status
from wanbatch.manifests.storage.object_store import ObjectStoreBackend

DENIED = "403 Forbidden", "AccessDenied"


@pytest.fixture
def filled(bucket):
    with OutputFolder.open(bucket, {}) as folder:
        attempts = [write_attempt(bucket, attempt="t", **unit_of(n, [f"a{n}"], [f"b{n}"])) for n in range(3)]
        assert folder.publish_many(attempts) == []
    return bucket


def test_a_damaged_part_and_a_lost_one(filled):
    backend = ObjectStoreBackend(filled)
    raw = bytearray(backend.read("data/part-00001.parquet"))
    raw[len(raw) // 3] ^= 1
    put(f"{filled}/data/part-00001.parquet", bytes(raw))
    backend.remove("failures/part-00002.parquet")
    with pytest.raises(UserError, match=rf"is gone: restore it, or run `wanbatch repair {filled}`"):
        OutputFolder.open(filled, {})
    report = repair(filled)
    assert (report.damaged, report.lost) == (("data/part-00001.parquet",), ("failures/part-00002.parquet",))
    assert sorted(report.ids) == ["a1", "b2"]
    assert backend.read(report.orphans["data/part-00001.parquet"]) == bytes(raw)
    assert (status(filled)["done"], status(filled)["quarantined"]) == (2, 2)
    with OutputFolder.open(filled, {}) as folder:
        publish(folder, folder.committed().next_unit, ["a1"], ["b2"])
    assert repair(filled).whole


def test_what_no_commit_names_is_kept(filled):
    put(f"{filled}/data/part-00009.parquet", b"somebody's")
    OutputFolder.open(filled, {}).close()
    backend = ObjectStoreBackend(filled)
    assert not backend.exists("data/part-00009.parquet")
    assert backend.read("_wanbatch/orphans/data-part-00009.parquet") == b"somebody's"


def test_lost_commits_and_a_listing_that_fails(filled, server):
    """A listing that is refused is no empty folder; one that is empty beside parts is no reason to remove these."""
    backend = ObjectStoreBackend(filled)
    parts = set(backend.sizes("data"))
    server.fault = lambda method, path: DENIED if method == "GET" and path.rstrip("/").endswith("/bucket") else None
    with pytest.raises((UserError, MachineryError)):
        OutputFolder.open(filled, {})
    server.mend()
    backend.remove("_wanbatch/commits/00000.json")
    with pytest.raises(UserError, match=r"holds 9 parts .* and no commits"):
        OutputFolder.open(filled, {})
    assert set(backend.sizes("data")) == parts
