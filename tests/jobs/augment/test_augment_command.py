"""`wanbatch augment` as a user types it, and what it refuses."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from augment_making import RECIPE, folder_by_class, look_of, rows_of
from command_line import invoke, refused, usage_error
from job_making import picture
from schedule_world import schedule

from wanbatch.errors import UserError
from wanbatch.jobs.augment import making
from wanbatch.jobs.cluster import job_client
from wanbatch.jobs.cluster import submit as submitting
from wanbatch.jobs.cluster.job_follow import JobEnd
from wanbatch.jobs.cluster.job_state import JobState
from wanbatch.jobs.cluster.submit import Submitted
from wanbatch.jobs.schedule.commands import THIS_WANBATCH, tick_commands

COUNTS = {"train/disc": 3, "train/box": 2, "test/disc": 2, "test/box": 2}


@pytest.fixture
def pictures(tmp_path) -> Path:
    Path("recipe.toml").write_text(RECIPE, encoding="utf-8")
    return folder_by_class(tmp_path / "set", COUNTS)


def change(old: str, new: str) -> None:
    text = RECIPE.replace(old, new)
    assert text != RECIPE
    Path("recipe.toml").write_text(text, encoding="utf-8")


def test_the_smallest_recipe_fills_every_class_byte_for_byte_the_same(pictures, tmp_path):
    made = invoke("augment", "recipe.toml", "--out", "manifest.jsonl")
    assert made.exit_code == 0, made.output
    assert made.stdout.splitlines()[0].startswith("manifest.jsonl: 19 rows from 5 pictures of split train (")
    assert made.stdout.splitlines()[1:] == [
        "  train box        2 + 10 rows = 12",
        "  train disc       3 + 9 rows = 12",
        "  next      wanbatch run manifest.jsonl --out out/manifest",
    ]
    first = Path("manifest.jsonl").read_bytes()
    invoke("augment", "recipe.toml", "--out", "manifest.jsonl")
    assert Path("manifest.jsonl").read_bytes() == first
    shutil.copytree(tmp_path, tmp_path.with_name("elsewhere"))
    invoke("augment", tmp_path.with_name("elsewhere") / "recipe.toml", "--out", "again.jsonl")
    assert [row["id"] for row in rows_of(Path("again.jsonl"))] == [
        row["id"] for row in rows_of(Path("manifest.jsonl"))
    ]
    row = rows_of(Path("manifest.jsonl"))[0]
    assert row["parents"] == [
        {"id": row["source_id"], "sha256": row["source_sha256"], "split": "train", "share": 1.0}
    ]
    assert (row["label"], row["split"], row["prompt"]) == ("box", "train", "a box")


def test_run_makes_the_pictures_and_a_grown_dataset_makes_only_new_ones(pictures, fast_retries, settings, tmp_path):
    """The command that `--measure` names: wanbatch augment RECIPE --run --out OUT."""
    change("fill = 12 ", "variants = 1 ")
    flags = [
        "--model",
        settings().model,
        "--width",
        32,
        "--height",
        32,
        "--creativity-steps",
        "respace",
        "--steps",
        2,
    ]
    made = invoke("augment", "recipe.toml", "--run", "--out", "out/grown", *flags)
    assert made.exit_code == 0, made.output
    rows = pq.read_table("out/grown/data").to_pylist()
    assert len(rows) == 10
    assert {row["id"] for row in rows} == {row["id"] for row in rows_of(Path("out/grown.jsonl"))}
    assert {row["split"] for row in rows} == {"train"}
    for row in rows:
        assert row["sources"][0]["sha256"] == row["source_sha256"] == row["parents"][0]["sha256"]
    picture(pictures / "train/disc/new.png", 64, 64, seed=99)
    (pictures / "train/disc/0.png").unlink()  # what was made of it stays, and is not asked for any more
    again = invoke("augment", "recipe.toml", "--run", "--out", "out/grown", "--json", *flags)
    assert again.exit_code == 0, again.output
    told = json.loads(again.stdout)
    assert (told["made_now"], told["quarantined"], told["pending"]) == (2, 0, 0)
    assert len(pq.read_table("out/grown/data").to_pylist()) == 12
    gone = {row["id"] for row in rows if row["source_id"] == "train-disc-0"}
    dropped = invoke("augment", "recipe.toml", "--run", "--out", "out/grown", "--drop-removed", "--json", *flags)
    assert dropped.exit_code == 0, dropped.output
    told = json.loads(dropped.stdout)
    assert (told["made_now"], told["removed"], told["pending"]) == (0, len(gone), 0)
    ids = set(pq.read_table("out/grown/data").column("id").to_pylist())
    assert len(ids) == 12 - len(gone) == 10
    assert not ids & gone


def test_rows_that_a_manifest_has_stay_when_the_dataset_changes(pictures):
    invoke("augment", "recipe.toml")
    before = rows_of(Path("recipe.jsonl"))
    for number in range(4):
        picture(pictures / f"train/box/more-{number}.png", 64, 64, seed=50 + number)
    (pictures / "train/disc/0.png").unlink()
    made = invoke("augment", "recipe.toml")
    assert made.stdout.splitlines()[0].endswith("/set), 1 of them new")
    after = rows_of(Path("recipe.jsonl"))
    assert [row for row in after if row in before] == before  # the boxes are 16 by now, and the discs 12 again
    assert [row["label"] for row in after if row not in before] == ["disc"]
    gone = before[-1]["source_id"]
    assert any(row["source_id"] == gone for row in after)
    assert (
        "  warning   3 rows stay with pictures that the dataset has no more, train-disc-0 for one: --drop"
        in made.stdout
    )

    shutil.move(pictures / "train/disc/1.png", pictures / "test/disc/moved.png")
    (line,) = refused(invoke("augment", "recipe.toml"))
    assert "4 rows are of pictures that are held out by now: disc-" in line
    assert line.endswith(
        " (test/disc/moved.png of split test): move what moved back, take these rows out with --drop-removed, or "
        "begin anew with another --out"
    )
    assert rows_of(Path("recipe.jsonl")) == after


def test_a_changed_recipe_or_another_dataset_begins_anew_and_other_files_are_not_replaced(pictures):
    invoke("augment", "recipe.toml")
    before = rows_of(Path("recipe.jsonl"))
    change("fill = 12 ", "fill = 8 ")
    assert invoke("augment", "recipe.toml").exit_code == 0
    assert len(rows_of(Path("recipe.jsonl"))) == 11
    folder_by_class(Path("others"), COUNTS, first_seed=70)
    Path("recipe.toml").write_text(Path("recipe.toml").read_text().replace('"set"', '"others"'))
    assert invoke("augment", "recipe.toml").exit_code == 0
    assert not {row["id"] for row in rows_of(Path("recipe.jsonl"))} & {row["id"] for row in before}
    Path("recipe.jsonl").write_text('{"prompt": "mine"}\n')
    (line,) = refused(invoke("augment", "recipe.toml"))
    assert line == "recipe.jsonl: is there already, and no recipe wrote it: give another name with --out"
    assert Path("recipe.jsonl").read_text() == '{"prompt": "mine"}\n'


def test_copies_of_held_out_pictures_are_left_out_and_named(pictures):
    shutil.copy(pictures / "test/box/0.png", pictures / "train/box/leak.png")
    picture(pictures / "other.jpg", 64, 64, seed=0)
    Path("apart").mkdir()
    (pictures / "other.jpg").rename("apart/other.jpg")  # a JPEG of train/disc/0.png
    assert look_of(Path("apart/other.jpg")).is_near(look_of(pictures / "train/disc/0.png"))
    change('split = "train"', 'split = "train"\nheld_out = "apart"')
    made = invoke("augment", "recipe.toml", "--json")
    told = json.loads(made.stdout)
    assert told["near_copies"] == [
        "train/box/leak.png is a copy of test/box/0.png of split test",
        "train/disc/0.png looks like other.jpg of split apart",
    ]
    used = {row["image"] for row in rows_of(Path("recipe.jsonl"))}
    assert used == {f"set/train/{name}.png" for name in ("disc/1", "disc/2", "box/0", "box/1")}
    change('split = "train"', 'split = "train"\nnear_copies = "refuse"')
    (line,) = refused(invoke("augment", "recipe.toml"))
    assert line.startswith("train/box/leak.png is a copy of test/box/0.png of split test: take them out")
    change('split = "train"', 'split = "train"\nnear_copies = "keep"')
    assert json.loads(invoke("augment", "recipe.toml", "--json").stdout)["near_copies"] == []


def test_a_picture_that_is_damaged_or_twice_in_its_class_is_left_out_with_a_warning(pictures):
    shutil.copy(pictures / "train/box/0.png", pictures / "train/box/twin.png")
    whole = (pictures / "train/box/1.png").read_bytes()
    (pictures / "train/box/cut.png").write_bytes(whole[: len(whole) // 2])
    told = json.loads(invoke("augment", "recipe.toml", "--json").stdout)
    assert len(told["warnings"]) == 2
    assert told["warnings"][0].startswith("left out as it cannot be read: train/box/cut.png ")
    assert told["warnings"][1] == "left out as the same file is in its class already: train/box/twin.png"
    assert told["classes"][0] == {"split": "train", "label": "box", "originals": 2, "rows": 10}


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('split = "train"\n', "", 'set: has splits test, train: say which one is augmented, like split = "train"'),
        ('"train"', '"trains"', "set: has no split 'trains'; there are: test, train; did you mean train?"),
        ("{label}", "{lable}", "template 'a {lable}' names 'lable', which is no column of set; there are: "),
        ("{label}", "{lable}", "; did you mean label?"),
        ("{label}", "{label", "template 'a {label' cannot be read ("),
        ("{label}", "{% for i in range(9) %}x{% endfor %}", "names 'range', which is no column of set"),
        (
            "fill = 12",
            'classes = ["ring"] #',
            "set: class 'ring' has no pictures in split train; there are: box, disc",
        ),
        ("fill = 12", 'keep = ["colour"] #', "keep names 'colour', which is no column of set; there are: "),
        ("fill = 12", 'hard = { column = "loss" } #', "hard names 'loss', which is no column of set; there are: "),
        ("fill = 12", 'choices = { label = ["x"] } #', "choices names 'label', which is a column of set already"),
        ('"set"', '"sets"', "/sets: there is no such dataset: check the path"),
        ('"set"', '"me/sets"', "or write hf://datasets/me/sets for a dataset on the Hub"),
        ("fill = 12", 'held_out = "nowhere" #', "/nowhere: there is no such dataset"),
    ],
)
def test_what_does_not_fit_the_dataset_is_refused_in_one_line(pictures, old, new, message):
    change(old, new)
    (line,) = refused(invoke("augment", "recipe.toml"))
    assert message in line
    assert not Path("recipe.jsonl").exists()


@pytest.mark.parametrize(
    "flags",
    [
        [],
        ["--run", "--out", "out/grown"],
        ["--run", "--out", "out/grown", "--manifest", "recipe.jsonl", "--submit-to", "http://127.0.0.1:1"],
        ["--preview", "4"],
    ],
)
def test_where_every_class_is_full_there_is_nothing_to_do_and_that_is_no_error(pictures, flags):
    change("fill = 12", "fill = 2")
    done = invoke("augment", "recipe.toml", *flags)
    assert done.exit_code == 0, done.output
    assert done.stdout.endswith("set: every class has enough pictures already (fill = 2): there is nothing to make\n")
    assert not Path("recipe.jsonl").exists()
    assert not Path("out").exists()
    told = json.loads(invoke("augment", "recipe.toml", *flags, "--json").stdout)
    assert (told["manifest"], told["rows"]) == (None, 0)


def test_a_recipe_sees_the_time_that_its_tick_stands_for(pictures):
    change('"a {label}"', '"a {label}, {scheduled_time[:10]}, {scheduled_run}"')
    (line,) = refused(invoke("augment", "recipe.toml"))
    assert "has no 'scheduled_run', which template " in line
    change('"a {label}"', "'a {label}, {(scheduled_time | default(\"2026-01-01\"))[:10]}'")
    times = {"WANBATCH_SCHEDULED_TIME": "2026-07-02T02:30:00+02:00", "WANBATCH_SCHEDULED_RUN": "nightly-20260702"}
    assert invoke("augment", "recipe.toml", env=times).exit_code == 0
    before = rows_of(Path("recipe.jsonl"))
    assert {row["prompt"] for row in before} == {"a disc, 2026-07-02", "a box, 2026-07-02"}
    later = {**times, "WANBATCH_SCHEDULED_TIME": "2026-07-03T02:30:00+02:00"}
    assert invoke("augment", "recipe.toml", env=later).exit_code == 0
    assert rows_of(Path("recipe.jsonl")) == before


def test_a_cluster_gets_the_rows_and_the_folder_of_their_sources(pictures, tmp_path, monkeypatch):
    asked = []

    def submit(submission, jobs, *_, **__):
        asked.append((submission, jobs))
        return Submitted("wanbatch-1", False, JobEnd(JobState("wanbatch-1", "SUCCEEDED", exit_code=3), None))

    monkeypatch.setattr(submitting, "submit", submit)
    monkeypatch.setattr(job_client, "ClusterJobs", lambda address, flag: (address, flag))
    flags = ["--run", "--manifest", "plans/rows.jsonl", "--out", "out/grown", "--submit-to", "http://head:8265"]
    done = invoke("augment", "recipe.toml", *flags, "--steps", "30")
    assert done.exit_code == 3, done.output
    assert "job wanbatch-1 succeeded, exit code 3" in done.stdout
    ((submission, jobs),) = asked
    assert jobs == ("http://head:8265", "--submit-to")
    assert submission.manifest == str(tmp_path / "plans/rows.jsonl")
    assert submission.out == str(tmp_path / "out/grown")
    told = dict(zip(submission.flags[::2], submission.flags[1::2], strict=True))
    assert (told["--source-fence"], told["--steps"]) == (str(tmp_path), "30")
    assert len(rows_of(tmp_path / "plans/rows.jsonl")) == 19
    assert "--submit-to is for --run" in usage_error(invoke("augment", "recipe.toml", *flags[3:]))


def test_a_class_without_pictures_is_refused(pictures):
    Path("set/train/ring").mkdir()
    (line,) = refused(invoke("augment", "recipe.toml"))
    assert line == (
        "set: class 'ring' has no pictures in split train: add some, or name the classes that are augmented, like "
        "classes = ['box', 'disc']"
    )
    change("fill = 12", 'fill = 12\nclasses = ["box", "disc"] #')
    assert invoke("augment", "recipe.toml").exit_code == 0


def test_nothing_is_written_into_the_dataset_which_would_be_read_with_it(pictures, tmp_path, monkeypatch):
    shutil.move("recipe.toml", "set/recipe.toml")
    text = (tmp_path / "set/recipe.toml").read_text()
    (tmp_path / "set/recipe.toml").write_text(text.replace('dataset = "set"', 'dataset = "."'))
    for flags in ([], ["--preview", 3], ["--run"]):
        (line,) = refused(invoke("augment", "set/recipe.toml", "--out", "set/made.jsonl", *flags))
        assert line.endswith(
            f"is inside the dataset {tmp_path}/set, and would be read as part of it: "
            "name a file elsewhere with --out or --manifest; of a schedule, have recipe and output elsewhere"
        )
    flags = ["--run", "--out", "set/made", "--manifest", "made.jsonl"]
    (line,) = refused(invoke("augment", "set/recipe.toml", *flags))
    assert line.endswith("would be read as part of it: name a folder elsewhere with --out")
    assert not Path("made.jsonl").exists()
    assert invoke("augment", "set/recipe.toml", "--out", "made.jsonl").exit_code == 0

    def run(written, out, settings):
        raise UserError(f"a run into {out}")

    monkeypatch.setattr(making, "make_pictures", run)
    done = invoke("augment", "set/recipe.toml", "--run", "--out", "made")
    assert done.stderr.splitlines()[-1] == "wanbatch: a run into made"
    assert sorted(path.name for path in (tmp_path / "set").iterdir()) == ["recipe.toml", "test", "train"]
    Path("recipe.toml").write_text(text)
    words = tick_commands(schedule(source=str(tmp_path / "recipe.toml"), is_recipe=True, output="made"))[0]
    assert invoke(*words[len(THIS_WANBATCH) :]).stderr.splitlines()[-1] == "wanbatch: a run into made"


def test_a_manifest_of_another_kind_is_refused(pictures):
    (line,) = refused(invoke("augment", "recipe.toml", "--out", "made.csv"))
    assert line == "made.csv: give the manifest a name that ends in .jsonl or .parquet"
    (line,) = refused(invoke("augment", "recipe.toml", "--manifest", "made.jsonl"))
    assert line == "--manifest is for --run: name the manifest with --out"


def test_without_splits_the_user_is_told_to_keep_test_pictures_apart(tmp_path):
    folder_by_class(tmp_path / "set", {"disc": 2, "box": 2})
    Path("recipe.toml").write_text(RECIPE.replace('split = "train"\n', ""))
    told = json.loads(invoke("augment", "recipe.toml", "--json").stdout)
    assert told["classes"][1] == {"split": None, "label": "disc", "originals": 2, "rows": 10}
    assert told["warnings"] == [
        'set has no splits: keep test pictures apart, and name them with held_out = "FOLDER" so that copies are found'
    ]


def test_a_dataset_that_was_grown_before_keeps_its_lineage(pictures):
    Path("set/train/rows.jsonl").write_text(
        json.dumps({"image": "disc/0.png", "label": "disc", "split": "train", "source_id": "the-first-disc"}) + "\n"
    )
    change('"set"', '"set/train/rows.jsonl"')
    assert invoke("augment", "recipe.toml").exit_code == 0
    assert {row["source_id"] for row in rows_of(Path("recipe.jsonl"))} == {"the-first-disc"}
