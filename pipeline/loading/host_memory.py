"""Memory of the host that a GPU can copy from on its own, without a detour and while nobody waits.

What PyTorch does with memory that is pinned here (`aten/src/ATen/native/cuda/Copy.cu`, `native/Memory.cpp`):

- `copy_` and `to` with `non_blocking=True` give the driver the address of what is copied, and put no memory of their
  own in between where both sides are contiguous and of one dtype. The driver knows by the address that it is pinned.
- `is_pinned` asks the driver about the first byte of a tensor's storage, not about the tensor. So it is False for
  what `whole_pages` gives, pinned or not, whose storage begins a little before it. Nothing may rely on it; PyTorch
  itself does where launches are recorded, and refuses to copy from such memory meanwhile.
- Memory of PyTorch's own is not used again before copies from it are done. Whoever owns memory that is pinned here
  has to see to that.
"""

from __future__ import annotations

from contextlib import suppress
from mmap import PAGESIZE
from weakref import finalize

import torch
from torch import Tensor


def pin(owner: object, memory: Tensor) -> bool:
    """Pin memory where it is: torch's own pinned memory comes in powers of two. False if the driver does not.

    Args:
        owner: Of the memory; when nothing refers to it any more, the memory is not pinned any more. It has to be
            there until all copies are done.
        memory: uint8 [bytes].
    """
    if int(torch.cuda.cudart().cudaHostRegister(memory.data_ptr(), memory.numel(), 0)) == 0:
        finalize(owner, torch.cuda.cudart().cudaHostUnregister, memory.data_ptr())
        return True
    clear_last_error()
    return False


def clear_last_error() -> None:
    """Take back what a call of the driver that failed has left in this thread: the next launch would report it."""
    with suppress(RuntimeError):
        torch.zeros(1, device="cuda")


def whole_pages(size: int) -> Tensor:
    """Memory of which no page has anything else, which might be pinned as well; uint8 [size or a little more].

    Args:
        size: In bytes.
    """
    whole = -(-size // PAGESIZE) * PAGESIZE
    memory = torch.empty(whole + PAGESIZE, dtype=torch.uint8)
    return memory[-memory.data_ptr() % PAGESIZE :][:whole]
