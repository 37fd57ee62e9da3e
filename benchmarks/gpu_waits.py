"""What the model's thread of a worker does while its GPU has nothing to do.

    python benchmarks/gpu_waits.py MODEL [--rows 640] [--steps 4] [--precision fp8] [--out FILE.json]

One whole `wanbatch run` on one GPU, prompts of many lengths, 1280x704. In the worker's process a thread looks every
few milliseconds whether all that was asked of the GPU is done. If so, it notes where the model's thread is: what the
GPU waits for. A GPU that has work whenever it is looked at is never waited for by the host.

idle: the share of looks at which the GPU had nothing to do, while the worker had pictures to make.
parts: what the model's thread was at then, as shares of all looks. waits: the lines, each the innermost of wanbatch
and that of all. Looking takes some of Python's time itself, so a run is slower by it
(`pictures_per_second`). Without a GPU every look counts as idle: then it says what the thread does at all.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import click
import torch
from circumstances import circumstances
from mixed_prompts import mixed_words, prompts_of

FOLDER = "GPU_WAITS_FOLDER"  # variable: where workers write what they saw
SECONDS = 0.004  # between two looks
SHOWN = 25
PARTS = {
    "TextEncoder.encode": "texts",
    "Wan.encode_sources": "sources",
    "Wan.sample": "rows made ready",
    "Batch.step": "evaluations",
    "PendingPicture.__init__": "decoding",
    "Leaving.outcome": "pictures handed over",
    "UnitTask.take": "pictures taken",
}
"""By functions, the innermost one that is here."""

IN_PROCESSES = """
import sys, threading, time

def start():
    for _ in range(600):
        time.sleep(0.1)
        if "wanbatch.jobs.worker.units_in_model" in sys.modules:
            sys.path.append({benchmarks!r})
            import gpu_waits
            return gpu_waits.look()

if sys.argv[0].endswith("default_worker.py"):
    threading.Thread(target=start, daemon=True).start()
"""
"""What every Python process runs that starts with this in its path, for the sake of Ray's workers."""


def look() -> None:
    """In a worker: look at the GPU and at the model's thread until the process ends, and write now and then."""
    file = Path(os.environ[FOLDER]) / f"{os.getpid()}.json"
    seen: Counter[tuple[str, str, str]] = Counter()
    looks, written = 0, time.monotonic()
    while True:
        time.sleep(SECONDS)
        names = {thread.ident: thread.name for thread in threading.enumerate()}
        frames = sys._current_frames().items()
        frame = next((frame for ident, frame in frames if names.get(ident, "").startswith("generate")), None)
        places = None if frame is None else _places(frame)
        if places is None:
            continue
        looks += 1
        if not torch.cuda.is_available() or torch.cuda.current_stream().query():
            seen[places] += 1
        if time.monotonic() - written > 1:
            written = time.monotonic()
            lines = [[*place, count] for place, count in seen.most_common()]
            file.write_text(json.dumps({"looks": looks, "seen": lines}))


def _places(frame: Any) -> tuple[str, str, str] | None:
    """Where a thread is: in which part, in wanbatch and at all; None where it makes no pictures."""
    innermost, part, ours, makes = _name(frame), None, None, False
    while frame is not None:
        name = frame.f_code.co_qualname
        ours = ours or (_name(frame) if f"{os.sep}wanbatch{os.sep}" in frame.f_code.co_filename else None)
        part = part or PARTS.get(name)
        makes |= name == "generate_units"
        frame = frame.f_back
    return (part or "between these", ours or "", innermost) if makes else None


def _name(frame: Any) -> str:
    return f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno} {frame.f_code.co_qualname}"


@click.command(help=__doc__)
@click.argument("model")
@click.option("--rows", default=640, show_default=True)
@click.option("--steps", default=4, show_default=True)
@click.option("--precision", default="fp8", show_default=True)
@click.option("--size", default="1280x704", show_default=True)
@click.option("--compile-cache", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path))
def main(
    model: str, rows: int, steps: int, precision: str, size: str, compile_cache: Path | None, out: Path | None
) -> None:
    card = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    width, height = size.split("x")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "sitecustomize.py").write_text(IN_PROCESSES.format(benchmarks=str(Path(__file__).parent)))
        manifest = folder / "m.jsonl"
        lines = (json.dumps({"id": f"p{n:05d}", "prompt": p}) for n, p in enumerate(prompts_of(mixed_words(rows))))
        manifest.write_text("".join(f"{line}\n" for line in lines))
        command = [sys.executable, "-m", "wanbatch.jobs.cli", "run", str(manifest), "--out", str(folder / "out")]
        command += ["--model", model, "--workers", "1", "--slots", "8", "--steps", str(steps), "--guidance", "1"]
        command += ["--precision", precision, "--width", width, "--height", height]
        command += ["--compile-cache", str(compile_cache)] if compile_cache else []
        paths = [str(folder), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
        done = subprocess.run(
            command, env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths)), FOLDER: str(folder)}
        )
        found = [json.loads(file.read_text()) for file in folder.glob("*.json")]
        if done.returncode or len(found) != 1:
            sys.exit(f"the run ended with {done.returncode}, and {len(found)} workers said what they saw")
        events = [json.loads(line) for line in (folder / "out/_wanbatch/log.jsonl").read_text().splitlines()]
    finished = next(event for event in events if event["event"] == "finished")
    result = {
        "what": "where the model's thread is while its GPU has nothing to do",
        **circumstances(("torch", "ray"), gpu=card),
        "pictures_per_second": round(finished["made_now"] / finished["seconds"]["make"], 4),
        **shares(found[0]),
    }
    text = json.dumps(result, indent=1)
    click.echo(text)
    if out is not None:
        out.write_text(text + "\n", encoding="utf-8")


def shares(seen: dict[str, Any]) -> dict[str, Any]:
    """What a worker saw as shares of its looks."""
    looks = max(1, seen["looks"])
    parts: Counter[str] = Counter()
    for part, *_, count in seen["seen"]:
        parts[part] += count
    return {
        "looks": seen["looks"],
        "idle": round(sum(count for *_, count in seen["seen"]) / looks, 4),
        "parts": {part: round(count / looks, 4) for part, count in parts.most_common()},
        "waits": [
            {"part": part, "in": ours, "at": innermost, "share": round(count / looks, 4)}
            for part, ours, innermost, count in seen["seen"][:SHOWN]
        ],
    }


if __name__ == "__main__":
    main()
