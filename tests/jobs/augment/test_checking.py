"""`wanbatch check` on folders with known defects: what it writes, what it says, and that no picture changes."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from augment_making import folder_by_class, made_from, output_folder, png
from command_line import invoke, refused
from datasets import load_dataset
from job_making import write_jsonl
from manifest_making import encoded, record, timing
from PIL import Image, ImageFilter

from wanbatch.errors import MachineryError, UserError
from wanbatch.jobs.augment.checking import check_folder
from wanbatch.jobs.augment.checks_settings import Checks
from wanbatch.jobs.config.settings import Settings
from wanbatch.jobs.reporting.report.collect import collect
from wanbatch.manifests.dataset.folder import OutputFolder
from wanbatch.manifests.dataset.part_files import write_attempt
from wanbatch.manifests.dataset.status import recorded_fingerprint
from wanbatch.manifests.records import data_table
from wanbatch.manifests.sharing.contents import Contents
from wanbatch.manifests.sharing.facts import facts_of
from wanbatch.manifests.storage.local import LocalBackend

SIZE = 64


def pixels_of(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB"))


def changed(path: Path, seed: int) -> np.ndarray:
    """A source with some noise, as a picture of low creativity is."""
    noise = np.random.default_rng(seed).normal(0, 12, (SIZE, SIZE, 3))
    return (pixels_of(path) + noise).clip(0, 255).astype(np.uint8)


@pytest.fixture
def out(tmp_path) -> Path:
    """An output folder of twelve good pictures and one of each defect, over two parts."""
    sources = sorted(folder_by_class(tmp_path / "set", {"train/disc": 6, "train/box": 6}).rglob("*.png"))
    for number, path in enumerate(sources):
        Image.fromarray(changed(path, 100 + number)).save(path)
    folder_by_class(tmp_path / "set", {"test/disc": 1, "test/box": 1}, first_seed=90)
    held_out = tmp_path / "set/test/disc/0.png"
    blurred = Image.fromarray(changed(sources[4], 4)).filter(ImageFilter.GaussianBlur(4))
    pictures = [(f"good-{n}", source, png(changed(source, n))) for n, source in enumerate(sources)]
    pictures += [
        ("broken", sources[0], encoded()[:40]),
        ("small", sources[1], png(changed(sources[1], 30)[:32])),
        ("black", sources[2], png(np.zeros((SIZE, SIZE, 3), np.uint8))),
        ("flat", sources[3], png(np.full((SIZE, SIZE, 3), 90, np.uint8))),
        ("blurred", sources[4], png(np.asarray(blurred))),
        ("twin", sources[0], pictures[0][2]),
        ("as-it-was", sources[5], sources[5].read_bytes()),
        ("away", sources[6], png(np.random.default_rng(1).integers(0, 256, (SIZE, SIZE, 3)).astype(np.uint8))),
        ("leak", sources[7], png(changed(held_out, 50))),
    ]
    rows = [
        {"id": name, "prompt": "a", "image": str(source.relative_to(tmp_path)), "label": source.parent.name}
        for name, source, _ in pictures
    ]
    manifest = write_jsonl(tmp_path / "rows.jsonl", rows)
    made = [
        made_from(name, number, source, image, SIZE, str(source.relative_to(tmp_path)))
        for number, (name, source, image) in enumerate(pictures)
    ]
    labels = pa.table({"label": [row["label"] for row in rows]})
    return output_folder(tmp_path / "out", manifest, made, labels, (0, 12))


def test_pictures_of_one_split_are_compared_with_the_sources_of_that_split(tmp_path):
    """Rows without ids are numbered over what a run reads."""
    sources = sorted(folder_by_class(tmp_path / "set", {"a": 2, "b": 2}).rglob("*.png"))
    shop = tmp_path / "shop"
    shop.mkdir()
    for split, its in (("test", sources[:2]), ("train", sources[2:])):
        write_jsonl(shop / f"{split}.jsonl", [{"prompt": "a", "image": f"../{p.relative_to(tmp_path)}"} for p in its])
    made = [
        made_from(f"{number:08d}", number, source, png(changed(source, number)), SIZE, str(source))
        for number, source in enumerate(sources[2:])
    ]
    out = output_folder(tmp_path / "out", shop, made, pa.table({"label": ["a", "b"]}), (0,))
    with OutputFolder.open(out, {"model": "tiny"}) as folder:
        chosen = Settings(split="train", source_fence=str(tmp_path)).model_dump(mode="json")
        folder.set_plan({"rows": 2, "manifest": str(shop), "digest": "", "settings": chosen})
    report = check_folder(out, Checks())
    assert report.warnings == ()
    assert all(one["source_distance"] is not None for one in found(out).values())


def test_parts_that_a_run_replaces_until_the_folder_is_free_are_checked_as_they_are_then(out, monkeypatch):
    acquire, name = LocalBackend.acquire, "good-0"

    def last_moment(backend: LocalBackend) -> None:
        """What a run does just before the check has the folder's lock: it makes the first pictures anew."""
        monkeypatch.undo()
        with OutputFolder.open(out, {"model": "tiny"}) as folder:
            of_part = [one for one, unit in folder.committed().where.items() if unit == 0]
            black = png(np.zeros((SIZE, SIZE, 3), np.uint8))
            made = [record(one, number, black) for number, one in enumerate(of_part)]
            table = data_table(made, pa.table({"label": ["disc"] * len(made)}))
            folder.publish(write_attempt(out, 9, "b", table, [timing(one, 9) for one in of_part], []), replace=True)
        acquire(backend)

    monkeypatch.setattr(LocalBackend, "acquire", last_moment)
    report, checked = check_folder(out, Checks()), found(out)
    assert checked[name]["brightness"] == 0
    assert (report.pictures, report.rejected) == (
        len(checked),
        sum(bool(one["rejected_by"]) for one in checked.values()),
    )


