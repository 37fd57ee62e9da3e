"""Text files as people have them: compressed, in other encodings, as one JSON value. Each remedy is followed."""

import gzip
import json
import re
import shutil
import subprocess

import pandas as pd
import pyarrow as pa
import pytest

from wanbatch.errors import ManifestError, UserError
from wanbatch.manifests.reading import text_lines
from wanbatch.manifests.reading.manifest import read_manifest

ROWS = [{"id": "a", "prompt": "a star", "seed": 1}, {"id": "b", "prompt": "ein Stern, größer", "seed": 2}]
LINES = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS)


def zstd(data: bytes) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(data)
    return sink.getvalue().to_pybytes()


def rows_of(path) -> list[tuple]:
    return [(row.id, row.prompt, row.seed) for row in read_manifest(path).iter_rows()]


def right() -> list[tuple]:
    return [tuple(row.values()) for row in ROWS]


def refused(path) -> str:
    with pytest.raises(UserError) as caught:
        read_manifest(path)
    assert str(path) in str(caught.value)
    return str(caught.value)


def follow(message: str, folder) -> str:
    """Run the command that a message ends with; returns the file that it writes, or renames to."""
    command = re.search(r", ((?:python3|iconv|jq|mv|gzip|zstd) .*)$", message.splitlines()[0])[1]
    subprocess.run(command, shell=True, check=True, cwd=folder)
    return command.split()[-1]


