"""Rows on their way through the model, and what becomes of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from wanbatch.errors import RowError
from wanbatch.pipeline.core.creativity_map import as_mapped
from wanbatch.pipeline.core.device import Span, peak_memory
from wanbatch.pipeline.core.pictures import PendingPicture
from wanbatch.pipeline.core.requests import Failed, Request, Result, Seconds
from wanbatch.pipeline.core.samples import Denoised


@dataclass(frozen=True, slots=True)
class Entered:
    """A request whose row is in the denoiser.

    Attributes:
        request: What was asked for.
        text: Its shares of the device's time for texts.
        encode: The same for sources; empty without one.
    """

    request: Request
    text: tuple[Span, ...]
    encode: tuple[Span, ...]


@dataclass(frozen=True, slots=True)
class Leaving:
    """A row that is denoised and whose picture is on its way.

    Attributes:
        entered: How it entered.
        denoised: What the denoiser made of it.
        picture: Its picture.
    """

    entered: Entered
    denoised: Denoised
    picture: PendingPicture

    def outcome(
        self,
        stride: int,
        backends_of: Callable[[Request], Mapping[str, str]],
        newly_moved: Callable[[], tuple[int, float]],
    ) -> Result | Failed:
        """The picture, or why there is none, once the device has made it.

        Args:
            stride: Pixels of a place of the latent.
            backends_of: What runs each stage of a request.
            newly_moved: Parts of the model that have moved since it was last asked, and the seconds that this took; a
                picture that failed does not ask.
        """
        request, denoised = self.entered.request, self.denoised
        try:
            pixels = self.picture.pixels()
        except RowError as error:
            return Failed(request, error)
        pixels, lowered = as_mapped(pixels, request, stride)
        stages = self.entered.text, self.entered.encode, denoised.spans, (self.picture.span,)
        seconds = Seconds(*(sum(span.seconds for span in spans) for spans in stages))
        peak, backends = peak_memory(denoised.latent.device), backends_of(request)
        moved = newly_moved()
        return Result(request, pixels, seconds, denoised.work, peak, denoised.slot_steps, backends, lowered, *moved)
