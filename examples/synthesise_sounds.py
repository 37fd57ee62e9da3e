"""Synthesises the sounds of `sound.jsonl`, of the small world of sounds that `tiny` hears.

python examples/synthesise_sounds.py

What is heard says what is seen: timbre, pitch, rhythm and contour are the object, the colour of the background, the
size and the place. The adapter was not trained on any of these three combinations.
"""

from pathlib import Path

import soundfile
import torch

from wanbatch.pipeline.training.toy import sounds

SOUNDS = (
    {"first": "bird", "background": "green", "size": "large", "layout": "center"},
    {"first": "train", "background": "purple", "size": "large", "layout": "center"},
    {"first": "cow", "background": "yellow", "size": "small", "layout": "center"},
)
DECIBELS = 25.0  # of signal over noise


def main() -> None:
    folder = Path(__file__).parent / "sounds"
    folder.mkdir(exist_ok=True)
    chosen = torch.tensor([sounds.index_of(names) for names in SOUNDS])
    made = sounds.synthesise(chosen, torch.Generator().manual_seed(2026), 0.3, (DECIBELS, DECIBELS))
    for names, samples in zip(SOUNDS, made, strict=True):
        soundfile.write(folder / f"{names['first']}.wav", samples.numpy(), sounds.RATE, subtype="PCM_16")


if __name__ == "__main__":
    main()