EXPECTED = {
    "broken": ["undecodable"],
    "small": ["wrong_size", "too_far"],
    "black": ["black", "too_far"],
    "flat": ["flat", "too_far"],
    "blurred": ["blurred", "too_far"],
    "twin": ["exact_duplicate"],
    "as-it-was": ["too_near"],
    "away": ["too_far"],
    "leak": ["too_far", "held_out_copy"],
}
RECIPE = 'dataset = "set"\nsplit = "train"\ntemplate = "a"\ncreativity = 0.3\n[checks]\ntolerance = 3.0\n'


def found(out: Path) -> dict[str, dict]:
    tables = [pq.read_table(path) for path in sorted((out / "checks").glob("*.parquet"))]
    return {row["id"]: row for row in pa.concat_tables(tables).to_pylist()}


def test_every_defect_is_a_column_and_a_count_and_no_picture_changes(out):
    Path("recipe.toml").write_text(RECIPE)
    before = {path.name: path.read_bytes() for path in (out / "data").iterdir()}
    done = invoke("check", out, "--recipe", "recipe.toml", "--json")
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    rows = found(out)
    assert {name: row["rejected_by"] for name, row in rows.items() if row["rejected_by"]} == EXPECTED
    assert (told["pictures"], told["rejected"], told["warnings"]) == (21, 9, [])
    assert told["rejected_by"]["too_far"] == 6
    assert {path.name: path.read_bytes() for path in (out / "data").iterdir()} == before
    assert sorted(path.name for path in (out / "checks").iterdir()) == ["part-00000.parquet", "part-00003.parquet"]
    for part in ("part-00000.parquet", "part-00003.parquet"):
        keys = [pq.read_table(out / kind / part, columns=["id", "sha256"]) for kind in ("data", "checks")]
        assert keys[0].equals(keys[1])
    assert rows["good-0"]["source_distance"] < rows["away"]["source_distance"]
    note = json.loads((out / "_wanbatch/checks.json").read_text())
    assert note["rejected"] == 9
    assert note["bands"][0]["creativity"] == [0.3, 0.3999]


