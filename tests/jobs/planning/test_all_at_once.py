"""Everything wrong with a manifest is said at once, whatever else is wrong with it, and nothing that is not so."""

from __future__ import annotations

import json

import pyarrow as pa
import pyarrow.feather as feather
import pyarrow.parquet as pq
import pytest
from job_making import write_jsonl
from PIL import Image

from wanbatch.errors import ManifestError
from wanbatch.jobs.planning.preparation import prepare

COLUMNS = {
    "id": ["a", "a", "日本-é", "c", "d"],
    "Prompt": ["x"] * 5,
    "steps": ["8"] * 5,
    "seed": [-1, 1, 2, 3, 4],
    "creativity": [1.5, 0.5, 0.5, 0.5, 0.5],
    "guidance": [3.0, 3.0, -1.0, 3.0, 3.0],
    "width": [128, None, 100000, 128, 128],
    "height": [None, None, 128, 128, 128],
    "sampler": [None, None, "Euler a", None, None],
    "image": ["", "C:\\x\\y.png", "/etc/passwd", "missing.png", "there.png"],
    "sha256": ["z"] * 5,
}
"""Every kind of fault: of a column's type and name, of values, of values together, of paths, of ids, of files."""

WANTED = [
    (None, "column 'Prompt' is not used; did you mean prompt?"),
    (None, "'sha256' is also one that wanbatch writes"),
    (0, "seed is -1"),
    (0, "creativity is 1.5"),
    (0, "width is given without height"),
    (0, "image '' is empty"),
    (1, "is a path of a Windows machine"),
    (1, "id 'a' is already at"),
    (2, "id is '日本-é'"),
    (2, "guidance is -1"),
    (2, "width is 100000"),
    (2, "sampler 'Euler a' is unknown"),
    (2, "image '/etc/passwd' is outside"),
    (3, "image missing.png does not exist"),
]
"""The row, None for the whole file, and what is said of it."""


@pytest.fixture
def found(settings, tmp_path):
    """Plans a manifest beside one picture; returns its problems as pairs of location and message."""
    Image.new("RGB", (128, 128)).save(tmp_path / "there.png")

    def problems(path):
        with pytest.raises(ManifestError) as error:
            prepare(path, settings(), weights=False, every_source=True)
        return [(problem.location, problem.message) for problem in error.value.problems]

    return problems


def said(problems, location: str, text: str) -> bool:
    return any(at == location and text in message for at, message in problems)


@pytest.mark.parametrize("write", [pq.write_table, feather.write_feather], ids=["shop.parquet", "shop.arrow"])
def test_a_table_with_every_kind_of_fault(found, tmp_path, write, request):
    path = tmp_path / request.node.callspec.id
    write(pa.table(COLUMNS), path)
    problems = found(path)
    assert said(problems, str(path), "column 'steps' is string: must be a number")
    for row, text in WANTED:
        assert said(problems, str(path) if row is None else f"{path} row {row}", text), (row, text, problems)
    assert len(problems) == len(WANTED) + 1
    assert [at for at, _ in problems] == sorted(at for at, _ in problems)


def test_lines_with_every_kind_of_fault(found, tmp_path):
    rows = [dict(zip(COLUMNS, row, strict=True)) for row in zip(*COLUMNS.values(), strict=True)]
    path = write_jsonl(tmp_path / "shop.jsonl", rows)
    problems = found(path)
    for row, text in WANTED:
        line = 1 if row is None else row + 1  # of names of columns, the first line that has them
        at = str(path) if text.startswith("column 'Prompt'") else f"{path}:{line}"
        assert said(problems, at, text), (row, text, problems)
    for line in range(1, 6):
        assert said(problems, f"{path}:{line}", "steps is '8': must be")
    assert len(problems) == len(WANTED) + 5


def test_cells_with_every_kind_of_fault(found, tmp_path):
    path = tmp_path / "shop.csv"
    path.write_text(
        "id,prompt,steps,seed,width,height,image,sha256\n"
        "a,x,many,-1,128,,C:\\x\\y.png,z\n"
        "a,x,many,1,,,missing.png,z\n"
        "a,x,8\n"
    )
    problems = found(path)
    wanted = [
        (1, "'sha256' is also"),
        (2, "steps is 'many'"),
        (2, "seed is -1"),
        (2, "width is given without height"),
        (2, "is a path of a Windows machine"),
        (3, "steps is 'many'"),
        (3, "id 'a' is already at"),
        (3, "image missing.png does not exist"),
        (4, "has 3 cells"),
    ]
    for line, text in wanted:
        assert said(problems, f"{path}:{line}", text), (line, text, problems)
    assert len(problems) == len(wanted)


