"""What leaves a GPU for what, with made-up sizes; and parts that really move, as far as a CPU can tell."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from picture_requests import PLAIN, make, source
from small_card import SmallCard, sizes_of
from small_models import random_transformer
from torch import nn

from wanbatch.errors import UserError
from wanbatch.pipeline.adapters.store import AdapterStore
from wanbatch.pipeline.adapters.tensors import AdapterTensors, LowRank
from wanbatch.pipeline.core.requests import ComingRow
from wanbatch.pipeline.loading.hosted_weights import HostedWeights, size_of
from wanbatch.pipeline.loading.offload import Offloader, groups_to_offload
from wanbatch.pipeline.loading.residency import Residency
from wanbatch.pipeline.models.dit import FrameTransformer

SIZES = {"text": 11, "transformer": 10, "vae": 2}
WORKING = {"text": 1, "denoising": 3, "vae": 2}
PICTURE = ("vae", "transformer")
CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("wanted", "resident", "missing", "leaving"),
    [
        (["text"], ["vae", "transformer"], 0, []),
        (["text"], ["vae", "transformer"], 1, ["vae"]),
        (["text"], ["vae", "transformer"], 3, ["transformer"]),
        (["text"], ["vae", "transformer"], 11, ["vae", "transformer"]),
        (["transformer", "vae"], ["text", "vae"], 5, ["text"]),
        (["transformer", "vae"], ["text", "vae"], -5, []),
    ],
)
def test_as_few_bytes_leave_as_make_room_and_never_what_is_to_work(wanted, resident, missing, leaving):
    assert groups_to_offload(wanted, resident, SIZES, missing) == leaving


def test_of_groups_of_one_size_the_least_recently_used_leaves_first():
    sizes = {"a": 5, "b": 5, "c": 5}
    assert groups_to_offload(["c"], ["b", "a"], sizes, 2) == ["b"]
    assert groups_to_offload(["c"], ["a", "b"], sizes, 7) == ["a", "b"]


def test_a_part_without_room():
    with pytest.raises(UserError, match="no room for the part 'transformer'"):
        groups_to_offload(["transformer"], ["vae"], SIZES, 3)


class Card:
    """A GPU's memory by its bookkeeping. capacity: bytes."""

    def __init__(self, capacity: int, sizes: dict[str, int]):
        self.capacity = capacity
        self.parts = {name: Part(size) for name, size in sizes.items()}

    def free(self) -> int:
        return self.capacity - sum(part.size for part in self.parts.values() if part.where == "meta")


class Part(nn.Module):
    """Notes where it was sent."""

    def __init__(self, size: int):
        super().__init__()
        self.register_buffer("weight", torch.zeros(size, dtype=torch.uint8))
        self.size, self.where, self.history, self.failures = size, "cpu", [], 0

    def to(self, device):
        if self.failures:
            self.failures -= 1
            raise torch.OutOfMemoryError
        self.where = str(device)
        self.history.append(self.where)
        return self


def offloader(capacity: int, sizes: dict[str, int] = SIZES) -> tuple[Offloader, Card]:
    card = Card(capacity, sizes)
    return Offloader(card.parts, torch.device("meta"), card.free, WORKING), card


def test_with_room_for_all_nothing_moves_twice():
    held, card = offloader(26)
    assert held.residency == Residency()
    for names, work in ((PICTURE, "denoising"), (["text"], "text")) * 2:
        held.ensure_on_device(names, work)
    assert [part.history for part in card.parts.values()] == [["meta"]] * 3
    assert held.moved.moves == 3


def test_without_room_they_take_turns():
    held, card = offloader(20)
    assert held.residency == Residency(text_leaves=True)
    for names, work in ((["text"], "text"), (PICTURE, "denoising"), (PICTURE, "denoising")) * 2:
        held.ensure_on_device(names, work)
        assert card.free() >= WORKING[work]
        assert all(card.parts[name].where == "meta" for name in names)
    assert card.parts["text"].history == ["meta", "cpu"] * 2
    assert card.parts["vae"].history == ["meta"]  # there is room for it beside the text encoder
    assert held.moved.moves == 5
    assert held.moved.seconds > 0


