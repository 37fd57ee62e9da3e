"""Low-rank adapters (LoRA; Hu et al. 2021, arXiv:2106.09685) on a transformer whose own weights are frozen.

Several adapters can lie on one transformer, of which one or none is active: a distillation has its student, its
teacher (none) and its fake score on one copy of the weights. They are trained in fp32 whatever the transformer's
type, and saved under names that both diffusers and ComfyUI read: Wan's own, after `diffusion_model.`. ComfyUI knows
no others for Wan (its `model_lora_keys_unet`), and diffusers converts them.
"""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import safe_open
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from wanbatch.errors import UserError
from wanbatch.pipeline.adapters.tensors import LowRank
from wanbatch.pipeline.adapters.wan_layers import BLOCK_LAYERS, OWN_NAMES
from wanbatch.pipeline.core.tensor_files import save_tensors
from wanbatch.pipeline.models.attention_choice import attention_kernels
from wanbatch.pipeline.models.dit import FrameTransformer

IMAGE_LAYERS = tuple(layer for layer in BLOCK_LAYERS if layer not in ("attn2.to_k", "attn2.to_v"))
"""Those that see the picture: the text's keys and values stay those of the model."""

PREFIX = "transformer."
FILE_PREFIX = "diffusion_model."
_PARTS = re.compile(r"blocks\.(\d+)\.(.+)\.(lora_[AB]\.weight)")


class LowRankLinear(nn.Module):
    """A frozen linear layer, to which the active adapter adds `scale * up(down(x))`.

    Args:
        base: An `nn.Linear` or a `Float8FrozenLinear`.
    """

    base: Any

    def __init__(self, base: nn.Module):
        super().__init__()
        self.base = base
        self.down, self.up = nn.ParameterDict(), nn.ParameterDict()
        self.scales: dict[str, float] = {}
        self.active: str | None = None

    def add(self, name: str, rank: int, alpha: float, generator: torch.Generator) -> None:
        """Lay one more adapter beside the weights; it changes nothing until it is trained."""
        outer, inner = self.base.weight.shape
        bound = 1 / math.sqrt(inner)  # as PEFT begins
        down = (torch.rand(rank, inner, generator=generator) * 2 - 1) * bound
        device = self.base.weight.device
        self.down[name] = nn.Parameter(down.to(device))
        self.up[name] = nn.Parameter(torch.zeros(outer, rank, device=device))
        self.scales[name] = alpha / rank

    def forward(self, hidden: Tensor) -> Tensor:
        plain = self.base(hidden)
        if self.active is None:
            return plain
        down, up = self.down[self.active], self.up[self.active]
        if not torch.is_autocast_enabled(hidden.device.type):  # which casts the small matrices instead
            hidden = hidden.to(down.dtype)
        change = F.linear(F.linear(hidden, down), up)
        return plain + (change * self.scales[self.active]).type_as(plain)


class _Joined(nn.Module):
    """Query, key and value of the self-attention, one beside the other."""

    def __init__(self, parts: Sequence[nn.Module]):
        super().__init__()
        self.parts = nn.ModuleList(parts)

    def forward(self, hidden: Tensor) -> Tensor:
        return torch.cat([part(hidden) for part in self.parts], dim=-1)


