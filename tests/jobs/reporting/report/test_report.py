"""The report of an output folder: its figures, its page, what it shows and what it tolerates. No Ray."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from page_reading import Read
from report_folders import CLASSES, FINGERPRINT, drawing, fill_folder, source_files
from s3_server import ENVIRONMENT, running

from wanbatch.jobs.cli.main import main
from wanbatch.jobs.reporting.report import after_run, page, pages, write
from wanbatch.jobs.reporting.report.after_run import report_after_run
from wanbatch.jobs.reporting.report.collect import collect
from wanbatch.jobs.reporting.report.page import report_page
from wanbatch.jobs.reporting.report.sources import SourceThumbnails, manifest_of
from wanbatch.manifests.dataset.folder import OutputFolder
from wanbatch.manifests.reading.manifest import read_manifest
from wanbatch.manifests.records import UsedSource
from wanbatch.manifests.storage import fsspec_io

RELEASE = Path(__file__).parents[3] / "data" / "release-0.1.0"
DOCS = Path(__file__).parents[4] / "docs"
HOSTILE = '"><script>alert(1)</script><img src=http://127.0.0.1/x>'


def _page(out: Path | str) -> Read:
    report = collect(out)
    return Read(report_page(report, SourceThumbnails(report.plan)).html)


def test_counts_failures_and_the_command_that_retries(written, filled):
    shown, data = written
    assert data["counts"] == {"rows": 24, "made": 22, "failed": 2, "left": 0, "rejected_by_checks": 2}
    [failure] = data["failures"]
    assert (failure["class"], failure["images"]) == ("missing_image", 2)
    [message] = failure["messages"]
    assert (message["images"], message["ids"]) == (2, ["row-000006", "row-000007"]), "alike messages are one"
    command = failure["retry"]
    assert shlex.split(command) == ["wanbatch", "retry", str(filled), "--class", "missing_image"]
    assert command in shown.words
    assert data["state"] == "finished"
    assert "did you mean seed?" in shown.words


def test_groups_classes_before_and_after(written):
    _, data = written
    assert data["class_column"] == "class"
    rows = {row["class"]: row for row in data["classes"]}
    assert sum(row["made"] for row in rows.values()) == 22
    assert sum(row["rejected"] for row in rows.values()) == 2
    assert all(row["after"] == row["sources"] + row["made"] - row["rejected"] for row in rows.values())
    assert sum(one["images"] for one in data["groups"]["creativity"]) == 22
    assert {one["value"] for one in data["groups"]["creativity"]} == {"0.25", "0.5", "0.75", "1"}


def test_time_and_use(written):
    _, data = written
    assert data["stage_seconds"]["denoise"] == pytest.approx(22 * 0.5)
    [run] = data["runs"]
    assert (run["seconds"], run["made"], run["failed"], run["ended"]) == (180, 22, 2, "finished")
    [device] = data["devices"]
    assert (device["device"], device["workers"]) == ("cpu", 2)
    assert device["busy_hours"] == pytest.approx(22 * 0.62 / 3600, rel=1e-2)
    assert device["hours"] == pytest.approx((120 + 8 * 0.62 + 8 * 0.62) / 3600, rel=1e-2)
    assert data["slot_use"] == pytest.approx(22 / 24, abs=1e-3), "the failed rows' slots stayed empty"
    assert data["step_cache"]["blocks_saved"] == 0.25
    assert data["backends"]["encode"] == {"not run": 22}


def test_pictures_stand_beside_their_sources_with_settings_in_text(written):
    shown, _ = written
    pictures = shown.all("img")
    assert all((one["src"] or "").startswith("data:image/webp;base64,") for one in pictures)
    assert all(one["alt"] for one in pictures)
    assert sum((one["alt"] or "").startswith("source source-") for one in pictures) >= 15
    assert 'a <large> cat & its "friends"' in shown.words
    assert "sampler unipc" in shown.words
    titles = [one["title"] for one in shown.all("figure")]
    assert all("steps 8" in (title or "") for title in titles)


def test_checks_show_the_worst_first(written):
    shown, data = written
    measures = {measure["name"]: measure for measure in data["checks"]["measures"]}
    assert set(measures) == {"sharpness", "source_distance", "strange", "near_duplicate"}
    assert data["checks"]["rejected"] == {"blurred": 2}
    assert (measures["sharpness"]["rejected"], measures["sharpness"]["images"]) == (2, 22)
    assert measures["near_duplicate"]["worst"] == []
    assert measures["source_distance"]["order"] == "farthest from the middle first"
    assert measures["strange"]["order"] == "lowest first"
    sharpness = measures["sharpness"]
    assert sharpness["order"] == "rejected ones first, then lowest first"
    assert [one["value"] for one in sharpness["worst"]] == sorted(one["value"] for one in sharpness["worst"])
    assert sharpness["worst"][0]["id"] == "row-000023"
    assert "rejected: blurred" in shown.words


def test_the_page_needs_nothing_else(written):
    shown, _ = written
    addresses = [
        value for _, attributes in shown.tags for name, value in attributes.items() if name in ("src", "href")
    ]
    assert addresses
    assert all((address or "").startswith(("#", "data:")) for address in addresses)
    assert len(shown.all("script")) == 1
    assert "default-src 'none'" in str(shown.all("meta"))
    labels = [attributes["href"] for attributes in shown.all("a")]
    ids = {attributes.get("id") for _, attributes in shown.tags}
    assert {(label or "#main")[1:] for label in labels} <= ids, "every link of the page leads somewhere"


def test_what_users_wrote_is_text(tmp_path):
    fill_folder(tmp_path / "out", 1, 4, 1, prompt=HOSTILE, negative_prompt=HOSTILE, sampler=HOSTILE)
    shown = _page(tmp_path / "out")
    assert len(shown.all("script")) == 1
    assert HOSTILE in shown.words
    assert not any("127.0.0.1" in str(one.get("src")) for one in shown.all("img"))


def test_the_page_keeps_to_its_bytes(tmp_path, monkeypatch):
    fill_folder(tmp_path / "out", 4, 8, 0)
    whole = _page(tmp_path / "out")
    size = len(report_page(collect(tmp_path / "out"), SourceThumbnails({})).html)
    monkeypatch.setattr(page, "PAGE_BYTES", size - 30_000)
    fewer = report_page(collect(tmp_path / "out"), SourceThumbnails({}))
    assert len(fewer.html.encode()) <= size - 30_000
    assert 0 < fewer.pictures < len(whole.all("figure"))
    monkeypatch.setattr(page, "PICTURE_BYTES", 20_000)
    assert report_page(collect(tmp_path / "out"), SourceThumbnails({})).pictures < fewer.pictures


def test_a_large_folder_shows_some_of_every_kind(tmp_path, monkeypatch):
    monkeypatch.setattr(page, "GALLERY", 12)
    fill_folder(tmp_path / "out", 6, 8, 0)
    shown = _page(tmp_path / "out")
    kinds = {(one["data-class"], one["data-creativity"]) for one in shown.all("figure")}
    assert len(shown.all("figure")) == len(kinds) == len(CLASSES) * 4
    assert "12 of 48, some of every kind" in shown.words


def test_a_killed_run_says_so(tmp_path):
    fill_folder(tmp_path / "out", 2, 4, 0, left=5, ended=None)
    data = collect(tmp_path / "out").data
    assert (data["state"], data["counts"]["left"]) == ("ended without a word", 5)
    assert "did not say how it ended" in _page(tmp_path / "out").words


def test_a_folder_without_any_picture(tmp_path):
    with OutputFolder.open(tmp_path / "out", {}) as folder:
        folder.set_plan({"rows": 3})
        assert collect(tmp_path / "out").data["state"] == "running"
        assert "There are none yet" in _page(tmp_path / "out").words


def test_a_folder_where_everything_failed(tmp_path):
    fill_folder(tmp_path / "out", 1, 3, 2)
    fill_folder(tmp_path / "all", 1, 3, 3)
    assert collect(tmp_path / "all").data["counts"]["failed"] == 3
    assert "There are none yet" in _page(tmp_path / "all").words


@pytest.mark.parametrize("failed", [2, 4], ids=["some", "all"])
def test_failed_images_are_counted_by_their_class(failed, tmp_path):
    """Which the manifest has alone. A class of which everything failed is in the table, too."""
    manifest = tmp_path / "rows.jsonl"
    rows = [{"id": f"row-{n:06d}", "prompt": "a", "class": "cat" if n < 2 else "gnu"} for n in range(4)]
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
    fill_folder(tmp_path / "out", 1, 4, failed)
    with OutputFolder.open(tmp_path / "out", FINGERPRINT) as folder:
        folder.set_plan({"rows": 4, "manifest": str(manifest), "digest": read_manifest(manifest).digest})
    data = collect(tmp_path / "out").data
    assert {row["class"]: row["failed"] for row in data["classes"] if row["failed"]} == (
        {"gnu": 2} if failed == 2 else {"cat": 2, "gnu": 2}
    )
    [failure] = data["failures"]
    assert sum(one["images"] for one in failure["image_classes"]) == failed
    assert "By the column class : " in _page(tmp_path / "out").words
    manifest.write_text(manifest.read_text() + '{"id": "more", "prompt": "a", "class": "cat"}\n')
    found = collect(tmp_path / "out").data
    assert all(row["failed"] is None for row in found["classes"]), "a manifest that was changed says nothing"
    assert found["failures"][0]["image_classes"] == []


def test_lost_and_changed_sources_are_named(tmp_path):
    sources = source_files(tmp_path / "pictures", 2)
    fill_folder(tmp_path / "out", 1, 4, 0, sources=sources, source_root=tmp_path / "pictures")
    (tmp_path / "pictures" / "source-0.png").write_bytes(drawing(5))
    (tmp_path / "pictures" / "source-1.png").unlink()
    words = _page(tmp_path / "out").words
    assert "it has changed, or is gone, since the picture was made" in words
    assert "source-1.png does not exist" in words


def test_sources_inside_a_parquet_manifest_are_found_by_their_row(tmp_path):
    sources = source_files(tmp_path / "pictures", 4)
    held = [(tmp_path / "pictures" / source.path).read_bytes() for source in sources]
    images = pa.array(
        [{"bytes": data, "path": None} for data in held], pa.struct({"bytes": "binary", "path": "string"})
    )
    pq.write_table(pa.table({"image": images, "creativity": [0.5] * 4}), tmp_path / "rows.parquet")
    nameless = [UsedSource(None, 1.0, source.sha256) for source in sources]  # type: ignore[arg-type]
    fill_folder(tmp_path / "out", 1, 4, 0, sources=nameless, source_root=tmp_path)
    report = collect(tmp_path / "out")
    plan = {**report.plan, "manifest": str(tmp_path / "rows.parquet")}
    shown = Read(report_page(report, SourceThumbnails(plan)).html)
    assert sum((one["alt"] or "").startswith("source picture 1 of") for one in shown.all("img")) == 3


def test_damaged_checks_are_said_and_change_nothing_else(tmp_path):
    fill_folder(tmp_path / "out", 1, 4, 0)
    (tmp_path / "out" / "checks").mkdir()
    (tmp_path / "out" / "checks" / "part-00000.parquet").write_bytes(b"PAR1 no more")
    data = collect(tmp_path / "out").data
    assert "run `wanbatch check` again" in data["checks"]["problem"]
    assert data["counts"]["made"] == 4
    assert "cannot be read" in _page(tmp_path / "out").words


def test_pages_with_all_pictures_and_failures(filled, tmp_path, monkeypatch):
    monkeypatch.setattr(pages, "IMAGES", 10)
    result = CliRunner().invoke(main, ["report", str(filled), "--to", str(tmp_path / "r.html"), "--pages"])
    assert result.exit_code == 0, result.output
    names = sorted(path.name for path in (tmp_path / "report-pages").iterdir())
    assert names == ["failures-00001.html", *(f"pictures-0000{number}.html" for number in (1, 2, 3))]
    found = [Read((tmp_path / "report-pages" / name).read_text()) for name in names]
    assert sum(len(one.all("figure")) for one in found) == 22
    assert "row-000006" in found[0].words
    for one in found:
        for link in one.all("a")[1:]:
            assert (tmp_path / "report-pages" / str(link["href"])).resolve().exists()
    assert json.loads((tmp_path / "r.json").read_text())["counts"]["made"] == 22


def test_the_examples_of_the_page_about_reports(filled, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "quickstart").symlink_to(filled)
    (tmp_path / "out" / "fast").symlink_to(filled)
    (tmp_path / "examples").symlink_to(DOCS.parent / "examples")
    text = (DOCS / "reports.md").read_text(encoding="utf-8")
    blocks = [block.split("```")[0] for block in text.split("```sh\n")[1:]]
    for line in "".join(blocks).splitlines():
        command = shlex.split(line, comments=True)
        more = ["--out", "new"] if command[1] == "plan" else []  # the folder here is without settings
        result = CliRunner().invoke(main, [*command[1:], *more])
        assert (command[0], result.exit_code) == ("wanbatch", 0), result.output
    for name in (
        "report/index.html",
        "report/index.json",
        "sheet.png",
        "out/quickstart/report-pages",
        "compare.json",
        "ssim.html",
    ):
        assert (tmp_path / name).exists()


def test_an_unknown_class_column_is_refused_with_those_that_there_are(filled, tmp_path):
    result = CliRunner().invoke(main, ["report", str(filled), "--class-column", "kind", "--to", "x.html"])
    assert result.exit_code == 2
    assert re.search(r"has no column 'kind' of text or whole numbers; it has: .*\bclass\b", result.stderr)
    by_sampler = collect(filled, "sampler").data
    assert [row["class"] for row in by_sampler["classes"]] == ["unipc"]


def test_options_of_the_sheet_need_the_sheet(filled):
    result = CliRunner().invoke(main, ["report", str(filled), "--limit", "3"])
    assert (result.exit_code, "--sheet" in result.stderr) == (2, True)


def test_a_folder_of_release_0_1_0(tmp_path):
    out = RELEASE / "dataset"
    result = CliRunner().invoke(main, ["report", str(out), "--to", str(tmp_path / "r.html")])
    assert result.exit_code == 0, result.output
    shown = Read((tmp_path / "r.html").read_text())
    assert "1 missing_image" in shown.words
    assert len(shown.all("figure")) == json.loads((tmp_path / "r.json").read_text())["counts"]["made"]


def test_from_a_store(tmp_path, monkeypatch):
    with running() as server:
        for name, value in {**ENVIRONMENT, "AWS_ENDPOINT_URL": server.url}.items():
            monkeypatch.setenv(name, value)
        fsspec_io.forget_file_systems()
        store = fsspec_io.file_system("s3://reports")
        store.mkdir("reports")
        sources = source_files(tmp_path / "pictures")
        for source in sources:
            store.pipe_file(f"s3://reports/in/{source.path}", (tmp_path / "pictures" / source.path).read_bytes())
        fill_folder("s3://reports/out", 2, 4, 1, sources=sources, source_root="s3://reports/in")
        monkeypatch.chdir(tmp_path)
        result = CliRunner().invoke(main, ["report", "s3://reports/out"])
        assert result.exit_code == 0, result.output
        shown = Read((tmp_path / "report.html").read_text())
        assert len(shown.all("figure")) == 7
        assert sum((one["alt"] or "").startswith("source source-") for one in shown.all("img")) == 5 + 1
        found = report_after_run("s3://reports/out", None)  # type: ignore[arg-type]
        assert found == "s3://reports/out/report.html"
        assert (
            fsspec_io.file_system("s3://reports").cat_file("reports/out/report.html").startswith(b"<!doctype html>")
        )
    fsspec_io.forget_file_systems()


def test_a_report_that_fails_is_a_warning(tmp_path, monkeypatch, caplog):
    fill_folder(tmp_path / "out", 1, 2, 0)

    def broken(*_: object) -> None:
        raise RuntimeError("no such\nluck")

    monkeypatch.setattr(write, "report_files", broken)
    assert report_after_run(tmp_path / "out", None) is None  # type: ignore[arg-type]
    assert "its report was not written (no such luck); `wanbatch report` tries again" in caplog.text


def test_a_large_run_that_is_interrupted_ends_without_one():
    assert after_run.is_worth_waiting(interrupted=True, images=10_000)
    assert not after_run.is_worth_waiting(interrupted=True, images=10_001)
    assert after_run.is_worth_waiting(interrupted=False, images=10_000_000)


def test_a_page_that_cannot_be_written_names_the_file(filled, tmp_path):
    (tmp_path / "file").write_text("")
    result = CliRunner().invoke(main, ["report", str(filled), "--to", str(tmp_path / "file" / "r.html")])
    assert result.exit_code == 2
    assert "cannot be written" in result.stderr


@pytest.fixture(scope="module")
def written(filled) -> tuple[Read, dict]:
    result = CliRunner().invoke(main, ["report", str(filled)])
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith(f"{filled}/report.html: 22 pictures, ")
    return Read((filled / "report.html").read_text()), json.loads((filled / "report.json").read_text())


def test_sources_are_looked_for_in_the_split_that_the_run_read(tmp_path):
    for split, prompts in (("test", ["c"]), ("train", ["a", "b"])):
        (tmp_path / f"{split}.jsonl").write_text("\n".join(json.dumps({"prompt": one}) for one in prompts))
    manifest = manifest_of({"manifest": str(tmp_path), "settings": {"split": "train"}})()
    assert manifest is not None
    assert [row.prompt for row in manifest.iter_rows()] == ["a", "b"]
