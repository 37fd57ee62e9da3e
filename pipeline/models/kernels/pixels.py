"""What lies between the convolutions of the VAE, on a GPU: sums, shortcuts and norms of pixels.

Pictures are channels last, [batch, height, width, channels]. One program has some pixels and all their channels; a
pixel's result does not depend on the others. Arithmetic is in float32, results are rounded once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import triton
import triton.language as tl
from torch import Tensor

TILE, WARPS = 1024, 2  # channels that a program holds, of all its pixels together; measured on an H200
ROWS, REPEATED, AVERAGED = tl.constexpr(0), tl.constexpr(1), tl.constexpr(2)


class Repeated(NamedTuple):
    """A smaller picture as the shortcut beside one that is twice as high and wide, see `vae_blocks.DuplicateUp`.

    Attributes:
        picture: [batch, height / 2, width / 2, inner].
        source: int64 [4 * channels], which of its channels each value comes from.
    """

    picture: Tensor
    source: Tensor


class Averaged(NamedTuple):
    """A larger picture as the shortcut beside one that is smaller, see `vae_blocks.AverageDown`.

    Attributes:
        picture: [batch, height * space, width * space, inner].
        space: How many times as high and wide it is.
        time: Frames of a group, of which it is the last.
        group: Values that are averaged.
    """

    picture: Tensor
    space: int
    time: int
    group: int


@dataclass(frozen=True, slots=True)
class Pending:
    """A picture that is still to be added up, by the kernel that reads it next.

    Attributes:
        values: [batch, height, width, channels]; of a convolution, without its bias. If `doubled`, the four pixels
            that each pixel of half the size becomes, [batch, height / 2 + 1, width / 2 + 1, 4 * channels], as the
            convolution of `vae_blocks.FusedUpsample` gives them.
        bias: [channels] or more, of which the first are taken; None for none.
        other: What else is added: as many pixels and channels, or a shortcut from another size; None for nothing.
        doubled: Whether the values are those of an upsampling.
    """

    values: Tensor
    bias: Tensor | None = None
    other: Tensor | Repeated | Averaged | None = None
    doubled: bool = False

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Of the picture: batch, height, width, channels."""
        batch, height, width, channels = self.values.shape
        if self.doubled:
            return batch, 2 * (height - 1), 2 * (width - 1), channels // 4
        return batch, height, width, channels


def add_up(pending: Pending, *, padded: bool = False) -> Tensor:
    """The picture.

    Args:
        pending: What it is the sum of.
        padded: With one more row and column of zeros, below and to the right.

    Returns:
        [batch, height, width, channels].
    """
    added, _ = _run(pending, None, False, True, padded)
    assert added is not None
    return added


def add_norm_pixels(
    pending: Pending, gamma: Tensor, *, silu: bool = True, keep: bool = True
) -> tuple[Tensor | None, Tensor]:
    """The picture, and normalised to unit mean square over its channels.

    Args:
        pending: What the picture is the sum of.
        gamma: [channels], what the normalised channels are multiplied by.
        silu: Apply SiLU to the normalised picture.
        keep: Give the picture itself, too.

    Returns:
        The picture (None if it is not kept) and the normalised one, both [batch, height, width, channels].
    """
    added, normed = _run(pending, gamma, silu, keep, False)
    assert normed is not None
    return added, normed


