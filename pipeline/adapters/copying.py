"""Copies to a device that go on beside its work, on a stream of their own. On a CPU they are made at once."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor

PIECE_BYTES = 32 << 20


def rows_in_pieces(matrices: Iterable[Tensor], elements: int) -> Iterator[list[Tensor]]:
    """Matrices that are to be filled one after the other, cut between rows into pieces of limited size.

    Args:
        matrices: [rows, columns] each; views of them are given.
        elements: Of a piece at most; a single row may have more.

    Yields:
        The parts of one piece, which follow each other.
    """
    piece: list[Tensor] = []
    room = elements
    for matrix in matrices:
        left = matrix
        while left.numel():
            rows = min(len(left), max(room // left.shape[1], 0 if piece else 1))
            if rows:
                piece.append(left[:rows])
                room -= piece[-1].numel()
                left = left[rows:]
            else:
                yield piece
                piece, room = [], elements
    if piece:
        yield piece


class Staging:
    """A little pinned memory through which anything gets to a device, piece by piece.

    Two pieces take turns: one is filled while the other is copied on. For several threads, one of which copies at a
    time; it waits for its own copies only.

    Args:
        stream: In which copies are made; None: this is no GPU, and they are made at once.
        piece_bytes: Of each of the two pieces.
    """

    def __init__(self, stream: torch.cuda.Stream | None, piece_bytes: int = PIECE_BYTES):
        self._stream, self._lock = stream, threading.Lock()
        self._pieces = torch.empty(2, piece_bytes, dtype=torch.uint8, pin_memory=stream is not None)
        self._copied: list[torch.cuda.Event | None] = [None, None]
        self._turn = 0  # goes on from one call to the next: small copies, too, are made while the next is filled

    def copy(self, source: Tensor, target: Tensor) -> None:
        """Copy memory; what comes later in the stream finds it there.

        Args:
            source: [elements], on the host.
            target: As `source`, on the device.
        """
        given, taken = source.view(torch.uint8), target.view(torch.uint8)
        with self._lock:
            for number, part in enumerate(given.split(self._pieces.shape[1])):
                turn = self._turn
                self._turn = 1 - turn
                if (copied := self._copied[turn]) is not None:
                    copied.synchronize()  # or what is not copied yet would be overwritten
                piece = self._pieces[turn, : len(part)]
                piece.copy_(part)
                first = number * self._pieces.shape[1]
                taken[first : first + len(part)].copy_(piece, non_blocking=True)
                if self._stream is not None:
                    self._copied[turn] = torch.cuda.Event(blocking=True)
                    self._copied[turn].record(self._stream)  # type: ignore[union-attr]


class SideStream:
    """A stream beside those of a device's work; on a CPU there is none.

    Args:
        device: Whose.
    """

    def __init__(self, device: torch.device):
        self._device = device
        # What it computes is little and waited for: it goes before the model's next kernels.
        self._stream = torch.cuda.Stream(device, priority=-1) if device.type == "cuda" else None
        self._staging: Staging | None = None
        self._lock = threading.Lock()

    @contextmanager
    def working(self) -> Iterator[None]:
        """What this thread asks for is done in this stream, and memory that it gets is this stream's."""
        stream = nullcontext() if self._stream is None else torch.cuda.stream(self._stream)
        with torch.inference_mode(False), torch.no_grad(), stream:
            yield

    def copied(self, source: Tensor, pinned: bool) -> Tensor:
        """A copy on the device, for `working`; on a CPU what is given.

        Args:
            source: [elements], on the host.
            pinned: Whether the device can copy it on its own.
        """
        if self._stream is None:
            return source
        target = torch.empty_like(source, device=self._device)
        if pinned:
            target.copy_(source, non_blocking=True)
        else:
            self._given_staging().copy(source, target)
        return target

    def moment(self) -> torch.cuda.Event | None:
        """When all that was asked for so far will be done."""
        return None if self._stream is None else self._stream.record_event()

    def take(self, tensors: Sequence[Tensor], made: torch.cuda.Event | None) -> None:
        """Let this thread's stream read what this one made: it waits for that alone, and nobody waits on the host.

        Args:
            tensors: What is read. Their memory is not used again before the readers are done.
            made: When they are there.
        """
        if made is None:
            return
        reader = torch.cuda.current_stream(self._device)
        reader.wait_event(made)
        for tensor in tensors:
            tensor.record_stream(reader)

    def _given_staging(self) -> Staging:
        with self._lock:
            if self._staging is None:
                self._staging = Staging(self._stream)
            return self._staging