class TestCompressed:
    @pytest.mark.parametrize("name", ["m.jsonl.gz", "m.ndjson.gz", "M.JSON.GZ", "m.jsonl.zst"])
    def test_jsonl(self, tmp_path, name):
        packed = (gzip.compress if name.lower().endswith("gz") else zstd)(LINES.encode())
        (tmp_path / name).write_bytes(packed)
        (tmp_path / "plain.jsonl").write_text(LINES)
        assert rows_of(tmp_path / name) == right()
        assert read_manifest(tmp_path / name).row(1).location == f"{tmp_path}/{name}:2"
        assert read_manifest(tmp_path / name).digest == read_manifest(tmp_path / "plain.jsonl").digest

    @pytest.mark.parametrize("pack", [gzip.compress, zstd], ids=["gzip", "zstd"])
    def test_several_members_one_after_the_other(self, tmp_path, pack):
        first, second = LINES.splitlines(keepends=True)
        path = tmp_path / f"m.jsonl.{'zst' if pack is zstd else 'gz'}"
        path.write_bytes(pack(first.encode()) + pack(second.encode()))
        assert rows_of(path) == right()

    @pytest.mark.parametrize("pack", [gzip.compress, zstd], ids=["gzip", "zstd"])
    def test_cut_and_damaged_files_are_refused(self, tmp_path, pack):
        lines = "".join(json.dumps({"prompt": f"{n * 7919 % 104729}"}) + "\n" for n in range(5000)).encode()
        packed = bytearray(pack(lines))
        path = tmp_path / f"m.jsonl.{'zst' if pack is zstd else 'gz'}"
        path.write_bytes(packed[: len(packed) // 2])
        assert "cannot be unpacked" in refused(path)
        for at in range(len(packed) // 2, len(packed) // 2 + 16):
            packed[at] ^= 0xFF
        path.write_bytes(packed)
        refused(path)

    def test_a_line_without_an_end_is_given_up(self, tmp_path, monkeypatch):
        monkeypatch.setattr(text_lines, "MAX_SKIPPED", 32 << 20)
        path = tmp_path / "bomb.jsonl.gz"
        with gzip.open(path, "wb", compresslevel=1) as file:
            for _ in range(50):
                file.write(b" " * (1 << 20))
        assert path.stat().st_size < 1 << 20
        assert "has a line of more than" in refused(path)

    def test_good_lines_without_an_end_are_given_up_too(self, tmp_path, monkeypatch):
        monkeypatch.setattr(text_lines, "MAX_UNPACKED", 1 << 20)
        (tmp_path / "m.jsonl.gz").write_bytes(gzip.compress(b'{"prompt": "a"}\n' * 100_000))
        assert "holds more than 1048576 bytes when it is unpacked: split the manifest" in refused(
            tmp_path / "m.jsonl.gz"
        )

    def test_under_another_name(self, tmp_path):
        for name, data in (("a.jsonl", gzip.compress(LINES.encode())), ("b.jsonl", zstd(LINES.encode()))):
            (tmp_path / name).write_bytes(data)
            message = refused(tmp_path / name)
            assert "data: rename it, mv" in message
            assert rows_of(follow(message, tmp_path)) == right()

    def test_a_name_that_promises_more(self, tmp_path):
        (tmp_path / "m.jsonl.gz").write_text(LINES)
        message = refused(tmp_path / "m.jsonl.gz")
        assert "is not gzip data, though its name says so" in message
        assert rows_of(follow(message, tmp_path)) == right()

    def test_a_parquet_file_with_the_name_of_another(self, tmp_path):
        pd.DataFrame(ROWS).to_parquet(tmp_path / "m.jsonl")
        assert rows_of(follow(refused(tmp_path / "m.jsonl"), tmp_path)) == right()

    def test_a_workbook(self, tmp_path):
        (tmp_path / "m.csv").write_bytes(b"PK\x03\x04" + b"\0" * 100)
        assert "is a zip file, as Excel workbooks are" in refused(tmp_path / "m.csv")


class TestEncodings:
    @pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be"])
    @pytest.mark.parametrize("name", ["m.jsonl", "m.csv"])
    def test_utf16_with_and_without_a_mark(self, tmp_path, encoding, name):
        text = LINES if name == "m.jsonl" else pd.DataFrame(ROWS).to_csv(index=False)
        (tmp_path / name).write_bytes(text.encode(encoding))
        message = refused(tmp_path / name)
        assert "is UTF-16 text: save it as UTF-8" in message
        assert rows_of(follow(message, tmp_path)) == right()

    @pytest.mark.parametrize("name", ["m.jsonl", "m.csv"])
    def test_windows_text(self, tmp_path, name):
        text = LINES if name == "m.jsonl" else pd.DataFrame(ROWS).to_csv(index=False)
        (tmp_path / name).write_bytes(text.encode("cp1252"))
        message = refused(tmp_path / name)
        assert message.startswith(f"{tmp_path}/{name}:{2 if name == 'm.jsonl' else 3}: is not UTF-8 text (byte ")
        assert "größer" in message
        assert rows_of(follow(message, tmp_path)) == right()

    def test_files_with_marks_joined_by_cat(self, tmp_path):
        first, second = LINES.encode().splitlines(keepends=True)
        (tmp_path / "m.jsonl").write_bytes(b"\xef\xbb\xbf" + first + b"\xef\xbb\xbf" + second)
        assert rows_of(tmp_path / "m.jsonl") == right()

    def test_line_separators_inside_text_end_no_line(self, jsonl):
        text = "🌟 star\u2028one\u2029two\x85three\x0bfour"
        path = jsonl(json.dumps({"id": "a", "prompt": text}, ensure_ascii=False), {"id": "b", "prompt": "x\ny\tz"})
        assert [row.prompt for row in read_manifest(path).iter_rows()] == [text, "x\ny\tz"]

    def test_half_a_surrogate_pair(self, jsonl, problems):
        (found,) = problems(jsonl({"prompt": "a"}, '{"prompt": "cut \\ud83d"}'))
        assert found.startswith("shop.jsonl:2: prompt is 'cut \\ud83d': must be Unicode text")
        assert found.endswith("it holds half of a character, as text does that was cut inside an emoji")


class TestOneValue:
    @pytest.mark.parametrize(
        ("text", "said"),
        [
            (json.dumps(ROWS), "is one JSON array"),
            (json.dumps(ROWS, indent=2), "is one JSON array"),
            ("[" + ",\n".join(json.dumps(row) for row in ROWS) + "]\n", "is one JSON array"),
            ("\ufeff" + json.dumps(ROWS), "is one JSON array"),
            (json.dumps({"version": 1, "rows": ROWS}, indent=2), "is one JSON object with its rows in 'rows'"),
            (json.dumps({"data": ROWS}), "is one JSON object with its rows in 'data'"),
            (pd.DataFrame(ROWS).to_json(), "is one JSON object of columns, as pandas' to_json writes"),
            (json.dumps(pd.DataFrame(ROWS).to_dict("list")), "is one JSON object of columns"),
        ],
        ids=["array", "indented", "lines", "mark", "wrapped", "wrapped in a line", "pandas", "columns"],
    )
    @pytest.mark.parametrize("name", ["m.json", "m.jsonl", "m.json.gz"])
    def test_it_comes_with_a_command_that_makes_rows_of_it(self, tmp_path, name, text, said):
        raw = text.encode()
        (tmp_path / name).write_bytes(gzip.compress(raw) if name.endswith("gz") else raw)
        message = refused(tmp_path / name)
        assert f"{said}" in message
        assert rows_of(follow(message, tmp_path)) == right()

    def test_one_object_on_several_lines(self, tmp_path):
        (tmp_path / "m.json").write_text(json.dumps(ROWS[0], indent=2))
        message = refused(tmp_path / "m.json")
        assert "is one JSON object on several lines" in message
        assert rows_of(follow(message, tmp_path)) == right()[:1]

    def test_several_objects_on_several_lines(self, tmp_path):
        (tmp_path / "m.json").write_text("\n".join(json.dumps(row, indent=2) for row in ROWS))
        message = refused(tmp_path / "m.json")
        assert "has objects on several lines each: write one object a line, jq -c ." in message
        if shutil.which("jq"):
            assert rows_of(follow(message, tmp_path)) == right()

    @pytest.mark.parametrize(
        "row",
        [
            {"images": ["a.png", "b.png"], "keywords": ["x", "y"]},
            {"image": {"path": "a.png"}},
            {"prompt": "a", "rows": [{"a": 1}]},
            {"prompt": "a", "0": {"0": 1}},
        ],
        ids=["lists", "struct", "rows", "numbers"],
    )
    def test_one_row_that_looks_like_it_is_a_row(self, jsonl, row):
        assert len(read_manifest(jsonl(row))) == 1

    def test_broken_json_is_told_line_by_line(self, tmp_path, problems):
        (tmp_path / "m.json").write_text("{\n 'a': 1\n}\n")
        with pytest.raises(UserError, match=r"is not one object a line: write each row as \{\.\.\.\}"):
            read_manifest(tmp_path / "m.json")

    def test_a_path_with_blanks_and_quotes(self, tmp_path):
        folder = tmp_path / "my 'rows'"
        folder.mkdir()
        (folder / "all $rows.json").write_text(json.dumps(ROWS))
        follow(refused(folder / "all $rows.json"), folder)
        assert rows_of(folder / "all $rows.jsonl") == right()


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('{"prompt": "a"},', "ends in a comma: remove it"),
        ("{'prompt': 'a', 'image': None}", "has ' around texts, as Python prints them"),
        ("// my list", "is a comment, which JSON does not have: remove the line"),
        ("# my list", "is a comment, which JSON does not have: remove the line"),
        ('{"prompt": "a"} {"prompt": "b"}', "has another object from character 17 on: put it on a line of its own"),
        ("]", "is ']' alone: write each object whole"),
        ('{"prompt": "a",}', "is not JSON ("),
    ],
)
def test_common_mistakes_are_named(jsonl, problems, line, said):
    (found,) = problems(jsonl({"prompt": "good"}, line, {"prompt": "good"}))
    assert found.startswith("shop.jsonl:2: ")
    assert said in found


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"seed": "42"}, "seed is '42': must be an integer from 0 to 2**63 - 1; write 42, without quotes"),
        ({"guidance": "7,5"}, "guidance is '7,5': must be a finite number, 0 or more; write 7.5, without quotes"),
        ({"steps": ""}, "steps is '': must be an integer from 1 to 1000; leave it out if there is none"),
        ({"seed": -1}, "without a seed the row gets one of its own"),
        ({"seed": 2**64 - 1}, "the nearest is 9223372036854775807"),
        (
            {"width": 1920, "height": 1080},
            "height is 1080: must be a multiple of 16 from 16 to 4096; every model takes 1056 and 1088",
        ),
        ({"width": 8192, "height": 64}, "must be a multiple of 16 from 16 to 4096; every model takes 4096"),
        ({"steps": 4.5}, "the nearest are 4 and 5"),
        ({"steps": 0.5}, "the nearest is 1"),  # 0 is not allowed
        ({"steps": 1000.5}, "the nearest is 1000"),
        ({"creativity": 1.5, "image": "a.png"}, "the nearest is 1"),
        ({"creativity_steps": "Respaced"}, "must be keep or respace; did you mean respace?"),
        ({"id": "a", "prompt": ["a star", "a moon"]}, "for several write a row each"),
        ({"image": ""}, "image '' is empty: leave it out if there is none"),
    ],
)
def test_messages_name_the_nearest_value(jsonl, problems, row, said):
    (found,) = problems(jsonl({"prompt": "a", **row}))
    assert said in found