class LowRankAdapters:
    """The adapters of a `FrameTransformer`, or of several by name, which are frozen; they must not be fused.

    Args:
        dit: The transformer, or the experts of A14B that adapters change. Their layers are replaced in place.
        layers: Which of `BLOCK_LAYERS` adapters change.
    """

    def __init__(self, dit: FrameTransformer | Mapping[str, FrameTransformer], layers: Sequence[str] = BLOCK_LAYERS):
        experts = dit if isinstance(dit, Mapping) else {"": dit}
        self.experts = tuple(experts)
        self._blocks = [block for transformer in experts.values() for block in transformer.blocks]
        self.layers: dict[str, LowRankLinear] = {}
        self.ranks: dict[str, int] = {}
        self.alphas: dict[str, float] = {}
        for expert, transformer in experts.items():
            transformer.requires_grad_(False)
            for index, block in enumerate(transformer.blocks):
                for layer in layers:
                    replaced = LowRankLinear(block.get_submodule(layer))
                    block.set_submodule(layer, replaced)
                    self.layers[_key(expert, f"blocks.{index}.{layer}")] = replaced
                attention = block.attn1
                block.qkv = _Joined((attention.to_q, attention.to_k, attention.to_v))

    def paths(self, expert: str = "") -> dict[str, LowRankLinear]:
        """The layers of one transformer, by their paths in it."""
        start = _key(expert, "")
        return {key.removeprefix(start): layer for key, layer in self.layers.items() if key.startswith(start)}

    def add(self, name: str, rank: int, alpha: float | None = None, seed: int = 0) -> list[nn.Parameter]:
        """Add an adapter and return its parameters.

        Args:
            name: Of the adapter.
            rank: Of every layer's change.
            alpha: The change is scaled by alpha / rank; None: not scaled.
            seed: Of the random half of the adapter; the other half begins at zero.
        """
        self.ranks[name], self.alphas[name] = rank, float(rank if alpha is None else alpha)
        generator = torch.Generator().manual_seed(seed)
        for layer in self.layers.values():
            layer.add(name, rank, self.alphas[name], generator)
        return self.parameters(name)

    def parameters(self, name: str) -> list[nn.Parameter]:
        """The adapter's parameters in a fixed order: of each layer the matrix down and the matrix up."""
        return [matrix for layer in self.layers.values() for matrix in (layer.down[name], layer.up[name])]

    @contextlib.contextmanager
    def active(self, name: str | None) -> Iterator[None]:
        """Within, an adapter is active; None: the transformer is as it was."""
        before = self._active
        self._activate(name)
        try:
            yield
        finally:
            self._activate(before)

    def checkpoint_blocks(self) -> None:
        """Compute each block again in the backward pass, as it was computed, instead of keeping what it made."""
        for block in self._blocks:
            block.forward = self._checkpointed(block.forward)

    def _checkpointed(self, forward: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def computed(hidden: Tensor, *arguments: Any) -> Tensor:
            if not torch.is_grad_enabled():
                return forward(hidden, *arguments)
            name = self._active

            def contexts() -> tuple[Any, Any]:
                return contextlib.nullcontext(), self._again(name, hidden.device)

            return checkpoint(forward, hidden, *arguments, use_reentrant=False, context_fn=contexts)

        return computed

    @contextlib.contextmanager
    def _again(self, name: str | None, device: torch.device) -> Iterator[None]:
        """What blocks find in the forward pass, and not in the backward pass that computes them again."""
        with self.active(name), attention_kernels(device):
            yield

    @property
    def _active(self) -> str | None:
        return next(iter(self.layers.values())).active

    def _activate(self, name: str | None) -> None:
        for layer in self.layers.values():
            layer.active = name

    def state(self, name: str, dtype: torch.dtype = torch.bfloat16, expert: str = "") -> dict[str, Tensor]:
        """An adapter's matrices of a transformer by diffusers' names, on the CPU; the scale is in the upper ones."""
        found = {}
        for path, layer in self.paths(expert).items():
            up = layer.up[name].detach() * layer.scales[name]
            found[f"{PREFIX}{path}.lora_A.weight"] = layer.down[name].detach().to("cpu", dtype).contiguous()
            found[f"{PREFIX}{path}.lora_B.weight"] = up.to("cpu", dtype).contiguous()
        return found

    @torch.no_grad()
    def load(self, name: str, state: Mapping[str, Tensor], expert: str = "") -> None:
        """Take up matrices that `state` gave.

        Raises:
            UserError: If they are not those of this adapter.
        """
        wanted = set(self.state(name, expert=expert))
        if wanted != set(state):
            other = sorted(wanted ^ set(state))
            raise UserError(f"the adapter has other layers than the training: {other[0]} and {len(other) - 1} more")
        for path, layer in self.paths(expert).items():
            layer.down[name].copy_(state[f"{PREFIX}{path}.lora_A.weight"])
            layer.up[name].copy_(state[f"{PREFIX}{path}.lora_B.weight"] / layer.scales[name])

    def save(
        self,
        name: str,
        path: Path,
        header: Mapping[str, Any],
        dtype: torch.dtype = torch.bfloat16,
        expert: str = "",
    ) -> None:
        """Write an adapter of one transformer as safetensors, whole or not at all, under `name_in_file`.

        Args:
            name: Of the adapter.
            path: Of the file.
            header: What else its header says; values are written as text. The rank is added, and an alpha that is the
                same: readers that know of none then scale rightly, too.
            dtype: Of the matrices.
            expert: Which transformer's.
        """
        said = {"ss_network_dim": self.ranks[name], "ss_network_alpha": self.ranks[name]} | dict(header)
        tensors = {name_in_file(key): matrix for key, matrix in self.state(name, dtype, expert).items()}
        save_tensors(tensors, path, {key: str(value) for key, value in said.items()})


def _key(expert: str, path: str) -> str:
    return f"{expert}/{path}" if expert else path


def name_in_file(key: str) -> str:
    """What a matrix is called in a file.

    Args:
        key: Of `LowRankAdapters.state`, `transformer.blocks.0.attn1.to_q.lora_A.weight`.

    Returns:
        `diffusion_model.blocks.0.self_attn.q.lora_A.weight`.
    """
    return _renamed(key, PREFIX, FILE_PREFIX, OWN_NAMES)


def read_state(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The matrices and the header of an adapter that `LowRankAdapters.save` wrote, by the keys of `state`.

    Files of before this version have those keys themselves.
    """
    theirs = {ours: layer for layer, ours in OWN_NAMES.items()}
    with safe_open(path, framework="pt") as file:
        found = {_renamed(key, FILE_PREFIX, PREFIX, theirs): file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        return found, dict(file.metadata() or {})


def _renamed(key: str, before: str, after: str, layers: Mapping[str, str]) -> str:
    """A key with another prefix, and another name of the layer inside its block; as it is if it is no such key."""
    found = _PARTS.fullmatch(key.removeprefix(before))
    if not key.startswith(before) or found is None:
        return key
    block, layer, part = found.groups()
    return f"{after}blocks.{block}.{layers[layer]}.{part}"


def state_of_pairs(pairs: Mapping[str, LowRank]) -> dict[str, Tensor]:
    """Low-rank changes as `LowRankAdapters.load` takes them, fp32.

    Args:
        pairs: By diffusers' name of the layer.
    """
    state = {}
    for path, pair in pairs.items():
        state[f"{PREFIX}{path}.lora_A.weight"] = pair.down.float()
        state[f"{PREFIX}{path}.lora_B.weight"] = pair.up.float() * pair.scale
    return state
