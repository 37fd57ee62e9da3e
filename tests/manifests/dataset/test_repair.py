"""`wanbatch repair`: what is lost or damaged is made again, and nothing else is."""

import hashlib
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from manifest_making import unit_of
from output_folders import orphans, publish, visible

from wanbatch.errors import FolderHeldError, MachineryError, UserError
from wanbatch.jobs.cli.main import main
from wanbatch.manifests.dataset.card import CardContent
from wanbatch.manifests.dataset.folder import OutputFolder
from wanbatch.manifests.dataset.part_files import write_attempt
from wanbatch.manifests.dataset.repair import repair
from wanbatch.manifests.dataset.status import status
from wanbatch.manifests.storage.local import LocalBackend

RELEASE = Path(__file__).parents[2] / "data" / "release-0.1.0" / "dataset"
NAMES = [f"a{unit}" for unit in range(20)]


@pytest.fixture
def filled(out):
    """Twenty units in two commits, each with a made row and a quarantined one."""
    with OutputFolder.open(out, {}) as folder:
        for group in (range(12), range(12, 20)):
            attempts = [write_attempt(out, attempt="t", **unit_of(n, [f"a{n}"], [f"b{n}"])) for n in group]
            assert folder.publish_many(attempts) == []
    return out


def hashes(out):
    paths = [path for kind in ("data", "timings", "failures") for path in (out / kind).glob("*.parquet")]
    return {path.relative_to(out).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


def flip(path):
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 3] ^= 1
    path.write_bytes(raw)


def make_missing(out, wanted):
    """As the next run of the command: what is not committed is made. Returns what that was."""
    with OutputFolder.open(out, {}) as folder:
        done = folder.committed()
        missing = [name for name in wanted if name not in done.made and name not in done.failed]
        for name in missing:
            publish(folder, folder.committed().next_unit, [name])
    return missing


def test_the_remedy_of_the_message_costs_the_lost_part_and_no_more(filled):
    """Before, it said to remove the commit file, which took all parts of the group along."""
    before = hashes(filled)
    (filled / "data/part-00003.parquet").unlink()
    with pytest.raises(UserError) as caught:
        OutputFolder.open(filled, {})
    said = r"is gone: restore it, or run `wanbatch (repair .*?)` and then the command of its run again"
    command = re.search(said, str(caught.value))[1].split()
    result = CliRunner().invoke(main, [*command, "--json"])
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert (report["parts"], report["lost"], report["with_them"]) == (
        60,
        ["data/part-00003.parquet"],
        ["timings/part-00003.parquet"],
    )
    assert (report["damaged"], report["ids"], report["whole"]) == ([], ["a3"], False)
    gone = {"data/part-00003.parquet", "timings/part-00003.parquet"}
    assert hashes(filled) == {name: value for name, value in before.items() if name not in gone}
    assert make_missing(filled, [*NAMES, *(f"b{n}" for n in range(20))]) == ["a3"]
    assert visible(filled)[0] == visible(filled)[1] == sorted(NAMES)
    assert repair(filled).whole


@pytest.mark.parametrize(
    ("name", "ids"),
    [
        ("data/part-00005.parquet", ("a5",)),
        ("timings/part-00005.parquet", ("a5",)),
        ("failures/part-00005.parquet", ("b5",)),
    ],
)
@pytest.mark.parametrize("damage", ["flip", "cut"])
def test_damaged_parts_are_kept_aside(filled, name, ids, damage):
    path = filled / name
    flip(path) if damage == "flip" else path.write_bytes(path.read_bytes()[:-5])
    raw = path.read_bytes()
    report = repair(filled)
    assert (report.damaged, report.lost, report.ids) == ((name,), (), ids)
    assert (filled / report.orphans[name]).read_bytes() == raw
    assert not path.exists()
    assert make_missing(filled, [*NAMES, *(f"b{n}" for n in range(20))]) == list(ids)
    assert repair(filled).whole
    assert status(filled)["done"] + status(filled)["quarantined"] == 40


def test_a_whole_folder_is_left_as_it_is(filled):
    before, commits = hashes(filled), sorted(path.name for path in (filled / "_wanbatch/commits").iterdir())
    report = repair(filled)
    assert (report.whole, report.parts, report.ids) == (True, 60, ())
    assert hashes(filled) == before
    assert sorted(path.name for path in (filled / "_wanbatch/commits").iterdir()) == commits
    assert CliRunner().invoke(main, ["repair", str(filled)]).stdout == f"{filled}: all 60 parts are whole\n"


def test_rows_that_were_decided_anew_are_found_in_their_new_part(out):
    """A part that was written again without some ids, and lost then, costs only the ids that it still held."""
    with OutputFolder.open(out, {}) as folder:
        publish(folder, 0, ["a", "b"], ["c"])
        publish(folder, 1, ["c"])
        folder.publish(write_attempt(out, attempt="n", **unit_of(2, ["b"])), replace=True)
    flip(out / "data/part-00000.parquet")
    assert repair(out).ids == ("a",)
    assert make_missing(out, ["a", "b", "c"]) == ["a"]
    flip(out / "data/part-00002.parquet")
    assert repair(out).ids == ("b",)
    assert make_missing(out, ["a", "b", "c"]) == ["b"]
    assert visible(out) == (["a", "b", "c"], ["a", "b", "c"], [])