def test_checks_that_are_damaged_are_named_and_written_again(out):
    """By a byte that makes a reason no text any more, and in the note, which dataset cards are written with."""
    assert invoke("check", out).exit_code == 0
    part, note = out / "checks/part-00003.parquet", out / "_wanbatch/checks.json"
    before = part.read_bytes(), note.read_bytes()
    raw = bytearray(before[0])
    group = pq.ParquetFile(part).metadata.row_group(0)
    columns = (group.column(i) for i in range(group.num_columns))
    reasons = next(one for one in columns if "rejected_by" in one.path_in_schema)
    raw[reasons.dictionary_page_offset + reasons.total_compressed_size // 3] ^= 255
    part.write_bytes(raw)
    assert "run `wanbatch check` again" in collect(out).data["checks"]["problem"]
    with pytest.raises(MachineryError, match="its checks cannot be read"):
        facts_of(Contents.of(out))
    note.write_bytes(before[1][:-9])
    with (
        OutputFolder.open(out, recorded_fingerprint(out)) as folder,
        pytest.raises(UserError, match=rf"checks\.json: cannot be read .*: `wanbatch check {out}` writes it again"),
    ):
        folder.remove({"good-1"})
    assert '"rows_removed"' in (out / "_wanbatch/log.jsonl").read_text(), "they are gone, and the log says so"
    assert invoke("check", out).exit_code == 0
    assert collect(out).data["checks"]["problem"] is None
    assert json.loads(note.read_bytes())["pictures"] == 20


def test_the_card_has_a_config_for_the_checks_and_keeps_it(out):
    assert invoke("check", out).exit_code == 0
    checks = load_dataset(str(out), "checks", split="train", cache_dir="cache")
    pictures = load_dataset(str(out), split="train", cache_dir="cache")
    assert checks["id"] == pictures["id"]
    assert "rejected_by" in checks.column_names
    assert "image" in pictures.column_names


def test_the_same_checks_again_write_the_same_bytes_and_parts_that_are_gone_leave(out):
    invoke("check", out)
    first = {path.name: path.read_bytes() for path in (out / "checks").iterdir()}
    (out / "checks/part-00007.parquet").write_bytes(b"of a part that was replaced")
    invoke("check", out)
    assert {path.name: path.read_bytes() for path in (out / "checks").iterdir()} == first


def test_sources_that_are_gone_or_changed_are_said_and_the_rest_is_checked(out, tmp_path):
    (tmp_path / "set/train/disc/0.png").unlink()
    shutil.copy(tmp_path / "set/train/box/1.png", tmp_path / "set/train/box/2.png")
    done = invoke("check", out, "--json")
    (warning,) = json.loads(done.stdout)["warnings"]
    assert warning.startswith("not compared with their sources: 4 pictures, 'good-2' for one: its source has changed")
    assert found(out)["good-2"]["source_distance"] is None
    assert found(out)["good-3"]["source_distance"] is not None
    Path("rows.jsonl").unlink()
    (warning,) = json.loads(invoke("check", out, "--json").stdout)["warnings"]
    assert "for one: the manifest cannot be read (" in warning


def test_what_a_person_reads(out):
    Path("recipe.toml").write_text(RECIPE)
    text = invoke("check", out, "--recipe", "recipe.toml", "--duplicates", "none").stdout.splitlines()
    assert text[0] == f"{out}: 13 of 21 pictures pass, 8 are rejected"
    assert text[1] == "  too_far          6: they are farther from their source than others of their creativity"
    assert any(line.startswith("  class box") for line in text)


def test_what_is_no_output_folder_or_held_by_a_run_is_refused(out, tmp_path):
    (line,) = refused(invoke("check", tmp_path / "set"))
    assert line.endswith("/set: has no pictures to check: give an output folder")
    with OutputFolder.open(out, {"model": "tiny"}, {}):
        held = invoke("check", out)
    assert held.exit_code == 4
    assert "checks" not in [path.name for path in out.iterdir()]


def test_pictures_whose_source_is_in_another_class_or_held_out_by_now_are_rejected(out, tmp_path):
    Path("recipe.toml").write_text(RECIPE)
    train = tmp_path / "set/train"
    (train / "box/1.png").rename(train / "disc/moved.png")
    (train / "box/2.png").rename(tmp_path / "set/test/box/moved.png")
    assert invoke("check", out).exit_code == 0
    assert {row["source_moved"] for row in found(out).values()} == {None}
    assert invoke("check", out, "--recipe", "recipe.toml").exit_code == 0
    moved = {name: row["rejected_by"] for name, row in found(out).items() if row["source_moved"]}
    assert moved.keys() == {"good-1", "good-2", "small", "black"}
    assert all("source_moved" in reasons for reasons in moved.values())
    assert found(out)["good-0"]["source_moved"] is False


def test_a_temporary_folder_that_cannot_be_used_is_named_and_the_checks_of_before_stay(out, tmp_path, monkeypatch):
    check_folder(out, Checks())
    before = found(out)
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "file" / "none"))
    with pytest.raises(MachineryError, match=r"cannot be written to \(Not a directory\) at .*/file/none"):
        check_folder(out, Checks(duplicates="near"))
    assert found(out) == before