def test_two_experts_take_turns_and_what_is_small_stays():
    sizes = {"text": 11, "high_noise": 28, "low_noise": 28, "vae": 1}
    held, card = offloader(45, sizes)
    assert held.residency == Residency(True, True)
    for _ in range(2):  # two units
        held.ensure_on_device(["text"], "text")
        for expert in ("high_noise", "low_noise"):
            held.ensure_on_device(["vae", expert], "denoising")
            assert card.free() >= WORKING["denoising"]
    # The text encoder stays beside one expert; each expert comes once a unit.
    assert card.parts["text"].history == ["meta"]
    assert card.parts["high_noise"].history == ["meta", "cpu"] * 2
    assert held.moved.moves == 1 + 1 + 4


def test_a_part_that_came_before_another_one_failed_can_leave_again():
    """Memory that something else took: the part after it does not come, and its own is not forgotten."""
    held, card = offloader(15)
    assert held.residency == Residency(text_leaves=True)
    failing = card.parts["transformer"]
    failing.failures = 1
    with pytest.raises(torch.OutOfMemoryError):
        held.ensure_on_device(PICTURE, "denoising")
    assert held.resident == ["vae"]
    card.capacity = 13
    held.ensure_on_device(["text"], "text")
    assert card.parts["vae"].where == "cpu"
    held.ensure_on_device(["transformer"], "denoising")
    assert held.resident == ["transformer"]


def test_sizes_count_shared_memory_once():
    linear = nn.Linear(4, 4, bias=False)
    both = nn.ModuleList([linear, nn.Linear(4, 4, bias=False)])
    assert size_of(both) == 128
    both[1].weight = linear.weight
    assert size_of(both) == 64
    both[1].weight = nn.Parameter(linear.weight.detach()[1:3])
    assert size_of(both) == 64


def test_a_fused_transformer_stays_fused_when_it_moves():
    frame = FrameTransformer(random_transformer()).fuse()
    before = size_of(frame)
    frame.to(torch.float64).to(torch.float32)
    block = frame.blocks[0]
    assert size_of(frame) == before
    assert block.attn1.to_k.weight.untyped_storage().data_ptr() == block.qkv_weight.untyped_storage().data_ptr()
    assert torch.equal(torch.cat([block.attn1.to_q.weight, block.attn1.to_k.weight]), block.qkv_weight[:192])


@pytest.mark.parametrize("eight_bits", [False, True], ids=["float32", "fp8"])
def test_hosted_weights_are_the_same_on_both_sides(eight_bits):
    frame = FrameTransformer(random_transformer()).fuse()
    if eight_bits:
        frame.to_float8(CPU)
    tensors = dict((*frame.named_parameters(), *frame.named_buffers()))
    before = {name: tensor.clone() for name, tensor in tensors.items()}
    size = size_of(frame)
    held = HostedWeights(frame, CPU)
    hosted = {name: tensor.data_ptr() for name, tensor in tensors.items()}
    held.to_device()
    there = {name: tensor.data_ptr() for name, tensor in tensors.items()}
    assert all(hosted[name] != there[name] for name in tensors if tensors[name].numel())
    assert size_of(frame) == size  # what shared memory shares it still
    for tensor in tensors.values():
        tensor.data.view(torch.uint8 if tensor.element_size() == 1 else tensor.dtype).zero_()
    held.to_host()  # what was on the device is given up
    assert {name: tensor.data_ptr() for name, tensor in tensors.items()} == hosted
    held.to_device()
    assert all(torch.equal(tensor.float(), before[name].float()) for name, tensor in tensors.items())
    assert all(tensor.stride() == before[name].stride() for name, tensor in tensors.items())


