"""Colour profiles (ICC, version 2) that tests embed: three primaries and a gamma, or grey."""

from __future__ import annotations

import io
import struct

from PIL import Image, ImageCms

P3 = ((0.51512, 0.24120, -0.00105), (0.29198, 0.69225, 0.04189), (0.15710, 0.06657, 0.78407))
"""Red, green and blue of Display P3, as X, Y, Z under D50."""

ADOBE = ((0.60974, 0.31111, 0.01947), (0.20528, 0.62567, 0.06087), (0.14919, 0.06322, 0.74457))
WHITE = (0.9642, 1.0, 0.8249)


def rgb_profile(primaries=P3, gamma: float = 2.2) -> bytes:
    """A display's profile."""
    colours = {name: _xyz(*value) for name, value in zip((b"rXYZ", b"gXYZ", b"bXYZ"), primaries, strict=True)}
    return _profile(b"RGB ", colours | dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), _curve(gamma)))


def grey_profile(gamma: float) -> bytes:
    """A profile of grey values."""
    return _profile(b"GRAY", {b"kTRC": _curve(gamma)})


def cmyk_profile() -> bytes:
    """A printer's profile whose table, of two levels an ink, makes each ink as dark as its complement on a screen."""
    table = bytes(
        value
        for cyan in (0, 1)
        for magenta in (0, 1)
        for yellow in (0, 1)
        for black in (0, 1)
        for value in _lab((1 - cyan) * (1 - black), (1 - magenta) * (1 - black), (1 - yellow) * (1 - black))
    )
    identity = b"".join(s15(float(row == column)) for row in range(3) for column in range(3))
    ramp = bytes(range(256))
    lut = b"mft1\0\0\0\0" + bytes([4, 3, 2, 0]) + identity + ramp * 4 + table + ramp * 3
    return _profile(b"CMYK", {b"A2B0": lut, b"A2B1": lut}, kind=b"prtr", connection=b"Lab ")


def in_profile(image: Image.Image, profile: bytes) -> Image.Image:
    """An image of sRGB with its colours as numbers of another profile."""
    target = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    converted = ImageCms.profileToProfile(image, ImageCms.createProfile("sRGB"), target, outputMode="RGB")
    converted.info.clear()  # of the profile, which would be written with it
    return converted


def s15(value: float) -> bytes:
    """A number as profiles have it."""
    return struct.pack(">i", round(value * 65536))


def _lab(red: float, green: float, blue: float) -> tuple[int, int, int]:
    """Lab of an sRGB colour, a byte each."""
    source = ImageCms.createProfile("sRGB")
    pixel = Image.new("RGB", (1, 1), tuple(round(255 * value) for value in (red, green, blue)))
    found = ImageCms.profileToProfile(pixel, source, ImageCms.createProfile("LAB"), outputMode="LAB")
    return found.getpixel((0, 0))


def _xyz(x: float, y: float, z: float) -> bytes:
    return b"XYZ \0\0\0\0" + s15(x) + s15(y) + s15(z)


def _curve(gamma: float) -> bytes:
    return b"curv\0\0\0\0" + struct.pack(">IH", 1, round(gamma * 256)) + b"\0\0"


def _profile(space: bytes, tags: dict[bytes, bytes], kind: bytes = b"mntr", connection: bytes = b"XYZ ") -> bytes:
    name = b"desc\0\0\0\0" + struct.pack(">I", 5) + b"test\0" + b"\0" * 78
    tags = {b"desc": name, b"cprt": b"text\0\0\0\0none\0", b"wtpt": _xyz(*WHITE)} | tags
    listed, data = struct.pack(">I", len(tags)), b""
    start = 128 + 4 + 12 * len(tags)
    for tag, value in tags.items():
        listed += tag + struct.pack(">II", start + len(data), len(value))
        data += value + b"\0" * (-len(value) % 4)
    head = struct.pack(">I4sI4s4s4s", 128 + len(listed) + len(data), b"none", 0x02400000, kind, space, connection)
    head += struct.pack(">6H", 2026, 1, 1, 0, 0, 0) + b"acsp" + b"\0" * 28 + b"".join(map(s15, WHITE))
    return head.ljust(128, b"\0") + listed + data
