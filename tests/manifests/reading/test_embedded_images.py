"""Images inside a Parquet manifest: where they are is noted, and their bytes are read when they are needed."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from manifest_making import encoded, unit_of

from wanbatch.errors import RowError
from wanbatch.manifests.dataset.folder import OutputFolder
from wanbatch.manifests.dataset.part_files import write_attempt
from wanbatch.manifests.reading.manifest import read_manifest
from wanbatch.manifests.sources.loader import SourceLoader

IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


class TestEmbeddedImages:
    def check(self, path, expected):
        """expected: for each row, the widths of its images (None: a path)."""
        manifest = read_manifest(path)
        with SourceLoader(manifest.source_root) as loader:
            for row, widths in zip(manifest.iter_rows(), expected, strict=True):
                assert [s.embedded for s in row.sources] == [w is not None for w in widths]
                for source, width in zip(row.sources, widths, strict=True):
                    if width is not None:
                        assert loader.size(source) == (width, 8)
                        assert loader.load(source).pixels.shape == (8, width, 3)
        return manifest

    @pytest.mark.parametrize("nulls", ["none", "some", "all"])
    def test_structs(self, parquet, tmp_path, nulls):
        images, expected = [], []
        for n in range(90):
            if nulls == "all" or (nulls == "some" and n % 3 == 0):
                images.append({"bytes": None, "path": f"{n}.png"})
                expected.append([None])
            else:
                images.append({"bytes": encoded(n + 1, 8), "path": "/etc/passwd" if n % 2 else None})
                expected.append([n + 1])
        self.check(parquet({"image": pa.array(images, IMAGE)}, row_group_size=40), expected)

    def test_lists_with_nulls_and_empty_lists(self, parquet):
        lists, expected = [], []
        for n in range(50):
            embedded, path = {"bytes": encoded(n + 1, 8), "path": None}, {"bytes": None, "path": "a.png"}
            lists.append([[embedded], [path, embedded], [], None, [embedded, embedded, path]][n % 5])
            expected.append([[n + 1], [None, n + 1], [], [], [n + 1, n + 1, None]][n % 5])
        table = pa.table({"images": pa.array(lists, pa.list_(IMAGE)), "prompt": ["a"] * 50})
        manifest = self.check(parquet(table, row_group_size=17), expected)
        assert manifest.row(4).sources[0].weight == pytest.approx(1 / 3)

    def test_bytes_alone(self, parquet):
        kind = pa.struct([("bytes", pa.large_binary())])
        table = pa.table(
            {"image": pa.array([{"bytes": encoded(3, 8)}, {"bytes": None}, None], kind), "prompt": ["a"] * 3}
        )
        self.check(parquet(table), [[3], [], []])

    def test_lists_of_bytes_alone(self, parquet):
        kind = pa.list_(pa.struct([("bytes", pa.binary())]))
        table = pa.table({"images": pa.array([[{"bytes": encoded(3, 8)}] * 2, None], kind), "prompt": ["a"] * 2})
        self.check(parquet(table), [[3, 3], []])

    def test_a_null_in_a_list_is_named(self, parquet, problems):
        table = pa.table({"images": pa.array([[{"bytes": b"a", "path": None}, None]], pa.list_(IMAGE))})
        (found,) = problems(parquet(table))
        assert found == "shop.parquet row 0: has an image with neither bytes nor path: give one of them"

    def test_members_of_a_group_keep_their_own_places(self, parquet):
        images = pa.array([{"bytes": encoded(n + 1, 8), "path": None} for n in range(4)], IMAGE)
        manifest = read_manifest(parquet({"image": images, "blend_group": ["a", "b", "b", "a"]}))
        first, second = manifest.iter_rows()
        with SourceLoader(manifest.source_root) as loader:
            assert [loader.size(s)[0] for s in first.sources] == [1, 4]
            assert [loader.size(s)[0] for s in second.sources] == [2, 3]

    def test_going_back_and_forth_in_a_row_group_that_is_streamed(self, parquet, monkeypatch):
        monkeypatch.setattr("wanbatch.manifests.sources.embedded.WHOLE_GROUP_BYTES", 100)
        images = pa.array([{"bytes": encoded(n + 1, 8), "path": None} for n in range(100)], IMAGE)
        manifest = read_manifest(parquet({"image": images}, row_group_size=60))
        with SourceLoader(manifest.source_root) as loader:
            for index in (0, 1, 59, 60, 99, 3, 3, 2, 80, 17):
                assert loader.size(manifest.row(index).sources[0]) == (index + 1, 8)

    @pytest.mark.parametrize("held", [100, 1 << 30], ids=["streamed", "whole"])
    def test_a_damaged_page_spoils_only_what_it_must(self, parquet, monkeypatch, held):
        monkeypatch.setattr("wanbatch.manifests.sources.embedded.WHOLE_GROUP_BYTES", held)
        images = pa.array([{"bytes": encoded(n + 1, 8), "path": None} for n in range(128)], IMAGE)
        options = {"write_page_checksum": True, "data_page_size": 500, "write_batch_size": 8, "compression": "NONE"}
        path = parquet({"image": images}, row_group_size=64, use_dictionary=False, write_statistics=False, **options)
        manifest = read_manifest(path)
        raw = bytearray(path.read_bytes())
        raw[raw.index(encoded(41, 8)) + 50] ^= 1
        path.write_bytes(raw)
        with SourceLoader(manifest.source_root) as loader:
            good = (0, 5, 20) if held == 100 else ()
            for index in (*good, 40, 35, *good, 40, 70, 127):
                source = manifest.row(index).sources[0]
                try:
                    assert loader.size(source) == (index + 1, 8)
                except RowError as error:
                    failed = (index, error.kind)
                else:
                    failed = None
                assert failed is None or index in (35, 40)  # what is in the same batch may be lost with it
                assert index != 40 or failed == (40, "unreadable_image")

    def test_hugging_face_features_of_other_columns_are_kept(self, tmp_path):
        import datasets

        features = datasets.Features(
            {"prompt": datasets.Value("string"), "label": datasets.ClassLabel(names=["a", "b"])}
        )
        path = tmp_path / "shop.parquet"
        datasets.Dataset.from_dict({"prompt": ["x"], "label": [1]}, features=features).to_parquet(str(path))
        passed = read_manifest(path).passthrough
        with OutputFolder.open(tmp_path / "out", {}) as folder:
            folder.publish(write_attempt(folder.path, attempt="t", **unit_of(0, ["a"], passthrough=passed)))
        schema = pq.read_schema(tmp_path / "out/data/part-00000.parquet")
        kept = datasets.Features.from_arrow_schema(schema)
        assert kept["label"] == features["label"]
        assert isinstance(kept["image"], datasets.Image)