def test_pictures_are_the_same_when_parts_take_turns(model_folder, wan, monkeypatch):
    sizes = sizes_of(wan)
    moving = SmallCard(monkeypatch).load(model_folder, sum(sizes.values()) - 1)
    held = moving.placement.offloader
    assert (moving.placement.residency, moving.offloaded) == (Residency(text_leaves=True), True)
    result = next(iter(moving.generate([PLAIN])))
    assert (result.pixels == make(wan, PLAIN)["a"]).all()
    assert result.moves == held.moved.moves > 0
    assert result.move_seconds > 0
    [again] = moving.generate([PLAIN])  # its prompts are known
    assert again.moves == 0
    [other] = moving.generate([replace(PLAIN, prompt="a green circle")])
    assert other.moves > 0


def test_adapters_of_coming_rows_take_no_memory_from_parts_that_take_turns(model_folder, wan, monkeypatch):
    moving = SmallCard(monkeypatch).load(model_folder, sum(sizes_of(wan).values()) - 1)
    pairs = {"blocks.0.attn1.to_q": LowRank(torch.ones(4, 96), torch.ones(96, 4), 1.0)}
    for one in (moving, wan):
        store = AdapterStore({"crayon": ((AdapterTensors(pairs),), 1.0)}, CPU, torch.float32)
        monkeypatch.setattr(one, "_adapters", store)
        one.expect_adapters("unit", [ComingRow("a", [("crayon", 1.0)])])
        store.wait()
        assert len(store.resident) == (0 if one is moving else 1)
        one.release_adapters("unit")


def test_a_vae_that_leaves_decodes_when_all_pictures_are_denoised(model_folder, wan, monkeypatch):
    sizes = sizes_of(wan)
    moving = SmallCard(monkeypatch).load(model_folder, max(sizes["transformer"], sizes["text"]))
    assert moving.placement.residency == Residency(True, True, True)
    rows = [
        replace(PLAIN, id=str(number), seed=number, sources=(source(number),), creativity=0.7) for number in range(7)
    ]
    made = list(moving.generate(rows))
    expected = make(wan, *rows)
    assert all((one.pixels == expected[one.request.id]).all() for one in made)
    assert sum(one.moves for one in made) <= 5  # picture, text, sources, transformer, pictures
    assert set(moving.backends) == {name for name, how in moving.backends.items() if how.endswith("-offloaded")}


def test_a_model_without_room_for_a_part_is_refused_when_it_is_loaded(model_folder, wan, monkeypatch):
    sizes = sizes_of(wan)
    with pytest.raises(UserError, match=r"the GPU has .* alone needs"):
        SmallCard(monkeypatch).load(model_folder, max(sizes.values()) - 1)


def test_what_does_not_move_keeps_its_tensors_and_what_moves_gives_them_up(model_folder, wan, monkeypatch):
    """Where memory goes short while a model is at work, what was recorded of its launches is forgotten first."""
    card = SmallCard(monkeypatch)
    moving = card.load(model_folder, sum(sizes_of(wan).values()))
    assert moving.placement.residency == Residency()
    make(moving, PLAIN)
    assert moving.denoiser.kept_classes == 1
    card.held.resident.remove("text")
    card.room = sum(sizes_of(wan).values()) - 1
    kept_then: list[int] = []
    apply = moving.experts[0]._apply
    monkeypatch.setattr(
        moving.experts[0], "_apply", lambda *of: kept_then.append(moving.denoiser.kept_classes) or apply(*of)
    )
    moving.text.encode(["a small blue star"])
    assert kept_then == [0] or not kept_then  # recorded launches would read the weights where they no longer are
    assert moving.denoiser.kept_classes == 0


def test_a_model_that_moves_keeps_nothing(model_folder, wan, monkeypatch):
    moving = SmallCard(monkeypatch).load(model_folder, sum(sizes_of(wan).values()) - 1)
    make(moving, PLAIN)
    assert moving.denoiser.kept_classes == 0


def test_offloading_is_recorded(model_folder, wan, monkeypatch):
    moving = SmallCard(monkeypatch).load(model_folder, sum(sizes_of(wan).values()) - 1)
    assert moving.backends["text"] == "eager-float32-offloaded"
    assert moving.backends["denoise"] == "eager-float32"
