"""The small model on a CPU beside programs that want all cores, by how long PyTorch's threads wait awake.

    python benchmarks/busy_machine.py [--rounds 3] [--out FILE.json]

Two threads share each operation, and the one that is done first waits for the other: awake, which takes a core, or
asleep, which takes time to end. Each way is a process that makes pictures of 128x128 in 4 steps with guidance, in
turn with the others, first on the machine as it is and then beside as many endless loops as there are cores.
`default` is the library's own, `ours` what workers are started with, `asleep` never waits awake, `one` has one
thread. Milliseconds a picture, of each round.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click
from circumstances import circumstances

from wanbatch.machine import SPINNING, SPINS

WAYS: dict[str, tuple[int, dict[str, str]]] = {
    "default": (2, {}),
    "ours": (2, {SPINNING: SPINS}),
    "asleep": (2, {"OMP_WAIT_POLICY": "passive"}),
    "one": (1, {}),
}
PICTURES, SLOTS = 8, 4


@click.command(help=__doc__)
@click.option("--rounds", default=3, show_default=True)
@click.option("--threads", type=int, hidden=True, help="make pictures in this process")
@click.option("--out", type=click.Path(path_type=Path))
def main(rounds: int, threads: int | None, out: Path | None) -> None:
    if threads is not None:
        click.echo(milliseconds(threads))
        return
    found: dict[str, dict[str, list[float]]] = {}
    for beside, loops in (("as it is", 0), ("beside endless loops", os.cpu_count() or 1)):
        found[beside] = {way: [] for way in WAYS}
        with busy(loops):
            for _ in range(rounds):
                for way, (count, variables) in WAYS.items():
                    found[beside][way].append(in_process(count, variables))
        print(json.dumps({beside: found[beside]}), flush=True)
    result = {
        "what": "milliseconds a picture of the small model on a CPU, by how its threads wait for each other",
        **circumstances(("torch",), load_before=os.getloadavg()[0]),
        "found": found,
    }
    if out is not None:
        out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


@contextmanager
def busy(loops: int) -> Iterator[None]:
    """Endless loops in processes of their own, while the context is open."""
    running = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(loops)]
    try:
        yield
    finally:
        for one in running:
            one.kill()
            one.wait()


def in_process(threads: int, variables: dict[str, str]) -> float:
    """What a process with these environment variables takes for a picture."""
    given = {name: value for name, value in os.environ.items() if name not in (SPINNING, "OMP_WAIT_POLICY")}
    command = [sys.executable, __file__, "--threads", str(threads)]
    done = subprocess.run(command, env={**given, **variables}, stdout=subprocess.PIPE, text=True, check=True)
    return float(done.stdout.splitlines()[-1])


def milliseconds(threads: int) -> float:
    """A picture's share of the time that several take, after one that is not counted."""
    import torch

    from wanbatch.pipeline.core.requests import Request
    from wanbatch.pipeline.generate import Wan
    from wanbatch.pipeline.loading.registry import find

    torch.set_num_threads(threads)
    model = Wan.load(find(), slots=SLOTS)
    plain = {"prompt": "a red castle", "negative_prompt": "", "width": 128, "height": 128, "steps": 4}
    requests = [
        Request(id=str(n), seed=n, guidance=2.0, creativity=1.0, sources=(), shift=3.0, sampler="unipc", **plain)
        for n in range(PICTURES)
    ]
    list(model.generate(requests[:1]))
    begin = time.perf_counter()
    list(model.generate(requests))
    return round((time.perf_counter() - begin) * 1000 / PICTURES, 1)


if __name__ == "__main__":
    main()
