"""How long a Ray of one's own takes to start, by what of it is waited for.

    python benchmarks/ray_start.py [--rounds 5] [--out FILE.json]

Each start is a process of its own, and every round takes each way in turn: `ray` as Ray starts by itself without a
dashboard, `needed` without the processes of clusters, `ports` as wanbatch starts it, which also tells the node the
ports of its agents, so that it need not wait until they have imported what they need. Seconds from the call until it
returns (`started`) and until a first task has run (`task`), and the processor seconds of all its processes until then
(`cores`), medians of the rounds. The imports of Ray itself are not in it.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from functools import partial
from pathlib import Path

import click
import psutil
import ray
from circumstances import circumstances, print_result

from wanbatch.jobs.driver.ray_processes import needed_processes_alone

HELD = ExitStack()  # the ports of agents, until this process ends


@contextmanager
def _waiting_for_agents() -> Iterator[None]:
    del ray._raylet.persist_port  # as in versions that do not have it
    with needed_processes_alone(HELD):
        yield


WAYS = {"ray": nullcontext, "needed": _waiting_for_agents, "ports": partial(needed_processes_alone, HELD)}


@click.command(help=__doc__)
@click.option("--rounds", default=5, show_default=True)
@click.option("--way", type=click.Choice(list(WAYS)), hidden=True, help="start one in this process")
@click.option("--out", type=click.Path(path_type=Path))
def main(rounds: int, way: str | None, out: Path | None) -> None:
    if way is not None:
        click.echo(json.dumps(_start(WAYS[way]())))
        return
    starts: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
    for number in range(rounds):
        for way, seen in starts.items():
            command = [sys.executable, __file__, "--way", way]
            seen.append(json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
            click.echo(f"{number} {way}: {seen[-1]}", err=True)
    medians = {
        way: {key: round(statistics.median(one[key] for one in seen), 2) for key in seen[0]}
        for way, seen in starts.items()
    }
    about = {"what": "seconds until a Ray of one's own has started", **circumstances(["ray"])}
    print_result({**about, "medians": medians, "starts": starts}, out)


def _start(meanwhile: AbstractContextManager[None]) -> dict[str, float]:
    spent, begun = time.process_time(), time.monotonic()
    with meanwhile:
        ray.init(address="local", num_cpus=1, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    started = time.monotonic()
    ray.get(ray.remote(num_cpus=0)(lambda: None).remote())
    ended = time.monotonic()
    times = [process.cpu_times() for process in psutil.Process().children(recursive=True)]
    cores = time.process_time() - spent + sum(one.user + one.system for one in times)
    seconds = {"started": started - begun, "task": ended - begun, "cores": cores}
    return {name: round(value, 2) for name, value in seconds.items()}


if __name__ == "__main__":
    main()
