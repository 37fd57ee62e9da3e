"""What a host and its GPUs did while something was measured: use of the cards, memory, bytes read from disks."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

SAMPLE_SECONDS = 0.5
KIB = 1024


def visible_cards() -> list[str]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them. Does not start CUDA."""
    if (given := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        return [name for name in given.split(",") if name]
    return [line.split(",")[0] for line in _nvidia_smi("index")]


def card_names() -> list[str]:
    """What nvidia-smi calls the GPUs of this host."""
    return _nvidia_smi("name")


@contextmanager
def only_cards(cards: Sequence[str | None]) -> Iterator[None]:
    """Ray, where it is started meanwhile, hands out these cards alone; None stands for no card."""
    before, names = os.environ.get("CUDA_VISIBLE_DEVICES"), [card for card in cards if card is not None]
    if names:
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(names)
    try:
        yield
    finally:
        if names:
            os.environ.pop("CUDA_VISIBLE_DEVICES")
            if before is not None:
                os.environ["CUDA_VISIBLE_DEVICES"] = before


class Samples:
    """What nvidia-smi said of some cards and the kernel of the host's memory, again and again."""

    def __init__(self, cards: Sequence[str | None]):
        self._cards = [card for card in cards if card is not None]
        self._taken: list[tuple[float, dict[str, float]]] = []
        self._memory_before = _memory_in_use()
        self._most_memory = self._memory_before
        self._read_before = _bytes_read()
        self._processor_before = _processor_seconds()
        self._began = time.monotonic()
        self._stop = threading.Event()

    def take(self) -> None:
        """Take samples until `stop`."""
        while not self._stop.wait(SAMPLE_SECONDS):
            self._most_memory = max(self._most_memory, _memory_in_use())
            if self._cards:
                lines = [line.split(", ") for line in _nvidia_smi("index,uuid,utilization.gpu")]
                used = {
                    name: float(share)
                    for *names, share in lines
                    for name in names
                    if share.replace(".", "").isdigit()
                }
                self._taken.append((time.time(), used))

    def stop(self) -> None:
        """End `take`."""
        self._stop.set()

    def mean(self, card: str, window: tuple[float, float]) -> float | None:
        """The mean use of a card between two times, as a share; None where nothing was read."""
        inside = [used for when, used in self._taken if window[0] <= when <= window[1]]
        values = [used[card] for used in inside if card in used]
        return round(sum(values) / len(values) / 100, 4) if values else None

    def host(self) -> dict[str, float]:
        """What the host did since these samples began: memory in GB, bytes read from disks in GB, cores in use."""
        seconds = max(1e-9, time.monotonic() - self._began)
        return {
            "memory_gb": round((self._most_memory - self._memory_before) / 1e9, 2),
            "read_from_disk_gb": round((_bytes_read() - self._read_before) / 1e9, 2),
            "cores_in_use": round((_processor_seconds() - self._processor_before) / seconds, 2),
        }


@contextmanager
def sampling(cards: Sequence[str | None]) -> Iterator[Samples]:
    """Samples that are taken while the context is open."""
    samples = Samples(cards)
    thread = threading.Thread(target=samples.take, daemon=True)
    thread.start()
    try:
        yield samples
    finally:
        samples.stop()
        thread.join()


def drop_page_cache() -> None:
    """Have files read from the disk again. Needs root.

    Raises:
        OSError: It may not be done.
    """
    os.sync()
    Path("/proc/sys/vm/drop_caches").write_text("3")


def _memory_in_use() -> int:
    """Bytes that processes hold, the page cache aside."""
    lines = (line.split() for line in Path("/proc/meminfo").read_text().splitlines())
    found = {name.rstrip(":"): int(size) for name, size, *_ in lines}
    return (found["MemTotal"] - found["MemFree"] - found["Buffers"] - found["Cached"] + found["Shmem"]) * KIB


def _bytes_read() -> int:
    """Bytes read from disks since the host started."""
    lines = (line.split() for line in Path("/proc/vmstat").read_text().splitlines())
    return next(int(count) for name, count in lines if name == "pgpgin") * KIB


def _processor_seconds() -> float:
    """Seconds that all cores together have been at work since the host started."""
    user, nice, system, _, _, irq, softirq, *_ = Path("/proc/stat").read_text().splitlines()[0].split()[1:]
    return sum(map(int, (user, nice, system, irq, softirq))) / os.sysconf("SC_CLK_TCK")


def _nvidia_smi(fields: str) -> list[str]:
    command = ["nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30)
    except (OSError, subprocess.SubprocessError):
        return []
    return [line.strip() for line in done.stdout.splitlines() if line.strip()]
