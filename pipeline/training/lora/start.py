"""Where an adapter's training begins, if not at no change: at an adapter that there is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from wanbatch.errors import UserError
from wanbatch.pipeline.adapters.files import AdapterFile, ModelLayers, read_adapter
from wanbatch.pipeline.adapters.tensors import load_tensors
from wanbatch.pipeline.loading.registry import ModelInfo
from wanbatch.pipeline.training.lora.settings import EXPERTS, LoraSettings
from wanbatch.pipeline.training.low_rank import state_of_pairs


@dataclass(frozen=True, slots=True)
class Start:
    """The matrices that a training begins with.

    Attributes:
        states: What `LowRankAdapters.load` takes, by the name of each transformer that is trained; empty: none.
        digest: Of the adapter's file, or of both; None: the training begins at no change.
    """

    states: Mapping[str, Mapping[str, Tensor]] = field(default_factory=dict)
    digest: str | None = None


AT_NO_CHANGE = Start()


def check_start(file: Path, info: ModelInfo, settings: LoraSettings) -> AdapterFile:
    """Read what an adapter's file holds, and check that a training of these settings can begin with it.

    Args:
        file: Of the adapter, in any layout that a run reads.
        info: The model that is trained on.
        settings: Of the training.

    Raises:
        UserError: If it cannot be read, is for another model, or has other layers or another rank than the training.
    """
    adapter = read_adapter(file, ModelLayers.of_folder(info.folder, info.name, info.two_experts))
    for place in _places(settings):
        part = adapter.parts[place]
        contents = None if part is None else part.contents
        if contents is None or contents.only_merged or contents.covered < contents.total or len(contents.ranks) > 1:
            raise UserError(
                f"--start-from {file}: changes {adapter.coverage()}, and a training needs low-rank matrices of one "
                "rank for every linear layer of the blocks: start from a LoRA that has them, or drop it"
            )
        if contents.ranks != (settings.rank,):
            raise UserError(
                f"--start-from {file}: has rank {adapter.rank}, and the training {settings.rank}: give --rank "
                f"{adapter.rank}"
            )
    return adapter


def start_of(adapter: AdapterFile, settings: LoraSettings) -> Start:
    """The matrices of an adapter that `check_start` checked.

    Args:
        adapter: To begin with.
        settings: Of the training.
    """
    names = EXPERTS[settings.expert] if settings.expert is not None else ("",)
    tensors = load_tensors(adapter)
    states = {
        name: state_of_pairs(tensors[place].pairs) for name, place in zip(names, _places(settings), strict=True)
    }
    return Start(states, adapter.digest)


def _places(settings: LoraSettings) -> tuple[int, ...]:
    """Of the transformers that are trained, among all of the model."""
    if settings.expert is None:
        return (0,)
    return tuple(EXPERTS["both"].index(name) for name in EXPERTS[settings.expert])
