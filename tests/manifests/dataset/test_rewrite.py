"""Changed rows and retries: each id ends in exactly one part."""

import json
import os

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from manifest_making import unit_of
from output_folders import publish, tree, visible

from wanbatch.errors import MachineryError
from wanbatch.manifests.dataset.folder import OutputFolder
from wanbatch.manifests.dataset.part_files import write_attempt
from wanbatch.manifests.dataset.status import status
from wanbatch.manifests.records import DATA_SCHEMA


class TestChangedRows:
    def test_digests_are_kept_with_the_commit(self, out):
        unit = unit_of(0, ["a", "b"], ["c"])
        with OutputFolder.open(out, {}) as folder:
            folder.publish(write_attempt(out, attempt="t", **unit, digests={"a": "one", "c": "three"}))
        with OutputFolder.open(out, {}) as folder:
            done = folder.committed()
            assert (done.made["a"], done.made["b"], done.made.get("c")) == ("one", None, None)
            assert "a" in done.made
            assert done.made == {"a", "b"}
            assert frozenset(["a", "x"]) & done.made == {"a"}
            assert done.made | done.failed.keys() == {"a", "b", "c"}
            with pytest.raises(KeyError):
                done.made["c"]
        (line,) = (out / "_wanbatch/commits/00000.json").read_text().splitlines()
        assert json.loads(line)["digests"] == ["one", None, "three"]

    @pytest.mark.parametrize("digests", [{"x": "1"}, {"a": ""}, {"a": "two words"}, {"a": "x" * 129}])
    def test_digests_that_do_not_fit(self, out, digests):
        with OutputFolder.open(out, {}), pytest.raises(ValueError, match="digest"):
            write_attempt(out, attempt="t", **unit_of(0, ["a"]), digests=digests)

    def test_a_retry_leaves_each_id_in_one_part(self, out):
        with OutputFolder.open(out, {}) as folder:
            publish(folder, 0, ["a"], ["b", "c", "d"])
            publish(folder, 1, ["b"], ["c"])
            assert visible(out) == (["a", "b"], ["a", "b"], ["c", "d"])
            assert pq.read_table(out / "failures/part-00000.parquet")["id"].to_pylist() == ["d"]
            publish(folder, 2, ["c", "d"])
            assert visible(out) == (["a", "b", "c", "d"], ["a", "b", "c", "d"], [])
            before = folder.committed()
        with OutputFolder.open(out, {}) as folder:
            again = folder.committed()
            assert (again.made, again.failed, again.where) == (before.made, before.failed, before.where)
        assert (status(out)["done"], status(out)["quarantined"]) == (4, 0)

    def test_what_is_made_is_replaced_only_when_allowed(self, out):
        with OutputFolder.open(out, {}) as folder:
            publish(folder, 0, ["a", "b", "c"], passthrough=pa.table({"label": [1, 2, 3]}))
            attempt = write_attempt(out, attempt="n", **unit_of(1, ["b"], ["c"], pa.table({"label": [9]})))
            with pytest.raises(ValueError, match="'b', which is committed as made already"):
                folder.publish(attempt)
            folder.publish(attempt, replace=True)
            assert visible(out) == (["a", "b"], ["a", "b"], ["c"])
            assert (folder.committed().made, folder.committed().failed) == ({"a", "b"}, {"c": "bad_image"})
        found = pq.read_table(out / "data").to_pydict()
        assert dict(zip(found["id"], found["label"], strict=True)) == {"a": 1, "b": 9}
        old = pq.read_table(out / "data/part-00000.parquet")
        assert old.schema.metadata == DATA_SCHEMA.metadata
        with OutputFolder.open(out, {}) as folder:
            assert folder.committed().made == {"a", "b"}
        assert tree(out) == [
            "_wanbatch/commits/00000.json",
            "_wanbatch/commits/00001.json",
            "_wanbatch/run.json",
            "data/part-00000.parquet",
            "data/part-00001.parquet",
            "failures/part-00001.parquet",
            "timings/part-00000.parquet",
            "timings/part-00001.parquet",
        ]

    def test_replaced_again_and_again_out_of_order(self, out):
        """Later commits count more than higher numbers."""
        with OutputFolder.open(out, {}) as folder:
            for unit in (5, 9, 7, 8, 2):
                attempt = write_attempt(
                    out, attempt="t", **unit_of(unit, ["a", f"only{unit}"]), digests={"a": f"{unit}"}
                )
                folder.publish(attempt, replace=True)
        with OutputFolder.open(out, {}) as folder:
            assert folder.committed().made["a"] == "2"
            assert folder.committed().where["a"] == 2
        assert visible(out)[0] == ["a", "only2", "only5", "only7", "only8", "only9"]

    def test_a_commit_taken_away_by_hand_takes_what_was_left_of_its_part(self, out):
        with OutputFolder.open(out, {}) as folder:
            publish(folder, 0, ["a", "b"], ["c"])
            publish(folder, 1, ["c"])
            attempt = write_attempt(out, attempt="n", **unit_of(2, ["b"]))
            folder.publish(attempt, replace=True)
        (out / "_wanbatch/commits/00000.json").unlink()
        with OutputFolder.open(out, {}) as folder:
            assert folder.committed().made == {"b", "c"}
            assert visible(out) == (["b", "c"], ["b", "c"], [])
            publish(folder, 3, ["a"])
        assert visible(out)[0] == ["a", "b", "c"]

    def test_a_damaged_old_part_is_named_and_nothing_changes(self, out):
        with OutputFolder.open(out, {}) as folder:
            publish(folder, 0, ["a", "b"])
            path = out / "data/part-00000.parquet"
            raw = bytearray(path.read_bytes())
            raw[len(raw) // 5] ^= 1
            path.write_bytes(raw)
            attempt = write_attempt(out, attempt="n", **unit_of(1, ["b"]))
            with pytest.raises(MachineryError, match="part-00000"):
                folder.publish(attempt, replace=True)
            assert folder.committed().where["b"] == 0
            assert not (out / "data/part-00001.parquet").exists()
            assert sorted(os.listdir(out / "_wanbatch/tmp")) == ["00001-n-data.parquet", "00001-n-timings.parquet"]
