"""A contact sheet: pictures of an output folder on one, with their captions."""

from __future__ import annotations

import numpy as np
from click.testing import CliRunner
from job_making import decoded, rows_by_id
from PIL import Image

from wanbatch.jobs.cli.main import main
from wanbatch.jobs.reporting.contact_sheet import contact_sheet, first_records
from wanbatch.manifests.dataset.part_files import open_parts


def test_contact_sheet(mixed, tmp_path):
    target = tmp_path / "sheets" / "sheet.png"
    assert contact_sheet(mixed.out, target, columns=5, cell=96) == 15
    sheet = Image.open(target)
    assert (sheet.format, sheet.size) == ("PNG", (5 * (96 + 12) + 12, 3 * (96 + 3 * 15 + 12) + 12))
    pixels = np.asarray(sheet.convert("RGB")).astype(int)
    first = decoded(rows_by_id(mixed.out)["plain"])
    enlarged = np.repeat(np.repeat(first, 3, axis=0), 3, axis=1)
    assert np.array_equal(pixels[12 : 12 + 96, 12 : 12 + 96], enlarged)
    for row in range(3):
        for column in range(5):
            top, left = 12 + row * 153, 12 + column * 108
            assert pixels[top : top + 96, left : left + 96].std() > 5, "no picture there"
            assert pixels[top + 98 : top + 113, left : left + 96].min() < 128, "no caption there"


def test_contact_sheet_by_the_command(mixed, tmp_path):
    result = CliRunner().invoke(
        main, ["report", str(mixed.out), "--sheet", "s.png", "--columns", "2", "--limit", "3"]
    )
    assert (result.exit_code, result.stdout) == (0, "3 pictures on s.png\n")
    assert Image.open(tmp_path / "s.png").size == (2 * 204 + 12, 2 * (192 + 45 + 12) + 12)


def test_contact_sheet_is_in_the_order_of_the_manifest(mixed):
    shown = [record["id"] for record in first_records(open_parts(mixed.out, "data"), 15)]
    rows = rows_by_id(mixed.out)
    assert shown == sorted(rows, key=lambda name: (rows[name]["manifest_row"], rows[name]["variant"]))