def test_a_damaged_commit_file_loses_its_damaged_lines_only(filled):
    path = filled / "_wanbatch/commits/00000.json"
    lines = path.read_bytes().splitlines()
    path.write_bytes(b"\n".join([*lines[:5], lines[5][:40], *lines[6:]]))
    raw = path.read_bytes()
    report = repair(filled)
    assert report.commits == ("_wanbatch/commits/00000.json",)
    assert report.uncommitted == tuple(f"{kind}/part-00005.parquet" for kind in ("data", "failures", "timings"))
    assert (filled / report.orphans["_wanbatch/commits/00000.json"]).read_bytes() == raw
    assert len(orphans(filled)) == 4
    assert make_missing(filled, NAMES) == ["a5"]


def test_lost_commits(filled):
    for path in (filled / "_wanbatch/commits").iterdir():
        path.unlink()
    with pytest.raises(UserError, match="restore that folder; or run `wanbatch repair"):
        OutputFolder.open(filled, {})
    assert len(repair(filled).uncommitted) == len(orphans(filled)) == 60
    assert make_missing(filled, NAMES) == NAMES


def test_a_part_that_cannot_be_read_is_not_given_up(filled, monkeypatch):
    real = LocalBackend.sha256

    def fail(self, name):
        if name == "data/part-00004.parquet":
            raise OSError(5, "Input/output error", self.location(name))
        return real(self, name)

    before = hashes(filled)
    monkeypatch.setattr(LocalBackend, "sha256", fail)
    with pytest.raises(MachineryError, match=r"part-00004.parquet: cannot be read \(Input/output error\).*remove it"):
        repair(filled)
    assert hashes(filled) == before
    (filled / "data/part-00004.parquet").unlink()  # as the message says, if it is lost for good
    assert repair(filled).ids == ("a4",)


def test_who_may_repair_what(filled, tmp_path):
    with OutputFolder.open(filled, {}), pytest.raises(FolderHeldError):
        repair(filled)
    with pytest.raises(UserError, match="is not an output folder of wanbatch"):
        repair(tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_killed_between_the_record_and_the_moving(filled):
    """The record alone takes the part out: the next opening sets its files aside."""
    flip(filled / "data/part-00006.parquet")
    code = (
        "import os, sys\n"
        "from wanbatch.manifests.dataset import repair\n"
        "repair.set_aside = lambda *arguments: os._exit(9)\n"
        "repair.repair(sys.argv[1])\n"
    )
    assert subprocess.run([sys.executable, "-c", code, filled], timeout=60).returncode == 9
    assert (filled / "data/part-00006.parquet").exists()
    assert make_missing(filled, NAMES) == ["a6"]
    assert orphans(filled) == ["data-part-00006.parquet", "timings-part-00006.parquet"]


def test_a_folder_of_release_0_1_0(tmp_path):
    shutil.copytree(RELEASE, tmp_path / "out")
    out = tmp_path / "out"
    assert (repair(out).whole, repair(out).parts) == (True, 7)
    before = status(out)
    flip(out / "timings/part-00001.parquet")
    report = repair(out)
    assert report.with_them == ("data/part-00001.parquet",)
    assert 0 < len(report.ids) < 16
    assert status(out)["done"] == before["done"] - len(report.ids)


def carded(out):
    """A folder with a card, two made rows and two quarantined ones, a unit each."""
    with OutputFolder.open(out, {}) as folder:
        for unit in range(2):
            publish(folder, unit, [f"a{unit}"], [f"b{unit}"])
        folder.keep_card(CardContent("some/model", None, {}))
        folder.settle_card()
    return out / "README.md"


def numbers(card):
    """What a card says of how many rows were made and failed."""
    return re.findall(r"^\d+ images?(?=, made)|^\d+ rows? could not.*", card.read_text(), re.MULTILINE)


def test_the_card_has_the_numbers_of_what_is_left(out):
    card = carded(out)
    assert numbers(card) == ["2 images", "2 rows could not be made (2 bad_image)."]
    for unit, left in ((0, ["1 image", "1 row could not be made (1 bad_image)."]), (1, ["0 images"])):
        (out / f"data/part-{unit:05d}.parquet").unlink()
        (out / f"failures/part-{unit:05d}.parquet").unlink()
        repair(out)
        assert numbers(card) == left
    assert "with `some/model`.\n\n```python" in card.read_text()


@pytest.mark.parametrize("spoilt", [b"---\nname: [open\n---\n# mine\n", b"---\n- a\n- list\n---\n", b"\xff\xfe"])
def test_a_card_that_somebody_spoilt_is_left_alone(out, spoilt, caplog):
    """It ends neither a repair nor the removal of rows, which are done by then."""
    carded(out).write_bytes(spoilt)
    (out / "data/part-00001.parquet").unlink()
    assert repair(out).ids == ("a1",)
    with OutputFolder.open(out, {}) as folder:
        folder.remove({"b0"})
        assert (folder.committed().made, set(folder.committed().failed)) == ({"a0"}, {"b1"})
    log = [json.loads(line)["event"] for line in (out / "_wanbatch/log.jsonl").read_text().splitlines()]
    assert log[-2:] == ["repaired", "rows_removed"]
    assert (out / "README.md").read_bytes() == spoilt
    assert caplog.text.count(f"{out}/README.md: is no dataset card any more (") == 2
