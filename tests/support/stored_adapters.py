"""Adapters of a small model in a store, and what rows should get of them."""

from __future__ import annotations

import torch
from adapter_making import random_pairs
from small_models import random_transformer

from wanbatch.pipeline.adapters.store import AdapterStore
from wanbatch.pipeline.adapters.tensors import AdapterTensors, LowRank
from wanbatch.pipeline.core.requests import ComingRow

CPU = torch.device("cpu")
NAMES = ("crayon", "ink", "neon", "large")
RANKS = dict(zip(NAMES, (4, 12, 16, 20), strict=True))
WEIGHTS = dict(zip(NAMES, (1.0, 0.5, 2.0, -0.3), strict=True))


def tensors_of(name: str, expert: int = 0) -> AdapterTensors:
    pairs = random_pairs(random_transformer().config, RANKS[name], 10 * expert + len(name), size=0.3)
    if name == "ink":  # not every layer has one
        pairs = {layer: pair for layer, pair in pairs.items() if "ffn" not in layer}
    return AdapterTensors({layer: LowRank(down, up, 0.5) for layer, (down, up) in pairs.items()})


ADAPTERS = {name: (tuple(tensors_of(name, expert) for expert in (0, 1)), WEIGHTS[name]) for name in NAMES}


def store_of(names=NAMES, dtype=torch.float32, **more) -> AdapterStore:
    return AdapterStore({name: ADAPTERS[name] for name in names}, CPU, dtype, **more)


def coming(rows, unit: str = "unit") -> list[ComingRow]:
    """Rows of a unit that come, by the names and weights of their adapters; they are called `unit 0` and so on."""
    return [ComingRow(f"{unit} {number}", wanted) for number, wanted in enumerate(rows)]


def pairs_of(store: AdapterStore, wanted, expert: int = 0):
    applied = store.applied(wanted)
    assert applied is not None
    return applied.pairs(expert)


def expected(wanted, expert: int, dtype: torch.dtype) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Layer by layer, as the words of `AdapterStore.joined` have it."""
    parts = [(ADAPTERS[name][0][expert].pairs, WEIGHTS[name] * own) for name, own in wanted]
    found = {}
    for layer in {layer for pairs, _ in parts for layer in pairs}:
        its = [(pairs[layer], weight) for pairs, weight in parts if layer in pairs]
        downs = [pair.down.to(dtype) for pair, _ in its]
        ups = [(weight * (pair.scale * pair.up.float())).to(dtype) for pair, weight in its]
        found[layer] = torch.cat(downs), torch.cat(ups, dim=1)
    return found


def same(ours, theirs) -> bool:
    return ours.keys() == theirs.keys() and all(
        torch.equal(one, other) for layer in ours for one, other in zip(ours[layer], theirs[layer], strict=True)
    )


def bytes_of(name: str) -> int:
    return sum(4 * (pair.down.numel() + pair.up.numel()) for pair in ADAPTERS[name][0][0].pairs.values())


COMBINED = [
    [("crayon", 1.0)],
    [("neon", -0.7)],
    [("crayon", 0.7), ("ink", 0.5)],
    [("ink", 1.0), ("large", 0.1), ("crayon", 3.0)],
    [("crayon", 1.0), ("crayon", 0.25)],
]


def counted(store: AdapterStore, monkeypatch) -> list[object]:
    made: list[object] = []
    own = store._made
    monkeypatch.setattr(store, "_made", lambda key, expert: made.append((key, expert)) or own(key, expert))
    return made
