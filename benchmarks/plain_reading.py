"""Rates of plain ways of reading a model's files and of copying what was read, for `benchmarks/reading.py`."""

from __future__ import annotations

import ctypes
import mmap
import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import product
from pathlib import Path
from typing import Any

MIB = 1 << 20


def plain(folder: Path, seconds: float, small: bool) -> Iterator[dict[str, Any]]:
    """Rates of plain ways of reading a model's files."""
    import torch

    cuda = torch.cuda.is_available() and not small
    files = sorted(folder.rglob("*.safetensors"), key=lambda path: path.stat().st_size)
    yield {"what": "cached", "share": round(cached_share(files), 3), "bytes": sum(p.stat().st_size for p in files)}
    torch.zeros(1, device="cuda" if cuda else "cpu")
    memories = ("pageable", "pinned") if cuda else ("pageable",)
    ways = [(memory, threads, 32) for memory, threads in product(memories, (1, 4, 8, 16))]
    ways += [(memories[-1], 8, piece) for piece in (1, 8, 128)]
    for memory, threads, piece in ways:
        yield _rate("preadv", _preadv(files, piece * MIB, memory, 0), seconds, memory, threads, piece)
    for threads in (8, 16):
        with suppress(OSError):  # not every file system has it
            yield _rate("preadv O_DIRECT", _preadv(files, 32 * MIB, "", os.O_DIRECT), seconds, "pages", threads, 32)
    for threads in (1, 8):
        yield _rate("mapped, copied", _mapped(files, 32 * MIB, memories[-1]), seconds, memories[-1], threads, 32)
    yield _rate("copies in memory", _copies(32 * MIB, memories[-1], "cpu"), seconds, memories[-1], 8, 32)
    if cuda:
        for memory, threads in product(memories, (1, 8)):
            yield _rate("copies to the GPU", _copies(32 * MIB, memory, "cuda"), seconds, memory, threads, 32)
        yield {
            "what": "locking 1 GiB",
            "seconds": timed(lambda: torch.empty(1 << 30, dtype=torch.uint8, pin_memory=True)),
        }
        yield {"what": "allocating 100 x 44 MB", "seconds": timed(_allocate)}
    yield {"what": "cached", "share": round(cached_share(files), 3)}


def cached_share(files: list[Path]) -> float:
    """The share of files that is in the page cache."""
    libc = ctypes.CDLL(None, use_errno=True)
    pages = there = 0
    for path in files:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, mmap.MAP_SHARED, mmap.PROT_READ) as mapped:
            count = -(-len(mapped) // mmap.PAGESIZE)
            import numpy as np

            array = np.frombuffer(mapped, np.uint8)
            answer = np.zeros(count, np.uint8)
            libc.mincore(ctypes.c_void_p(array.ctypes.data), ctypes.c_size_t(len(mapped)),
                         ctypes.c_void_p(answer.ctypes.data))  # fmt: skip
            pages, there = pages + count, there + int((answer & 1).sum())
            del array
    return there / max(1, pages)


Step = Callable[[int], Callable[[int], int]]
"""Of a thread: what it does again and again, of a number that goes up; returns bytes."""


def _rate(what: str, step_of: Step, seconds: float, memory: str, threads: int, piece: int) -> dict[str, Any]:
    """Run a step in several threads for a while."""
    numbers, lock, moved = iter(range(1 << 60)), threading.Lock(), [0] * threads
    begun = threading.Barrier(threads + 1)
    ends: list[float] = []

    def work(thread: int) -> None:
        try:
            step = step_of(thread)
            step(thread)  # memory is touched before it counts
        except BaseException:
            begun.abort()
            raise
        begun.wait()
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            with lock:
                number = next(numbers)
            moved[thread] += step(number)
        ends.append(time.perf_counter())

    with ThreadPoolExecutor(threads) as pool:
        jobs = [pool.submit(work, thread) for thread in range(threads)]
        try:
            begun.wait()
        except threading.BrokenBarrierError:
            raise next(error for job in jobs if isinstance(error := job.exception(), OSError)) from None
        begin = time.perf_counter()
        for job in jobs:
            job.result()
    rate = sum(moved) / (max(ends) - begin) / 1e9
    return {"what": what, "memory": memory, "threads": threads, "MiB": piece, "GB/s": round(rate, 2)}


def memory_of(kind: str, size: int) -> Any:
    """Memory of the host that was touched, `pinned` for a GPU or not."""
    import torch

    memory = torch.ones(size, dtype=torch.uint8)
    return memory.pin_memory() if kind == "pinned" else memory


def _piece_of(files: list[Path], piece: int, number: int) -> tuple[int, int, int]:
    """Which file, where and how much: pieces follow each other through all files, and start again at the end."""
    counts = [max(1, path.stat().st_size // piece) for path in files]
    number %= sum(counts)
    for index, count in enumerate(counts):
        if number < count:
            return index, number * piece, min(piece, files[index].stat().st_size)
        number -= count
    raise AssertionError


def _preadv(files: list[Path], piece: int, memory: str, flags: int) -> Step:
    opened = [os.open(path, os.O_RDONLY | flags) for path in files]

    def of_thread(thread: int) -> Callable[[int], int]:
        if flags:  # whose memory must begin at a page
            buffer = memoryview(mmap.mmap(-1, piece))
        else:
            buffer = memory_of(memory, piece).numpy().data
        return lambda number: _read(opened, buffer, *_piece_of(files, piece, number))

    return of_thread


def _read(opened: list[int], buffer: memoryview, index: int, offset: int, size: int) -> int:
    return os.preadv(opened[index], [buffer[: size // mmap.PAGESIZE * mmap.PAGESIZE or size]], offset)


def _mapped(files: list[Path], piece: int, memory: str) -> Step:
    import numpy as np

    arrays = [np.memmap(path, np.uint8, "r") for path in files]

    def of_thread(thread: int) -> Callable[[int], int]:
        into = memory_of(memory, piece).numpy()

        def step(number: int) -> int:
            index, offset, size = _piece_of(files, piece, number)
            np.copyto(into[:size], arrays[index][offset : offset + size])
            return size

        return step

    return of_thread


def _copies(piece: int, memory: str, device: str) -> Step:
    import torch

    def of_thread(thread: int) -> Callable[[int], int]:
        source, into = memory_of(memory, piece), torch.empty(piece, dtype=torch.uint8, device=device)

        def step(number: int) -> int:
            into.copy_(source, non_blocking=True)
            if into.is_cuda:
                copied = torch.cuda.Event()
                copied.record()
                copied.synchronize()
            return piece

        return step

    return of_thread


def _allocate() -> None:
    import torch

    kept = [torch.empty(44 * MIB, dtype=torch.uint8, device="cuda") for _ in range(100)]
    torch.cuda.synchronize()
    del kept


def timed(call: Callable[[], Any]) -> float:
    begin = time.perf_counter()
    call()
    return round(time.perf_counter() - begin, 3)
