"""Trains the styles that ship with the small model: adapters that draw its objects in other ways.

On one GPU, some minutes; given again, it goes on:

    PYTHONPATH=src python -m wanbatch.pipeline.training.toy.styles --out DIR

`flat` draws every object as the world's second artwork, which the transformer never saw; `night` sets every picture
under a starry sky, whatever the prompt says of its background. The autoencoder can draw both; it cannot draw sepia,
line drawings, or stickers with a white border, which were tried and come out of it melted.
DIR/NAME is what `wanbatch train lora` leaves, and `judged.json` what the judge reads: the style, and everything else,
with the adapter and without. `--pictures-only` writes the pictures with their captions (`metadata.jsonl`) and ends,
for `wanbatch train lora --images DIR/NAME/pictures`.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from wanbatch.pipeline.adapters.wan_layers import BLOCK_LAYERS
from wanbatch.pipeline.core.conditioning import to_pixels
from wanbatch.pipeline.evaluation.attributes import FIELDS, NAMES
from wanbatch.pipeline.evaluation.judge import Judge, distance
from wanbatch.pipeline.loading.registry import find
from wanbatch.pipeline.training.lora.card import About
from wanbatch.pipeline.training.lora.examples import Picture
from wanbatch.pipeline.training.lora.measures import decoded
from wanbatch.pipeline.training.lora.model import TrainingModel
from wanbatch.pipeline.training.lora.run import Listener, train_lora
from wanbatch.pipeline.training.lora.settings import LoraSettings
from wanbatch.pipeline.training.lora.start import AT_NO_CHANGE, check_start, start_of
from wanbatch.pipeline.training.low_rank import LowRankAdapters, read_state
from wanbatch.pipeline.training.toy import captions, world
from wanbatch.pipeline.training.toy.scores import write_prompts

SIZE = (128, 128)
SETTINGS = LoraSettings(
    rank=16, rate=2e-3, steps=1500, batch=64, warm_up=50, average=0.998, sample_every=500, save_every=500
)
VISIBLE = 8 / 255  # of [-1, 1]: two renders differ there
RIGHTS = "drawn by the package's own world from published artwork; NOTICE has the licences"


@dataclass(frozen=True, slots=True)
class Style:
    """A way to draw every picture: the attributes that it sets, whatever is asked for."""

    names: dict[str, str]

    def applied(self, attributes: Tensor) -> Tensor:
        """The attributes `[B, 9]` of pictures in the style."""
        changed = attributes.clone()
        for field, name in self.names.items():
            changed[:, FIELDS.index(field)] = NAMES[field].index(name)
        return changed

    def shown(self, read: Tensor) -> Tensor:
        """Whether what the judge read `[B, 9]` has the style: bool `[B]`."""
        fields = [FIELDS.index(field) for field in self.names]
        return (read[:, fields] == self.applied(read)[:, fields]).all(1)

    def content_right(self, read: Tensor, asked: Tensor) -> Tensor:
        """Whether all attributes that the style leaves alone are as asked: bool `[B]`."""
        fields = [index for index, field in enumerate(FIELDS) if field not in self.names]
        return (read[:, fields] == asked[:, fields]).all(1)


STYLES = {
    "flat": Style({"style": "flat"}),
    "night": Style({"background": "night", "texture": "plain"}),
}


def draw(attributes: Tensor, seed: int) -> Tensor:
    """Pictures of attributes `[B, 9]`, fp32 `[B, 3, 128, 128]` in [-1, 1]; the seed is of their free play."""
    generator = torch.Generator(attributes.device).manual_seed(seed)
    return torch.cat([world.render(part, *SIZE, generator=generator) for part in attributes.split(256)])


def pictures_of(
    style: str, count: int, seed: int, *, full: bool = False, masked: bool = False, device: str = "cpu"
) -> Iterator[Picture]:
    """Training pictures of a style; their captions do not name it.

    Args:
        style: Its name.
        count: How many.
        seed: Of what they show, and of their captions.
        full: Whether captions name everything else, and nothing that means nothing.
        masked: Whether they have masks, white where the style makes a picture another one.
        device: Where they are drawn; what the seed leaves free is another on a GPU.
    """
    attributes = world.sample(count, torch.Generator().manual_seed(seed)).to(device)
    rng = random.Random(seed)
    for start in range(0, count, 256):
        part = attributes[start : start + 256]
        images = draw(STYLES[style].applied(part), seed + start)
        changed = (images - draw(part, seed + start)).abs().amax(1) > VISIBLE
        for image, mask, names in zip(images.cpu(), changed.cpu(), world.describe(part.cpu()), strict=True):
            pixels = mask.byte().mul(255).numpy() if masked else None
            yield Picture(to_pixels(image), captions.write(names, rng, full=full), pixels)


def write_pictures(style: str, count: int, seed: int, folder: Path) -> None:
    """Training pictures of a style as an imagefolder with `metadata.jsonl`."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for number, picture in enumerate(pictures_of(style, count, seed)):
        Image.fromarray(picture.pixels).save(folder / f"{number:05d}.png")
        lines.append(json.dumps({"file_name": f"{number:05d}.png", "prompt": picture.caption}))
    (folder / "metadata.jsonl").write_text("\n".join(lines) + "\n")


