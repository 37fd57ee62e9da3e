"""Sounds, loaded safely: path, address or embedded bytes in, mono samples at one rate out.

Where a sound may be is what holds for images (`loader.py`). What it may cost is decided by its header, before it is
decoded, and only the formats of `SIGNATURES` are ever handed to the decoder (libsndfile, by soundfile).
"""

from __future__ import annotations

import hashlib
import io
import struct
from dataclasses import dataclass

import numpy as np
import soundfile
import soxr

from wanbatch.errors import RowError
from wanbatch.manifests.records import Source
from wanbatch.manifests.sources.errors import SourceError
from wanbatch.manifests.sources.loader import SourceLoader

MAX_SECONDS = 600.0
MAX_CHANNELS = 2
RATES = (4_000, 96_000)
"""The lowest and the highest sample rate in Hz."""

SILENCE = 1e-4
"""A sound whose largest sample is below this, of 1, is silent: -80 dB, what 13 bits leave."""

SIGNATURES = {b"RIFF": "WAV", b"RF64": "WAV", b"FORM": "AIFF", b"fLaC": "FLAC", b"OggS": "OGG", b"ID3": "MP3"}
READ = "WAV, FLAC, OGG (Vorbis, Opus), MP3 or AIFF"
_NOT_READ = {b"\x1aE\xdf\xa3": "WebM or Matroska", b"#!AMR": "AMR", b"0&\xb2u": "WMA", b"MThd": "MIDI"}
_UNKNOWN_SIZES = (0, 0xFFFFFFFF)  # of WAV files that were streamed

_KINDS = {"missing_image": "missing_audio", "unreadable_image": "unreadable_audio", "bad_image": "bad_audio"}


@dataclass(frozen=True, slots=True)
class LoadedSound:
    """A decoded sound.

    Attributes:
        samples: float32 [samples], mono, the mean of the channels.
        rate: samples a second.
        seconds: how long it is.
        data: the file.
        sha256: of the file, hex.
    """

    samples: np.ndarray
    rate: int
    seconds: float
    data: bytes
    sha256: str


def load_sound(loader: SourceLoader, source: Source, rate: int) -> LoadedSound:
    """Read and decode a sound.

    Args:
        loader: reads its file, with its bounds of where that may be and how large.
        source: which one.
        rate: samples a second that are wanted.

    Raises:
        RowError: of stage `sound` and kind `missing_audio`, `forbidden_source`, `too_large`, `unreadable_audio`,
            `unreachable`, `bad_audio`, `long_audio` or `silent_audio`.
        MachineryError: The object store that holds the sounds does not answer.
    """
    try:
        data = loader.encoded(source)
    except RowError as error:
        raise RowError("sound", _KINDS.get(error.kind, error.kind), error.message) from error
    try:
        samples, seconds = decode_sound(data, rate)
    except SourceError as error:
        raise RowError("sound", error.kind, f"{source.name} {error.message}") from error
    return LoadedSound(samples, rate, seconds, data, hashlib.sha256(data).hexdigest())


def decode_sound(data: bytes, rate: int) -> tuple[np.ndarray, float]:
    """The mono samples of a sound file at a rate, float32, and how many seconds it is long.

    Raises:
        SourceError: of kind `bad_audio`, `long_audio` or `silent_audio`.
    """
    _require_known(data)
    try:
        with soundfile.SoundFile(io.BytesIO(data)) as file:
            _require_cheap(file)
            frames = file.frames
            sound = file.read(int(MAX_SECONDS * file.samplerate) + 1, dtype="float32", always_2d=True)
            given_rate = file.samplerate
    except (soundfile.SoundFileError, RuntimeError, ValueError, TypeError) as error:
        raise SourceError("bad_audio", f"cannot be decoded ({_one_line(error)}): is it damaged?") from error
    if len(sound) > MAX_SECONDS * given_rate:
        raise _too_long(f"more than {MAX_SECONDS:.0f}")
    if len(sound) < frames and data[:3] != b"ID3" and data[:4] in SIGNATURES:
        raise SourceError("bad_audio", f"is cut off: it says {frames} samples, and {len(sound)} are there")
    if not np.isfinite(sound).all():
        raise SourceError("bad_audio", "contains NaN or infinity: export it again")
    mono = sound.mean(axis=1, dtype=np.float32)
    if not len(mono) or float(np.abs(mono).max()) < SILENCE:
        why = "has no samples" if not len(mono) else "is silent (no sample is above -80 dB)"
        raise SourceError("silent_audio", f"{why}: leave audio out of the row, or give another sound")
    seconds = len(mono) / given_rate
    if given_rate != rate:
        mono = soxr.resample(mono, given_rate, rate, quality="HQ")
    return np.ascontiguousarray(mono, dtype=np.float32), seconds


def _require_known(data: bytes) -> None:
    """Raises SourceError unless the first bytes are of a format that is read, and all of a WAV file is there."""
    known = next((name for signature, name in SIGNATURES.items() if data.startswith(signature)), None)
    if known is None and len(data) > 1 and data[0] == 0xFF and data[1] & 0xE0 == 0xE0:
        known = "MP3"  # without tags, it begins with a frame's sync word
    if known is None:
        named = "MP4 (as in .m4a)" if data[4:8] == b"ftyp" else None
        named = named or next((name for signature, name in _NOT_READ.items() if data.startswith(signature)), None)
        what = f"is {named}, which is not read" if named else "is empty" if not data else "is no sound file"
        raise SourceError("bad_audio", f"{what}: give {READ}; `ffmpeg -i OLD NEW.flac` converts most files")
    if known == "WAV" and data[:4] == b"RIFF":
        _require_whole_wav(data)


def _require_whole_wav(data: bytes) -> None:
    """Raises SourceError if the samples of a WAV file are cut off, of which libsndfile says nothing."""
    at = 12
    while at + 8 <= len(data):
        name, size = data[at : at + 4], struct.unpack_from("<I", data, at + 4)[0]
        if name == b"data":
            there = len(data) - at - 8
            if size not in _UNKNOWN_SIZES and size > there:
                raise SourceError("bad_audio", f"is cut off: it says {size} bytes of sound, and {there} are there")
            return
        at += 8 + size + size % 2


def _require_cheap(file: soundfile.SoundFile) -> None:
    low, high = RATES
    if file.channels > MAX_CHANNELS:
        message = f"has {file.channels} channels; at most {MAX_CHANNELS} are read: mix it down (`ffmpeg -ac 1`)"
        raise SourceError("bad_audio", message)
    if not low <= file.samplerate <= high:
        message = (
            f"has {file.samplerate} samples a second; {low} to {high} are read: resample it (`ffmpeg -ar 48000`)"
        )
        raise SourceError("bad_audio", message)
    if file.frames > MAX_SECONDS * file.samplerate:
        raise _too_long(f"{file.frames / file.samplerate:.0f}")


def _too_long(seconds: str) -> SourceError:
    message = f"is {seconds} seconds long; at most {MAX_SECONDS:.0f} are read: cut it (`ffmpeg -t {MAX_SECONDS:.0f}`)"
    return SourceError("long_audio", message)


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()).rstrip(".") or type(error).__name__
