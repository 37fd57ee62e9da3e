"""Sounds are decoded to mono samples at one rate; what is no good sound is told in one line with a remedy."""

from __future__ import annotations

import numpy as np
import pytest
from sound_making import encoded, tone

from wanbatch.errors import RowError
from wanbatch.manifests.records import Source
from wanbatch.manifests.sources.loader import SourceLoader
from wanbatch.manifests.sources.sounds import decode_sound, load_sound

FORMS = [("WAV", None), ("FLAC", None), ("OGG", "VORBIS"), ("OGG", "OPUS"), ("MP3", None), ("AIFF", None)]


@pytest.mark.parametrize(("form", "subtype"), FORMS)
def test_every_format_is_read_as_the_same_mono_tone(form, subtype):
    samples, seconds = decode_sound(encoded(tone(1.0, 48_000, channels=2), 48_000, form, subtype), 16_000)
    assert samples.dtype == np.float32
    assert samples.shape == (16_000,) or form == "MP3"  # which pads
    assert seconds == pytest.approx(1, abs=0.1)
    spectrum = np.abs(np.fft.rfft(samples[2_000:14_000]))
    assert np.argmax(spectrum) * 16_000 / 12_000 == pytest.approx(440, abs=2)


def test_a_sound_at_the_wanted_rate_keeps_its_samples():
    given = tone(0.5)
    samples, _ = decode_sound(encoded(given, subtype="FLOAT"), 16_000)
    assert np.array_equal(samples, given[:, 0])


def _wav(**changes) -> bytes:
    return encoded(tone(0.2, **changes), changes.get("rate", 16_000))


BROKEN = {
    "not audio": (b"\x89PNG\r\n\x1a\n" + b"\0" * 100, "bad_audio", "is no sound file: give WAV, FLAC"),
    "empty": (b"", "bad_audio", "is empty: give WAV"),
    "m4a": (b"\0\0\0\x20ftypM4A " + b"\0" * 40, "bad_audio", r"is MP4 \(as in .m4a\), which is not read: give WAV"),
    "truncated WAV": (_wav()[:3000], "bad_audio", "is cut off: it says 6400 bytes of sound, and 2956 are there"),
    "truncated FLAC": (encoded(tone(2.0), form="FLAC")[:9000], "bad_audio", "is cut off|cannot be decoded"),
    "damaged header": (_wav()[:20] + b"\xff" * 50, "bad_audio", "cannot be decoded"),
    "8 channels": (_wav(channels=8), "bad_audio", "has 8 channels; at most 2 are read: mix it down"),
    "192 kHz": (_wav(rate=192_000), "bad_audio", "has 192000 samples a second; 4000 to 96000 are read: resample it"),
    "3 hours": (
        encoded(np.zeros((3 * 3600 * 4_000, 1), np.float32), 4_000, "FLAC"),
        "long_audio",
        "is 10800 seconds",
    ),
    "silent": (encoded(tone() * 0), "silent_audio", r"is silent \(no sample is above -80 dB\): leave audio out"),
    "no samples": (encoded(tone()[:0]), "silent_audio", "has no samples"),
    "NaN": (encoded(tone() * np.nan, subtype="FLOAT"), "bad_audio", "contains NaN or infinity"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_no_good_sound_is_refused_with_its_class(tmp_path, name):
    data, kind, message = BROKEN[name]
    (tmp_path / "a.wav").write_bytes(data)
    with pytest.raises(RowError, match=rf"^a\.wav ({message})") as caught:
        load_sound(SourceLoader(tmp_path), Source("a.wav"), 16_000)
    assert (caught.value.stage, caught.value.kind) == ("sound", kind)


def test_where_a_sound_may_be_is_what_holds_for_images(tmp_path):
    (tmp_path / "root").mkdir()
    (tmp_path / "out.wav").write_bytes(_wav())
    (tmp_path / "root" / "link.wav").symlink_to(tmp_path / "out.wav")
    loader = SourceLoader(tmp_path / "root", max_bytes=1000)
    for path, kind in [
        ("gone.wav", "missing_audio"),
        ("link.wav", "forbidden_source"),
        ("../out.wav", "forbidden_source"),
    ]:
        with pytest.raises(RowError) as caught:
            load_sound(loader, Source(path), 16_000)
        assert caught.value.kind == kind
    (tmp_path / "root" / "large.wav").write_bytes(_wav())
    with pytest.raises(RowError, match="at most 1000 are read"):
        load_sound(loader, Source("large.wav"), 16_000)
