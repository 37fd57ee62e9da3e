"""From windows of a sound to tags, and from tags to a prompt."""

from __future__ import annotations

import numpy as np
import pytest

from wanbatch.errors import RowError, UserError
from wanbatch.pipeline.sound.config import SoundConfig
from wanbatch.pipeline.sound.hearing import TaggerHearing
from wanbatch.pipeline.sound.phrases import check_template, known_phrases, phrase_of, read_phrases
from wanbatch.pipeline.sound.windows import windows


class LoudTagger:
    """Hears a dog where the first sample of a window is above 1, and a cat where it is below."""

    rate, seconds, hop = 10, 2.0, 1.0
    labels = ("Dog", "Cat", "Speech")

    def scores(self, windows: np.ndarray) -> np.ndarray:
        first = windows[:, 0]
        return np.stack([(first > 1) * first / 10, (first < 1) * 0.5, np.ones(len(first))], axis=1)


def hearing(**changes) -> TaggerHearing:
    phrases = (("Dog", "a dog"), ("Cat", "a cat"), ("Speech", ""))
    return TaggerHearing(LoudTagger(), SoundConfig("clap", "", "", phrases=phrases, **changes))


def sound(*seconds: float) -> np.ndarray:
    return np.repeat(np.array(seconds, np.float32), 10)


def test_windows_overlap_and_the_last_one_ends_with_the_sound():
    parts = windows(np.arange(45, dtype=np.float32), 10, seconds=2, hop=1)
    assert [(part.start, part.end) for part in parts] == [(0, 2), (1, 3), (2, 4), (2.5, 4.5)]
    assert all(len(part.samples) == 20 for part in parts)
    assert parts[-1].samples[-1] == 44


def test_a_short_sound_is_repeated_and_its_window_ends_with_it():
    [part] = windows(np.array([1, 2, 3], np.float32), 10, seconds=1)
    assert part.samples.tolist() == [1, 2, 3, 1, 2, 3, 1, 2, 3, 1]
    assert (part.start, part.end) == (0, 0.3)


def test_a_tag_has_the_highest_score_of_all_windows_and_when_that_was():
    heard = hearing().hear(sound(0, 4, 9, 9), 1.0, "a garden")
    assert [(tag.label, round(tag.score, 2), tag.start, tag.end) for tag in heard.tags] == [
        ("Dog", 0.9, 2, 4),
        ("Cat", 0.5, 0, 2),
    ]
    assert heard.prompt == "a garden, a dog, a cat"


@pytest.mark.parametrize(
    ("changes", "weight", "prompt", "joined"),
    [
        ({"top": 1}, 1.0, "a garden", "a garden, a dog"),
        ({"threshold": 0.6}, 1.0, "a garden", "a garden, a dog"),
        ({"threshold": 0.3}, 0.5, "a garden", "a garden, a dog"),  # the cat's .5 counts half
        ({"threshold": 0.95}, 1.0, "a garden", "a garden"),
        ({"template": "{sounds} in {prompt}"}, 1.0, "a garden", "a dog, a cat in a garden"),
        ({}, 1.0, "", "a dog, a cat"),
    ],
)
def test_threshold_number_weight_and_template_decide_the_prompt(changes, weight, prompt, joined):
    assert hearing(**changes).hear(sound(0, 4, 9, 9), weight, prompt).prompt == joined


def test_a_row_of_sound_alone_in_which_nothing_is_heard_fails_with_the_best_guess():
    with pytest.raises(RowError, match=r"threshold of 0.95 \(the best is 'Dog' with 0.90\).*lower --sound-threshold"):
        hearing(threshold=0.95).hear(sound(9, 9), 1.0, " ")


def test_a_label_without_a_phrase_of_its_own_stands_for_itself_or_as_the_table_says():
    assert phrase_of("Alpenhorn", {}) == "alpenhorn"
    assert phrase_of("Common Cuckoo", known_phrases("birdnet")) == "a common cuckoo, a bird"
    assert phrase_of("Northern Cricket Frog", known_phrases("birdnet")) == "a northern cricket frog, a frog"
    assert phrase_of("Noise", known_phrases("birdnet")) == ""
    assert phrase_of("Chirp, tweet", known_phrases("audio-spectrogram-transformer")) == "a bird"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "cannot be read"),
        ("Bird = ", 'write lines like "Bird" = "a bird"'),
        ('"Bird" = 3', "'Bird' is 3: must be text"),
        ("[clap]\nx = 'y'", "must be text"),
    ],
)
def test_a_bad_table_of_phrases_is_refused(tmp_path, text, message):
    if text is not None:
        (tmp_path / "p.toml").write_text(text)
    with pytest.raises(UserError, match=message):
        read_phrases(tmp_path / "p.toml")


def test_a_table_of_phrases_of_windows_is_read(tmp_path):
    (tmp_path / "p.toml").write_bytes('\ufeff"Bird" = "a bird"\r\n'.encode())
    assert read_phrases(tmp_path / "p.toml") == {"Bird": "a bird"}


@pytest.mark.parametrize("template", ["{prompt}", "{sounds} {other}", "{sounds", "{}"])
def test_a_bad_template_is_refused(template):
    with pytest.raises(UserError, match=r"write it like '\{prompt\}, \{sounds\}'"):
        check_template(template)
