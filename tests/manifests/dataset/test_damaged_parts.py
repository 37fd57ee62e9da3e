"""Parts whose bytes changed after they were committed: nobody is given other values than were written."""

from __future__ import annotations

from contextlib import suppress

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from picture_folders import fill

from wanbatch.errors import MachineryError, UserError
from wanbatch.jobs.cli.main import main
from wanbatch.manifests.dataset.committed_parts import CommittedParts
from wanbatch.manifests.dataset.folder import OutputFolder
from wanbatch.manifests.dataset.repair import repair
from wanbatch.manifests.dataset.seen_folder import SeenFolder
from wanbatch.manifests.dataset.status import recorded_fingerprint

NAMES = [f"picture-{number:02}" for number in range(12)]
COLUMNS = ("id", "prompt", "seed", "sha256", "label")


@pytest.fixture
def filled(tmp_path):
    """A folder with two parts of six pictures."""
    labels = pa.table({"label": [f"class {number % 3}" for number in range(12)]})
    return fill(tmp_path / "out", NAMES, unit_rows=6, passthrough=labels)


def change(part, position):
    raw = bytearray(part.read_bytes())
    raw[position] ^= 255
    part.write_bytes(raw)


def spoil_footer(part):
    raw = bytearray(part.read_bytes())
    begin = len(raw) - 8 - int.from_bytes(raw[-8:-4], "little")
    raw[begin : begin + 40] = b"\xff" * 40
    part.write_bytes(raw)


def page_of(part, column):
    """Where the values of a column begin."""
    group = pq.ParquetFile(part).metadata.row_group(0)
    chunks = {group.column(i).path_in_schema: group.column(i) for i in range(group.num_columns)}
    return chunks[column].data_page_offset + chunks[column].total_compressed_size // 2


@pytest.mark.parametrize("step", [41, pytest.param(7, marks=pytest.mark.slow)])
def test_a_changed_byte_gives_no_other_values(filled, step):
    """Wherever it is among the pages: text that is no UTF-8 was an error of Python's, other text was believed."""
    part = filled / "data/part-00001.parquet"
    whole = part.read_bytes()
    before = CommittedParts.open(filled).table("data", COLUMNS)
    footer = int.from_bytes(whole[-8:-4], "little") + 8
    said = []
    for position in range(4, len(whole) - footer, step):
        change(part, position)
        with suppress(UserError):
            said.append("refused")
            assert CommittedParts.open(filled).table("data", COLUMNS).equals(before), position
            said[-1] = "right"
        part.write_bytes(whole)
    assert min(said.count("refused"), said.count("right")) > 10


@pytest.mark.parametrize(
    "command",
    [("report", "out"), ("report", "out", "--sheet", "s.png"), ("compare", "out", "other"), ("check", "out")],
)
def test_commands_name_the_part_and_the_remedy(filled, tmp_path, monkeypatch, command):
    monkeypatch.chdir(tmp_path)
    fill(tmp_path / "other", NAMES)
    change(filled / "data/part-00001.parquet", page_of(filled / "data/part-00001.parquet", "id"))
    told = CliRunner().invoke(main, command)
    assert told.exit_code == 2, told.output
    where = "data" if "--sheet" in command else "data/part-00001.parquet"
    assert f"{filled}/{where}: cannot be read (" in told.stderr
    assert f": run `wanbatch repair {filled}` and then the command of its run again" in told.stderr
    assert repair(filled).ids == tuple(NAMES[6:])
    again = CliRunner().invoke(main, command)
    assert again.exit_code == 0, again.output


@pytest.mark.parametrize("command", [("report", "out"), ("report", "out", "--sheet", "s.png"), ("check", "out")])
def test_a_first_part_without_a_footer_is_named_in_one_line(filled, tmp_path, monkeypatch, command):
    """By it the columns of all are told. What pyarrow says of it has several lines."""
    monkeypatch.chdir(tmp_path)
    spoil_footer(filled / "data/part-00000.parquet")
    told = CliRunner().invoke(main, command)
    assert told.exit_code == 2, told.output
    (line,) = told.stderr.splitlines()
    assert line.endswith(
        f": run `wanbatch repair {filled}` and then the command of its run again, which makes the "
        "rows again that it held"
    )


def test_a_folder_whose_first_part_has_no_footer_is_no_fault_of_the_machinery(filled):
    """Which the same command would be run again for, without end."""
    spoil_footer(filled / "data/part-00000.parquet")
    for look in (OutputFolder.open, SeenFolder.look_at):
        with pytest.raises(
            UserError, match=rf"part-00000\.parquet: cannot be read .*: run `wanbatch repair {filled}`"
        ):
            look(filled, recorded_fingerprint(filled))
    assert repair(filled).ids == tuple(NAMES[:6])
    with OutputFolder.open(filled, recorded_fingerprint(filled)) as folder:
        assert folder.committed().made == set(NAMES[6:])


def test_a_part_that_goes_while_it_is_read_is_not_called_damaged(filled):
    """As where a run takes rows out of the dataset."""
    parts = CommittedParts.open(filled)
    with OutputFolder.open(filled, recorded_fingerprint(filled)) as folder:
        folder.remove(set(NAMES[6:]))
    with pytest.raises(MachineryError, match=r"part-00001\.parquet: cannot be read \(.*No such file or directory\)$"):
        parts.table("data", COLUMNS)
