"""What leaves a GPU for what, with made-up sizes; and parts that really move, as far as a CPU can tell."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from picture_requests import PLAIN, make
from small_models import random_transformer
from torch import nn

from wanbatch.errors import UserError
from wanbatch.pipeline import generate
from wanbatch.pipeline.generate import Wan
from wanbatch.pipeline.loading import registry
from wanbatch.pipeline.loading.offload import WORKING_BYTES, Offloader, groups_to_offload, size_of
from wanbatch.pipeline.loading.runtime import Runtime
from wanbatch.pipeline.models.dit import FrameTransformer

SIZES = {"text": 11, "picture": 12}
WORKING = {"text": 1, "picture": 3}


@pytest.mark.parametrize(
    ("wanted", "resident", "free", "leaving"),
    [
        ("text", [], 80, []),
        ("picture", ["text"], 69, []),
        ("picture", ["text"], 15, []),
        ("picture", ["text"], 14, ["text"]),
        ("picture", ["text"], 4, ["text"]),
        ("text", ["picture"], 12, []),
        ("text", ["picture"], 11, ["picture"]),
        ("text", ["text"], 1, []),
        ("picture", ["text", "picture"], 2, ["text"]),
        ("picture", ["picture"], 3, []),
    ],
)
def test_what_leaves(wanted, resident, free, leaving):
    assert groups_to_offload(wanted, resident, SIZES, free, WORKING) == leaving


def test_the_least_recently_used_leaves_first_and_no_more_than_needed():
    sizes, working = {"a": 5, "b": 5, "c": 5}, dict.fromkeys("abc", 1)
    assert groups_to_offload("c", ["b", "a"], sizes, 2, working) == ["b"]
    assert groups_to_offload("c", ["a", "b"], sizes, 0, working) == ["a", "b"]


@pytest.mark.parametrize(("resident", "free"), [([], 14), (["text"], 3), (["picture"], 2)])
def test_a_part_without_room(resident, free):
    with pytest.raises(UserError, match="no room for the part 'picture'"):
        groups_to_offload("picture", resident, SIZES, free, WORKING)


class Card:
    """A GPU's memory by its bookkeeping. capacity: bytes."""

    def __init__(self, capacity: int, **sizes: int):
        self.capacity = capacity
        self.parts = {name: Part(size) for name, size in sizes.items()}

    def free(self) -> int:
        return self.capacity - sum(part.size for part in self.parts.values() if part.where == "meta")


class Part(nn.Module):
    """Notes where it was sent."""

    def __init__(self, size: int):
        super().__init__()
        self.register_buffer("weight", torch.zeros(size, dtype=torch.uint8))
        self.size, self.where, self.history = size, "cpu", []

    def to(self, device):
        self.where = str(device)
        self.history.append(self.where)
        return self


def offloader(capacity: int) -> tuple[Offloader, Card]:
    card = Card(capacity, **SIZES)
    return Offloader(card.parts, torch.device("meta"), card.free, WORKING), card


def test_with_room_for_all_nothing_moves_twice():
    held, card = offloader(26)
    assert held.all_fit
    for name in ("picture", "text", "picture", "text"):
        held.ensure_on_device(name)
    assert [part.history for part in card.parts.values()] == [["meta"], ["meta"]]


def test_without_room_they_take_turns():
    held, card = offloader(20)
    assert not held.all_fit
    for name in ("text", "picture", "picture", "text", "picture"):
        held.ensure_on_device(name)
        assert card.free() >= WORKING[name]
        assert card.parts[name].where == "meta"
    assert card.parts["text"].history == ["meta", "cpu", "meta", "cpu"]
    assert held.moves == 4


def test_sizes_count_shared_memory_once():
    linear = nn.Linear(4, 4, bias=False)
    both = nn.ModuleList([linear, nn.Linear(4, 4, bias=False)])
    assert size_of(both) == 128
    both[1].weight = linear.weight
    assert size_of(both) == 64


def test_a_fused_transformer_stays_fused_when_it_moves():
    frame = FrameTransformer(random_transformer()).fuse()
    before = size_of(frame)
    frame.to(torch.float64).to(torch.float32)
    block = frame.blocks[0]
    assert size_of(frame) == before
    assert block.attn1.to_k.weight.untyped_storage().data_ptr() == block.qkv_weight.untyped_storage().data_ptr()
    assert torch.equal(torch.cat([block.attn1.to_q.weight, block.attn1.to_k.weight]), block.qkv_weight[:192])


def test_pictures_are_the_same_when_parts_take_turns(model_folder, wan, monkeypatch):
    moving = Wan.load(registry.find(str(model_folder)), slots=3, runtime=Runtime(offload=True))
    assert moving.offloader is not None
    held = moving.offloader
    assert (held.resident, moving.offloaded) == (["picture"], False)
    sizes = {"text": size_of(moving.text.model), "picture": size_of(nn.ModuleList([*moving.experts, moving.vae]))}
    for name in sizes:
        monkeypatch.setitem(WORKING_BYTES, name, 0)
    room = sum(sizes.values()) - 1  # for either, not for both
    monkeypatch.setattr(generate, "free_memory", lambda device: room - sum(sizes[name] for name in held.resident))
    assert (make(moving, PLAIN)["a"] == make(wan, PLAIN)["a"]).all()
    assert (held.resident, held.moves) == (["picture"], 3)
    make(moving, PLAIN)  # its prompts are known
    assert held.moves == 3
    make(moving, replace(PLAIN, prompt="a green circle"))
    assert held.moves == 5


def test_what_does_not_move_keeps_its_tensors_and_what_moves_gives_them_up(model_folder, monkeypatch):
    """Before, no size class kept its tensors, nor on a GPU its recorded launches, wherever offloading was allowed."""
    wan = Wan.load(registry.find(str(model_folder)), slots=3, runtime=Runtime(offload=True))
    assert wan.offloader is not None
    make(wan, PLAIN)
    assert wan.denoiser.kept_classes == 1
    sizes = {"text": size_of(wan.text.model), "picture": size_of(nn.ModuleList([*wan.experts, wan.vae]))}
    for name in sizes:
        monkeypatch.setitem(WORKING_BYTES, name, 0)
    wan.offloader.resident.remove("text")
    monkeypatch.setattr(generate, "free_memory", lambda device: sizes["text"] - 1)
    kept_then: list[int] = []
    monkeypatch.setattr(
        wan.experts[0], "_apply", lambda *_: kept_then.append(wan.denoiser.kept_classes) or wan.experts[0]
    )
    wan.text.encode(["a small blue star"])
    assert kept_then == [0]  # recorded launches would read the weights where they no longer are


def test_a_model_that_moves_keeps_nothing(model_folder, monkeypatch):
    monkeypatch.setattr(Offloader, "all_fit", False)
    wan = Wan.load(registry.find(str(model_folder)), slots=3, runtime=Runtime(offload=True))
    make(wan, PLAIN)
    assert wan.denoiser.kept_classes == 0


def test_offloading_is_recorded(model_folder, monkeypatch):
    monkeypatch.setattr(Offloader, "all_fit", False)
    moving = Wan.load(registry.find(str(model_folder)), runtime=Runtime(offload=True))
    assert moving.backends["text"] == "eager-float32-offloaded"
