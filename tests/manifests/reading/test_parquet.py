"""Parquet manifests: types, embedded images, folders, damage."""

import sys
from contextlib import suppress
from datetime import UTC, datetime
from decimal import Decimal

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from manifest_making import unit_of

from wanbatch.errors import UserError
from wanbatch.manifests.dataset.folder import OutputFolder
from wanbatch.manifests.dataset.part_files import write_attempt
from wanbatch.manifests.reading.manifest import read_manifest

IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def varied(rows: int) -> pa.Table:
    """Passthrough columns of many types, each with nulls."""
    when = datetime(2026, 3, 29, 1, 30, 0, 123456, tzinfo=UTC)
    values = {
        "tiny": pa.array([n % 100 if n % 3 else None for n in range(rows)], pa.int8()),
        "wide": pa.array([2**63 + n for n in range(rows)], pa.uint64()),
        "nested": pa.array([[[n], [], None] if n % 2 else None for n in range(rows)], pa.list_(pa.list_(pa.int16()))),
        "box": pa.array(
            [{"x": n / 3, "name": {"en": "é"}} if n % 5 else None for n in range(rows)],
            pa.struct([("x", pa.float32()), ("name", pa.struct([("en", pa.large_string())]))]),
        ),
        "when": pa.array([when] * rows, pa.timestamp("us", tz="Europe/Berlin")),
        "when_ns": pa.array([n if n % 7 else None for n in range(rows)], pa.timestamp("ns")),
        "price": pa.array([Decimal(n).scaleb(-2) for n in range(rows)], pa.decimal128(12, 2)),
        "kind": pa.array([["cup", "pan", None][n % 3] for n in range(rows)]).dictionary_encode(),
        "day": pa.array([n for n in range(rows)], pa.date32()),
        "flag": pa.array([None if n % 4 == 0 else n % 2 == 0 for n in range(rows)]),
        "blob": pa.array([bytes([n % 256]) for n in range(rows)], pa.large_binary()),
        "nothing": pa.nulls(rows),
        "nan": pa.array([float("nan")] * rows),
        "map": pa.array([[("k", n)] for n in range(rows)], pa.map_(pa.string(), pa.int64())),
        "dotted.name": pa.array(range(rows)),
    }
    return pa.table(values)


def test_passthrough_columns_survive_into_a_data_part(parquet, tmp_path):
    columns = varied(300)
    path = parquet(columns.append_column("prompt", pa.array(["a cup"] * 300)), row_group_size=77)
    manifest = read_manifest(path)
    assert manifest.passthrough.schema.equals(columns.schema)
    with OutputFolder.open(tmp_path / "out", {}) as folder:
        names = [row.id for row in manifest.iter_rows()]
        for unit, start in enumerate(range(0, 300, 130)):
            part = unit_of(unit, names[start : start + 130], passthrough=manifest.passthrough.slice(start, 130))
            folder.publish(write_attempt(folder.path, attempt="t", **part))
    for unit, start in enumerate(range(0, 300, 130)):
        written = pq.read_table(tmp_path / "out" / "data" / f"part-{unit:05d}.parquet")
        carried, expected = written.select(columns.column_names), columns.slice(start, 130)
        assert carried.schema.equals(expected.schema)
        for name in columns.column_names:
            if name == "nan":
                assert all(value != value for value in carried[name].to_pylist())
            elif name == "kind":
                assert carried[name].to_pylist() == expected[name].to_pylist()
            else:
                assert carried[name].combine_chunks().equals(expected[name].combine_chunks()), name


def test_pandas_writes_manifests_that_are_read(tmp_path):
    frame = pd.DataFrame(
        {
            "prompt": ["a", None, "c"],
            "image": [None, "b.png", "c.png"],
            "creativity": [None, 0.5, 1.0],
            "seed": [1, None, 3],
            "width": [64.0, None, 64.0],
            "height": pd.array([64, None, 64], dtype="Int64"),
            "style": pd.Categorical(["ink", None, "ink"]),
        }
    )
    frame.to_parquet(tmp_path / "shop.parquet")
    rows = list(read_manifest(tmp_path / "shop.parquet").iter_rows())
    assert [row.prompt for row in rows] == ["a", None, "c"]
    assert [row.seed for row in rows] == [1, None, 3]
    assert [(row.width, row.height, row.style) for row in rows] == [
        (64, 64, "ink"),
        (None, None, None),
        (64, 64, "ink"),
    ]
    assert [row.creativity for row in rows] == [None, 0.5, 1.0]
    assert rows[2].location.endswith("shop.parquet row 2")


