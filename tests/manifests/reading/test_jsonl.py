"""JSONL manifests: what is read, and every kind of bad line with its exact place."""

import json

import pytest

from wanbatch.errors import ManifestError, UserError
from wanbatch.manifests.reading.manifest import read_manifest
from wanbatch.manifests.records import Lora, Source

GOOD = {"prompt": "a red heart"}


def test_every_column_is_read(jsonl):
    full = {
        "id": "first.one",
        "prompt": "a heart ♥",
        "negative_prompt": "",
        "images": ["a.png", {"path": "b/c.png"}, {"bytes": None, "path": "d.webp"}],
        "blend_weights": [1, 2, 1],
        "creativity": 1,
        "seed": 2**63 - 1,
        "width": 64.0,
        "height": 96,
        "steps": 12,
        "guidance": 0,
        "shift": 3.5,
        "sampler": "euler",
        "schedule": "karras",
        "style": "ink",
        "loras": [{"name": "ink", "weight": -0.5}, {"name": "oil"}],
        "num_images": 3,
        "audio": "sounds/rain.wav",
    }
    manifest = read_manifest(jsonl(full, "", "   ", {"image": "x.png", "creativity": None, "sigmas": [1, 0.5]}))
    first, second = manifest.iter_rows()
    assert first.sources == (Source("a.png", 0.25), Source("b/c.png", 0.5), Source("d.webp", 0.25))
    assert (first.id, first.number, first.location) == ("first.one", 0, f"{manifest.path}:1")
    assert (first.prompt, first.negative_prompt, first.creativity) == ("a heart ♥", "", 1.0)
    assert (first.seed, first.width, first.height, first.steps) == (2**63 - 1, 64, 96, 12)
    assert (first.guidance, first.shift, first.sampler, first.style) == (0.0, 3.5, "euler", "ink")
    assert (first.schedule, first.sigmas, second.schedule, second.sigmas) == ("karras", None, None, (1.0, 0.5))
    assert first.loras == (Lora("ink", -0.5), Lora("oil", 1.0))
    assert first.audio == Source("sounds/rain.wav")
    assert list(first.image_ids()) == ["first.one-0", "first.one-1", "first.one-2"]
    assert (second.id, second.number, second.location) == ("00000001", 1, f"{manifest.path}:4")
    assert (second.creativity, second.num_images, list(second.image_ids())) == (None, 1, ["00000001"])
    assert manifest.row(1) == second
    assert len(manifest) == manifest.manifest_rows == 2


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({**GOOD, "creativity": 1.3, "image": "a.png"}, "creativity is 1.3: must be a number from 0"),
        ({**GOOD, "creativity": 1.0001, "image": "a.png"}, "creativity is 1.0001: must be"),
        ({**GOOD, "creativity": True}, "creativity is True: must be a number"),
        ({**GOOD, "creativity": "0.5"}, "creativity is '0.5': must be a number"),
        ({**GOOD, "creativity": 0.5}, "there is no source image: give an image, or drop creativity"),
        ({**GOOD, "width": 100, "height": 64}, "width is 100: must be a multiple of 16"),
        ({**GOOD, "width": 64}, "width is given without height: give both"),
        ({**GOOD, "width": 8192, "height": 64}, "width is 8192: must be a multiple of 16 from 16 to 4096"),
        ({**GOOD, "steps": 0}, "steps is 0: must be an integer from 1 to 1000"),
        ({**GOOD, "steps": 4.5}, "steps is 4.5: must be an integer"),
        ({**GOOD, "guidance": -1}, "guidance is -1: must be a finite number, 0 or more"),
        ({**GOOD, "shift": 0}, "shift is 0: must be a number from 0.01 to 100"),
        ({**GOOD, "seed": -1}, "seed is -1: must be an integer from 0"),
        ({**GOOD, "seed": 2**63}, "seed is 9223372036854775808: must be"),
        ({**GOOD, "seed": 10**30}, "seed is 1000000000000000000000000000000: must be"),
        ({**GOOD, "num_images": 1001}, "num_images is 1001: must be"),
        ({**GOOD, "sampler": ""}, "sampler is '': must be a name"),
        ({**GOOD, "schedule": 3}, "schedule is 3: must be a name"),
        ({**GOOD, "sigmas": 0.5}, "sigmas is 0.5: must be a list of noise levels in (0, 1]"),
        ({**GOOD, "sigmas": [0.5, "0.2"]}, "sigmas[1] is '0.2': must be a list of noise levels"),
        ({**GOOD, "sigmas": [0.5, None]}, "sigmas[1] is None: must be a list of noise levels"),
        ({**GOOD, "sigmas": [0.5, 0.5]}, "each at least 0.00001 below the one before, without the final 0"),
        ({**GOOD, "sigmas": [0.000001]}, "each at least 0.00001 below the one before, without the final 0"),
        ({**GOOD, "sigmas": [0.5], "shift": 3}, "has both sigmas and shift: sigmas say every noise level"),
        ({"prompt": 3}, "prompt is 3: must be Unicode text"),
        ({"prompt": "a\x00b"}, "must be Unicode text of at most 32768 characters, without NUL"),
        ({"prompt": "\ud800"}, "must be Unicode text"),
        ({"image": "\ud800.png"}, "image.path is '\\ud800.png': must be text"),
        ({**GOOD, "\ud800": 1}, "column '\\ud800' has a name that is not Unicode text"),
        ({}, "asks for nothing: give a prompt, image, images, audio or blend_group"),
        ({"images": []}, "asks for nothing"),
        ({"image": "a.png", "images": ["b.png"]}, "has both image and images"),
        ({"images": ["a.png", "b.png"], "blend_weights": [1]}, "has 1 blend_weights for 2 images"),
        ({"images": ["a.png", "b.png"], "blend_weights": [1, 0]}, "blend_weights[1] is 0: must be"),
        ({"images": ["a.png", None]}, "images[1] is None: must be a path"),
        ({"image": {"path": None}}, "has an image with neither bytes nor path"),
        ({"image": {"bytes": "iVBOR"}}, "embedded images need a Parquet manifest"),
        ({"image": {"url": "x"}}, "image.url is unknown; known are path, bytes"),
        ({**GOOD, "loras": [{"name": "a", "wieght": 1}]}, "loras[0].wieght is unknown; known are name, weight"),
        ({**GOOD, "loras": [{"weight": 1}]}, "loras[0].name is missing"),
        (
            {**GOOD, "loras": "ink"},
            "loras is 'ink': must be a list of {name, weight}; for one adapter in full write style, 'ink', instead",
        ),
        ({**GOOD, "blend_weight": 2}, "has a blend_weight but no blend_group"),
        ({**GOOD, "id": "a/../b"}, "id is 'a/../b': must be 1 to 128 of the characters"),
        ({**GOOD, "id": ".."}, "id is '..': must be"),
        ({**GOOD, "id": "a\n"}, "id is 'a\\n': must be"),
        ({**GOOD, "id": "x" * 129}, "must be 1 to 128 of the characters"),
        ({**GOOD, "sha256": "ab"}, "column 'sha256' is also one that wanbatch writes: rename it"),
    ],
)
def test_a_bad_row_is_named_with_its_line_and_remedy(jsonl, problems, row, said):
    found = problems(jsonl(GOOD, "", row, GOOD))
    assert len(found) == 1
    assert found[0].startswith("shop.jsonl:3: ")
    assert said in found[0]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{nope", "is not JSON (Expecting property name enclosed in double quotes at character 2)"),
        ('{"prompt": "a", "guidance": NaN}', "NaN is not a JSON number"),
        ('{"prompt": "a", "score": -Infinity}', "-Infinity is not a JSON number"),
        ('{"prompt": "a", "guidance": 1e999}', "guidance is inf: must be a finite number"),
        ('{"prompt": "a", "prompt": "b"}', "the key 'prompt' is there twice"),
        ('{"prompt": "a", "meta": {"k": 1, "k": 2}}', "the key 'k' is there twice"),
        ('["a", "b"]', "is a list, not an object"),
        ("null", "is null, not an object"),
        ("7", "is a number, not an object"),
        (b'{"prompt": "\xff"}', "is not UTF-8 text (byte 13)"),
        (b'{"prompt": "a"}\0\0\0\0', "holds NUL bytes"),
        ("[" * 100_000, "is nested too deeply"),
        ('{"prompt": "' + "x" * (9 << 20) + '"}', "is longer than 8 MiB"),
        (
            '{"prompt": "a", "seed": ' + "9" * 5000 + "}",
            "has a whole number of thousands of digits: write it as text",
        ),
    ],
    ids=range(14),
)
def test_a_line_that_is_not_a_json_object_is_named(jsonl, problems, line, said):
    found = problems(jsonl(*[GOOD] * 6, line, GOOD))
    assert len(found) == 1
    assert found[0].startswith("shop.jsonl:7: ")
    assert said in found[0]
    assert len(found[0]) < 300


