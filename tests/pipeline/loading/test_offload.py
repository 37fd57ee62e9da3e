"""What leaves a GPU for what, with made-up sizes; and parts that really move, as far as a CPU can tell."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from picture_requests import PLAIN, make
from small_models import random_transformer
from torch import nn

from wanbatch.errors import UserError
from wanbatch.pipeline.generate import Wan
from wanbatch.pipeline.loading import registry
from wanbatch.pipeline.loading.offload import Residency, size_of, to_leave
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
    assert to_leave(wanted, resident, SIZES, free, WORKING) == leaving


def test_the_least_recently_used_leaves_first_and_no_more_than_needed():
    sizes, working = {"a": 5, "b": 5, "c": 5}, dict.fromkeys("abc", 1)
    assert to_leave("c", ["b", "a"], sizes, 2, working) == ["b"]
    assert to_leave("c", ["a", "b"], sizes, 0, working) == ["a", "b"]


@pytest.mark.parametrize(("resident", "free"), [([], 14), (["text"], 3), (["picture"], 2)])
def test_a_part_without_room(resident, free):
    with pytest.raises(UserError, match="no room for the part 'picture'"):
        to_leave("picture", resident, SIZES, free, WORKING)


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


def residency(capacity: int) -> tuple[Residency, Card]:
    card = Card(capacity, **SIZES)
    return Residency(card.parts, torch.device("meta"), card.free, WORKING), card


def test_with_room_for_all_nothing_moves_twice():
    held, card = residency(26)
    assert held.together
    for name in ("picture", "text", "picture", "text"):
        held.need(name)
    assert [part.history for part in card.parts.values()] == [["meta"], ["meta"]]


def test_without_room_they_take_turns():
    held, card = residency(20)
    assert not held.together
    for name in ("text", "picture", "picture", "text", "picture"):
        held.need(name)
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


def test_pictures_are_the_same_when_parts_take_turns(model_folder, wan):
    moving = Wan.load(registry.find(str(model_folder)), slots=3, runtime=Runtime(offload=True))
    assert moving.residency is not None
    held = moving.residency
    assert (held.resident, moving.offloaded) == (["picture"], False)
    held.sizes, held.working = {"text": 2, "picture": 2}, {"text": 1, "picture": 1}
    held.free = lambda: 4 - 2 * len(held.resident)  # room for either, not for both
    assert (make(moving, PLAIN)["a"] == make(wan, PLAIN)["a"]).all()
    assert (held.resident, held.moves) == (["picture"], 3)
    make(moving, PLAIN)  # its prompts are known
    assert held.moves == 3
    make(moving, replace(PLAIN, prompt="a green circle"))
    assert held.moves == 5


def test_offloading_is_recorded(model_folder, monkeypatch):
    monkeypatch.setattr(Residency, "together", False)
    moving = Wan.load(registry.find(str(model_folder)), runtime=Runtime(offload=True))
    assert moving.backends["text"] == "eager-float32-offloaded"
