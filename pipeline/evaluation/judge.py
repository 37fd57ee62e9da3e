"""The judge: a small network that reads a picture of the small world back into its attributes.

It turns statements about quality into numbers: what part of the pictures shows what their prompts asked for. How it
was trained is in `training/toy/judge.py`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from wanbatch.pipeline.core.tensor_files import save_tensors
from wanbatch.pipeline.evaluation.attributes import FIELDS, NAMES

_NAMES = list(NAMES.values())
FOLDER = Path(__file__).resolve().parents[1] / "tiny" / "judge"


UNREADABLE = -1
OBJECTS = tuple(FIELDS.index(name) for name in ("first", "second", "third"))


class Judge(nn.Module):
    """Images `[B, 3, H, W]` in [-1, 1] to attributes; sides of 128 pixels and more.

    Args:
        widths: Channels after each halving of the picture.
        certainty: An object is read only if the judge gives it at least this probability; else it is `UNREADABLE`.
            `training/toy/strictness.py` says how it is found.
    """

    def __init__(self, widths: Sequence[int] = (32, 48, 96, 128), certainty: float = 0.0):
        super().__init__()
        self.widths, self.certainty = tuple(widths), certainty
        layers: list[nn.Module] = []
        for inner, outer in zip((3, *widths), widths, strict=False):
            layers += [nn.Conv2d(inner, outer, 3, stride=2, padding=1), nn.GroupNorm(8, outer), nn.GELU()]
            layers += [_Residual(outer)] if inner != 3 else []
        self.trunk = nn.Sequential(*layers, nn.Conv2d(widths[-1], 40, 1), nn.AdaptiveAvgPool2d(8))
        self.head = nn.Sequential(nn.Linear(40 * 64, 224), nn.GELU(), nn.Linear(224, sum(map(len, _NAMES))))

    @classmethod
    def load(cls, folder: Path | str = FOLDER, device: torch.device | str = "cpu") -> Judge:
        """The judge of a folder, by default the one that ships with the package; fp32, in evaluation mode."""
        folder = Path(folder)
        judge = cls(**json.loads((folder / "config.json").read_text()))
        judge.load_state_dict(load_file(folder / "model.safetensors"))
        return judge.eval().requires_grad_(False).to(device)

    def save(self, folder: Path) -> None:
        """Writes `config.json` and fp16 weights."""
        folder.mkdir(parents=True, exist_ok=True)
        config = {"widths": self.widths, "certainty": self.certainty}
        (folder / "config.json").write_text(json.dumps(config) + "\n")
        weights = {name: value.half().contiguous() for name, value in self.state_dict().items()}
        save_tensors(weights, folder / "model.safetensors")

    def forward(self, images: Tensor) -> list[Tensor]:
        """Logits of each field, in the order of `FIELDS`: `[B, names]`."""
        logits = self.head(self.trunk(images).flatten(1))
        return list(logits.split([len(names) for names in _NAMES], dim=1))

    @torch.no_grad()
    def read(self, images: Tensor) -> Tensor:
        """Attributes, int64 `[B, 9]`, of fp32 images `[B, 3, H, W]` in [-1, 1]; objects may be `UNREADABLE`."""
        return torch.cat([self._read(batch) for batch in images.float().split(512)])

    def _read(self, images: Tensor) -> Tensor:
        best = [logits.softmax(1).max(1) for logits in self(images)]
        columns = [one.indices for one in best]
        for index in OBJECTS:
            columns[index] = columns[index].where(best[index].values >= self.certainty, UNREADABLE)
        return torch.stack(columns, dim=1)

    @torch.no_grad()
    def features(self, images: Tensor) -> Tensor:
        """What the judge makes its mind up from: fp32 `[B, 224]` of images `[B, 3, H, W]` in [-1, 1]."""
        batches = images.float().split(512)
        return torch.cat([self.head[:2](self.trunk(batch).flatten(1)) for batch in batches])

    def score(self, images: Tensor, expected: Tensor) -> dict[str, float]:
        """The part of the pictures in which each attribute is as expected `[B, 9]`, all objects, and everything."""
        right = self.read(images) == expected
        scores = dict(zip(FIELDS, right.float().mean(0).tolist(), strict=True))
        objects = right[:, OBJECTS].all(1).float().mean().item()
        return scores | {"objects": objects, "all": right.all(1).float().mean().item()}


class _Residual(nn.Module):
    """A second convolution at the same width, added to what goes in."""

    def __init__(self, width: int):
        super().__init__()
        self.inner = nn.Sequential(nn.Conv2d(width, width, 3, padding=1), nn.GroupNorm(8, width), nn.GELU())

    def forward(self, x: Tensor) -> Tensor:
        return x + self.inner(x)


def distance(first: Tensor, second: Tensor) -> float:
    """Fréchet distance between two sets of features `[N, D]`, each taken for a normal distribution.

    The measure of Heusel et al. 2017 (arXiv:1706.08500) on the judge's features. It sees ghosts, artefacts and a
    lack of variety in pictures that the judge still reads right. It falls with the number of pictures: compare sets
    of one size.
    """
    return _distances(first.double()[None], second.double()).item()


def distance_interval(first: Tensor, second: Tensor, groups: int = 32) -> tuple[float, float]:
    """A 95 % confidence interval of `distance`, over which pictures there might have been in the first set.

    By the jackknife that leaves out one of `groups` groups at a time (Efron and Tibshirani 1993, section 11): samples
    with repetitions, as the bootstrap draws them, would lie much farther off than the set itself.

    Args:
        first: Features `[N, D]` of the pictures, with N well above D.
        second: Features `[M, D]` that they are compared with; they stay as they are.
        groups: Into how many groups of one size the first set is cut.
    """
    ours, theirs = first.double(), second.double()
    size = len(ours) // groups
    whole = ours[: size * groups].unflatten(0, (groups, size))
    others = [torch.cat([whole[:left_out], whole[left_out + 1 :]]).flatten(0, 1) for left_out in range(groups)]
    found = _distances(torch.stack(others), theirs)
    deviation = ((groups - 1) / groups * (found - found.mean()).square().sum()).sqrt().item()
    middle = distance(first, second)
    return max(middle - 1.96 * deviation, 0.0), middle + 1.96 * deviation


def _distances(first: Tensor, second: Tensor) -> Tensor:
    """Fréchet distances `[S]` of sets of features `[S, N, D]` to one set `[M, D]`, in fp64."""
    centred = first - first.mean(1, keepdim=True)
    covariances = centred.mT @ centred / (first.shape[1] - 1)
    wanted = second.T.cov()
    values, vectors = torch.linalg.eigh(wanted)
    root = (vectors * values.clamp(min=0).sqrt()) @ vectors.T
    overlap = torch.linalg.eigvalsh(root @ covariances @ root).clamp(min=0).sqrt().sum(-1)
    spread = covariances.diagonal(dim1=-2, dim2=-1).sum(-1) + wanted.trace() - 2 * overlap
    return (first.mean(1) - second.mean(0)).square().sum(-1) + spread