def test_a_cut_last_line_is_named_as_such(tmp_path, problems):
    path = tmp_path / "shop.jsonl"
    path.write_text('{"prompt": "a"}\n{"prompt": "b')
    (found,) = problems(path)
    assert found.startswith("shop.jsonl:2: ")
    assert "the file's last line seems to be cut off" in found


def test_all_problems_are_reported_at_once_in_order(jsonl, problems):
    rows = [
        {**GOOD, "id": "a", "steps": 0, "guidance": -1},
        {**GOOD, "id": "b"},
        "nonsense",
        {**GOOD, "id": "b"},
        {"image": "/etc/passwd"},
    ]
    found = problems(jsonl(*rows))
    assert [text.split(": ")[0] for text in found] == [f"shop.jsonl:{n}" for n in (1, 1, 3, 4, 5)]
    assert "id 'b' is already at" in found[3]
    assert "shop.jsonl:2: give each row its own" in found[3]


def test_thousands_of_problems_end_in_a_bounded_report(jsonl):
    with pytest.raises(ManifestError) as caught:
        read_manifest(jsonl(*[{"steps": 0}] * 20_000))
    assert len(caught.value.problems) == 10_001
    assert "... and 9981 more" in str(caught.value)


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([{"id": "a", "num_images": 2}, {"id": "a-1"}], "id 'a-1' is also image 1 of 'a' (num_images 2)"),
        ([{"id": "00000001"}, {}], "id '00000001' is already at"),
    ],
)
def test_ids_may_not_meet_after_expansion(jsonl, problems, rows, said):
    (found,) = problems(jsonl(*[{**GOOD, **row} for row in rows]))
    assert found.startswith("shop.jsonl:2: ")
    assert said in found


