"""The one table of columns: what a manifest row may give, and what a dataset row holds.

Each column is declared once, in `COLUMNS`; what follows from it is in `columns.py`. Order: that of a dataset, with
what only manifests have where it belongs.
"""

from __future__ import annotations

import pyarrow as pa

from wanbatch.manifests.column_types import (
    ADAPTER,
    ADAPTERS,
    COUNT,
    CREATIVITY,
    CREATIVITY_STEPS,
    GUIDANCE,
    IMAGES,
    LABEL,
    LABELS,
    NAME,
    SEED,
    SHIFT,
    SIGMAS,
    SIZE,
    TEXT,
    WEIGHT,
    WEIGHTS,
    Column,
    Given,
)
from wanbatch.manifests.map_columns import MAP_COLUMNS
from wanbatch.manifests.sound_columns import SOUND_COLUMNS

_MODELS_OWN = "the run's setting, else the model's"
_OF_ROWS = "default for rows that do not set it"

COLUMNS: tuple[Column, ...] = (
    Column(
        "id",
        "the name that the manifest gave, or its row number; `-0`, `-1`, … for several images of one row",
        Given(NAME, "the row number, 8 digits", "id"),
        pa.string(),
        pixels=True,
    ),
    Column(
        "image",
        "in a manifest the source image; in a dataset the picture, whose `path` ends in its format",
        Given(
            IMAGES,
            "no source",
            "source",
            aliases=(
                *("file_name", "filename", "file_path", "image_path", "image_file", "image_url", "img", "img_path"),
                *("input_image", "init_image", "source_img", "original_image", "reference_image"),
            ),
        ),
        pa.struct([("bytes", pa.binary()), ("path", pa.string())]),
    ),
    Column(
        "images",
        "several source images, which are blended",
        Given(IMAGES, "no source", "source", aliases=("input_images", "init_images", "image_paths")),
    ),
    Column(
        "blend_weights",
        "the shares of `images` in their blend, normalised to a sum of 1",
        Given(WEIGHTS, "equal shares", "source"),
    ),
    Column(
        "blend_group",
        "rows of one group are blended into one output, whose id is the group's name",
        Given(NAME, "no group", "group"),
    ),
    Column("blend_weight", "the share of a row's image in its group", Given(WEIGHT, "equal shares", "group")),
    Column(
        "prompt",
        "what is asked for",
        Given(
            TEXT,
            "the run's setting, else empty",
            run=f"what is asked for; {_OF_ROWS}",
            run_since=3,
            aliases=(
                *("caption", "captions", "text", "edit_prompt", "instruction", "positive", "positive_prompt"),
                *("text_prompt", "prompt_text", "image_caption"),
            ),
        ),
        pa.string(),
        pixels=True,
    ),
    Column(
        "negative_prompt",
        "what is to be avoided",
        Given(
            TEXT,
            _MODELS_OWN,
            run=f"what is to be avoided; {_OF_ROWS}",
            aliases=("negative", "neg_prompt", "prompt_negative", "uncond_prompt"),
        ),
        pa.string(),
        pixels=True,
    ),
    Column(
        "sources",
        "the source images: path, share in the blend, SHA-256 of the file",
        written=pa.list_(pa.struct([("path", pa.string()), ("weight", pa.float64()), ("sha256", pa.string())])),
    ),
    Column(
        "creativity",
        "denoising strength, as the noise level at which denoising starts: 0 keeps the source, 1 is the prompt "
        "alone; above 0 but below the last level of the row's schedule it is refused",
        Given(
            CREATIVITY,
            "1 without a source; with one the run's setting, else 0.6, or the last level of the row's schedule if "
            "higher",
            run=f"noise level that rows with a source start at, 0 keeps the source; {_OF_ROWS}",
            run_since=3,
            aliases=("strength", "denoising_strength", "denoise", "denoise_strength", "image_strength"),
            differs="creativity is a noise level, not a share of the steps: at shift 5 a strength of 0.6 is 0.88",
        ),
        pa.float64(),
        pixels=True,
    ),
    Column(
        "creativity_steps",
        "keep: a row that starts below 1 takes the steps of its schedule that lie below its creativity; respace: it "
        "takes all its steps, spaced between its creativity and 0",
        Given(CREATIVITY_STEPS, "keep", run=f"keep a schedule's levels below creativity, or respace all; {_OF_ROWS}"),
        pa.string(),
        pixels=True,
        since=2,
    ),
    *MAP_COLUMNS,
    Column(
        "seed",
        "the seed of the noise; a given one counts up by one for each further image of the row",
        Given(
            SEED,
            "a hash of the run's seed, `id` and variant",
            aliases=("generator_seed", "noise_seed", "random_seed", "manual_seed", "rng_seed"),
        ),
        pa.int64(),
        pixels=True,
    ),
    Column("variant", "which image of its manifest row, from 0", written=pa.int32(), pixels=True),
    Column(
        "width",
        "pixels; a multiple of the VAE's stride times the patch size: 32 for TI2V-5B, 16 for A14B and Wan2.1",
        Given(SIZE, "the source's shape at the model's area, else the model's size", run=f"pixels; {_OF_ROWS}"),
        pa.int32(),
        pixels=True,
    ),
    Column(
        "height", "pixels, as `width`", Given(SIZE, "as `width`", run=f"pixels; {_OF_ROWS}"), pa.int32(), pixels=True
    ),
    Column(
        "steps",
        "denoising steps of the whole schedule; some samplers evaluate the model twice a step",
        Given(
            COUNT,
            _MODELS_OWN,
            run=f"denoising steps; {_OF_ROWS}",
            aliases=("num_inference_steps", "inference_steps", "num_steps", "sampling_steps", "ddim_steps"),
        ),
        pa.int32(),
        pixels=True,
    ),
    Column(
        "guidance",
        "classifier-free guidance scale; 1 turns guidance off",
        Given(
            GUIDANCE,
            _MODELS_OWN,
            run=f"classifier-free guidance scale, 1 turns guidance off; {_OF_ROWS}",
            aliases=("guidance_scale", "cfg_scale", "cfg", "cfgs", "text_guidance_scale", "true_cfg_scale"),
        ),
        pa.float64(),
        pixels=True,
    ),
    Column(
        "guidance_2",
        "guidance scale of the second expert, which takes the low noise levels (A14B alone)",
        Given(
            GUIDANCE,
            "the run's setting, else `guidance` where the row or the run gives it, else the model's",
            run=f"guidance scale of the second expert, at low noise levels (A14B alone); {_OF_ROWS}",
            aliases=("guidance_scale_2",),
        ),
        pa.float64(),
        pixels=True,
        since=2,
    ),
    Column(
        "shift",
        "time shift of the noise schedule; none with explicit sigmas",
        Given(
            SHIFT,
            _MODELS_OWN,
            run=f"time shift of the noise schedule; {_OF_ROWS}",
            aliases=("flow_shift", "time_shift", "sampling_shift"),
        ),
        pa.float64(),
        pixels=True,
    ),
    Column(
        "sampler",
        "the solver",
        Given(
            LABEL,
            _MODELS_OWN,
            run=f"solver; {_OF_ROWS}",
            aliases=("sampler_name", "sampler_index", "sampling_method", "solver"),
            differs="names of solvers are others here: docs/samplers.md has them",
        ),
        pa.string(),
        pixels=True,
    ),
    Column(
        "schedule",
        "how the noise levels are spaced; none with explicit sigmas",
        Given(
            LABEL,
            _MODELS_OWN,
            run=f"spacing of the noise levels; {_OF_ROWS}",
            aliases=("scheduler", "schedule_type", "noise_schedule"),
            differs="names of schedules are others here, and a scheduler of diffusers is a sampler: docs/samplers.md",
        ),
        pa.string(),
        pixels=True,
    ),
    Column(
        "sigmas",
        "explicit noise levels without the final 0, instead of `steps` (their number, then), `shift` and `schedule`",
        Given(
            SIGMAS,
            "the run's setting, for rows that give none of the four",
            run="explicit noise levels like 1,0.9,0.5; for rows that set neither steps, shift, schedule nor sigmas",
        ),
        pa.list_(pa.float64()),
        pixels=True,
    ),
    Column("style", "an adapter (LoRA), by its name", Given(ADAPTER, "none"), pa.string(), pixels=True, since=6),
    Column("loras", "several adapters with weights", Given(ADAPTERS, "none"), ADAPTERS.type, pixels=True, since=6),
    Column(
        "num_images",
        "how many images of the row are made; their ids get `-0`, `-1`, …",
        Given(
            COUNT,
            "1",
            aliases=("num_images_per_prompt", "images_per_prompt", "num_outputs", "batch_size", "n_iter"),
        ),
    ),
    Column(
        "keywords",
        "words that are recorded with the image, to find it by; they change no pixel",
        Given(LABELS, "the run's setting, else none", run=f"words recorded with each image, like a,b; {_OF_ROWS}"),
        pa.list_(pa.string()),
        since=2,
    ),
    *SOUND_COLUMNS,
    Column(
        "step_cache",
        "which blocks of the model were skipped at which step, and what stood in for them",
        written=pa.string(),
    ),
    Column(
        "evaluations",
        "how often the model is evaluated for the image, guidance and step cache aside",
        written=pa.int32(),
        since=2,
    ),
    Column(
        "prompt_tokens_cut",
        "how many tokens of the prompt the model did not read, as it was too long",
        written=pa.int32(),
        since=3,
        rare=True,
    ),
    Column(
        "negative_prompt_tokens_cut",
        "how many tokens of the negative prompt the model did not read, as it was too long",
        written=pa.int32(),
        since=3,
        rare=True,
    ),
    Column(
        "adapters",
        "the adapters (LoRA) that were in effect: name, weight (the row's times that of the run), SHA-256 of the "
        "file (of two files, over those of both), and whether it was merged into the model for all rows",
        written=pa.list_(
            pa.struct(
                [("name", pa.string()), ("weight", pa.float64()), ("sha256", pa.string()), ("merged", pa.bool_())]
            )
        ),
        since=7,
        rare=True,
    ),
    Column("model", "the model", written=pa.string()),
    Column("revision", "the model's revision", written=pa.string()),
    Column(
        "sha256",
        "SHA-256 of the pixels as they were made (RGB, row by row, 8 bits); files in JPEG and lossy WEBP decode to "
        "slightly other ones",
        written=pa.string(),
    ),
    Column(
        "is_synthetic",
        "whether a generative model has part in the picture; false only where one source was kept (creativity 0) "
        "that does not say that it is synthetic itself",
        written=pa.bool_(),
        since=4,
    ),
    Column("wanbatch_version", "the version of wanbatch that made the picture", written=pa.string(), since=4),
    Column(
        "manifest_row",
        "the row, from 0, of the manifest that made the picture; it may have changed since: join on `id`",
        written=pa.int64(),
    ),
)
