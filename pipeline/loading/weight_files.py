"""Weight files (safetensors) read by ranges straight into a device's memory, by several threads at once.

No tensor is ever whole in the host's memory on its way to a GPU: a thread reads a piece into pinned memory of its
own, from where the device copies it, while other threads read theirs. On a CPU bytes are read to where they stay.
"""

from __future__ import annotations

import json
import os
import struct
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from wanbatch.errors import UserError
from wanbatch.machine import usable_cores

TYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "I64": torch.int64,
    "I32": torch.int32,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
PIECE_BYTES = 8 << 20  # of memory that each thread reads into, on the way to a GPU; with all threads in its cache
MOST_THREADS = 8  # more read no faster from a page cache than a GPU takes it


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """Where a tensor is.

    Attributes:
        path: Of its file.
        dtype: Of its numbers.
        shape: Of it.
        offset: In the file, in bytes.
    """

    path: Path
    dtype: torch.dtype
    shape: tuple[int, ...]
    offset: int


def stored_tensors(folder: Path, stem: str) -> dict[str, StoredTensor]:
    """All tensors of a part of a model, by name.

    Args:
        folder: Of the part.
        stem: Of the name of its file; if the weights are in several, `STEM.safetensors.index.json` names them.

    Raises:
        UserError: If a file is missing, damaged or cut off.
    """
    index = folder / f"{stem}.safetensors.index.json"
    names = [f"{stem}.safetensors"]
    if index.is_file():
        names = sorted(set(_files_of(index).values()))
    found: dict[str, StoredTensor] = {}
    for name in names:
        found |= _tensors_of(folder / name)
    return found


def _files_of(index: Path) -> dict[str, str]:
    try:
        files = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        if all(Path(name).name == name for name in files.values()):
            return files
        problem = "names a file elsewhere"
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        problem = f"cannot be read ({error})"
    raise UserError(f"{index}: {problem}: restore the model's files")


def _tensors_of(path: Path) -> Iterator[tuple[str, StoredTensor]]:
    try:
        with safe_open(path, framework="pt"):  # checks all of the header, and the length of the file
            pass
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            header: Mapping[str, Any] = json.loads(file.read(length))
    except (SafetensorError, OSError, ValueError, struct.error) as error:
        raise UserError(f"{path}: is not a whole safetensors file ({error}): restore the model's files") from error
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        if entry["dtype"] not in TYPES:
            raise UserError(f"{path}: {name} is in {entry['dtype']}, which is not read: convert it to bf16")
        yield (
            name,
            StoredTensor(path, TYPES[entry["dtype"]], tuple(entry["shape"]), 8 + length + entry["data_offsets"][0]),
        )


def reading_threads() -> int:
    """How many threads read at once here."""
    return min(MOST_THREADS, usable_cores())


class WeightReader:
    """Reads tensors onto a device. Several threads may read at once.

    Args:
        device: Where tensors go.
        staged: Whether they go there piece by piece, through memory of the reading thread; None: not on a CPU.
    """

    def __init__(self, device: torch.device, staged: bool | None = None):
        self.device = device
        self._staged = device.type != "cpu" if staged is None else staged
        self._files: dict[Path, int] = {}
        self._opening = threading.Lock()
        self._of_thread = threading.local()

    def read(self, tensor: StoredTensor) -> Tensor:
        """Return a tensor on the device, as it is stored.

        Raises:
            UserError: If the file cannot be read, or became shorter.
        """
        into = torch.empty(tensor.shape, dtype=tensor.dtype, device=self.device)
        if into.numel():
            flat = into.view(-1).view(torch.uint8)
            for begin, piece in self._pieces(flat):
                self._read_piece(tensor, begin, piece)
        return into

    def close(self) -> None:
        """Close all files, and give back the pinned memory."""
        for descriptor in self._files.values():
            os.close(descriptor)
        self._files.clear()
        self._of_thread = threading.local()

    def _pieces(self, flat: Tensor) -> Iterator[tuple[int, memoryview]]:
        """Where each piece begins, and host memory that is to be filled with it before the next one is asked for."""
        if not self._staged:
            yield 0, flat.numpy().data
            return
        staging: Tensor | None = getattr(self._of_thread, "staging", None)
        if staging is None:
            staging = self._of_thread.staging = _staging(flat.device)
        for begin in range(0, flat.numel(), PIECE_BYTES):
            piece = staging[: min(PIECE_BYTES, flat.numel() - begin)]
            yield begin, piece.numpy().data
            flat[begin : begin + piece.numel()].copy_(piece, non_blocking=True)
            if flat.is_cuda:  # other threads read meanwhile
                copied = torch.cuda.Event()
                copied.record()
                copied.synchronize()

    def _read_piece(self, tensor: StoredTensor, begin: int, piece: memoryview) -> None:
        done, descriptor = 0, self._descriptor(tensor.path)
        while done < len(piece):
            try:
                count = os.preadv(descriptor, [piece[done:]], tensor.offset + begin + done)
            except OSError as error:
                raise UserError(f"{tensor.path}: cannot be read ({error.strerror or error})") from error
            if count == 0:
                raise UserError(f"{tensor.path}: became shorter while it was read: restore the model's files")
            done += count

    def _descriptor(self, path: Path) -> int:
        with self._opening:
            if path not in self._files:
                try:
                    self._files[path] = os.open(path, os.O_RDONLY)
                except OSError as error:
                    raise UserError(f"{path}: cannot be read ({error.strerror or error})") from error
            return self._files[path]


def _staging(device: torch.device) -> Tensor:
    """Memory for pieces, from which a GPU copies fast, where the system lets it."""
    if device.type == "cuda":
        try:
            return torch.empty(PIECE_BYTES, dtype=torch.uint8, pin_memory=True)
        except RuntimeError:  # too much is locked already; copies from other memory are slower
            pass
    return torch.empty(PIECE_BYTES, dtype=torch.uint8)


@contextmanager
def reading_to(device: torch.device) -> Iterator[WeightReader]:
    """A reader that is closed at the end."""
    reader = WeightReader(device)
    try:
        yield reader
    finally:
        reader.close()
