"""The model card of the small model, with the numbers that its training gave."""

from __future__ import annotations

from wanbatch.pipeline.evaluation.attributes import ALONE, COLOURS, FIELDS, NOUNS, SCENES, SIZES, TEXTURES

_FIELDS = ("all", "objects", *FIELDS[3:], "distance")


def write(defaults: dict, recipe: dict, record: dict) -> str:
    """The card as Markdown. defaults: `wanbatch.json`. recipe, record: what was set and what came of it."""
    score, certainty = record["score"], record["strictness"]["certainty"]
    return f"""---
license: apache-2.0
library_name: diffusers
pipeline_tag: text-to-image
---
# tiny: a small Wan for one frame

The classes and file layout of Wan2.2 TI2V-5B with few numbers in them, trained from nothing on pictures of a small
world, so that everything wanbatch does with the large model can be run, tested and measured in seconds on a laptop.
It knows one to three everyday objects on a coloured, patterned or scenic background, and nothing else.

{_description(defaults)}
## Settings
{_settings(defaults, recipe)}

## How it was trained
On random renders of that world (`world.py`), with captions written for them (`captions.py`); no other data. The
judge has to give every object a probability of {certainty:g} (`strictness.py`). One combination
of attributes in twenty was kept from the transformer's training. Seed {recipe["seed"]}.

| stage | steps | batch | seconds | device | torch |
|---|---|---|---|---|---|
{_stages(record)}

    python -m wanbatch.pipeline.training.toy.tiny --out DIR

## How it scores
{_intro(score, defaults)}

{_scores(score, defaults)}
"""


def _description(defaults: dict) -> str:
    return f"""## What it understands
- objects: {", ".join(NOUNS)}
- where: one object at the {", ".join(ALONE)}; two side by side or over one another; three in a row
- sizes: {", ".join(SIZES)}
- backgrounds: {", ".join(COLOURS)}, each {", ".join(TEXTURES)}; scenes: {", ".join(SCENES)}

Captions in many wordings: "a big red apple left of a small dog on a striped blue background". Words it does not know
do not hurt. What a caption leaves out may be anything; a background named without a texture is plain.

    from diffusers import WanPipeline
    pipeline = WanPipeline.from_pretrained("pipeline/tiny", use_safetensors=True)
    pipeline("a large owl at night", width={defaults["width"]}, height={defaults["height"]},
             num_frames=1, num_inference_steps={defaults["steps"]}, guidance_scale={defaults["guidance"]:g})

`judge/` holds the network that reads pictures back (`wanbatch.pipeline.evaluation.judge`), `training.json` what the
training did, `wanbatch.json` the settings that wanbatch takes by default.

## Artwork
The objects are Noto Emoji by Google (Apache-2.0). The autoencoder and the judge also know Fluent Emoji, flat, by
Microsoft (MIT), the style that adapters can be trained for; the transformer was never shown it. The files come from
the npm packages that `training/toy/fetch_artwork.py` pins.
"""


def _settings(defaults: dict, recipe: dict) -> str:
    return (
        f"{defaults['width']}x{defaults['height']} pixels, {defaults['steps']} steps of UniPC with flow shift "
        f"{recipe['flow_shift']:g}, guidance {defaults['guidance']:g}, empty negative prompt. "
        f"It was also trained, less, at {_sizes(recipe)}."
    )


def _sizes(recipe: dict) -> str:
    return ", ".join(f"{width}x{height}" for height, width in recipe["sizes"][1:])


def _stages(record: dict) -> str:
    rows = [(stage, record[stage]) for stage in ("judge", "vae", "dit") if stage in record]
    return "\n".join(
        f"| {stage} | {row['steps']:.0f} | {row['batch']} | {row['seconds']:.0f} | {row['device']} | {row['torch']} |"
        for stage, row in rows
    )


def _intro(score: dict, defaults: dict) -> str:
    return (
        f"The part of {score['pictures']} pictures in which the judge (trained on real renders alone) reads the "
        f"attribute that was asked for, each prompt naming all. Where nothing else is said: "
        f"{defaults['width']}x{defaults['height']}, {defaults['steps']} steps, guidance {defaults['guidance']:g}. "
        "The last column is the Fréchet distance, on the judge's features, to real renders of the same attributes: "
        "it tells pictures apart where the judge reads them all right."
    )


def _scores(score: dict, defaults: dict) -> str:
    rows = [(f"real renders, {size}", row) for size, row in score["renders"].items()]
    rows += [(f"real renders {name}", row) for name, row in score["worsened"].items()]
    rows += [
        (f"through the autoencoder, {size} (PSNR {row['psnr']:.1f} dB)", row)
        for size, row in score["reconstructions"].items()
    ]
    rows += [(f"generated, guidance {float(value):g}", row) for value, row in score["guidance"].items()]
    rows += [(f"generated, {value} step{'s' * (value != '1')}", row) for value, row in score["steps"].items()]
    rows += [("generated, combinations never trained on", score["never_seen"])]
    rows += [("generated, unknown words strewn in", score["unknown_words"])]
    rows += [(f"generated, {size}", row) for size, row in score["sizes"].items()]
    head = "| | " + " | ".join(_FIELDS) + " |\n|---|" + "---|" * len(_FIELDS) + "\n"
    return head + "\n".join(
        f"| {name} | " + " | ".join(f"{row[field]:.3f}" for field in _FIELDS) + " |" for name, row in rows
    )