@pytest.mark.parametrize("kind", [pa.list_(pa.float32()), pa.large_list(pa.float64()), pa.list_(pa.float32(), 2)])
def test_sigmas_are_lists_of_any_kind(tmp_path, kind):
    sigmas = pa.array([[1, 0.5], None, [0.75, 0.25]], kind)
    columns = {"prompt": ["a"] * 3, "sigmas": sigmas, "schedule": [None, "beta", None]}
    pq.write_table(pa.table(columns), tmp_path / "shop.parquet")
    rows = list(read_manifest(tmp_path / "shop.parquet").iter_rows())
    assert [row.sigmas for row in rows] == [(1.0, 0.5), None, (0.75, 0.25)]
    assert [row.schedule for row in rows] == [None, "beta", None]


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"prompt": ["a"], "sigmas": [["1"]]}, ": column 'sigmas' is list<"),
        ({"prompt": ["a"], "sigmas": [0.5]}, ": column 'sigmas' is double: must be a list of numbers"),
        (
            {"prompt": ["a"] * 2, "sigmas": [[1, 0.5], [0.5, 1]]},
            "row 1: sigmas is [0.5, 1.0]: must be a list of noise",
        ),
        ({"prompt": ["a"] * 3, "steps": [4, 4.5, 4]}, "row 1: steps is 4.5: must be an integer"),
        ({"prompt": ["a"] * 3, "guidance": [1, float("nan"), 2]}, "row 1: guidance is nan: must be a finite"),
        ({"prompt": ["a"] * 3, "id": ["x", "y", "x"]}, "row 2: id 'x' is already at"),
        ({"prompt": ["a", None, "b"]}, "row 1: asks for nothing"),
        ({"prompt": ["a"], "steps": ["4"]}, ": column 'steps' is string: must be a number; cast the column"),
        ({"prompt": ["a"], "seed": [True]}, ": column 'seed' is bool: must be a number"),
        ({"prompt": [1]}, ": column 'prompt' is int64: must be text"),
        ({"prompt": ["a"], "image": [7]}, ": column 'image' is int64: must be paths (text), encoded images (binary)"),
        ({"image": [{"data": b"a", "url": "b"}]}, ": column 'image' is struct<data: binary, url: string>"),
        ({"image": [{"bytes": "a", "path": "b"}]}, ": column 'image' is struct<bytes: string, path: string>"),
        ({"prompt": ["a"], "loras": [[{"name": "a", "wieght": 1.0}]]}, "structs with name (text) and weight"),
        ({"prompt": ["a"], "blend_weights": [["1"]]}, "must be a list of numbers"),
        ({"prompt": ["a"], "model": ["b"]}, ": column 'model' is also one that wanbatch writes: rename it"),
        ({"image": ["../a.png"]}, "row 0: image '../a.png' leaves the folder"),
        ({"image": [{"bytes": None, "path": "/etc/passwd"}]}, "row 0: image '/etc/passwd' is outside the folder"),
    ],
)
def test_bad_columns_and_rows_are_named(parquet, problems, columns, said):
    (found,) = problems(parquet(columns, row_group_size=2))
    assert found.startswith("shop.parquet")
    assert said in found


def test_twice_the_same_column(tmp_path, problems):
    table = pa.Table.from_arrays([pa.array(["a"]), pa.array(["b"])], names=["prompt", "prompt"])
    pq.write_table(table, tmp_path / "shop.parquet")
    assert problems(tmp_path / "shop.parquet") == ["shop.parquet: column 'prompt' is there 2 times: keep one"]


@pytest.mark.parametrize(
    ("name", "values", "more"),
    [
        ("image", pa.array(["a.png"]), []),
        ("images", pa.array([[{"bytes": b"x", "path": None}]]), []),
        (
            "steps",
            pa.array(["two"]),
            ["shop.parquet: column 'steps' is string: must be a number; cast the column"],
        ),
        ("label", pa.array(["a"]), []),
    ],
)
def test_any_column_that_is_there_twice(tmp_path, problems, name, values, more):
    """Columns of images are looked at before the others; what else is wrong with both is said once."""
    table = pa.Table.from_arrays([pa.array(["a"]), values, values], names=["prompt", name, name])
    pq.write_table(table, tmp_path / "shop.parquet")
    assert problems(tmp_path / "shop.parquet") == [f"shop.parquet: column {name!r} is there 2 times: keep one", *more]


@pytest.mark.parametrize(
    "column",
    [
        pa.array([b"0123456789abcdef"], pa.uuid()),
        pa.ExtensionArray.from_storage(
            pa.fixed_shape_tensor(pa.int8(), (2,)), pa.array([[1, 2]], pa.list_(pa.int8(), 2))
        ),
        pa.ListArray.from_arrays([0, 1], pa.ExtensionArray.from_storage(pa.json_(), pa.array(["{}"]))),
    ],
    ids=["uuid", "tensor", "nested"],
)
def test_extension_types_are_refused(parquet, problems, column):
    table = pa.table({"prompt": ["a"], "odd": column})
    (found,) = problems(parquet(table))
    assert "shop.parquet: column 'odd' has the extension type" in found


