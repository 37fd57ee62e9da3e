"""How much memory of a GPU the published models need, in each way in which their parts can share it: by reckoning.

    python benchmarks/gpu_memory.py

Prints the table of docs/performance.md; `tests/pipeline/loading/test_residency.py` fails when the page no longer has
it. Nothing is loaded: modules are made without memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

import click
import torch

from wanbatch.pipeline.loading.random_model import PUBLISHED, Size, random_modules
from wanbatch.pipeline.loading.residency import (
    EXPERTS,
    TEXT,
    TRANSFORMER,
    VAE_PART,
    Residency,
    bytes_of,
    choices,
    form_by_config,
    working_bytes,
)

PIXELS = 1280 * 704
Shapes = dict[str, tuple[int, ...]]
ROWS: tuple[tuple[str, Size, int], ...] = (
    ("Wan2.2 TI2V-5B", "5b", 8), ("Wan2.2 T2V-A14B", "a14b", 4), ("Wan2.1 T2V-1.3B", "1.3b", 8)
)  # fmt: skip
PRECISIONS = {"bf16": (False, False), "FP8": (True, False), "FP8, text encoder too": (True, True)}
WAYS = {
    "all on the device": Residency(),
    "text encoder in turn": Residency(True),
    "experts in turn": Residency(True, True),
    "all parts in turn": Residency(True, True, True),
}


def bytes_by_way(size: Size, slots: int, eight_bits: bool, text_fp8: bool = False) -> dict[Residency, int]:
    """Bytes that a model needs in each way, in bf16 or with its large layers in eight bits, and the text encoder."""
    published, (text, vae, experts) = PUBLISHED[size], _shapes(size)
    names = EXPERTS if len(experts) == 2 else TRANSFORMER
    sizes = {TEXT: bytes_of(text, 1 if text_fp8 else 2), VAE_PART: bytes_of(vae, 2)}
    sizes |= {name: bytes_of(expert, 2, eight_bits) for name, expert in zip(names, experts, strict=True)}
    form = form_by_config(published.transformer, len(experts))
    return dict(choices(sizes, working_bytes(form, published.vae["scale_factor_spatial"], slots, PIXELS)))


def table() -> Iterator[str]:
    """The lines of the table, in Markdown."""
    yield f"| GB | slots | {' | '.join(WAYS)} |"
    yield "|---|---|" + "---|" * len(WAYS)
    for name, size, slots in ROWS:
        for precision, in_eight_bits in PRECISIONS.items():
            found = bytes_by_way(size, slots, *in_eight_bits)
            needed = (f"{found[way] / 1e9:.1f}" if way in found else "" for way in WAYS.values())
            yield f"| {name}, {precision} | {slots} | {' | '.join(needed)} |"


@cache
def _shapes(size: Size) -> tuple[Shapes, Shapes, list[Shapes]]:
    """The weights of text encoder, VAE and each transformer."""
    modules = random_modules(torch.device("meta"), torch.bfloat16, size)
    text, vae, *experts = (
        {name: tuple(weight.shape) for name, weight in part.named_parameters()}
        for part in (modules.text_encoder, modules.vae, *modules.transformers)
    )
    return text, vae, experts


@click.command(help=__doc__)
def main() -> None:
    click.echo("\n".join(table()))


if __name__ == "__main__":
    main()
