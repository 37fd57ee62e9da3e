"""The size of a JPEG XL image by its header (ISO/IEC 18181-1), since what decodes it decodes all of it at once."""

from __future__ import annotations

_RATIOS = ((1, 1), (12, 10), (4, 3), (3, 2), (16, 9), (5, 4), (2, 1))
_SIZE_BITS = (9, 13, 18, 30)


def jxl_size(data: bytes) -> tuple[int, int]:
    """(width, height) as stored, before it is turned. Raises ValueError if it is no JPEG XL file."""
    stream = data if data[:2] == b"\xff\x0a" else _codestream(data)
    bits = _Bits(stream[2:18])
    small = bits.take(1)
    height = _dimension(bits, small)
    ratio = bits.take(3)
    if not ratio:
        return _dimension(bits, small), height
    times, per = _RATIOS[ratio - 1]
    return height * times // per, height


class _Bits:
    """Bits, the lowest of each byte first."""

    def __init__(self, data: bytes):
        if len(data) < 9:
            raise ValueError("it ends in its header")
        self._value = int.from_bytes(data, "little")

    def take(self, count: int) -> int:
        """The next bits as a number."""
        taken = self._value & ((1 << count) - 1)
        self._value >>= count
        return taken


def _dimension(bits: _Bits, small: int) -> int:
    return (bits.take(5) + 1) * 8 if small else bits.take(_SIZE_BITS[bits.take(2)]) + 1


def _codestream(data: bytes) -> bytes:
    """The beginning of the codestream in a container's boxes."""
    at = 0
    while len(data) >= at + 8:
        size, kind, head = int.from_bytes(data[at : at + 4], "big"), data[at + 4 : at + 8], 8
        if size == 1:
            size, head = int.from_bytes(data[at + 8 : at + 16], "big"), 16
        if kind in (b"jxlc", b"jxlp"):
            start = at + head + (4 if kind == b"jxlp" else 0)
            return data[start : start + 32]
        if size < head:
            break
        at += size
    raise ValueError("it has no codestream")
