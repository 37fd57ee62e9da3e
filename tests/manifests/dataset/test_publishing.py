"""Publishing: what is verified, what is committed together, what is taken back."""

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pyarrow as pa
import pytest
from manifest_making import unit_of
from output_folders import publish

from wanbatch.errors import MachineryError
from wanbatch.manifests.dataset.folder import OutputFolder
from wanbatch.manifests.dataset.part_files import write_attempt
from wanbatch.manifests.dataset.status import status


class TestPublishing:
    def test_a_unit_or_id_is_committed_once(self, out):
        with OutputFolder.open(out, {}) as folder:
            publish(folder, 0, ["a"], ["b"])
            for arguments in ((0, ["x"]), (1, ["a"]), (1, ["x"], ["a"])):
                with pytest.raises(ValueError, match="committed"):
                    publish(folder, *arguments)
            publish(folder, 2, ["b"])  # a retry of what failed
            assert (folder.committed().made, folder.committed().failed) == ({"a", "b"}, {})
        assert status(out)["quarantined"] == 0

    def test_an_existing_file_is_never_overwritten(self, out):
        with OutputFolder.open(out, {}) as folder:
            (out / "timings/part-00001.parquet").write_text("mine")
            with pytest.raises(MachineryError, match="File exists"):
                publish(folder, 1, ["a"])
            assert (out / "timings/part-00001.parquet").read_text() == "mine"
            assert not (out / "data/part-00001.parquet").exists()
            assert folder.committed().made == set()

    @pytest.mark.parametrize("kind", ["data", "timings", "failures"])
    @pytest.mark.parametrize("damage", ["cut", "flip", "gone"])
    def test_a_damaged_attempt_is_not_published(self, out, kind, damage):
        with OutputFolder.open(out, {}) as folder:
            attempt = write_attempt(folder.path, attempt="t", **unit_of(0, ["a", "b"], ["c"]))
            path = out / "_wanbatch/tmp" / attempt.names[kind]
            raw = bytearray(path.read_bytes())
            raw[len(raw) // 5] ^= 1
            path.unlink()
            if damage != "gone":
                path.write_bytes(raw if damage == "flip" else raw[:-9])
            with pytest.raises(MachineryError, match=r"is not what was written|cannot be read"):
                folder.publish(attempt)
            assert folder.committed().units == set()
            assert not any((out / k / "part-00000.parquet").exists() for k in ("data", "timings", "failures"))
            publish(folder, 0, ["a", "b"], ["c"])

    def test_other_ids_rows_or_columns_than_told(self, out):
        with OutputFolder.open(out, {}) as folder:
            label = pa.table({"label": [1]})
            publish(folder, 0, ["z"], passthrough=label)
            good = write_attempt(folder.path, attempt="good", **unit_of(1, ["a"], passthrough=label))
            for bad in (
                unit_of(1, ["b"], passthrough=label),
                unit_of(1, ["a", "b"], passthrough=pa.table({"label": [1, 2]})),
                unit_of(1, ["a"], passthrough=pa.table({"label": ["1"]})),
                unit_of(1, ["a"]),
            ):
                other = write_attempt(folder.path, attempt=f"bad{len(os.listdir(out / '_wanbatch/tmp'))}", **bad)
                mixed = replace(other, made=good.made, failed=good.failed)
                with pytest.raises(MachineryError, match="is not what was written"):
                    folder.publish(mixed)
            folder.publish(good)


class TestGroups:
    def attempts(self, out, units):
        return [write_attempt(out, attempt="t", **unit_of(n, [f"a{n}"], [f"b{n}"])) for n in units]

    def test_units_are_committed_together(self, out):
        with OutputFolder.open(out, {}) as folder:
            publish(folder, 0, ["x"], ["y"])
            retry = write_attempt(out, attempt="r", **unit_of(9, ["y"]))
            assert folder.publish_many([*self.attempts(out, (7, 3, 5)), retry]) == []
            assert folder.committed().units == {0, 3, 5, 7, 9}
        assert sorted(os.listdir(out / "_wanbatch/commits")) == ["00000.json", "00003.json", "00009.json"]
        with OutputFolder.open(out, {}) as folder:
            assert folder.committed().made == {"x", "y", "a3", "a5", "a7"}
            assert folder.publish_many([]) == []

    def test_a_damaged_one_does_not_stop_the_others(self, out):
        with OutputFolder.open(out, {}) as folder:
            attempts = self.attempts(out, range(5))
            for unit in (0, 3):
                path = out / "_wanbatch/tmp" / attempts[unit].names["data"]
                path.write_bytes(path.read_bytes()[:-9])
            refused = folder.publish_many(attempts)
            assert [one.attempt.unit for one in refused] == [0, 3]
            assert all(isinstance(one.error, MachineryError) for one in refused)
            assert folder.committed().units == {1, 2, 4}
            for one in refused:
                folder.discard(one.attempt)
            folder.publish_many([write_attempt(out, attempt="again", **unit_of(n, [f"a{n}"])) for n in (0, 3)])
            assert folder.committed().units == {0, 1, 2, 3, 4}

    def test_one_id_in_two_units_of_a_group(self, out):
        with OutputFolder.open(out, {}) as folder:
            attempts = [write_attempt(out, attempt="t", **unit_of(n, ["same"])) for n in range(2)]
            with pytest.raises(ValueError, match="another unit of this group"):
                folder.publish_many(attempts)
            with pytest.raises(ValueError, match="unit 0 is committed already"):
                folder.publish_many([attempts[0], attempts[0]])
            assert folder.committed().units == set()

    def test_a_file_in_the_way_takes_the_whole_group_back(self, out):
        with OutputFolder.open(out, {}) as folder:
            (out / "timings/part-00001.parquet").write_text("mine")
            with pytest.raises(MachineryError, match="File exists"):
                folder.publish_many(self.attempts(out, range(3)))
            assert os.listdir(out / "data") == []
            assert (out / "timings/part-00001.parquet").read_text() == "mine"

    def test_several_threads(self, out):
        with OutputFolder.open(out, {}) as folder:
            attempts = self.attempts(out, range(40))
            with ThreadPoolExecutor(8) as pool:
                list(pool.map(folder.publish, attempts))
            assert len(folder.committed().made) == 40
        with OutputFolder.open(out, {}) as folder:
            assert len(folder.committed().made) == 40