@pytest.mark.parametrize(("row", "good"), [({"seed": "42"}, 42), ({"seed": "7.0"}, 7)])
def test_a_number_as_text_is_one_when_the_message_is_followed(jsonl, problems, row, good):
    (found,) = problems(jsonl({"prompt": "a", **row}))
    (value,) = re.findall(r"write (\S+), without quotes", found)
    assert read_manifest(jsonl(f'{{"prompt": "a", "seed": {value}}}')).row(0).seed == good


class TestOtherFiles:
    def test_a_misspelt_name_comes_with_the_right_one(self, tmp_path):
        (tmp_path / "shop-2.jsonl").write_text(LINES)
        assert refused(tmp_path / "shop2.jsonl").endswith("there is no such manifest: did you mean shop-2.jsonl?")
        assert refused(tmp_path / "rows.csv").endswith("there is no such manifest: check the path")
        assert refused(tmp_path / "none/rows.csv").endswith("there is no such manifest: check the path")

    def test_a_text_file_of_prompts(self, tmp_path):
        (tmp_path / "prompts.txt").write_text("\ufeffa star\n\n größer \n", encoding="utf-8")
        message = refused(tmp_path / "prompts.txt")
        assert "is plain text: if each line is a prompt" in message
        assert [row.prompt for row in read_manifest(follow(message, tmp_path)).iter_rows()] == ["a star", "größer"]

    @pytest.mark.parametrize(
        ("name", "said"),
        [("m.xlsx", "is a spreadsheet: save it as CSV"), ("m.tar.gz", "is an archive"), ("m.pkl", "may run code")],
    )
    def test_others_are_named(self, tmp_path, name, said):
        (tmp_path / name).write_bytes(b"x")
        assert said in refused(tmp_path / name)

    def test_a_picture(self, tmp_path):
        (tmp_path / "cat.png").write_bytes(b"x")
        assert 'write a manifest with a row like {"image": "cat.png"}' in refused(tmp_path / "cat.png")


