"""Colours of source images, converted to sRGB by the profile that is embedded in the image.

Conversion is littlecms's, by relative colorimetric intent with black-point compensation, as image editors do it: what
sRGB can show keeps its colour, and the darkest tone of the source becomes black. Each channel has 8 bits before and
after. A profile that moves no colour by more than `SAME` levels is sRGB itself, in one of its many editions: the
pixels stay as they are then, bit for bit.
"""

from __future__ import annotations

import io
from functools import lru_cache
from typing import cast

import numpy as np
from PIL import Image, ImageCms

MAX_PROFILE = 4 << 20
SAME = 2

_FLAGS = ImageCms.Flags.BLACKPOINTCOMPENSATION | ImageCms.Flags.HIGHRESPRECALC
_INTENT = ImageCms.Intent.RELATIVE_COLORIMETRIC
_CLASSES = ("mntr", "scnr", "prtr", "spac")
_SPACES = {"RGB ": "RGB", "GRAY": "L", "CMYK": "CMYK"}


def to_srgb(image: Image.Image, profile: bytes) -> Image.Image | None:
    """An image with its colours converted to sRGB.

    Args:
        image: of mode L, RGB or CMYK; of L, the profile may be one of RGB.
        profile: ICC.
    Returns:
        An image of mode RGB, or the image itself if its profile is sRGB; None if the profile cannot be used: it is
        damaged, too large, of another kind, or of another colour space than the image.
    """
    if len(profile) > MAX_PROFILE:
        return None
    mode = _mode_of(profile)
    if mode != image.mode and (mode, image.mode) != ("RGB", "L"):
        return None
    try:
        if mode == "L":
            return Image.fromarray(_grey_table(profile)[np.asarray(image)])
        transform = _transform(profile, mode)
        if transform is None:
            return image
        values = image.convert("RGB") if mode == "RGB" else image
        return cast(Image.Image, ImageCms.applyTransform(values, transform))
    except (ImageCms.PyCMSError, OSError, ValueError):
        return None


def lab_to_srgb(image: Image.Image) -> Image.Image:
    """An image of mode LAB (CIE L*a*b*, D50), as RGB. Raises PyCMSError if littlecms fails."""
    return cast(Image.Image, ImageCms.applyTransform(image, _lab_transform()))


def effect_of(mode: str, profile: bytes) -> bool | None:
    """What `to_srgb` does with an image, told without its pixels.

    Args:
        mode: of the image: L, RGB or CMYK.
        profile: ICC.
    Returns:
        True if colours are converted, False if the profile is sRGB; None if it cannot be used.
    """
    own = _mode_of(profile) if len(profile) <= MAX_PROFILE else None
    if own is None or (own != mode and (own, mode) != ("RGB", "L")):
        return None
    return own == "L" or _transform(profile, own) is not None


@lru_cache(maxsize=4)
def _mode_of(profile: bytes) -> str | None:
    """The mode of images that a profile is for; None if it cannot be used at all."""
    try:
        found = ImageCms.ImageCmsProfile(io.BytesIO(profile)).profile
        mode = _SPACES.get(found.xcolor_space) if found.device_class in _CLASSES else None
        if mode is not None:
            _grey_table(profile) if mode == "L" else _transform(profile, mode)
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError, AttributeError):
        return None
    return mode


@lru_cache(maxsize=4)
def _transform(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """To sRGB; None for a profile that is sRGB."""
    source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    target = ImageCms.createProfile("sRGB")
    transform = ImageCms.buildTransform(source, target, mode, "RGB", _INTENT, _FLAGS)
    return None if mode == "RGB" and _changes_little(transform) else transform


@lru_cache(maxsize=4)
def _grey_table(profile: bytes) -> np.ndarray:
    """The colours of all grey values, uint8 [256, 3].

    One by one: what littlecms prepares to convert many of them quickly is off by several levels in the dark.
    """
    source, target = ImageCms.ImageCmsProfile(io.BytesIO(profile)), ImageCms.createProfile("sRGB")
    exact = ImageCms.buildTransform(source, target, "L", "RGB", _INTENT, _FLAGS | ImageCms.Flags.NOOPTIMIZE)
    values = Image.fromarray(np.arange(256, dtype=np.uint8)[None])
    return np.asarray(ImageCms.applyTransform(values, exact))[0]


@lru_cache(maxsize=1)
def _lab_transform() -> ImageCms.ImageCmsTransform:
    source, target = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
    return ImageCms.buildTransform(source, target, "LAB", "RGB", _INTENT, _FLAGS)


def _changes_little(transform: ImageCms.ImageCmsTransform) -> bool:
    """Whether a conversion leaves colours of all kinds, 17 levels a channel, as they are but for rounding."""
    levels = np.linspace(0, 255, 17).round().astype(np.uint8)
    colours = np.stack(np.meshgrid(levels, levels, levels, indexing="ij"), axis=-1).reshape(17, 289, 3)
    converted = np.asarray(ImageCms.applyTransform(Image.fromarray(colours), transform))
    return int(np.abs(converted.astype(int) - colours).max()) <= SAME
