"""What `wanbatch qualify` found, as one HTML page that needs no other file, and as a few lines of text."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from PIL import Image

from wanbatch.counting import number_of
from wanbatch.jobs.benchmark.qualify import Qualification
from wanbatch.jobs.reporting.report.page import environment
from wanbatch.jobs.reporting.report.thumbnails import thumbnail


def qualification_page(found: Qualification) -> str:
    """Draw the page: findings, figures, and the pictures of each way beside one another."""
    rows = [
        {
            "prompt": prompt,
            "pictures": [
                (name, thumbnail(Image.fromarray(pictures[index]))) for name, pictures in found.pictures.items()
            ],
        }
        for index, prompt in enumerate(found.data["prompts"])
    ]
    return environment(__package__ or "").get_template("qualify.html").render(data=found.data, rows=rows)


def qualification_text(data: dict[str, Any]) -> str:
    """The findings and the figures, a line each."""
    return "\n".join(_lines(data))


def _lines(data: dict[str, Any]) -> Iterator[str]:
    yield f"{data['model']} on {data['hardware']['device']}, {data['settings']['precision']}"
    for finding in data["findings"]:
        yield f"  {'good ' if finding['good'] else 'WRONG'} {finding['name']}: {finding['said']}"
    for name, preset in data["presets"].items():
        lpips = "" if preset["lpips"] is None else f", LPIPS {preset['lpips']:.4f}"
        yield (
            f"  preset {name}: {preset['psnr']:.1f} dB of "
            f"{number_of(data['settings']['reference_steps'], 'steps')}"
            f" (worst {preset['worst_psnr']:.1f}){lpips}, {preset['seconds_a_picture']:.3f} s a picture"
        )
    for name, why in data["presets_not_tried"].items():
        yield f"  preset {name}: not tried, since {why}"
    for stage, contenders in data["stages"].items():
        said = ", ".join(f"{name} {figures['ms']:.2f} ms" for name, figures in contenders.items())
        yield f"  {stage}: {said}"
    start = data["start"]
    yield (
        f"  start: loaded in {start['load_seconds']:.1f} s, first picture {start['first_picture_seconds']:.1f} s, "
        "after imports and Ray"
    )
    if data["peak_memory_bytes"] is not None:
        beside = data["peak_memory_bytes_with_diffusers"] / 1e9
        yield f"  peak memory: {data['peak_memory_bytes'] / 1e9:.1f} GB, with diffusers beside {beside:.1f} GB"
