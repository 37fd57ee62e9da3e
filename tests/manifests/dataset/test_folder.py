"""Opening an output folder: what is refused, who may write, what was left half done, what its status is."""

import errno
import json
import os
import re
import signal
import subprocess
import sys

import pytest
from manifest_making import failure
from output_folders import publish, tree

from wanbatch.errors import FolderHeldError, MachineryError, UserError
from wanbatch.manifests.dataset.card import CardContent, write_card
from wanbatch.manifests.dataset.folder import OutputFolder
from wanbatch.manifests.dataset.part_files import write_attempt
from wanbatch.manifests.dataset.status import status

SETTINGS = {"model": "tiny", "guidance": 3.0, "vae": {"dtype": "fp32"}, "columns": ["a"]}


class TestOpening:
    def test_another_fingerprint_is_refused_with_each_difference(self, out):
        OutputFolder.open(out, SETTINGS).close()
        before = {name: (out / name).read_bytes() for name in tree(out)}
        changed = {"model": "tiny", "guidance": 5.0, "vae": {"dtype": "bf16"}, "columns": ["a"], "steps": 4}
        with pytest.raises(UserError) as caught:
            OutputFolder.open(out, changed)
        assert str(caught.value) == (
            f"{out}: was filled with other settings: guidance was 3.0, now 5.0; steps was not set, now 4; "
            'vae.dtype was "fp32", now "bf16". Use the same ones to go on, start another run beside it '
            "with --new-run, or choose another output folder"
        )
        assert {name: (out / name).read_bytes() for name in tree(out)} == before
        OutputFolder.open(out, {**SETTINGS, "columns": ("a",)}).close()  # tuples are lists in JSON

    def test_a_folder_of_something_else_is_refused_untouched(self, tmp_path):
        (tmp_path / "thesis.txt").write_text("x")
        with pytest.raises(UserError, match="holds other files: choose a new or empty output folder"):
            OutputFolder.open(tmp_path, {})
        with pytest.raises(UserError, match="is not a folder"):
            OutputFolder.open(tmp_path / "thesis.txt", {})
        with pytest.raises(UserError, match="is not an output folder of wanbatch"):
            status(tmp_path)
        assert os.listdir(tmp_path) == ["thesis.txt"]

    def test_an_empty_folder_and_a_first_start_cut_short_are_fine(self, out):
        out.mkdir()
        (out / "_wanbatch").mkdir()
        (out / "_wanbatch" / "lock").touch()
        OutputFolder.open(out, {}).close()

    def test_a_new_folder_in_a_new_folder(self, tmp_path):
        OutputFolder.open(tmp_path / "a" / "b", {}).close()
        assert (tmp_path / "a/b/_wanbatch/run.json").exists()

    def test_damaged_notes_are_named(self, out):
        with OutputFolder.open(out, {}) as folder:
            publish(folder, 0, ["a"])
        (out / "_wanbatch/commits/00000.json").write_text("{")
        with pytest.raises(UserError, match=r"00000\.json: cannot be read"):
            OutputFolder.open(out, {})
        (out / "_wanbatch/run.json").write_text('{"format": 99}')
        with pytest.raises(UserError, match="is of format 99, as newer versions of wanbatch"):
            OutputFolder.open(out, {})

    def test_a_committed_part_that_is_gone_or_cut_is_named(self, out):
        with OutputFolder.open(out, {}) as folder:
            publish(folder, 0, ["a"])
        part = out / "data/part-00000.parquet"
        raw = part.read_bytes()
        part.write_bytes(raw[:-1])
        with pytest.raises(
            UserError,
            match=rf"has {len(raw) - 1} bytes instead of {len(raw)}: restore it, or run `wanbatch repair {out}`",
        ):
            OutputFolder.open(out, {})
        part.unlink()
        with pytest.raises(UserError, match="is gone"):
            OutputFolder.open(out, {})


HOLD = (
    "import sys, time\n"
    "from wanbatch.manifests.dataset.folder import OutputFolder\n"
    "folder = OutputFolder.open(sys.argv[1], {})\n"
    "print('held', flush=True)\n"
    "time.sleep(60)\n"
)


class TestLock:
    def test_a_second_process_is_told_who_holds_it(self, out):
        holder = subprocess.Popen([sys.executable, "-c", HOLD, out], stdout=subprocess.PIPE, text=True)
        try:
            assert holder.stdout.readline() == "held\n"
            with pytest.raises(FolderHeldError, match=rf"\(pid {holder.pid} on .* since 20") as caught:
                OutputFolder.open(out, {})
            assert caught.value.exit_code == 4
            assert status(out)["holder"]["pid"] == holder.pid
        finally:
            holder.send_signal(signal.SIGKILL)
            holder.wait()
            holder.stdout.close()
        assert status(out)["holder"] is None
        OutputFolder.open(out, {}).close()

    @pytest.mark.parametrize("there", [False, True])
    def test_a_lock_that_cannot_be_opened_is_not_held(self, out, monkeypatch, there):
        """The system says that its file is not there, as network disks do now and then: no other run has it."""
        if there:
            OutputFolder.open(out, {}).close()
        lock, opened = str(out / "_wanbatch" / "lock"), os.open

        def refuse(path, *rest, **more):
            if path == lock:
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
            return opened(path, *rest, **more)

        with monkeypatch.context() as patch:
            patch.setattr(os, "open", refuse)
            with pytest.raises(MachineryError, match=re.escape(lock)) as caught:
                OutputFolder.open(out, {})
        assert caught.value.exit_code == 75
        OutputFolder.open(out, {}).close()

    def test_the_same_process_cannot_open_it_twice(self, out):
        with OutputFolder.open(out, {}), pytest.raises(FolderHeldError, match=f"pid {os.getpid()} "):
            OutputFolder.open(out, {})
        with OutputFolder.open(out, {}):
            pass


def test_status_and_plan(out):
    with OutputFolder.open(out, SETTINGS, {"command": "wanbatch run"}) as folder:
        assert status(out)["pending"] is None
        folder.set_plan({"rows": 9})
        publish(folder, 0, ["a", "b"], ["c"])
        folder.publish(
            write_attempt(out, 1, "t", None, [], [failure("d", kind="oom"), failure("e", kind="bad_image")])
        )
        found = status(out)
    assert (found["rows"], found["done"], found["quarantined"], found["pending"]) == (9, 2, 3, 4)
    assert found["failures"] == {"bad_image": 2, "oom": 1}
    assert (found["units"], found["info"]) == (2, {"command": "wanbatch run"})
    assert found["fingerprint"] == SETTINGS
    assert json.dumps(found)


def test_ten_thousand_commits(out):
    OutputFolder.open(out, {}).close()
    for unit in range(10_000):
        record = {"unit": unit, "ids": [f"{unit}-{n}" for n in range(8)], "failed": {}, "parts": {}}
        (out / f"_wanbatch/commits/{unit:05d}.json").write_text(json.dumps(record))
    with OutputFolder.open(out, {}) as folder:
        assert len(folder.committed().made) == 80_000
        assert folder.committed().next_unit == 10_000


def test_names_that_are_no_unicode_can_be_noted(out):
    settings = {"path": os.fsdecode(b"caf\xe9")}
    with OutputFolder.open(out, settings) as folder:
        write_card(out, CardContent(settings["path"], None, settings), status(out))
        folder.set_plan({"rows": 1, **settings})
    OutputFolder.open(out, settings).close()
    assert status(out)["plan"] == {"rows": 1, **settings}
