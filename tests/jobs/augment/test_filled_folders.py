"""A manifest is not written anew if an output folder holds what it alone asks for; folders are as runs leave them."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import pytest
from augment_making import RECIPE, fill_folder, folder_by_class, rows_of
from command_line import invoke, refused
from job_making import picture
from s3_server import ENVIRONMENT, empty_bucket, running

from wanbatch.errors import UserError
from wanbatch.jobs.augment import making
from wanbatch.jobs.augment.filled import manifest_for
from wanbatch.jobs.schedule.commands import THIS_WANBATCH, tick_commands
from wanbatch.jobs.schedule.definition import read_schedules
from wanbatch.manifests.dataset.status import status
from wanbatch.manifests.storage import fsspec_io
from wanbatch.manifests.storage.backend import open_backend

COUNTS = {"train/disc": 3, "train/box": 2, "test/disc": 2, "test/box": 2}
MANIFEST = Path("out/grown.jsonl")


@pytest.fixture
def pictures(tmp_path, monkeypatch) -> Path:
    """The pictures of the recipe; a run tells what it was given, and makes nothing."""

    def run(written, out, settings):
        raise UserError(f"a run of {len(written.rows)} rows into {out}")

    monkeypatch.setattr(making, "make_pictures", run)
    Path("recipe.toml").write_text(RECIPE, encoding="utf-8")
    return folder_by_class(tmp_path / "set", COUNTS)


def grow(out: str = "out/grown") -> str:
    """The last thing that the command says."""
    done = invoke("augment", "recipe.toml", "--run", "--out", out)
    assert done.exit_code == 2, done.output
    return done.stderr.splitlines()[-1]


def digest_of(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def change(old: str, new: str) -> None:
    text = RECIPE.replace(old, new)
    assert text != RECIPE
    Path("recipe.toml").write_text(text, encoding="utf-8")


def test_a_changed_recipe_is_refused_before_the_manifest_of_a_filled_folder_is_replaced(pictures):
    assert grow() == "wanbatch: a run of 19 rows into out/grown"
    before = MANIFEST.read_bytes()
    fill_folder(Path("out/grown"), MANIFEST, failed=1)
    (pictures / "train/disc/0.png").unlink()  # the recipe as it was does not bring its rows back
    change("fill = 12 ", "fill = 4 ")
    said = grow()
    assert said.startswith(
        "wanbatch: out/grown.jsonl: is not written anew, since out/grown holds 15 rows that it does not ask for any "
    )
    assert said.endswith(
        "take recipe and dataset back as they were when it was written, take these 15 out of the dataset with "
        "--drop-removed, or begin anew with another --out"
    )
    assert MANIFEST.read_bytes() == before
    assert grow("out/other") == "wanbatch: a run of 4 rows into out/other"
    Path("recipe.toml").write_text(RECIPE)
    assert grow() == "wanbatch: a run of 20 rows into out/grown"  # all of before, and what takes the disc's place
    assert {row["id"] for row in map(json.loads, before.splitlines())} < {row["id"] for row in rows_of(MANIFEST)}


def test_rows_that_ask_for_something_else_under_their_ids_are_refused_and_new_ones_are_not(pictures):
    grow()
    fill_folder(Path("out/grown"), MANIFEST)
    before = MANIFEST.read_bytes()
    change('"a {label}"', '"one {label}"')
    assert "out/grown holds 19 rows that are others by now, 'box-" in grow()
    assert MANIFEST.read_bytes() == before
    change("fill = 12 ", "fill = 14 ")  # asks for all that there is, and more
    assert grow() == "wanbatch: a run of 23 rows into out/grown"


def test_the_command_that_writes_the_manifest_alone_knows_its_usual_folder(pictures):
    for target, out in (("grown.jsonl", "out/grown"), ("plans/grown.jsonl", "plans/grown")):
        Path("recipe.toml").write_text(RECIPE)
        assert invoke("augment", "recipe.toml", "--out", target).exit_code == 0
        before = Path(target).read_bytes()
        fill_folder(Path(out), Path(target))
        change("fill = 12 ", "fill = 4 ")
        (line,) = refused(invoke("augment", "recipe.toml", "--out", target))
        assert line.startswith(f"{target}: is not written anew, since {out} holds ")
        assert Path(target).read_bytes() == before
        shutil.rmtree(out)
        assert invoke("augment", "recipe.toml", "--out", target).exit_code == 0


def test_a_manifest_is_not_replaced_while_a_run_of_it_may_still_make_its_rows(pictures):
    grow()
    before = MANIFEST.read_bytes()
    fill_folder(Path("out/grown"), MANIFEST, only=0)
    change("fill = 12 ", "fill = 4 ")
    backend = open_backend("out/grown")
    backend.acquire()
    try:
        done = invoke("augment", "recipe.toml", "--run", "--out", "out/grown")
        assert done.exit_code == 4, done.output
    finally:
        backend.release()
    assert MANIFEST.read_bytes() == before
    assert grow() == "wanbatch: a run of 3 rows into out/grown"  # nothing was made of it
    assert status("out/grown")["holder"] is None


def test_rows_of_pictures_that_are_held_out_or_in_another_class_by_now_are_all_named(pictures):
    grow()
    before = rows_of(MANIFEST)
    fill_folder(Path("out/grown"), MANIFEST)
    shutil.move(pictures / "train/disc/0.png", pictures / "train/box/moved.png")
    ids = ", ".join(row["id"] for row in before if row["source_id"] == "train-disc-0")
    assert ids.count("disc-") == 3
    assert grow() == (
        f"wanbatch: out/grown.jsonl: 3 rows are of pictures that are in another class or split by now: {ids} "
        "(train/box/moved.png): move what moved back, take these rows out with --drop-removed, or begin anew with "
        "another --out"
    )
    Path("recipe.toml").write_text(RECIPE + 'classes = ["disc"]\n')  # another recipe, of the same dataset
    assert grow("out/others") == "wanbatch: a run of 10 rows into out/others"
    Path("recipe.toml").write_text(RECIPE)
    shutil.copy(pictures / "train/box/moved.png", pictures / "train/disc/0.png")
    assert grow() == "wanbatch: a run of 19 rows into out/grown"  # a picture of both classes
    assert rows_of(MANIFEST) == before
    (pictures / "train/box/moved.png").unlink()
    for number in (0, 1):
        shutil.move(pictures / f"train/disc/{number}.png", pictures / f"test/disc/{number}-too.png")
    said = grow()
    assert said.startswith("wanbatch: out/grown.jsonl: 6 rows are of pictures that are held out by now: disc-")
    assert all(row["id"] in said for row in before if row["source_id"] in ("train-disc-0", "train-disc-1"))
    assert rows_of(MANIFEST) == before


def test_a_picture_that_went_to_a_class_that_is_not_augmented_is_found(pictures):
    Path("recipe.toml").write_text(RECIPE + 'classes = ["disc"]\n')
    grow()
    shutil.move(pictures / "train/disc/0.png", pictures / "train/box/moved.png")
    assert "3 rows are of pictures that are in another class or split by now" in grow()


def test_rows_that_are_not_made_name_their_pictures_by_where_they_are_now(pictures):
    Path("recipe.toml").write_text(RECIPE + "[blend]\nshare = 0.5\n")
    grow()
    before = {row["id"]: row for row in rows_of(MANIFEST)}
    (pictures / "train/disc/0.png").rename(pictures / "train/disc/renamed.png")
    (pictures / "train/box").rename(pictures / "train/old")
    (pictures / "train/old").rename(pictures / "train/box")  # where it was
    fill_folder(Path("out/grown"), MANIFEST, failed=1, only=11)
    made = status("out/grown")["done"]
    assert made == 10
    assert grow() == "wanbatch: a run of 19 rows into out/grown"
    names = [row["id"] for row in rows_of(MANIFEST)]
    others = 0
    for row in rows_of(MANIFEST):
        was = before[row["id"]]
        if names.index(row["id"]) < 11:
            assert row == was
            continue
        paths, had = (one.get("images") or [one["image"]] for one in (row, was))
        assert paths == [path.replace("disc/0.png", "disc/renamed.png") for path in had]
        assert all((MANIFEST.parent / path).exists() for path in paths)
        others += paths != had
        assert {**row, "image": 0, "images": 0} == {**was, "image": 0, "images": 0}
    assert others > 1
    again = MANIFEST.read_bytes()
    grow()
    assert MANIFEST.read_bytes() == again


def test_rows_that_are_not_made_have_the_masks_that_their_pictures_have_now(pictures):
    Path("recipe.toml").write_text(
        'dataset = "set/table.csv"\nsplit = "train"\ntemplate = "a {label}"\ncreativity = 0.3\nvariants = 2\n'
    )

    def table(mask: str) -> None:
        lines = [f"train/disc/{number}.png,disc,train,{name}" for number, name in enumerate((mask, "masks/b.png"))]
        (pictures / "table.csv").write_text("\n".join(["image,label,split,mask", *lines, ""]))

    table("masks/a.png")
    grow()
    before = {row["id"]: row for row in rows_of(MANIFEST)}
    assert {row["mask"] for row in before.values()} == {"masks/a.png", "masks/b.png"}
    of_first = [name for name, row in before.items() if row["mask"] == "masks/a.png"]
    fill_folder(Path("out/grown"), MANIFEST, only=list(before).index(of_first[1]))
    table("masks/renamed.png")
    grow()
    for row in rows_of(MANIFEST):
        renamed = row["id"] == of_first[1]  # the first one is made
        assert row == {**before[row["id"]], **({"mask": "masks/renamed.png"} if renamed else {})}


def test_rows_leave_a_manifest_and_its_folder_whose_pictures_are_gone_or_elsewhere(pictures, monkeypatch):
    Path("recipe.toml").write_text(RECIPE + "[blend]\nshare = 0.5\n")
    grow()
    before = rows_of(MANIFEST)
    fill_folder(Path("out/grown"), MANIFEST, failed=1)
    gone, moved, kept_out = (digest_of(pictures / f"train/{name}.png") for name in ("disc/0", "disc/1", "box/0"))
    (pictures / "train/disc/0.png").unlink()
    shutil.move(pictures / "train/disc/1.png", pictures / "train/box/moved.png")
    shutil.copy(pictures / "train/box/0.png", pictures / "test/box/too.png")
    out = {row["id"] for row in before if {gone, moved, kept_out} & {one["sha256"] for one in row["parents"]}}
    blends = [row for row in before if row["id"] in out and row["source_sha256"] not in (gone, moved, kept_out)]
    assert blends
    assert len(out) < len(before)
    assert "take these rows out with --drop-removed" in grow()
    assert rows_of(MANIFEST) == before
    backend = open_backend("out/grown")
    backend.acquire()
    try:
        assert invoke("augment", "recipe.toml", "--run", "--out", "out/grown", "--drop-removed").exit_code == 4
    finally:
        backend.release()
    assert rows_of(MANIFEST) == before
    dropped: list[bool] = []

    def run(written, out, settings):
        dropped.append(written.drop_removed)
        raise UserError(f"a run of {len(written.rows)} rows into {out}")

    monkeypatch.setattr(making, "make_pictures", run)
    done = invoke("augment", "recipe.toml", "--run", "--out", "out/grown", "--drop-removed")
    assert f"  leaving   {len(out)} rows leave it, of pictures that are gone, held out" in done.stderr, done.output
    after = rows_of(MANIFEST)
    assert {row["id"] for row in before} - {row["id"] for row in after} == out
    assert {row["id"]: row for row in after} == {row["id"]: row for row in after + before if row["id"] not in out}
    there = {digest_of(path) for path in pictures.glob("train/*/*.png")} - {kept_out}
    assert {one["sha256"] for row in after for one in row["parents"]} <= there
    assert f"holds {len(out)} rows that it does not ask for any more" in grow()  # the run did not get that far
    assert invoke("augment", "recipe.toml", "--run", "--out", "out/grown", "--drop-removed").exit_code == 2
    assert dropped == [True, True]
    assert rows_of(MANIFEST) == after


def test_rows_of_classes_that_a_recipe_has_no_more_leave_if_they_may(pictures):
    grow()
    before = rows_of(MANIFEST)
    fill_folder(Path("out/grown"), MANIFEST)
    Path("recipe.toml").write_text(RECIPE + 'classes = ["disc"]\n')
    assert "take these 10 out of the dataset with --drop-removed" in grow()
    drop = ("augment", "recipe.toml", "--run", "--out", "out/grown", "--drop-removed")
    assert invoke(*drop).stderr.endswith("wanbatch: a run of 9 rows into out/grown\n")
    assert [row["id"] for row in rows_of(MANIFEST)] == [row["id"] for row in before if row["label"] == "disc"]
    written = MANIFEST.read_bytes()
    Path("recipe.toml").write_text(RECIPE.replace("fill", "seed = 5\nfill").replace("a {label}", "one {label}"))
    told = invoke(*drop).stderr.splitlines()[-1]  # all would ask for other pictures
    assert "--drop-removed" not in told
    shutil.rmtree(pictures / "train")
    folder_by_class(pictures, {"train/disc": 2}, first_seed=70)
    Path("recipe.toml").write_text(RECIPE + 'classes = ["disc"]\n')
    told = invoke(*drop).stderr.splitlines()[-1]  # none would be asked for
    assert "out/grown holds 19 rows that it does not ask for any more" in told
    assert "--drop-removed" not in told
    assert MANIFEST.read_bytes() == written


def test_the_next_command_takes_out_what_left_the_manifest(pictures):
    assert invoke("augment", "recipe.toml", "--out", "grown.jsonl").exit_code == 0
    fill_folder(Path("out/grown"), Path("grown.jsonl"))
    (pictures / "train/disc/0.png").unlink()
    done = invoke("augment", "recipe.toml", "--out", "grown.jsonl", "--drop-removed")
    assert done.stdout.splitlines()[-1].endswith("wanbatch run grown.jsonl --drop-removed --out out/grown")
    told = invoke("augment", "recipe.toml", "--out", "grown.jsonl", "--drop-removed", "--json")
    assert json.loads(told.stdout)["leaving_rows"] == 0


def test_a_folder_goes_on_with_its_manifest_by_hand_and_by_schedule(pictures, tmp_path):
    def tick() -> str:
        (one,) = read_schedules(Path("wanbatch.toml"))
        (words,) = tick_commands(one)
        return invoke(*words[len(THIS_WANBATCH) :]).stderr.splitlines()[-1]

    Path("wanbatch.toml").write_text(
        '[schedule.nightly]\ncron = "0 2 * * *"\ntimezone = "UTC"\nrecipe = "recipe.toml"\noutput = "out/grown"\n'
    )
    grow()
    fill_folder(Path("out/grown"), MANIFEST)
    (pictures / "train/disc/0.png").unlink()
    assert tick() == f"wanbatch: a run of 20 rows into {tmp_path}/out/grown"
    before = rows_of(MANIFEST)
    former = tmp_path / "recipe-nightly.jsonl"  # as schedules named it in earlier versions
    former.write_text("".join(f"{json.dumps({**row, 'image': row['image'][3:]})}\n" for row in before))
    MANIFEST.unlink()
    shutil.rmtree("out/grown")
    fill_folder(Path("out/grown"), former)
    picture(pictures / "train/box/new.png", 64, 64, seed=99)
    (pictures / "train/box/0.png").unlink()
    assert tick() == f"wanbatch: a run of 20 rows into {tmp_path}/out/grown"
    assert grow() == "wanbatch: a run of 20 rows into out/grown"
    assert not MANIFEST.exists()
    assert tick() == f"wanbatch: a run of 20 rows into {tmp_path}/out/grown"


def test_a_folder_that_was_filled_from_a_manifest_of_ones_own_keeps_it(pictures):
    """Nobody is told to remove it: it is what the folder is gone on with."""
    grow()
    own = Path("own.jsonl")
    rows = [{name: row[name] for name in row if name != "recipe_digest"} for row in rows_of(MANIFEST)]
    own.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    MANIFEST.unlink()
    fill_folder(Path("out/grown"), own)
    before = own.read_bytes()
    assert grow() == (
        f"wanbatch: {own.absolute()}: is there already, and no recipe wrote it: give another name with --out"
    )
    assert (own.read_bytes(), MANIFEST.exists()) == (before, False)
    assert grow("out/others") == "wanbatch: a run of 19 rows into out/others"


def test_folders_of_one_name_have_manifests_of_their_own(tmp_path, monkeypatch):
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    recipe = tmp_path / "recipe.toml"
    with running() as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
        fsspec_io.forget_file_systems()
        empty_bucket("folders")
        outs = [tmp_path / "a/grown", tmp_path / "b/grown", "s3://folders/a/grown", "s3://folders/b/grown/"]
        found = [manifest_for(recipe, out) for out in outs]
        assert manifest_for(recipe, "s3://folders/a/grown/") == found[2]
    assert found[:2] == [tmp_path / "a/grown.jsonl", tmp_path / "b/grown.jsonl"]
    assert len({path.name for path in found[2:]}) == 2
    assert {path.parent for path in found[2:]} == {tmp_path}


@pytest.mark.parametrize(("out", "usual"), [(".", "a/grown.jsonl"), ("..", "a.jsonl"), ("sub/", "sub.jsonl")])
def test_the_manifest_of_a_folder_is_never_in_it(tmp_path, monkeypatch, out, usual):
    (tmp_path / "a/grown").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "a/grown")
    found = manifest_for(tmp_path / "recipe.toml", out)
    assert found == (tmp_path / usual if out.startswith(".") else Path(usual))