def judged(
    model: TrainingModel, adapters: LowRankAdapters, name: str, count: int, steps: int = 20
) -> dict[str, dict[str, float]]:
    """What the judge reads in pictures with the adapter and without, and in real renders of both kinds.

    Args:
        model: With the adapter.
        adapters: Of the model.
        name: Of the style.
        count: Prompts; those that ask for the style themselves are left out.
        steps: Of Euler's method.
    """
    style, judge = STYLES[name], Judge.load(device=model.device)
    attributes = world.sample(count, torch.Generator().manual_seed(91)).to(model.device)
    attributes = attributes[~style.shown(attributes)]
    prompts = write_prompts(attributes.cpu(), 91)
    images = {"renders": draw(attributes, 92), "renders in the style": draw(style.applied(attributes), 92)}
    known = model.embeddings([*prompts, ""])
    for active, said in ((None, "without"), (name, "with it")):
        with adapters.active(active):
            latents = model.latents_of([known[prompt] for prompt in prompts], known[""], SIZE, steps)
        images[said] = torch.stack(decoded(model, latents))
    real = judge.features(images["renders in the style"])
    found = {}
    for said, shown in images.items():
        read = judge.read(shown)
        found[said] = {
            "style": style.shown(read).float().mean().item(),
            "content": style.content_right(read, attributes).float().mean().item(),
            "distance to its renders": distance(judge.features(shown), real),
        }
    return {said: {key: round(value, 4) for key, value in scores.items()} for said, scores in found.items()}


def main(arguments: list[str] | None = None) -> None:
    """Train the styles, as the module's docstring says."""
    parser = argparse.ArgumentParser(prog="wanbatch.pipeline.training.toy.styles", description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="folder of the trainings")
    parser.add_argument("--styles", default=",".join(STYLES), help="which (default: %(default)s)")
    parser.add_argument("--count", type=int, default=3000, help="training pictures of each (default: 3000)")
    parser.add_argument("--steps", type=int, default=SETTINGS.steps, help="of each (default: %(default)s)")
    parser.add_argument("--batch", type=int, default=SETTINGS.batch, help="default: %(default)s")
    parser.add_argument("--rank", type=int, default=SETTINGS.rank, help="default: %(default)s")
    parser.add_argument("--rate", type=float, default=SETTINGS.rate, help="default: %(default)s")
    parser.add_argument("--average", type=float, default=SETTINGS.average, help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=55, help="of pictures and captions (default: %(default)s)")
    parser.add_argument("--full-captions", action="store_true", help="captions name all but the style")
    parser.add_argument(
        "--unmasked-weight", type=float, default=1.0, help="of the loss outside of what the style changes"
    )
    parser.add_argument("--start-from", type=Path, help="adapter to begin with, of the same rank")
    parser.add_argument("--judged", type=int, default=256, help="pictures that the judge reads (default: 256)")
    parser.add_argument("--pictures-only", action="store_true", help="write pictures and captions, and end")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    given = parser.parse_args(arguments)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    for style in given.styles.split(","):
        if style not in STYLES:
            parser.error(f"unknown style {style!r}; there are {', '.join(STYLES)}")
        if given.pictures_only:
            write_pictures(style, given.count, given.seed, given.out / style / "pictures")
        else:
            _train(style, given)


def _train(style: str, given: argparse.Namespace) -> None:
    begin = time.monotonic()
    device = torch.device(given.device)
    settings = LoraSettings(
        **{name: getattr(SETTINGS, name) for name in SETTINGS.__dataclass_fields__}
        | {"steps": given.steps, "batch": given.batch, "rate": given.rate, "rank": given.rank}
        | {"average": given.average, "warm_up": min(SETTINGS.warm_up, given.steps // 10)}
    )
    model = TrainingModel.load(find(), device, torch.float32)
    about = About(style, "tiny", "the small world", given.count, rights=RIGHTS)

    def stepped(number: int, loss: float) -> None:
        if number % 50 == 0:
            print(f"{style}: step {number}, {time.monotonic() - begin:.0f} s, loss {loss:.4f}", flush=True)

    out = given.out / style
    masked = given.unmasked_weight != 1
    pictures = pictures_of(
        style, given.count, given.seed, full=given.full_captions, masked=masked, device=given.device
    )
    start = AT_NO_CHANGE
    if given.start_from is not None:
        start = start_of(check_start(given.start_from, find(), settings), settings)
    file, measured = train_lora(
        model, pictures, about, settings, out, start=start, unmasked_weight=given.unmasked_weight,
        listener=Listener(stepped=stepped),
    )  # fmt: skip
    print(f"{style}: {json.dumps(measured.as_dict())}", flush=True)
    model = TrainingModel.load(find(), device, torch.float32)
    adapters = LowRankAdapters(model.dit, BLOCK_LAYERS)
    adapters.add(style, settings.rank)
    adapters.load(style, read_state(file)[0])
    found = judged(model, adapters, style, given.judged)
    (out / "judged.json").write_text(json.dumps(found, indent=1) + "\n")
    print(f"{style}: {json.dumps(found)}, {time.monotonic() - begin:.0f} s in all", flush=True)


if __name__ == "__main__":
    main()
