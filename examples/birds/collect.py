"""Collects the recordings of Debian's package tuxpaint-stamps-default as a manifest of sounds.

    apt-get download tuxpaint-stamps-default && dpkg-deb -x tuxpaint-stamps-default_*.deb stamps
    python examples/birds/collect.py stamps birds
    wanbatch run birds/manifest.jsonl --sound tagger --sound-model birdnet --steps 12 --out birds/made

Each row has a recording and no prompt, and starts from the picture of a dog, so that what is seen is what was heard.
Rows of the package's folder of birds are called `bird-...`, all others `other-...`.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

CREATIVITY = 0.9
DOG = Path(__file__).parent.parent / "images" / "dog.png"


def main(stamps: Path, folder: Path) -> None:
    """Write FOLDER/manifest.jsonl, with its sounds and the picture beside it."""
    root = stamps / "usr" / "share" / "tuxpaint" / "stamps"
    found = sorted(file for file in root.rglob("*") if _is_recording(file))
    if not found:
        sys.exit(f"{root}: no recordings are there: unpack the package tuxpaint-stamps-default into {stamps}")
    (folder / "sounds").mkdir(parents=True, exist_ok=True)
    shutil.copy(DOG, folder / "dog.png")
    rows = []
    for number, file in enumerate(found):
        kind = "bird" if "birds" in file.relative_to(root).parts else "other"
        name = f"{kind}-{file.stem}"
        shutil.copy(file, folder / "sounds" / f"{name}{file.suffix}")
        row = {"id": name, "audio": f"sounds/{name}{file.suffix}", "image": "dog.png"}
        rows.append({**row, "creativity": CREATIVITY, "seed": number})
    (folder / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    print(f"{folder / 'manifest.jsonl'}: {len(rows)} recordings")


def _is_recording(file: Path) -> bool:
    """Whether a file is a sound that is no spoken word: those are called `_desc` and are in the folder of symbols."""
    return file.suffix in {".ogg", ".wav"} and "_desc" not in file.stem and "symbols" not in file.parts


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("give the folder of the unpacked package and the folder to write")
    main(Path(sys.argv[1]), Path(sys.argv[2]))