def _run(
    pending: Pending, gamma: Tensor | None, silu: bool, keep: bool, padded: bool
) -> tuple[Tensor | None, Tensor | None]:
    values, other = pending.values, pending.other
    batch, height, width, channels = pending.shape
    rows, columns = height + padded, width + padded
    added = values.new_empty(batch, rows, columns, channels) if keep else None
    normed = None if gamma is None else values.new_empty(batch, rows, columns, channels)
    shortcut = REPEATED if isinstance(other, Repeated) else AVERAGED if isinstance(other, Averaged) else ROWS
    beside = other.picture if isinstance(other, (Repeated, Averaged)) else other
    averaged = other if isinstance(other, Averaged) else Averaged(values, 1, 1, 1)
    block = triton.next_power_of_2(channels)
    pixels = max(1, TILE // block)
    _add_norm_pixels[(triton.cdiv(batch * rows * columns, pixels),)](
        values, _or(pending.bias, values), _or(beside, values),
        other.source if isinstance(other, Repeated) else values,
        _or(gamma, values), _or(added, values), _or(normed, values),
        batch * rows * columns, height, width, channels, values.shape[3], 1 if beside is None else beside.shape[3],
        channels**0.5,
        has_bias=pending.bias is not None, has_other=beside is not None, doubled=pending.doubled,
        shortcut=shortcut, space=averaged.space, time=averaged.time, group=averaged.group,
        keep=keep, normed_too=gamma is not None, silu=silu, padded=padded,
        pixels=pixels, block=block, num_warps=WARPS,
    )  # fmt: skip
    return added, normed


def _or(tensor: Tensor | None, other: Tensor) -> Tensor:
    """A kernel's argument that may be absent, for which another tensor stands."""
    return other if tensor is None else tensor


@triton.jit
def _repeated(other, source, sample, y, x, height, width, inner, channel, mask):
    """The shortcut of `Repeated`, at some pixels and channels."""
    from_channel = tl.load(source + channel * 4 + (y % 2) * 2 + x % 2, mask=mask, other=0)
    pixel = (sample * (height // 2) + y // 2) * (width // 2) + x // 2
    return tl.load(other + pixel * inner + from_channel, mask=mask, other=0.0).to(tl.float32)


@triton.jit
def _average(
    other, sample, y, x, height, width, inner, channel, mask,
    space: tl.constexpr, time: tl.constexpr, group: tl.constexpr,
):  # fmt: skip
    """The shortcut of `Averaged`, at some pixels and channels."""
    total = tl.zeros(mask.shape, tl.float32)
    for number in tl.static_range(group):
        folded = channel * group + number
        part = folded % (space * space)
        is_last = folded // (space * space) % time == time - 1
        row, column = y * space + part // space, x * space + part % space
        pixel = (sample * (height * space) + row) * (width * space) + column
        address = other + pixel * inner + folded // (space * space * time)
        total += tl.load(address, mask=mask & is_last, other=0.0).to(tl.float32)
    return total / group


@triton.jit(do_not_specialize=["count", "height", "width", "value_channels", "inner"])
def _add_norm_pixels(
    values, bias, other, source, gamma, added, normed,
    count, height, width, channels, value_channels, inner, root,
    has_bias: tl.constexpr, has_other: tl.constexpr, doubled: tl.constexpr,
    shortcut: tl.constexpr, space: tl.constexpr, time: tl.constexpr, group: tl.constexpr,
    keep: tl.constexpr, normed_too: tl.constexpr, silu: tl.constexpr, padded: tl.constexpr,
    pixels: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    place = (tl.program_id(0).to(tl.int64) * pixels + tl.arange(0, pixels))[:, None]
    channel = tl.arange(0, block)[None, :]
    rows, columns = height + padded, width + padded
    x, y, sample = place % columns, place // columns % rows, place // columns // rows
    writes = (place < count) & (channel < channels)
    mask, pixel = writes, place
    if padded:
        mask = writes & (y < height) & (x < width)
        pixel = (sample * height + y) * width + x
    if doubled:
        i, j = y % 2, x % 2
        from_pixel = (sample * (height // 2 + 1) + y // 2 + i) * (width // 2 + 1) + x // 2 + j
        sums = tl.load(values + from_pixel * value_channels + (2 * i + j) * channels + channel, mask=mask, other=0.0)
    else:
        sums = tl.load(values + pixel * channels + channel, mask=mask, other=0.0)
    sums = sums.to(tl.float32)
    if has_bias:
        sums += tl.load(bias + channel, mask=channel < channels, other=0.0).to(tl.float32)
    if has_other:
        if shortcut == REPEATED:
            sums += _repeated(other, source, sample, y, x, height, width, inner, channel, mask)
        elif shortcut == AVERAGED:
            sums += _average(other, sample, y, x, height, width, inner, channel, mask, space, time, group)
        else:
            sums += tl.load(other + pixel * channels + channel, mask=mask, other=0.0).to(tl.float32)
    rounded = tl.where(mask, sums, 0.0).to(values.dtype.element_ty)
    if keep:
        tl.store(added + place * channels + channel, rounded, mask=writes)
    if normed_too:
        sums = rounded.to(tl.float32)
        length = tl.maximum(tl.sqrt(tl.sum(sums * sums, 1)), 1e-12)
        weight = tl.load(gamma + channel, mask=channel < channels, other=0.0).to(tl.float32)
        result = sums * (root / length)[:, None] * weight
        if silu:
            result = result / (1.0 + tl.exp(-result))
        tl.store(normed + place * channels + channel, result.to(normed.dtype.element_ty), mask=writes)