def test_extension_types_that_nobody_knows_are_refused(parquet, problems):
    field = pa.field("odd", pa.int64(), metadata={"ARROW:extension:name": "somebody.else"})
    table = pa.Table.from_arrays([["a"], [1]], schema=pa.schema([("prompt", pa.string()), field]))
    assert "has the extension type" in problems(parquet(table))[0]


class TestFolders:
    def test_files_are_read_in_order_and_private_ones_left_out(self, tmp_path):
        for name, prompts in (("b.parquet", ["3"]), ("a.parquet", ["1", "2"]), ("_c.parquet", ["no"])):
            pq.write_table(
                pa.table({"prompt": prompts, "n": [int(p) if p.isdigit() else 0 for p in prompts]}), tmp_path / name
            )
        (tmp_path / "notes.txt").write_text("x")
        manifest = read_manifest(tmp_path)
        assert [(row.id, row.prompt) for row in manifest.iter_rows()] == [
            ("00000000", "1"),
            ("00000001", "2"),
            ("00000002", "3"),
        ]
        assert manifest.row(2).location == f"{tmp_path}/b.parquet row 0"
        assert manifest.passthrough["n"].to_pylist() == [1, 2, 3]
        assert manifest.source_root == tmp_path

    def test_columns_in_another_order_and_other_types(self, tmp_path):
        pq.write_table(pa.table({"prompt": ["1"], "m": [1], "n": ["x"]}), tmp_path / "a.parquet")
        pq.write_table(pa.table({"n": ["y"], "m": [2], "prompt": ["2"]}), tmp_path / "b.parquet")
        assert read_manifest(tmp_path).passthrough.to_pydict() == {"m": [1, 2], "n": ["x", "y"]}
        pq.write_table(pa.table({"n": [1], "o": [2], "prompt": ["2"]}), tmp_path / "c.parquet")
        with pytest.raises(UserError) as caught:
            read_manifest(tmp_path)
        assert [str(p).split(": ", 1)[1] for p in caught.value.problems] == [
            f"column 'n' is int64, but string in {tmp_path}/a.parquet: cast it",
        ]


class TestDamage:
    def test_no_parquet_at_all(self, tmp_path):
        for content in (b"", b"PAR1", b"hello" * 100, b"PAR1" + b"\0" * 100 + b"PAR1"):
            path = tmp_path / "shop.parquet"
            path.write_bytes(content)
            with pytest.raises(UserError, match=r"shop\.parquet: cannot be read as Parquet \(.*write the file again"):
                read_manifest(path)

    @pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
    def test_a_file_that_the_system_does_not_let_be_read_is_not_called_damaged(self, tmp_path):
        pq.write_table(pa.table({"prompt": ["a"]}), tmp_path / "a.parquet")
        (tmp_path / "b.parquet").symlink_to("/proc/self/mem")  # the first read of it fails
        with pytest.raises(UserError, match=rf"^{tmp_path}/b\.parquet: cannot be read \([A-Z][a-z /]+\)$"):
            read_manifest(tmp_path)

    def test_no_rows(self, parquet):
        with pytest.raises(UserError, match="has no rows"):
            read_manifest(parquet({"prompt": pa.array([], pa.string())}))

    def test_truncated(self, parquet):
        path = parquet({"prompt": [f"prompt {n}" for n in range(1000)]})
        raw = path.read_bytes()
        for length in (len(raw) - 1, len(raw) // 2, 12):
            path.write_bytes(raw[:length])
            with pytest.raises(UserError, match="cannot be read as Parquet"):
                read_manifest(path)

    def test_a_flipped_bit_in_a_page_is_found(self, parquet):
        path = parquet({"prompt": [f"prompt {n}" for n in range(1000)]}, write_page_checksum=True, compression="NONE")
        raw = bytearray(path.read_bytes())
        raw[raw.index(b"prompt 500")] ^= 1
        path.write_bytes(raw)
        with pytest.raises(UserError, match="CRC checksum"):
            read_manifest(path)

    def test_every_flip_is_read_or_refused(self, parquet):
        path = parquet(varied(20).append_column("prompt", pa.array(["a"] * 20)))
        raw = path.read_bytes()
        for place in range(0, len(raw), 37):
            flipped = bytearray(raw)
            flipped[place] ^= 0x55
            path.write_bytes(flipped)
            with suppress(UserError):
                assert len(read_manifest(path)) > 0

    def test_text_that_is_not_utf8(self, parquet):
        bad = pa.array([b"ok", b"\xff\xfe"]).cast(pa.binary()).view(pa.string())
        for column in ("prompt", "other"):
            with pytest.raises(UserError, match="cannot be read as Parquet"):
                read_manifest(parquet({"prompt": ["a", "b"], column: bad}))
