"""What is told of a folder while a run goes on in it: its status, and its dataset card."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from output_folders import publish

from wanbatch.errors import MachineryError
from wanbatch.manifests.dataset import card
from wanbatch.manifests.dataset.card import CardContent
from wanbatch.manifests.dataset.folder import OutputFolder
from wanbatch.manifests.dataset.status import status
from wanbatch.manifests.storage.local import LocalBackend

SUPPORT = Path(__file__).parents[2] / "support"

WRITING = (
    "import sys\n"
    "from manifest_making import unit_of\n"
    "from wanbatch.manifests.dataset.card import CardContent\n"
    "from wanbatch.manifests.dataset.folder import OutputFolder\n"
    "from wanbatch.manifests.dataset.part_files import write_attempt\n"
    "with OutputFolder.open(sys.argv[1], {}) as folder:\n"
    "    folder.keep_card(CardContent('tiny', None, {}))\n"
    "    for unit in range(int(sys.argv[2])):\n"
    "        folder.set_plan({'rows': int(sys.argv[2])})\n"
    "        folder.publish(write_attempt(folder.url, attempt='t', **unit_of(unit, [f'a{unit}'])))\n"
    "        print(unit, flush=True)\n"
)


@pytest.fixture
def writing(out):
    """Starts a process that publishes so many units."""
    started = []

    def start(units: int) -> subprocess.Popen:
        environment = {**os.environ, "PYTHONPATH": f"{SUPPORT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
        command = [sys.executable, "-c", WRITING, str(out), str(units)]
        started.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.wait()
        process.stdout.close()


def test_status_while_units_are_published(out, writing):
    """Commits and run.json are written beside their names first; such a file is gone when it is looked at."""
    process = writing(80)
    assert process.stdout.readline() == "0\n"
    seen = []
    while process.poll() is None:
        seen.append(status(out)["done"])
    assert process.returncode == 0
    assert seen == sorted(seen)
    assert len(set(seen)) > 5
    assert status(out)["done"] == 80


def test_a_commit_that_vanishes_between_listing_and_reading(out, monkeypatch):
    """As `wanbatch repair` takes damaged ones away: the listing is made again."""
    with OutputFolder.open(out, {}) as folder:
        publish(folder, 0, ["a"])
        publish(folder, 1, ["b"])
    listed = LocalBackend.sizes

    def listed_before(self, name):
        found = listed(self, name)
        (out / "_wanbatch/commits/00001.json").unlink(missing_ok=True)
        return found

    monkeypatch.setattr(LocalBackend, "sizes", listed_before)
    assert status(out)["done"] == 1


def test_a_status_that_cannot_be_read_names_the_file(out, monkeypatch):
    with OutputFolder.open(out, {}) as folder:
        publish(folder, 0, ["a"])
        (out / "_wanbatch/lock.json").unlink()
        (out / "_wanbatch/lock.json").mkdir()
        with pytest.raises(MachineryError, match=rf"cannot be read \(Is a directory\) at {out}/_wanbatch/lock.json"):
            status(out)
        (out / "_wanbatch/lock.json").rmdir()


def load(out: Path, cache: Path):
    from datasets import load_dataset

    return load_dataset(str(out), split="train", cache_dir=str(cache))


def test_load_dataset_while_a_run_goes_on_and_after_it_was_killed(out, writing, tmp_path, monkeypatch):
    """Without the card, which says where the images are, the three kinds of parts are taken for one table."""
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    process = writing(1000)
    while int(process.stdout.readline()) < 5:
        pass
    assert len(load(out, tmp_path / "during")) >= 6
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = status(out)["done"]
    images = load(out, tmp_path / "after")
    assert len(images) >= done >= 6
    assert images[0]["image"].size == (32, 32)


def test_the_card_follows_what_is_committed(out, monkeypatch):
    def made() -> str:
        return next(line for line in (out / "README.md").read_text().splitlines() if "images, made from" in line)

    with OutputFolder.open(out, {}) as folder:
        folder.keep_card(CardContent("tiny", None, {"steps": 4}))
        assert made().startswith("0 images, ")
        publish(folder, 0, ["a"])
        assert made().startswith("0 images, "), "not at every commit"
        monkeypatch.setattr(card, "UPDATE_SECONDS", 0.0)
        publish(folder, 1, ["b"])
        assert made().startswith("2 images, ")
        monkeypatch.undo()
        publish(folder, 2, ["c"])
        folder.settle_card()
        assert made().startswith("3 images, ")
    text = (out / "README.md").read_text()
    assert "| `steps` | `4` |" in text
    assert "it may have changed since: join on `id`" in next(c for c in text.splitlines() if "`manifest_row`" in c)
