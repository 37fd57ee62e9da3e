"""A GPU with little memory, for models on a CPU."""

from __future__ import annotations

from collections.abc import Callable

from wanbatch.pipeline import generate
from wanbatch.pipeline.generate import Wan
from wanbatch.pipeline.loading import registry
from wanbatch.pipeline.loading.hosted_weights import size_of
from wanbatch.pipeline.loading.runtime import Runtime


class SmallCard:
    """A GPU's memory for a model on a CPU: `free_memory` as of a card with so many bytes."""

    def __init__(self, monkeypatch, working: int = 0):
        self.held, self.room = None, 0
        monkeypatch.setattr(
            generate, "working_bytes", lambda *_: dict.fromkeys(("text", "denoising", "vae"), working)
        )
        monkeypatch.setattr(generate, "free_memory", self.free)

    def free(self, device):
        held = () if self.held is None else self.held.resident
        return self.room - sum(self.held._sizes[name] for name in held)

    def load(self, folder, room: int, slots: int = 3) -> Wan:
        """A model that may offload, on a card with so many bytes."""
        info, runtime = registry.find(str(folder)), Runtime(offload=True)
        return self.hold(room, lambda: Wan.load(info, slots=slots, runtime=runtime))

    def hold(self, room: int, load: Callable[[], Wan]) -> Wan:
        """What loads a model that may offload does so on a card with so many bytes."""
        self.held, self.room = None, room
        moving = load()
        self.held = moving.placement.offloader
        return moving


def sizes_of(wan: Wan) -> dict[str, int]:
    """Bytes of the groups of a model's modules."""
    names = ("transformer",) if len(wan.experts) == 1 else ("high_noise", "low_noise")
    parts = {"text": wan.text.model, **dict(zip(names, wan.experts, strict=True)), "vae": wan.frame_vae}
    return {name: size_of(part) for name, part in parts.items()}