def test_ids_that_only_look_alike_are_fine(jsonl):
    rows = [{"id": "a", "num_images": 2}, {"id": "a-2"}, {"id": "a-01"}, {"id": "b-0"}, {"id": "a-0-0"}]
    assert len(read_manifest(jsonl(*[{**GOOD, **row} for row in rows]))) == 5


def test_a_byte_order_mark_is_accepted_and_utf16_is_named(tmp_path):
    path = tmp_path / "shop.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(GOOD).encode())
    assert read_manifest(path).row(0).prompt == "a red heart"
    path.write_bytes(json.dumps(GOOD).encode("utf-16"))
    with pytest.raises(UserError, match="UTF-16 text: save it as UTF-8"):
        read_manifest(path)


def test_missing_empty_and_unknown_files(tmp_path):
    with pytest.raises(UserError, match=r"none\.jsonl: there is no such manifest"):
        read_manifest(tmp_path / "none.jsonl")
    (tmp_path / "empty.jsonl").write_bytes(b"\n\n")
    with pytest.raises(UserError, match="has no rows"):
        read_manifest(tmp_path / "empty.jsonl")
    (tmp_path / "rows.dat").write_text("prompt\na\n")
    with pytest.raises(UserError, match=r"is not a manifest: give .*\.parquet.*\.jsonl.*\.csv"):
        read_manifest(tmp_path / "rows.dat")
    (tmp_path / "sub").mkdir()
    with pytest.raises(UserError, match="is a folder without a manifest: give"):
        read_manifest(tmp_path / "sub")


class TestPassthrough:
    def test_types_are_inferred_and_values_kept(self, jsonl):
        rows = [
            {**GOOD, "label": None, "score": 1, "tags": [], "meta": {"a": 1}},
            {**GOOD, "label": 7, "score": 2.5, "tags": ["x"], "meta": {"b": None}},
            {**GOOD, "label": 8},
        ]
        passed = read_manifest(jsonl(*rows)).passthrough
        assert {f.name: str(f.type) for f in passed.schema} == {
            "label": "int64",
            "score": "double",
            "tags": "list<item: string>",
            "meta": "struct<a: int64, b: null>",
        }
        assert passed["score"].to_pylist() == [1.0, 2.5, None]
        assert passed["tags"].to_pylist() == [[], ["x"], None]

    @pytest.mark.parametrize("distance", [3, 10_000])
    def test_the_first_line_that_disagrees_is_named(self, jsonl, problems, distance):
        rows = [{**GOOD, "label": 1}] * distance + [{**GOOD, "label": "one"}, {**GOOD, "label": 2}]
        (found,) = problems(jsonl(*rows))
        assert found.startswith(f"shop.jsonl:{distance + 1}: column 'label' is 'one' here but int64")
        assert "(from line 1)" in found

    @pytest.mark.parametrize(
        ("values", "line", "said"),
        [
            ([1, True], 2, "column 'x' is True here but int64"),
            ([10**30], 1, "column 'x' cannot store 1000"),
            (["\ud800"], 1, "cannot store"),
            ([[1, "a"]], 1, "cannot store [1, 'a']"),
            ([None, {}], 1, "holds empty objects, which Parquet cannot store"),
            ([json.loads("[" * 40 + "]" * 40)], 1, "nested more than 32 levels"),
        ],
    )
    def test_what_has_no_type_is_named(self, jsonl, problems, values, line, said):
        (found,) = problems(jsonl(*[{**GOOD, "x": value} for value in values]))
        assert found.startswith(f"shop.jsonl:{line}: ")
        assert said in found

    @pytest.mark.parametrize("distance", [8192, 9000])
    def test_integers_that_a_float_column_would_round_are_named(self, jsonl, problems, distance):
        rows = [{**GOOD, "x": 2**60 + 1}] * distance + [{**GOOD, "x": 0.5}]
        (found,) = problems(jsonl(*rows))
        assert "column 'x' has values that no one type holds exactly" in found

    def test_no_other_columns(self, jsonl):
        passed = read_manifest(jsonl(GOOD, GOOD)).passthrough
        assert (passed.num_columns, passed.num_rows) == (0, 2)

    def test_too_many_columns(self, jsonl, problems):
        (found, *_) = problems(jsonl({**GOOD, **{f"c{n}": n for n in range(1001)}}))
        assert "is one more than the 1000 allowed" in found