@pytest.mark.parametrize(
    ("row", "only"),
    [
        ({"width": "128", "height": 128}, "width is '128'"),
        ({"image": 3, "creativity": 0.5}, "image is 3"),
        ({"image": ["there.png"], "images": 3, "blend_weights": [1.0, 2.0]}, "images is 3"),
        ({"image": {"pth": "there.png"}, "blend_weights": [1.0, 2.0]}, "image.pth is unknown"),
        ({"creativity": 0.01, "image": "there.png", "steps": "50", "shift": 1.0}, "steps is '50'"),
        ({"image": "../there.png", "creativity": 0.01}, "leaves the folder"),
    ],
)
def test_nothing_is_said_that_rests_on_a_wrong_value(found, tmp_path, row, only):
    """A height with a wrong width has one; a creativity with a wrong image has a source; and so on."""
    problems = found(write_jsonl(tmp_path / "shop.jsonl", [{"prompt": "a fox", **row}]))
    assert len(problems) == 1, problems
    assert only in problems[0][1]


def test_no_row_asks_for_nothing_because_its_prompts_could_not_be_read(found, tmp_path):
    path = tmp_path / "shop.parquet"
    pq.write_table(pa.table({"prompt": [1, 2], "id": ["a", "b"]}), path)
    assert [message.split(":")[0] for _, message in found(path)] == ["column 'prompt' is int64"]


def test_ids_of_rows_with_faults_are_no_others(found, tmp_path):
    """Rows without a readable id, members of blend groups and unknown counts of pictures share no id with others."""
    rows = [
        {"id": "00000001", "prompt": "x"},
        {"id": "?", "prompt": "x"},
        {"id": "b", "prompt": "x", "num_images": 2},
        {"id": "b-1", "prompt": "x", "num_images": "2"},
        {"blend_group": "g", "image": "there.png", "prompt": "x", "steps": "8"},
        {"blend_group": "g", "image": "there.png"},
    ]
    problems = found(write_jsonl(tmp_path / "shop.jsonl", rows))
    assert [message.split(" ")[0] for _, message in problems] == ["id", "num_images", "steps"]


def test_a_good_part_beside_one_with_a_column_of_a_wrong_type(found, tmp_path):
    folder = tmp_path / "parts"
    folder.mkdir()
    pq.write_table(pa.table({"id": ["a"], "prompt": ["x"], "steps": ["8"], "kind": ["cup"]}), folder / "0.parquet")
    pq.write_table(pa.table({"id": ["a"], "prompt": ["x"], "kind": [3], "seed": [-1]}), folder / "1.parquet")
    messages = [message for _, message in found(folder)]
    for text in ("column 'steps' is string", "column 'kind' is int64", "seed is -1", "id 'a' is already at"):
        assert any(text in message for message in messages), (text, messages)
    assert len(messages) == 4


def test_columns_of_one_name_do_not_hide_the_others(found, tmp_path):
    path = tmp_path / "shop.parquet"
    pq.write_table(pa.table([["x"], ["y"], [-1]], names=["prompt", "prompt", "seed"]), path)
    assert [message.split(" ")[0] for _, message in found(path)] == ["column", "seed"]


def test_a_column_that_has_a_wrong_type_beside_one_with_a_dot_in_its_name(found, tmp_path):
    path = tmp_path / "shop.parquet"
    pq.write_table(pa.table({"prompt": ["x"], "steps": ["8"], "steps.b": [1], "c": [{"d": 1}]}), path)
    assert [message.split(":")[0] for _, message in found(path)] == ["column 'steps' is string"]


def test_a_list_of_faults_has_an_end(found, tmp_path):
    path = tmp_path / "shop.jsonl"
    path.write_text("".join(json.dumps({"prompt": "x", "seed": -1, "image": "no.png"}) + "\n" for _ in range(11_000)))
    problems = found(path)
    assert len(problems) == 10_001
    assert "10000 problems" in problems[-1][1]


def test_sources_are_looked_at_only_where_a_plan_looks_at_all(settings, tmp_path):
    """`run` begins without a look at any source, and so says what is wrong without one."""
    path = write_jsonl(tmp_path / "shop.jsonl", [{"prompt": "x", "seed": -1, "image": "no.png"}])
    with pytest.raises(ManifestError) as error:
        prepare(path, settings(), weights=False)
    assert len(error.value.problems) == 1
