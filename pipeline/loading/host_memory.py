"""Memory of the host that a GPU can copy from on its own, without a detour and while nobody waits."""

from __future__ import annotations

from contextlib import suppress
from mmap import PAGESIZE
from weakref import finalize

import torch
from torch import Tensor


def pin(owner: object, memory: Tensor) -> bool:
    """Pin memory where it is: torch's own pinned memory comes in powers of two. False if the driver does not.

    Args:
        owner: Of the memory; when nothing refers to it any more, the memory is not pinned any more.
        memory: uint8 [bytes].
    """
    if int(torch.cuda.cudart().cudaHostRegister(memory.data_ptr(), memory.numel(), 0)) == 0:
        finalize(owner, torch.cuda.cudart().cudaHostUnregister, memory.data_ptr())
        return True
    with suppress(RuntimeError):  # the next launch would report this error as its own
        torch.zeros(1, device="cuda")
    return False


def whole_pages(size: int) -> Tensor:
    """Memory of which no page has anything else, which might be pinned as well; uint8 [size or a little more].

    Args:
        size: In bytes.
    """
    whole = -(-size // PAGESIZE) * PAGESIZE
    memory = torch.empty(whole + PAGESIZE, dtype=torch.uint8)
    return memory[-memory.data_ptr() % PAGESIZE :][:whole]
