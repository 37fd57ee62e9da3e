"""The example of real recordings: what it collects, of a folder that is laid out as the package's."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

COLLECT = Path(__file__).parent.parent / "examples" / "birds" / "collect.py"
SOUNDS = (
    "animals/birds/crow.ogg",
    "animals/birds/cartoon/crow2.ogg",
    "animals/birds/crow_desc.ogg",
    "animals/birds/crow_desc_fr.ogg",
    "animals/mammals/cow.wav",
    "symbols/coins/penny.ogg",
    "animals/birds/crow.png",
)


def collect(*arguments: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, COLLECT, *arguments], capture_output=True, text=True, timeout=60)


def test_recordings_become_rows_and_spoken_words_do_not(tmp_path):
    stamps = tmp_path / "package"
    for name in SOUNDS:
        file = stamps / "usr/share/tuxpaint/stamps" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(name.encode())
    done = collect(stamps, tmp_path / "birds")
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in (tmp_path / "birds" / "manifest.jsonl").read_text().splitlines()]
    assert [row["id"] for row in rows] == ["bird-crow2", "bird-crow", "other-cow"]
    for row in rows:
        assert (tmp_path / "birds" / row["audio"]).exists()
        assert (tmp_path / "birds" / row["image"]).exists()
        assert "prompt" not in row
    assert (tmp_path / "birds/sounds/other-cow.wav").read_bytes() == b"animals/mammals/cow.wav"


def test_a_folder_without_the_package_is_told(tmp_path):
    done = collect(tmp_path, tmp_path / "birds")
    assert done.returncode == 1
    assert "no recordings are there: unpack the package tuxpaint-stamps-default into" in done.stderr
    assert not (tmp_path / "birds").exists()
