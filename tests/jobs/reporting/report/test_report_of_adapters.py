"""How the report counts and shows pictures by the adapters of their rows. No Ray."""

from __future__ import annotations

from page_reading import Read
from report_folders import fill_folder

from wanbatch.jobs.reporting.report.collect import collect
from wanbatch.jobs.reporting.report.page import report_page
from wanbatch.jobs.reporting.report.sources import SourceThumbnails


def test_images_are_counted_and_arranged_by_the_adapters_of_their_rows(tmp_path):
    loras = [{"name": "night", "weight": 0.5}, {"name": "flat", "weight": 0.7}]
    told = [{"name": one["name"], "weight": one["weight"] / 2, "sha256": "0" * 64, "merged": False} for one in loras]
    few = {"name": "few", "weight": 1.0, "sha256": "1" * 64, "merged": True}
    fill_folder(tmp_path / "two", 1, 4, 0, loras=loras, adapters=[few, *told])
    fill_folder(tmp_path / "merged", 1, 4, 0, adapters=[few])
    fill_folder(tmp_path / "style", 1, 4, 0, style="flat")
    names = {name: collect(tmp_path / name).data["groups"].get("adapters") for name in ("two", "merged", "style")}
    assert names == {
        "two": [{"value": "flat + night", "images": 4}],
        "merged": None,
        "style": [{"value": "flat", "images": 4}],
    }
    report = collect(tmp_path / "two")
    page = Read(report_page(report, SourceThumbnails(report.plan)).html)
    assert "adapters flat + night" in page.words
    (said, *_) = [given["title"] for tag, given in page.tags if tag == "figure"]
    assert "few at 1 (SHA-256 111111111111, merged), night at 0.25 (SHA-256 000000000000), flat at 0.35" in said
