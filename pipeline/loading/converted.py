"""Converted models: what `converted.json` in a model's folder says of how its weights were written. No torch.

`wanbatch convert` (`converting.py`) writes such folders, and `weights.py` reads them. One stands for the model that
it was made of: a run with one makes the pictures of a run with the other, to the bit.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from wanbatch.errors import UserError
from wanbatch.pipeline.loading.config_files import read_json

CONVERTED_FILE = "converted.json"
CONVERTED_STEM = "wanbatch"  # of the names of its files of weights: no other tool takes them for its own
FORMAT = 1

PRECISIONS_OF: Mapping[str, tuple[str, ...]] = {
    "fp32": ("fp32", "bf16", "fp8", "int8"),
    "bf16": ("bf16", "fp8", "int8"),
    "fp8": ("fp8",),
}
"""What a model that was converted to a precision can be run in: never in more than was kept."""


@dataclass(frozen=True, slots=True)
class Converted:
    """How a model was converted.

    Attributes:
        precision: `fp32`, `bf16` or `fp8`.
        rounded_on: `cpu` or `cuda`, which round some weights to FP8 otherwise; empty: nothing was rounded to it.
        source: What was converted: `tiny`, a hub id, a URL or the whole path of a folder.
        revision: Of a hub model; else None.
        source_digest: Of it, see `registry.ModelInfo`.
        digest: Of the converted files, by which changes of them are found.
        wanbatch: The version that converted it.
    """

    precision: str
    rounded_on: str
    source: str
    revision: str | None
    source_digest: str
    digest: str
    wanbatch: str

    def as_json(self) -> dict[str, Any]:
        """What is written to `converted.json`."""
        return {"format": FORMAT, **asdict(self)}

    def runs_in(self, precision: str) -> bool:
        """Whether the model can be run in a precision."""
        return precision in PRECISIONS_OF[self.precision]

    def refusal(self, name: str, precision: str) -> str:
        """What to say if a model of a name, converted so, is to run in a precision that it does not run in."""
        return (
            f"{name} was converted to {self.precision}, so it cannot run in {precision}: "
            f"--precision {self.precision}, or --model {self.source}"
        )

    def weights_on(self, device: str) -> str:
        """What tells the weights from others, where they are run.

        Args:
            device: `cuda` or `cpu`.
        """
        other = self.rounded_on not in ("", device)
        return f"{self.source_digest} rounded on {self.rounded_on}" if other else self.source_digest


def read_converted(folder: Path) -> Converted | None:
    """Read how a model in a folder was converted; None: it was not.

    Raises:
        UserError: The file is damaged, or of a later version.
    """
    path = folder / CONVERTED_FILE
    if not path.exists():
        return None
    said = read_json(path, "")
    if said.pop("format", None) != FORMAT:
        raise UserError(f"{path}: was written by another version of wanbatch: convert the model again")
    try:
        found = Converted(**said)
    except TypeError as error:
        raise UserError(f"{path}: does not say how the model was converted ({error}): convert it again") from error
    if found.precision not in PRECISIONS_OF:
        raise UserError(f"{path}: precision is {found.precision!r}: convert the model again")
    return found