class TestPaths:
    @pytest.mark.parametrize(
        ("path", "said"),
        [
            ("../up.png", "leaves the folder"),
            ("a/../../b.png", "leaves the folder"),
            ("/etc/passwd", "is outside the folder"),
            ("a\x00.png", "holds a NUL character"),
            ("", "is empty"),
            ("file:///etc/passwd", "is a file: address"),
            ("FILE:/etc/passwd", "is a file: address"),
            ("http://169.254.169.254/x", "needs --allow-http: give that"),
            ("HTTPS://example.org/a.png", "needs --allow-http"),
            ("s3://bucket/a.png", "set --source-root to the folder in the store"),
            ("data:image/png;base64,AAAA", "is a data: address"),
        ],
    )
    @pytest.mark.parametrize("column", ["image", "audio"])
    def test_paths_that_leave_are_refused_with_their_line(self, jsonl, problems, path, said, column):
        (found,) = problems(jsonl(GOOD, {**GOOD, column: path}))
        assert found.startswith("shop.jsonl:2: ")
        assert said in found

    def test_a_null_bytes_struct_is_held_to_the_same_rules(self, jsonl, problems):
        (found,) = problems(jsonl({"images": ["a.png", {"bytes": None, "path": "/etc/passwd"}]}))
        assert "is outside the folder" in found
        assert "--source-fence /etc" in found

    def test_inside_the_root_absolute_is_fine(self, jsonl, tmp_path):
        path = jsonl({"image": str(tmp_path / "a.png")}, {"image": "b..c/d.png"}, {"image": "a/../b.png"})
        assert len(read_manifest(path)) == 3

    def test_the_root_can_be_another_folder(self, jsonl, tmp_path, problems):
        root = tmp_path / "pictures"
        root.mkdir()
        path = jsonl({"image": str(root / "a.png")})
        assert read_manifest(path, source_root=root).source_root == root
        path = jsonl({"image": str(tmp_path / "a.png")})
        assert "is outside the folder" in problems(path, source_root=root)[0]
        with pytest.raises(UserError, match="is not a folder"):
            read_manifest(path, source_root=tmp_path / "none")


def test_the_digest_follows_the_content(jsonl):
    one = read_manifest(jsonl(GOOD)).digest
    assert one == read_manifest(jsonl(GOOD)).digest
    assert one != read_manifest(jsonl(GOOD, GOOD)).digest


def test_further_checks_are_part_of_the_same_report(jsonl):
    path = jsonl({**GOOD, "creativity": 2}, {**GOOD, "sampler": "magic"}, {**GOOD, "id": "a/b"})

    def check(rows):
        yield from (
            (i, "sampler is no good") for i, name in enumerate(rows["sampler"].to_pylist()) if name == "magic"
        )

    with pytest.raises(ManifestError) as caught:
        read_manifest(path, check=check)
    assert [problem.location for problem in caught.value.problems] == [f"{path}:1", f"{path}:2", f"{path}:3"]
    assert caught.value.problems[1].message == "sampler is no good"


def test_the_case_of_a_suffix_plays_no_part(tmp_path):
    (tmp_path / "M.JSONL").write_text('{"prompt": "x"}\n')
    assert len(read_manifest(tmp_path / "M.JSONL")) == 1


def test_lists_of_objects_with_a_field_that_is_null_throughout(tmp_path):
    parents = [[{"id": "a", "split": None}], [{"id": "a", "split": None}, {"id": "b", "split": None}]]
    lines = [json.dumps({"prompt": "x", "parents": value}) for value in parents]
    (tmp_path / "m.jsonl").write_text("\n".join(lines))
    found = read_manifest(tmp_path / "m.jsonl").passthrough
    found.validate(full=True)
    assert found["parents"].to_pylist() == parents
