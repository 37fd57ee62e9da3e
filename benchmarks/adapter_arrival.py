"""What it costs that adapters of rows come to the GPU: milliseconds a unit, brought before their rows and not.

    python benchmarks/adapter_arrival.py --out benchmarks/results/adapter-arrival-h200.json

Random weights of Wan2.2 TI2V-5B in bf16 (on a CPU: of a model of its form with 6 small blocks), eight slots, units of
eight rows of 4 steps without guidance at 512x512, each row with another adapter of rank 32 on all 300 layers. A
unit's rows enter as those of the one before it leave, as in a run. `there`: all units have the same eight adapters,
which stay on the GPU. Else a unit has eight others than the one before it, of three times as many, of which the GPU
keeps what it keeps in a run. `on demand`: an adapter comes when its row enters a slot. `expected`: those of the next
unit are brought when a unit begins, as a worker has it. Both from pinned memory of the host, and through the small
pinned piece that others go through. A time begins with what the GPU would have after many units before.

All ways in turn in each round, after one of two units whose times do not count; medians over the rounds. What there
is is printed and written after each way, so that only what is not measured yet is missing if it is stopped. Last,
whether the rows' bits are the same all ways. Needs torch, diffusers and safetensors alone, and some 20 GB of the
host's memory, 14 with `--ways` that are pinned alone. Likely some 80 seconds on an H200, half of them until the first
time that counts. That was not measured: with 180 units in all instead of 70 it was stopped after 110 seconds beside
other work.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from adapters import built, samples
from circumstances import circumstances
from random_adapters import random_adapter
from step_times import SMALL

from wanbatch.pipeline.adapters.store import DEVICE_BYTES, EXPECTED_PART, AdapterStore
from wanbatch.pipeline.batching.denoiser import Denoiser
from wanbatch.pipeline.core.device import synchronized_time
from wanbatch.pipeline.core.requests import ComingRow
from wanbatch.pipeline.core.samples import Denoised, Sample
from wanbatch.pipeline.loading.random_model import TRANSFORMER

SETS = 3  # of adapters, of which each unit has one
WAYS = {
    "there": ("pinned", 1, False),
    "on demand, pinned": ("pinned", SETS, False),
    "expected, pinned": ("pinned", SETS, True),
    "on demand, not pinned": ("staged", SETS, False),
    "expected, not pinned": ("staged", SETS, True),
}
"""Name -> where adapters are on the host, how many sets of them units have in turn, whether they are expected."""
WARM_UP_UNITS = 2


class Units:
    """Units of rows, one after the other, as a worker gives them to its model.

    Args:
        store: Of adapters that are called by numbers.
        rows: Of one unit, without adapters.
        count: How many units there are.
        sets: How many sets of adapters they have in turn.
        expected: Whether the next unit's adapters are brought when a unit begins.
    """

    def __init__(self, store: AdapterStore, rows: list[Sample], count: int, sets: int, expected: bool):
        self._store, self._rows, self._count, self._sets, self._expected = store, rows, count, sets, expected
        self._next = 0
        for before in (-2, -1):
            self._use(before)
        self._prepare(0)
        store.wait()

    def further(self) -> Iterator[Sample] | None:
        """The next unit's rows; None if there is none. The one before it may have some in the slots."""
        number = self._next
        if number == self._count:
            return None
        if number >= 2:
            self._store.release(number - 2)
        self._next += 1
        self._prepare(self._next)
        return iter([self._with_adapter(number, index) for index in range(len(self._rows))])

    def close(self) -> None:
        """Hold nothing any more."""
        self._store.wait()
        for number in range(self._count + 1):
            self._store.release(number)

    def _use(self, number: int) -> None:
        """Have on the device what a unit leaves there."""
        for index in range(len(self._rows)):
            applied = self._store.applied(self._adapter(number, index))
            assert applied is not None
            applied.pairs(0)

    def _prepare(self, number: int) -> None:
        if self._expected:  # also those of the unit after the last one: each unit brings one's
            rows = range(len(self._rows))
            self._store.expect(number, [ComingRow(f"{number} {row}", self._adapter(number, row)) for row in rows])

    def _adapter(self, number: int, index: int) -> list[tuple[str, float]]:
        return [(str(number % self._sets * len(self._rows) + index), 1.0)]

    def _with_adapter(self, number: int, index: int) -> Sample:
        name = f"{number} {index}"
        return replace(self._rows[index], id=name, adapters=self._store.applied(self._adapter(number, index), name))


