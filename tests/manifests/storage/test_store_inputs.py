"""Manifests and sources in an object store."""

import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from manifest_making import encoded, unit_of
from output_folders import publish
from PIL import Image
from png_making import chunk, saved, with_chunk
from store_folders import put

from wanbatch.errors import RowError, UserError
from wanbatch.manifests.dataset.folder import OutputFolder
from wanbatch.manifests.dataset.part_files import write_attempt
from wanbatch.manifests.dataset.status import committed_rows
from wanbatch.manifests.reading.manifest import read_manifest
from wanbatch.manifests.records import Source
from wanbatch.manifests.sources.loader import SourceLoader

SUPPORT = Path(__file__).parents[2] / "support"


class TestInputs:
    def test_a_manifest_of_lines(self, bucket):
        put(f"{bucket}/shop.jsonl", b'{"prompt": "a", "image": "a.png"}\n{"prompt": 1}\n')
        with pytest.raises(UserError, match=r"shop\.jsonl:2: prompt is 1"):
            read_manifest(f"{bucket}/shop.jsonl")
        put(f"{bucket}/shop.jsonl", f'{{"image": "{bucket}/img/a.png", "x": 1}}\n{{"image": "img/a.png"}}\n'.encode())
        manifest = read_manifest(f"{bucket}/shop.jsonl")
        assert (manifest.source_root, manifest.path) == (bucket, f"{bucket}/shop.jsonl")
        assert manifest.row(1).location == f"{bucket}/shop.jsonl:2"
        put(f"{bucket}/img/a.png", encoded(8, 4))
        with SourceLoader(manifest.source_root) as loader:
            assert [loader.size(row.sources[0]) for row in manifest.iter_rows()] == [(8, 4), (8, 4)]

    def test_parquet_with_embedded_images(self, bucket):
        table = pa.table({"image": [{"bytes": encoded(8, 4), "path": None}, {"bytes": encoded(4, 8), "path": "x"}]})
        for name in ("a.parquet", "b.parquet"):
            buffer = io.BytesIO()
            pq.write_table(table, buffer)
            put(f"{bucket}/shop/{name}", buffer.getvalue())
        manifest = read_manifest(f"{bucket}/shop")
        assert len(manifest) == 4
        assert manifest.row(3).location == f"{bucket}/shop/b.parquet row 1"
        with SourceLoader(manifest.source_root) as loader:
            assert [loader.size(row.sources[0]) for row in manifest.iter_rows()] == [(8, 4), (4, 8)] * 2
        with pytest.raises(UserError, match="there is no such manifest"):
            read_manifest(f"{bucket}/none.jsonl")
        put(f"{bucket}/bad.parquet", b"nothing of the kind")
        with pytest.raises(UserError, match="cannot be read as Parquet"):
            read_manifest(f"{bucket}/bad.parquet")

    def test_a_local_manifest_with_sources_in_a_store(self, bucket, jsonl, problems):
        path = jsonl({"image": "deep/a.png"})
        put(f"{bucket}/deep/a.png", encoded())
        manifest = read_manifest(path, source_root=bucket)
        with SourceLoader(bucket) as loader:
            assert loader.load(manifest.row(0).sources[0]).pixels.shape == (32, 32, 3)
        (found,) = problems(jsonl({"image": f"{bucket}/deep/a.png"}))
        assert "set --source-root to the folder in the store" in found

    def test_an_output_folder_as_far_as_it_is_committed(self, bucket):
        with OutputFolder.open(f"{bucket}/first", {}) as folder:
            folder.set_plan({"rows": 3})
            publish(folder, 0, ["a", "b"])
            write_attempt(folder.url, attempt="late", **unit_of(1, ["c"]))
            manifest = read_manifest(f"{bucket}/first", committed_rows=committed_rows)
        assert [(row.id, row.sources[0].path) for row in manifest.iter_rows()] == [("a", "a.png"), ("b", "b.png")]
        assert "holds 2 of 3 images so far" in manifest.warnings[0]
        with SourceLoader(manifest.source_root) as loader:
            assert loader.size(manifest.row(1).sources[0]) == (32, 32)

    def test_a_folder_of_pictures_without_the_output_folders_in_it(self, bucket):
        for name in ("a.png", "cats/b.png", "out/data/c.png", ".d.png", "_old/e.png"):
            put(f"{bucket}/photos/{name}", encoded())
        put(f"{bucket}/photos/a.txt", b"a star")
        put(f"{bucket}/photos/out/_wanbatch/run.json", b"{}")
        manifest = read_manifest(f"{bucket}/photos")
        assert [(row.id, row.prompt) for row in manifest.iter_rows()] == [("a", "a star"), ("cats-b", None)]
        assert manifest.row(1).location == f"{bucket}/photos/cats/b.png"
        with SourceLoader(manifest.source_root) as loader:
            assert loader.size(manifest.row(1).sources[0]) == (32, 32)

    @pytest.mark.parametrize(
        "path",
        [
            "../a.png",
            "x/../../a.png",
            "/etc/hostname",
            "s3://bucket/secret.png",
            "s3://other/a.png",
            "file:///etc/passwd",
        ],
    )
    def test_paths_that_leave(self, bucket, path, server):
        put("s3://bucket/secret.png", encoded())
        server.log.clear()
        with SourceLoader(bucket) as loader, pytest.raises(RowError) as caught:
            loader.load(Source(path))
        assert caught.value.kind == "forbidden_source"
        assert server.log == []

    def test_what_is_missing_or_too_large(self, bucket, server):
        put(f"{bucket}/a.png", encoded())
        with SourceLoader(bucket, max_bytes=50) as loader:
            for path, kind in (("none.png", "missing_image"), ("a.png", "too_large")):
                server.log.clear()
                with pytest.raises(RowError) as caught:
                    loader.load(Source(path))
                assert caught.value.kind == kind
                assert not any(line.startswith("GET") and "a.png" in line for line in server.log)

    @pytest.mark.parametrize("note", [b"", b"note\0" + b"x" * 100_000], ids=["at the end", "before a long text"])
    def test_a_large_png_is_measured_by_few_requests_wherever_it_says_how_it_is_turned(self, bucket, server, note):
        noise = np.random.default_rng(1).integers(0, 256, (300, 400, 3), dtype=np.uint8)
        turned = chunk(b"eXIf", b"MM\0*\0\0\0\x08\0\1\1\x12\0\3\0\0\0\1\0\6\0\0\0\0\0\0")
        data = with_chunk(
            saved(Image.fromarray(noise), "PNG"), turned + (chunk(b"tEXt", note) if note else b""), late=True
        )
        put(f"{bucket}/a.png", data)
        server.log.clear()
        with SourceLoader(bucket) as loader:
            assert loader.size(Source("a.png")) == (300, 400)
            assert sum(line.startswith("GET") and "a.png" in line for line in server.log) <= 3
            assert loader.load(Source("a.png")).pixels.shape == (400, 300, 3)

    def test_other_spellings_are_found(self, bucket):
        put(f"{bucket}/images/cats/caf\u00e9.png", encoded(8, 4))
        with SourceLoader(f"{bucket}/images", fence=bucket) as loader:
            for path in ("cats\\caf\u00e9.png", "cats/cafe\u0301.png", "../images/cats/caf\u00e9.png"):
                assert loader.size(Source(path)) == (8, 4)
            with pytest.raises(RowError, match=f"does not exist in {bucket}/images"):
                loader.size(Source("cats\\none.png"))
