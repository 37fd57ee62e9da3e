"""Filling a module that was made without memory with the tensors of files, several at once."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from wanbatch.pipeline.loading.weight_files import StoredTensor, WeightReader, reading_threads, reading_to

JOINED = (".qkv_weight", ".qkv_bias")  # of a block whose query, key and value are one matrix (`FrameBlock.fuse`)


def _as_stored(tensor: Tensor) -> Tensor:
    return tensor


def _nothing(group: str) -> None:
    pass


def never() -> bool:
    """Of a module that somebody waits for."""
    return False


@dataclass(frozen=True, slots=True)
class Filling:
    """How a module is filled.

    Attributes:
        device: Where its tensors go.
        dtype_of: What each is converted to, by its name and what it is stored in.
        blocks: The list of modules whose tensors come one block after the other, such as `blocks`; empty: none.
        done: Called with the name of each block, such as `blocks.3`, and of each tensor that is in none, once it is
            there; one call at a time, in any thread.
        live: The part of a stored tensor that the module has; it is viewed in the module's shape.
        other_names: What a tensor may be called in files instead.
        stopped: Whether nobody waits for the module any more; asked before each block, in any thread.
    """

    device: torch.device
    dtype_of: Callable[[str, torch.dtype], torch.dtype]
    blocks: str = ""
    done: Callable[[str], None] = _nothing
    live: Callable[[Tensor], Tensor] = _as_stored
    other_names: Mapping[str, str] = field(default_factory=dict)
    stopped: Callable[[], bool] = never


def fill(module: nn.Module, stored: Mapping[str, StoredTensor], filling: Filling) -> None:
    """Give a module the tensors of its parameters and persistent buffers.

    Args:
        module: Made on `meta`.
        stored: What its files hold; what it has no use for is not read.
        filling: How.

    Raises:
        ValueError: A tensor is missing, or has another size than the module's.
        UserError: A file cannot be read.
        CancelledError: It was stopped.
    """
    wanted = kept_tensors(module)
    found = {name: stored.get(name) or stored.get(filling.other_names.get(name, "")) for name in wanted}
    for name, tensor in found.items():
        if tensor is None:
            raise ValueError(f"its files have no {name}")
        shape = filling.live(torch.empty(tensor.shape, device="meta")).shape
        if shape.numel() != wanted[name].numel() or (filling.live is _as_stored and shape != wanted[name].shape):
            raise ValueError(f"{name} is {_size(tensor.shape)} in its files, and {_size(wanted[name].shape)} here")
    here = {name: tensor for name, tensor in found.items() if tensor is not None}
    with reading_to(filling.device) as reader, ThreadPoolExecutor(reading_threads(), "weights") as pool:
        groups, one_by_one = _groups(here, filling.blocks), threading.Lock()

        def job(group: str, names: Sequence[str]) -> None:
            if filling.stopped():
                raise CancelledError
            _fill_group(module, names, here, reader, filling)
            with one_by_one:  # what blocks are made ready in takes memory of the device
                filling.done(group)

        jobs = [pool.submit(job, *group) for group in groups]
        for begun in jobs:
            try:
                begun.result()
            except BaseException:
                pool.shutdown(wait=True, cancel_futures=True)
                raise
    for part in module.modules():  # tables that modules make themselves
        for name, table in part._buffers.items():
            if table is not None and not table.is_meta:
                part._buffers[name] = table.to(filling.device)


def kept_tensors(module: nn.Module) -> dict[str, Tensor]:
    """What files keep of a module, by name: each tensor once, and joined ones in place of their parts."""
    joined = {name: one for name, one in module.named_buffers() if name.endswith(JOINED)}
    parts = tuple(f"{name.rpartition('.')[0]}.attn1.to_{letter}." for name in joined for letter in "qkv")
    kept: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, tensor in module.state_dict(keep_vars=True).items():
        if id(tensor) not in seen and not (parts and name.startswith(parts)):
            seen.add(id(tensor))
            kept[name] = tensor
    return kept | joined


def _groups(stored: Mapping[str, StoredTensor], blocks: str) -> list[tuple[str, list[str]]]:
    """What is read as one job, with its name: each block, and each other tensor by itself; these come first."""
    others: list[tuple[str, list[str]]] = []
    of_blocks: dict[str, list[str]] = {}
    depth = blocks.count(".") + 2
    for name in stored:
        if blocks and name.startswith(f"{blocks}."):
            of_blocks.setdefault(".".join(name.split(".")[:depth]), []).append(name)
        else:
            others.append((name, [name]))
    return others + sorted(of_blocks.items(), key=lambda item: int(item[0].rpartition(".")[2]))


@torch.no_grad()
def _fill_group(
    module: nn.Module,
    names: Sequence[str],
    stored: Mapping[str, StoredTensor],
    reader: WeightReader,
    filling: Filling,
) -> None:
    for name in names:
        owner_name, _, leaf = name.rpartition(".")
        owner = module.get_submodule(owner_name)
        like: Tensor = getattr(owner, leaf)
        dtype = filling.dtype_of(name, stored[name].dtype)
        tensor = filling.live(reader.read(stored[name])).to(dtype).reshape(like.shape).contiguous()
        if leaf in owner._parameters:
            owner._parameters[leaf] = nn.Parameter(tensor, requires_grad=False)
        else:
            owner._buffers[leaf] = tensor


def _size(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape)) or "one number"