def main() -> None:
    """Measure and write what was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--slots", type=int, default=8)
    parser.add_argument("--units", type=int, default=6, help="of each way, in each round")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--rank", type=int, default=32)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument(
        "--ways", nargs="+", choices=list(WAYS), default=list(WAYS), metavar="WAY", help=", ".join(WAYS)
    )
    given = parser.parse_args()
    large, begin = torch.cuda.is_available(), time.monotonic()
    result: dict[str, Any] = {
        "what": "milliseconds a unit, with adapters that are there, come on demand, and are expected",
        **circumstances(("torch", "diffusers"), gpu=torch.cuda.get_device_name() if large else None),
        "settings": {name: value for name, value in vars(given).items() if name != "out"},
        "device_bytes": {"kept": DEVICE_BYTES, "held_for_expected_rows": int(DEVICE_BYTES * EXPECTED_PART)},
    }
    for done, found in measured(given, large):
        result |= found
        print(f"{time.monotonic() - begin:.0f} s {done} {json.dumps(found)}", flush=True)
        if given.out is not None:  # what is measured so far is not lost if this is stopped
            given.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=1))


@torch.inference_mode()
def measured(given: argparse.Namespace, large: bool) -> Iterator[tuple[str, dict[str, Any]]]:
    """What was just done, and what is known now of a unit's time each way."""
    device, config = torch.device("cuda" if large else "cpu"), TRANSFORMER if large else TRANSFORMER | SMALL
    adapters = {
        str(number): ((random_adapter(config, given.rank, number, device),), 1.0)
        for number in range(SETS * given.slots)
    }
    model = built(config, device, "bf16", None)
    pinned = {"pinned": 1 << 40 if large else 0, "staged": 0}
    stores = {
        kind: AdapterStore(adapters, device, model.dtype, pinned_bytes=pinned[kind])
        for kind in dict.fromkeys(WAYS[name][0] for name in given.ways)
    }
    yield "adapters and model", {"adapter_bytes_on_the_device": _bytes(adapters)}
    denoiser = Denoiser([model], given.slots)
    size = (32, 32) if large else (8, 8)
    rows = samples(config, device, model.dtype, given.steps, given.slots, size, 1.0)
    times: dict[str, list[float]] = {}
    latents: dict[str, dict[str, torch.Tensor]] = {}
    for number in range(given.rounds + 1):
        for name in given.ways:
            kind, sets, expected = WAYS[name]
            count = given.units if number else WARM_UP_UNITS
            units = Units(stores[kind], rows, count, sets, expected)
            begin = synchronized_time(device)
            done = list(as_a_worker(denoiser.run([], units.further), 2 * given.slots))
            seconds = synchronized_time(device) - begin
            units.close()
            if number:  # the first compiles, records and warms up
                times.setdefault(name, []).append(seconds * 1000 / count)
                latents[name] = {one.sample.id: one.latent for one in done}
            yield f"{name}, {f'round {number}' if number else 'not counted'}", summary(times, latents)


def summary(times: dict[str, list[float]], latents: dict[str, dict[str, torch.Tensor]]) -> dict[str, Any]:
    """Of the ways that were measured so far.

    Args:
        times: Milliseconds a unit in each round, by way.
        latents: Of the rows, by way.
    """
    moving = [found for name, found in latents.items() if name != "there"]
    return {
        "ms_a_unit": {name: round(statistics.median(values), 2) for name, values in times.items()},
        "spread": {name: round(max(values) / min(values), 3) for name, values in times.items()},
        "rounds": {name: len(values) for name, values in times.items()},
        "bits_are_the_same_all_ways": all(
            torch.equal(found[row], latent) for found in moving for row, latent in moving[0].items()
        )
        if len(moving) > 1
        else None,
    }


def as_a_worker(rows: Iterator[Denoised], most: int) -> Iterator[Denoised]:
    """The same rows, but the host gets no further ahead of the GPU than a run does, which waits for its pictures."""
    leaving: deque[Denoised] = deque()
    for row in rows:
        leaving.append(row)
        if len(leaving) > most:
            _ = leaving[0].spans[-1].seconds  # waits
            yield leaving.popleft()
    yield from leaving


def _bytes(adapters: dict[str, Any]) -> int:
    """Of one on the device, in bf16."""
    return sum(2 * (pair.down.numel() + pair.up.numel()) for pair in adapters["0"][0][0].pairs.values())


if __name__ == "__main__":
    main()
