"""Whether an adapter's file is what was trained, and what it does on the model that a run loads."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from wanbatch.counting import number_of
from wanbatch.errors import UserError
from wanbatch.pipeline.adapters.files import ModelLayers, read_adapter
from wanbatch.pipeline.adapters.tensors import load_tensors
from wanbatch.pipeline.loading.reference import load_transformer
from wanbatch.pipeline.training.float8_base import float8_layers, weights_instead
from wanbatch.pipeline.training.lora.model import TrainingModel
from wanbatch.pipeline.training.low_rank import LowRankAdapters, state_of_pairs

READ_BACK = "read back"
FARTHEST = 0.02  # of the velocity, relative; bf16 rounds matrices by 0.004

FAR = 0.5  # of what an adapter changes, relative: on FP8 layers it learned something else


@dataclass(frozen=True, slots=True)
class ReadBack:
    """A saved adapter, as a run reads it, against the one that was trained. Differences are relative.

    Attributes:
        difference: Of the velocity with the file from the velocity with what was trained, on the same model.
        coverage: How much of the model the file changes, in words.
        base_difference: Where the frozen layers were FP8: of the velocity without the adapter from that of the model
            as a run loads it. None: the model was as a run loads it.
        change_difference: There, too: of what the file changes of the velocity from what it changes of that of the
            model as a run loads it.
    """

    difference: float
    coverage: str
    base_difference: float | None = None
    change_difference: float | None = None


def words_of_base(base_difference: float | None, change_difference: float | None) -> str:
    """What a card says of frozen layers that were FP8; empty if they were not."""
    if base_difference is None or change_difference is None:
        return ""
    return (
        "The frozen layers were FP8 in training, which changed the model's velocities by "
        f"{base_difference:.1%}; on the model as a run loads it, what the adapter changes of them is "
        f"{change_difference:.1%} from what it changed in training."
    )


@torch.no_grad()
def read_back(model: TrainingModel, adapters: LowRankAdapters, name: str, file: Path) -> ReadBack:
    """Read a saved adapter as a run reads it, and compare the velocities of both.

    Args:
        model: Of the training.
        adapters: Of the model.
        name: Of the adapter that was trained.
        file: That was saved.

    Raises:
        UserError: If the two are not the same adapter.
    """
    layers = ModelLayers.of_folder(model.info.folder, model.info.name, model.low is not None)
    adapter = read_adapter(file, layers)
    if READ_BACK not in adapters.ranks:
        adapters.add(READ_BACK, adapters.ranks[name])
    for expert, tensors in zip(model.experts, load_tensors(adapter), strict=True):
        trained = adapters.paths(expert) if expert in adapters.experts else {}
        if set(tensors.pairs) != set(trained):
            raise UserError(
                f"{file}: changes {number_of(len(tensors.pairs), 'layers')}, and {len(trained)} were trained"
            )
        if trained:
            adapters.load(READ_BACK, state_of_pairs(tensors.pairs), expert)
    found = _velocities(model, adapters, (None, name, READ_BACK))
    difference = _relative(found[READ_BACK], found[name])
    if not difference <= FARTHEST:
        raise UserError(f"{file}: as it is read it differs by {difference:.3g} from what was trained")
    if not float8_layers(model.dit):
        return ReadBack(difference, adapter.coverage())
    with contextlib.ExitStack() as stack:
        for dit, part in zip(model.experts.values(), ("transformer", "transformer_2"), strict=False):
            stack.enter_context(weights_instead(dit, load_transformer(model.info, dit.dtype, part)))
        loaded = _velocities(model, adapters, (None, READ_BACK))
    changes = [each[READ_BACK] - each[None] for each in (found, loaded)]
    return ReadBack(
        difference, adapter.coverage(), _relative(found[None], loaded[None]), _relative(*changes)
    )  # fmt: skip


def _velocities(
    model: TrainingModel, adapters: LowRankAdapters, names: tuple[str | None, ...]
) -> dict[str | None, Tensor]:
    """What the model predicts of always the same noisy latents, by the adapter that is active."""
    generator = torch.Generator().manual_seed(0)
    noisy = torch.randn(2, len(model.vae.mean), 8, 8, generator=generator).to(model.device)
    levels = [0.9, 0.4] if model.low is None else [(1 + model.boundary) / 2, model.boundary / 2]
    level = torch.tensor(levels, device=model.device)
    states = next(iter(model.embeddings(["a picture"]).values()))
    embeds, lengths = states.expand(2, -1, -1), torch.tensor([len(states)] * 2, device=model.device)
    found = {}
    for active in names:
        with adapters.active(active):
            found[active] = model.velocity(noisy, level, embeds, lengths)
    return found


def _relative(one: Tensor, other: Tensor) -> float:
    return float((one - other).norm() / other.norm())