class TestFolders:
    def test_parts_of_jsonl(self, tmp_path):
        first, second = LINES.splitlines(keepends=True)
        (tmp_path / "b").mkdir()
        (tmp_path / "a.jsonl").write_text(first)
        (tmp_path / "b/c.jsonl.gz").write_bytes(gzip.compress(second.encode()))
        (tmp_path / "info.json").write_text("{}")
        assert rows_of(tmp_path) == right()
        assert read_manifest(tmp_path).row(1).location == f"{tmp_path}/b/c.jsonl.gz:1"

    def test_a_problem_and_a_type_that_differs_are_named_with_their_file(self, tmp_path):
        (tmp_path / "a.jsonl").write_text('{"prompt": "a", "n": "x"}\n')
        (tmp_path / "b.jsonl").write_text('{"prompt": "a"}\n{"prompt": "a", "n": 1}\n{"seed": 1}\n')
        with pytest.raises(ManifestError) as caught:
            read_manifest(tmp_path)
        assert [problem.location for problem in caught.value.problems] == [
            f"{tmp_path}/b.jsonl:2",
            f"{tmp_path}/b.jsonl:3",
        ]
        assert f"(from {tmp_path}/a.jsonl:1)" in caught.value.problems[0].message

    def test_a_file_that_is_only_read_by_itself_is_named(self, tmp_path):
        (tmp_path / "README.md").write_text("x")
        (tmp_path / "sub").mkdir()
        (tmp_path / "sub/rows.json").write_text(LINES)
        message = refused(tmp_path)
        assert message.endswith(f"; if sub/rows.json has the rows, give {tmp_path}/sub/rows.json")
        assert rows_of(message.split()[-1]) == right()

    def test_files_of_another_kind_are_named(self, tmp_path):
        pd.DataFrame(ROWS).to_parquet(tmp_path / "m.parquet")
        for name in ("a.csv", "b.jsonl", "c.tsv", "d.csv.gz", "README.md"):
            (tmp_path / name).write_text("x")
        (warning,) = read_manifest(tmp_path).warnings
        said = "of this folder a.csv, b.jsonl, c.tsv and 1 more are not read, as it has files of another kind"
        assert warning == f"{tmp_path}: {said}"
