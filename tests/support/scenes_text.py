"""Remedies for text files: JSONL, CSV, other encodings, files that are no manifests."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import re
import shlex
import zipfile
from collections.abc import Iterator
from functools import partial

import pandas as pd
import pyarrow as pa
from PIL import Image
from remedy_scenes import At, scene

from wanbatch.manifests.reading import csv_table, inferred_columns, jsonl, text_lines

LINES = '{"prompt": "a"}\n{"prompt": "b"}\n'


def last_command(said: str) -> str:
    """The command that a message ends with."""
    found = re.search(r"((?:python3|iconv|jq|mv|bunzip2|unxz) .*)$", said.strip().splitlines()[0])
    assert found is not None, said
    return found[1]


@scene
def lines_that_are_no_objects(at: At) -> Iterator[str]:
    mended = {
        "// a list": (),
        '{"prompt": "a"},': ('{"prompt": "a"}',),
        "]": (),
        "{'prompt': 'a'}": (json.dumps({"prompt": "a"}),),
        '{"prompt": "a"} {"prompt": "b"}': ('{"prompt": "a"}', '{"prompt": "b"}'),
        '["a"]': ('{"prompt": "a"}',),
        f'{{"prompt": "a", "n": {"9" * 5000}}}': (json.dumps({"prompt": "a", "n": "9" * 5000}),),
    }
    for wrong, right in mended.items():
        at.rows('{"prompt": "first"}', wrong)
        yield at.refused("plan", "m.jsonl")
        at.rows('{"prompt": "first"}', *right)
        at.works("plan", "m.jsonl")
    at.write("m.json", "{\n 'prompt': 'a'\n}\n")
    yield at.refused("plan", "m.json")
    at.write("m.json", '{"prompt": "a"}\n')
    at.works("plan", "m.json")


@scene
def a_line_with_an_image_in_it(at: At) -> Iterator[str]:
    at.monkeypatch.setattr(jsonl, "MAX_LINE", 1 << 20)
    at.rows({"prompt": "a", "image": {"bytes": "x" * (1 << 20), "path": None}})
    yield at.refused("plan", "m.jsonl")
    at.rows({"prompt": "a", "image": {"bytes": "x", "path": None}})
    yield at.refused("plan", "m.jsonl")
    at.rows({"prompt": "a", "image": "a.png"})
    at.works("plan", "m.jsonl")


@scene
def compressed_in_other_ways(at: At) -> Iterator[str]:
    for pack in (bz2.compress, lzma.compress):
        at.write("my rows.jsonl", pack(LINES.encode()))
        said = at.refused("plan", "my rows.jsonl")
        yield said
        command = last_command(said)
        at.shell(command)
        assert at.planned(shlex.split(command)[-1])["rows"] == 2
    for name, pack in (("m.jsonl.bz2", bz2.compress), ("m.jsonl.xz", lzma.compress)):
        at.write(name, pack(LINES.encode()))
        yield at.refused("plan", name)
        at.write("m.jsonl.gz", gzip.compress(LINES.encode()))
        assert at.planned("m.jsonl.gz")["rows"] == 2
        at.write("m.jsonl", LINES)
        assert at.planned("m.jsonl")["rows"] == 2


@scene
def archives_and_workbooks(at: At) -> Iterator[str]:
    for name in ("rows.csv", "rows.zip"):
        with zipfile.ZipFile(at.folder / name, "w") as archive:
            archive.writestr("inside.jsonl", LINES)
        yield at.refused("plan", name)
        at.shell(f"unzip -oq {name}")
        assert at.planned("inside.jsonl")["rows"] == 2
    at.write("rows.xlsx", b"PK\x03\x04")
    yield at.refused("plan", "rows.xlsx")
    pd.DataFrame({"prompt": ["größer", "b"]}).to_csv("rows.csv", index=False)
    assert at.planned("rows.csv")["rows"] == 2


@scene
def an_arrow_file_under_another_name(at: At) -> Iterator[str]:
    table = pa.table({"prompt": ["a", "b"]})
    with pa.OSFile(str(at.folder / "m.jsonl"), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table)
    yield at.refused("plan", "m.jsonl")
    (at.folder / "m.jsonl").rename(at.folder / "m.arrow")
    assert at.planned("m.arrow")["rows"] == 2


@scene
def line_ends_and_characters(at: At) -> Iterator[str]:
    at.write("m.jsonl", LINES.replace("\n", "\r"))
    yield at.refused("plan", "m.jsonl")
    at.write("m.jsonl", LINES)
    at.works("plan", "m.jsonl")
    at.write("m.jsonl", b'{"prompt": "\x81\x8d"}\n')
    yield at.refused("plan", "m.jsonl")
    at.write("m.jsonl", '{"prompt": "ü"}\n')
    at.works("plan", "m.jsonl")


@scene
def compressed_files_that_are_too_large_or_cut(at: At) -> Iterator[str]:
    at.monkeypatch.setattr(text_lines, "MAX_UNPACKED", 20)
    at.write("m.jsonl.gz", gzip.compress(LINES.encode()))
    yield at.refused("plan", "m.jsonl.gz")
    at.write("cut.jsonl.gz", gzip.compress(LINES.encode())[:-12])
    yield at.refused("plan", "cut.jsonl.gz")
    at.write("cut.jsonl.gz", gzip.compress(LINES.splitlines()[0].encode()))
    assert at.planned("cut.jsonl.gz")["rows"] == 1
    at.write("parts/1.jsonl.gz", gzip.compress(LINES.splitlines(keepends=True)[0].encode()))
    at.write("parts/2.jsonl.gz", gzip.compress(LINES.splitlines(keepends=True)[1].encode()))
    assert at.planned("parts")["rows"] == 2


@scene
def files_that_are_no_manifests(at: At) -> Iterator[str]:
    at.write("my prompts.txt", "a star\n\na moon\n")
    said = at.refused("plan", "my prompts.txt")
    yield said
    at.shell(last_command(said))
    assert at.planned("my prompts.jsonl")["rows"] == 2
    for name in ("rows.pkl", "rows.yaml", "rows.bin"):
        at.write(name, "x")
        yield at.refused("plan", name)
        pd.DataFrame({"prompt": ["a", "b"]}).to_parquet("rows.parquet")
        pd.DataFrame({"prompt": ["a", "b"]}).to_json("rows.jsonl", orient="records", lines=True)
        pd.DataFrame({"prompt": ["a", "b"]}).to_csv("rows.csv", index=False)
        for good in ("rows.parquet", "rows.jsonl", "rows.csv"):
            assert at.planned(good)["rows"] == 2
    Image.new("RGB", (32, 32)).save("photo.png")
    said = at.refused("plan", "photo.png")
    yield said
    at.rows(re.search(r"a row like (\{.*\})$", said, re.MULTILINE)[1])  # type: ignore[index]
    at.works("plan", "m.jsonl")
    for path in {*at.folder.glob("rows.*"), *at.folder.glob("*.jsonl"), *at.folder.glob("*.txt")}:
        path.unlink()
    assert at.planned(".")["with_sources"] == 3


@scene
def paths_without_rows(at: At) -> Iterator[str]:
    at.write("list/rows.json", LINES)
    said = at.refused("plan", "list")
    yield said
    at.works("plan", re.search(r"has the rows, give (\S+)", said)[1])  # type: ignore[index]
    at.write("words/prompts.txt", "a star\n")
    said = at.refused("plan", "words")
    yield said
    said = at.refused("plan", re.search(r"has the rows, give (\S+)", said)[1])  # type: ignore[index]
    at.shell(last_command(said))
    assert at.planned("words/prompts.jsonl")["rows"] == 1
    at.rows({"prompt": "a"}, name="shop.jsonl")
    said = at.refused("plan", "shop.json")
    yield said
    at.works("plan", re.search(r"did you mean (\S+)\?", said)[1])  # type: ignore[index]
    yield at.refused("plan", "elsewhere/quite/other")
    at.rows()
    yield at.refused("plan", "m.jsonl")
    at.rows({"prompt": "a"})
    at.works("plan", "m.jsonl")


@scene
def csv_cells(at: At) -> Iterator[str]:
    broken = {
        "id,prompt\na,a star, blue\n": 'id,prompt\na,"a star, blue"\n',
        'id,prompt\na,"a star\n': 'id,prompt\na,"a star"\n',
        'prompt\n"a ""star" x"\n': 'prompt\n"a ""star"" x"\n',
        "prompt,prompt\na,b\n": "prompt\na\n",
        "a.png,a star on the left\n": "image,prompt\na.png,a star on the left\n",
        "prompt,keywords\na,old\n": 'prompt,keywords\na,"[""old""]"\n',
        "prompt,image\na,\"{'bytes': None, 'path': 'a.png'}\"\n": "prompt,image\na,a.png\n",
    }
    for wrong, right in broken.items():
        at.write("m.csv", wrong)
        yield at.refused("plan", "m.csv")
        at.write("m.csv", right)
        at.works("plan", "m.csv")


@scene
def csv_limits(at: At) -> Iterator[str]:
    at.monkeypatch.setattr(csv_table, "MAX_COLUMNS", 2)
    at.write("m.csv", "prompt,note,other\na,b,c\n")
    yield at.refused("plan", "m.csv")
    at.write("m.csv", "prompt,note\na,b\n")
    at.works("plan", "m.csv")
    at.monkeypatch.setattr(csv_table, "MAX_LINE", 1 << 20)
    at.write("m.csv", f"prompt,image\na,{'x' * (1 << 20)}\n")
    yield at.refused("plan", "m.csv")
    at.write("m.csv", "prompt,image\na,a.png\n")
    at.works("plan", "m.csv")


@scene
def columns_of_json_values(at: At) -> Iterator[str]:
    deep: object = 1
    for _ in range(40):
        deep = [deep]
    values = {"empty": {}, "deep": deep, "large": 2**70, "lists": [1, "a"]}
    for name, value in values.items():
        at.rows({"prompt": "a", name: value})
        yield at.refused("plan", "m.jsonl")
        at.rows({"prompt": "a", name: json.dumps(value)})
        at.works("plan", "m.jsonl")
    at.rows('{"prompt": "a", "x\\ud83d": 1}')
    yield at.refused("plan", "m.jsonl")
    at.rows({"prompt": "a", "x": 1})
    at.works("plan", "m.jsonl")


@scene
def numbers_that_no_type_holds_together(at: At) -> Iterator[str]:
    mixed = {"prompt": "a", "n": 2**60 + 1}, {"prompt": "b", "n": 0.5}
    for chunk in (1, 8192):
        at.monkeypatch.setattr(jsonl, "InferredColumns", partial(inferred_columns.InferredColumns, chunk=chunk))
        at.rows(*mixed)
        yield at.refused("plan", "m.jsonl")
        at.rows(*({**row, "n": str(row["n"])} for row in mixed))
        at.works("plan", "m.jsonl")


@scene
def columns_of_other_tools(at: At) -> Iterator[str]:
    at.rows({"caption": "a", "id": "x"})
    said = at.refused("plan", "m.jsonl", "--strict")
    yield said
    take, keep = re.search(r"Take it with --map (\S+); .* with --map (\S+)", said).groups()  # type: ignore[union-attr]
    at.works("plan", "m.jsonl", "--strict", "--map", take)
    at.works("plan", "m.jsonl", "--strict", "--map", keep, "--prompt", "x")
    at.rows({"caption": "a", "image": "a.png"}, {"prompt": "b"})
    yield at.refused("plan", "m.jsonl", "--strict")
    at.rows({"prompt": "a", "image": "a.png"}, {"prompt": "b"})
    at.works("plan", "m.jsonl", "--strict")
    at.rows({"captions": ["a", "b"], "image": "a.png"})
    yield at.refused("plan", "m.jsonl", "--strict")
    at.rows({"prompt": "a", "image": "a.png"}, {"prompt": "b", "image": "a.png"})
    at.works("plan", "m.jsonl", "--strict")
    at.rows({"caption": "a", "text": "b", "image": "a.png"})
    said = at.refused("plan", "m.jsonl", "--strict")
    yield said
    at.works("plan", "m.jsonl", "--strict", "--map", "caption=prompt")
    at.works("plan", "m.jsonl", "--strict", "--map", "text=prompt")
    said = at.works("plan", "m.jsonl")
    yield said
    at.works("plan", "m.jsonl", *re.search(r"without this warning: (--map \S+)", said)[1].split())  # type: ignore[index]


@scene
def columns_that_are_read_as_others(at: At) -> Iterator[str]:
    at.rows({"prompt": "a", "text": "b", "note": "c"})
    for flags in (("--map", "text=text"), ("--map", "text=image,note=image")):
        yield at.refused("plan", "m.jsonl", *flags)
    at.works("plan", "m.jsonl")
    at.works("plan", "m.jsonl", "--map", "note=negative_prompt")
    yield at.refused("plan", "m.jsonl", "--map", "text=image", "--map", "text=prompt")
    at.works("plan", "m.jsonl", "--map", "text=negative_prompt")
    said = at.refused("plan", "m.jsonl", "--map", "text=prompt")
    yield said
    flag = re.search(r"rename the other with (--map \S+)", said)[1]  # type: ignore[index]
    at.works("plan", "m.jsonl", "--map", "text=prompt", *flag.split())
    at.rows({"text": "b"})
    at.works("plan", "m.jsonl", "--map", "text=prompt")
