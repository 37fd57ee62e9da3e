"""How much memory `wanbatch check` needs for folders of two sizes, with models of the user and without.

    python benchmarks/check_memory.py [--rows 20000 100000] [--compared 20000 100000] [--out FILE]

Output folders are made of small random pictures without sources, 1,000 a part, in a temporary folder, and checked by
`check_folder` in a process of its own each: `plain`; `classifier`, whose classes have names; `nameless`, a classifier
without names; and `embeddings`, with as many rows as `--compared` says, since it compares each picture with all. The
models are made up: products of a picture's pixels with a random matrix, so that no memory of a real model is in the
figures. `peak_bytes` is the largest resident size of the process by getrusage, `imported_bytes` that before anything
is read, `bytes_a_row` what a picture more costs, from the two sizes. `seconds` are those of the check on a machine
that does other work, too.

Needs neither Ray nor torch.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow as pa
from circumstances import circumstances, print_result
from PIL import Image

KINDS = ("plain", "classifier", "nameless", "embeddings")
SIDE, PART, CLASSES, DIMENSIONS, ORIGINALS = 16, 1000, 200, 128, 256
LABELS = [f"class {number:03d}" for number in range(CLASSES)]


def main() -> None:
    given = _options()
    if given.child:
        print(json.dumps(checked(given.child, Path(given.folder))))
        return
    found: dict[str, list[dict[str, Any]]] = {}
    with TemporaryDirectory(prefix="check-memory-", dir=given.folder) as around:
        for rows in sorted({*given.rows, *given.compared}):
            folder = made_up(Path(around) / f"{rows}", rows)
            for kind in given.kinds:
                if rows in (given.compared if kind == "embeddings" else given.rows):
                    found.setdefault(kind, []).append({"rows": rows, **_in_its_process(kind, folder)})
                    print(kind, found[kind][-1], file=sys.stderr, flush=True)
    result = {
        "what": "peak memory of wanbatch check",
        **circumstances(("numpy", "pyarrow", "pillow")),
        "pictures": f"{SIDE}x{SIDE}, {PART} a part",
        "models": f"{CLASSES} classes, {DIMENSIONS} dimensions, {ORIGINALS} originals",
        "kinds": {kind: {"bytes_a_row": _a_row(sizes), "sizes": sizes} for kind, sizes in found.items()},
    }
    print_result(result, given.out)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs=2, default=[20_000, 100_000])
    parser.add_argument("--compared", type=int, nargs=2, default=[20_000, 100_000])
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--folder", help="for the pictures and for temporary files")
    parser.add_argument("--out", type=Path, help="write the result here, too")
    parser.add_argument("--child", choices=KINDS, help=argparse.SUPPRESS)
    return parser.parse_args()


def _a_row(sizes: Sequence[dict[str, Any]]) -> int:
    few, many = sizes
    return round((many["peak_bytes"] - few["peak_bytes"]) / (many["rows"] - few["rows"]))


def _in_its_process(kind: str, folder: Path) -> dict[str, Any]:
    command = [sys.executable, __file__, "--child", kind, "--folder", str(folder)]
    environment = {**os.environ, "TMPDIR": str(folder.parent)}
    return json.loads(subprocess.run(command, check=True, capture_output=True, env=environment).stdout)


def made_up(folder: Path, rows: int) -> Path:
    """An output folder of random pictures, as a run leaves it."""
    from wanbatch.manifests.dataset.card import CardContent
    from wanbatch.manifests.dataset.folder import OutputFolder
    from wanbatch.manifests.dataset.part_files import write_attempt
    from wanbatch.manifests.records import data_table

    random = np.random.default_rng(0)
    with OutputFolder.open(folder, {"model": "tiny"}, {}) as out:
        out.keep_card(CardContent("tiny", None, {}, pa.schema([("label", pa.string())])))
        out.set_plan({"rows": rows, "manifest": "rows.jsonl", "digest": "", "settings": {}})
        for number, start in enumerate(range(0, rows, PART)):
            its = range(start, min(start + PART, rows))
            labels = pa.table({"label": [LABELS[row % CLASSES] for row in its]})
            table = data_table([_record(row, random) for row in its], labels)
            out.publish(write_attempt(folder, number, "a", table, [_timing(row, number) for row in its], []))
        out.settle_card()
    return folder


def _record(row: int, random: np.random.Generator) -> Any:
    from wanbatch.manifests.records import Record

    buffer = io.BytesIO()
    Image.fromarray(random.integers(0, 256, (SIDE, SIDE, 3), np.uint8)).save(buffer, "PNG", compress_level=0)
    of_picture = {"width": SIDE, "height": SIDE, "sha256": hashlib.sha256(buffer.getvalue()).hexdigest()}
    of_model = {"sampler": "euler", "schedule": "linear", "sigmas": None, "step_cache": "none", "model": "tiny"}
    of_row = {"prompt": "a", "negative_prompt": None, "sources": (), "creativity": 1.0, "seed": row, "variant": 0}
    numbers = {"steps": 4, "guidance": 5.0, "shift": 3.0, "revision": None, "manifest_row": row}
    return Record(id=f"row-{row:08d}", image=buffer.getvalue(), **of_picture, **of_model, **of_row, **numbers)


def _timing(row: int, unit: int) -> Any:
    from wanbatch.manifests.records import Timing

    return Timing(f"row-{row:08d}", unit, 0, "worker", "host", "cpu", 1, datetime(2026, 1, 1, tzinfo=UTC))


class MadeUp:
    """A classifier and a model of embeddings in one, without weights to speak of."""

    def __init__(self, outputs: int, classes: Sequence[str] | None):
        self.classes = classes
        random = np.random.default_rng(1)
        self._matrix = random.normal(0, 1 / SIDE, (SIDE * SIDE * 3, outputs)).astype(np.float32)

    def logits(self, pictures: Sequence[np.ndarray]) -> np.ndarray:
        """float32 [N, outputs]. pictures: uint8 [SIDE, SIDE, 3] each."""
        return (np.stack(pictures).reshape(len(pictures), -1).astype(np.float32) / 128 - 1) @ self._matrix

    embeddings = logits


def checked(kind: str, folder: Path) -> dict[str, Any]:
    """Check a folder in this process, and say how much memory that took."""
    from wanbatch.jobs.augment.checking import check_folder
    from wanbatch.jobs.augment.checks_settings import Checks
    from wanbatch.jobs.augment.embeddings import EmbeddingsReader
    from wanbatch.jobs.augment.near_copies import fingerprint_of
    from wanbatch.jobs.augment.user_models import ClassifierReader

    readers: list[Any] = []
    if kind == "embeddings":
        readers = [EmbeddingsReader(MadeUp(DIMENSIONS, None), _originals(folder.parent / "originals"))]
    elif kind != "plain":
        readers = [ClassifierReader(MadeUp(CLASSES, LABELS if kind == "classifier" else None))]
    fingerprint_of(np.zeros((SIDE, SIDE, 3), np.uint8))  # imports what all kinds need
    imported, begin = _peak(), time.perf_counter()
    report = check_folder(folder, Checks(), readers=readers)
    seconds = round(time.perf_counter() - begin, 1)
    digest = json.loads((folder / "_wanbatch/checks.json").read_text())["digest"]
    numbers = dict(report.folder)
    return {
        "peak_bytes": _peak(),
        "imported_bytes": imported,
        "seconds": seconds,
        "folder": numbers,
        "digest": digest,
    }


def _originals(folder: Path) -> Any:
    from wanbatch.jobs.augment.dataset import Loaded
    from wanbatch.jobs.augment.originals import Original
    from wanbatch.manifests.records import Source

    folder.mkdir(exist_ok=True)
    random = np.random.default_rng(2)
    originals, sources = [], {}
    for number in range(ORIGINALS):
        path = folder / f"{number}.png"
        Image.fromarray(random.integers(0, 256, (SIDE, SIDE, 3), np.uint8)).save(path)
        name = hashlib.sha256(path.read_bytes()).hexdigest()
        originals.append(Original(path.name, path.name, name, "a", "train", SIDE, SIDE, path.name))
        sources[name] = Source(str(path), 1.0)
    return Loaded(tuple(originals), sources, str(folder), str(folder))


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    main()
