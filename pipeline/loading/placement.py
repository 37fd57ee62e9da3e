"""Where the parts of a loaded model are: what works next is on the device."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import nn

from wanbatch.pipeline.loading.offload import Moved, Offloader, free_memory
from wanbatch.pipeline.loading.residency import (
    DENOISING,
    EXPERTS,
    OFFLOADED,
    TEXT,
    TRANSFORMER,
    VAE_PART,
    Residency,
    TransformerForm,
)
from wanbatch.pipeline.models.dit import FrameTransformer


def form_of(experts: Sequence[FrameTransformer]) -> TransformerForm:
    """What the memory that transformers work in depends on."""
    first = experts[0]
    inner = first.blocks[0].ffn.net[0].proj.weight.shape[0]
    return TransformerForm(len(experts), first.layers, first.dim, inner, first.patch[0])


class Placement:
    """Has the parts of a model on the device that work next.

    Args:
        text: The text encoder.
        experts: The transformer, or two.
        vae: The VAE.
        device: Where they work.
        working: Bytes that they work in, as of `residency.working_bytes`; None: all of them are on the device, and
            stay there.
        make_room: See `Offloader`.
        free: Gives the bytes of the device that nothing uses.

    Attributes:
        residency: Which of them take turns.

    Raises:
        UserError: Not even one of them at a time fits on the device.
    """

    def __init__(
        self,
        text: nn.Module,
        experts: Sequence[nn.Module],
        vae: nn.Module,
        device: torch.device,
        working: Mapping[str, int] | None,
        make_room: Callable[[], None],
        free: Callable[[torch.device], int] = free_memory,
    ):
        self._experts = TRANSFORMER if len(experts) == 1 else EXPERTS
        self.offloader: Offloader | None = None
        if working is not None:
            groups = {TEXT: text, **dict(zip(self._experts, experts, strict=True)), VAE_PART: vae}
            self.offloader = Offloader(groups, device, lambda: free(device), working, make_room)
        self.residency = Residency() if self.offloader is None else self.offloader.residency
        self._told = Moved()

    def to_host(self) -> None:
        """Have all parts on the host, those that never leave the device for each other, too."""
        if self.offloader is not None:
            self.offloader.to_host()

    def plan_again(self) -> None:
        """Decide anew which parts take turns, since the memory or what they work in is another.

        Raises:
            UserError: Not even one of them at a time fits on the device.
        """
        if self.offloader is not None:
            self.residency = self.offloader.plan()

    def have_text(self) -> None:
        """Have the text encoder on the device."""
        self._have((TEXT,), TEXT)

    def have_vae(self) -> None:
        """Have the VAE on the device."""
        self._have((VAE_PART,), VAE_PART)

    def have_picture(self) -> None:
        """Have all but the text encoder on the device, if they do not take turns."""
        if not self.residency.experts_leave:
            self._have((VAE_PART, *self._experts), DENOISING)

    def have_expert(self, expert: int) -> None:
        """Have a transformer on the device, 0 or 1, with all that need not leave it for that."""
        if not self.residency.experts_leave:
            self.have_picture()
        elif self.residency.vae_leaves:
            self._have((self._experts[expert],), DENOISING)
        else:
            self._have((VAE_PART, self._experts[expert]), DENOISING)

    def newly_moved(self) -> Moved:
        """What came to the device since this was last asked."""
        if self.offloader is None:
            return Moved()
        before, self._told = self._told, self.offloader.moved
        return Moved(self._told.moves - before.moves, self._told.seconds - before.seconds)

    def marked(self, backends: Mapping[str, str]) -> dict[str, str]:
        """Backends by stage, with a mark at those whose part of the model leaves the device for others."""
        leaving = {
            "text": self.residency.text_leaves,
            "denoise": self.residency.experts_leave,
            "encode": self.residency.vae_leaves,
            "decode": self.residency.vae_leaves,
        }
        return {stage: name + OFFLOADED * leaving[stage] for stage, name in backends.items()}

    def _have(self, names: Sequence[str], work: str) -> None:
        if self.offloader is not None:
            self.offloader.ensure_on_device(names, work)
