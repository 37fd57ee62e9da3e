"""The command starts quickly: what takes long to import waits until a command needs it."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys

HEAVY = ("torch", "ray", "diffusers", "transformers")
CODE = """
import json, sys
from wanbatch.jobs.cli.main import main
for arguments in {commands!r}:
    main(arguments, prog_name="wanbatch", standalone_mode=False)
    print("modules", json.dumps(sorted(sys.modules)))
"""

WHILE_IMPORTING = """
import os, signal, sys
class Hook:
    def find_spec(self, name, path=None, target=None):
        if name == "wanbatch.jobs.cli.options":
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Hook())
ignored = sys.argv[1:] == ["ignored"]  # the tests themselves may be in a script's background
signal.signal(signal.SIGINT, signal.SIG_IGN if ignored else signal.default_int_handler)
sys.argv[1:] = ["--help"]
import runpy
runpy.run_module("wanbatch.jobs.cli", run_name="__main__", alter_sys=True)
"""


def test_ctrl_c_before_all_is_imported(tmp_path):
    """It ends the process as the signal does, without a word; behind `nohup`, or in a script's background, it does
    nothing."""
    run = [sys.executable, "-c", WHILE_IMPORTING]
    ended = subprocess.run(run, cwd=tmp_path, capture_output=True, text=True)
    assert (ended.returncode, ended.stdout, ended.stderr) == (-signal.SIGINT, "", "")
    ignored = subprocess.run([*run, "ignored"], cwd=tmp_path, capture_output=True, text=True)
    assert ignored.returncode == 0
    assert ignored.stdout.startswith("Usage: wanbatch")


def test_help_and_completion_import_nothing_heavy(tmp_path):
    commands = [["--help"], ["run", "--help"], ["tune", "--help"], ["completion", "zsh"]]
    code = CODE.format(commands=commands)
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    told = re.split(r"^modules (.*)\n", done.stdout, flags=re.MULTILINE)
    assert told.pop() == ""
    for arguments, text, modules in zip(commands, told[::2], told[1::2], strict=True):
        assert "wanbatch" in text, arguments
        assert not set(HEAVY) & set(json.loads(modules)), arguments


def test_the_package_is_a_command_too(tmp_path):
    run = [sys.executable, "-m", "wanbatch.jobs.cli"]
    done = subprocess.run([*run, "--help"], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("Usage: wanbatch [OPTIONS] COMMAND")
    refused = subprocess.run([*run, "plan", "nowhere.jsonl"], cwd=tmp_path, capture_output=True, text=True)
    assert (refused.returncode, refused.stdout) == (2, "")
    assert refused.stderr.startswith("wanbatch: nowhere.jsonl: ")


def test_what_starts_ray_imports_no_model_and_nothing_that_only_the_end_of_a_run_needs():
    """Ray starts once a manifest is known to be right, which waits for these imports."""
    late = ("torch", "diffusers", "transformers", "jinja2", "huggingface_hub")
    code = f"import sys, wanbatch.jobs.driver.run; print([name for name in {late!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
