"""How near pictures are to their references, in numbers: PSNR, SSIM, LPIPS, and the judge's reading.

A picture and its reference are one request made twice from the same noise: with what is measured, and with so
many steps that more change nothing. Nothing is made here. The judge reads pictures of the small model alone
(`judge.py`); the other metrics take any pictures.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from wanbatch.errors import UserError
from wanbatch.pipeline.evaluation.judge import Judge
from wanbatch.pipeline.evaluation.lpips import LPIPS
from wanbatch.pipeline.evaluation.metrics import HIGHER_IS_BETTER, Measured, Score, psnr_of

BATCH = 16

Pictures = Mapping[str, np.ndarray]
"""id -> uint8 [height, width, 3]"""


class Meter:
    """Measures with the metrics that are asked for; PSNR always.

    Args:
        metrics: Names in `metrics.HIGHER_IS_BETTER`.
        device: Where the networks work.

    Raises:
        UserError: For an unknown metric, or if a package or a weight file for one of them is missing.
    """

    def __init__(self, metrics: Collection[str] = (), device: torch.device | str = "cpu"):
        unknown = sorted(set(metrics) - set(HIGHER_IS_BETTER))
        if unknown:
            raise UserError(f"unknown metric {unknown[0]!r}; known: {', '.join(HIGHER_IS_BETTER)}")
        self.metrics, self.device = tuple(metrics), device
        self.ssim = _ssim() if "ssim" in metrics else None
        self.lpips = LPIPS.load(device) if "lpips" in metrics else None
        self.judge = Judge.load(device=device) if "judge" in metrics else None

    def score(self, made: Pictures, references: Pictures, truth: Mapping[str, Sequence[int]] | None = None) -> Score:
        """Score pictures against the references of the same ids: the means of what `measure` finds. Raises as it."""
        return self.measure(made, references, truth).score()

    @torch.inference_mode()
    def measure(
        self, made: Pictures, references: Pictures, truth: Mapping[str, Sequence[int]] | None = None
    ) -> Measured:
        """Measure each picture against the reference of the same id.

        Args:
            made: The pictures.
            references: What they are compared with.
            truth: Attributes that the judge should read, one for each of `attributes.FIELDS`, by id; None for those
                that it reads in the references.

        Raises:
            ValueError: If there is no picture, or for one without reference or of another size.
        """
        if not made:
            raise ValueError("there is no picture to score")
        for name in made:
            if name not in references or made[name].shape != references[name].shape:
                raise ValueError(f"picture {name!r} has no reference of its size")
        found: dict[str, list] = {"psnr": [], "ssim": [], "lpips": [], "right": []}
        for batch in _batches(made):
            found["psnr"] += [psnr_of(made[name], references[name]) for name in batch]
            ours, theirs = (stacked([kept[name] for name in batch], self.device) for kept in (made, references))
            if self.ssim is not None:
                found["ssim"] += _list(self.ssim(ours / 2 + 0.5, theirs / 2 + 0.5, data_range=1.0, reduction="none"))
            if self.lpips is not None:
                found["lpips"] += _list(self.lpips(ours, theirs))
            if self.judge is not None:
                wanted = self.judge.read(theirs).cpu().numpy() if truth is None else [truth[name] for name in batch]
                found["right"] += list(self.judge.read(ours).cpu().numpy() == np.asarray(wanted))
        others = {name: np.array(found[name]) if found[name] else None for name in ("ssim", "lpips", "right")}
        return Measured(np.array(found["psnr"]), **others)


def stacked(pictures: Sequence[np.ndarray], device: torch.device | str) -> Tensor:
    """Pictures of one size, uint8 [height, width, 3], as float32 [B, 3, height, width] in [-1, 1]."""
    return torch.from_numpy(np.stack(pictures)).to(device).movedim(-1, 1).float() / 127.5 - 1


def _batches(pictures: Pictures) -> list[list[str]]:
    """Ids of pictures of one size, at most `BATCH` together."""
    sizes: dict[tuple[int, ...], list[str]] = {}
    for name, pixels in pictures.items():
        sizes.setdefault(pixels.shape, []).append(name)
    return [names[first : first + BATCH] for names in sizes.values() for first in range(0, len(names), BATCH)]


def _ssim():
    """torchmetrics' structural similarity (Wang et al. 2004): Gaussian windows of 11 pixels, sigma 1.5."""
    try:
        from torchmetrics.functional.image import structural_similarity_index_measure
    except ImportError as error:
        raise UserError(f"SSIM needs torchmetrics ({error}): install wanbatch[tune]") from error
    return structural_similarity_index_measure


def _list(values: Tensor) -> list[float]:
    return values.reshape(-1).tolist()
