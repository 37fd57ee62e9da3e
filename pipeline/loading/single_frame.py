"""A model's parts as they are run for single frames: which of our modules takes the place of which loaded one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from wanbatch.errors import UserError
from wanbatch.pipeline.core.backends import VAE
from wanbatch.pipeline.loading.compiler import set_up_dynamo
from wanbatch.pipeline.loading.registry import ModelInfo
from wanbatch.pipeline.loading.runtime import Runtime
from wanbatch.pipeline.models import fp8, int8
from wanbatch.pipeline.models.dit import FrameTransformer
from wanbatch.pipeline.models.dit_block import FrameBlock
from wanbatch.pipeline.models.float8_weights import Float8Embedding
from wanbatch.pipeline.models.own_kernels import kernels_usable
from wanbatch.pipeline.models.umt5 import PlainUMT5
from wanbatch.pipeline.models.umt5_parts import UMT5Encoder
from wanbatch.pipeline.models.vae import FrameVAE

if TYPE_CHECKING:
    from wanbatch.pipeline.models.umt5_fused import FusedUMT5


PRECISION_OF = {"float32": "fp32", "bfloat16": "bf16"}


@dataclass(frozen=True, slots=True)
class CompiledVAE:
    """Both directions of a VAE, compiled for the exact shapes that come."""

    encode: Callable[[Tensor], Tensor]
    decode: Callable[[Tensor], Tensor]


def check_precision(runtime: Runtime, device: torch.device, info: ModelInfo | None = None, dtype: str = "") -> None:
    """Check that a model can run so: products of eight bits are tried on the device, if the large layers run in such.

    Args:
        runtime: How it is to run.
        device: Where.
        info: Of the model, if it may be a converted one.
        dtype: Of its weights and activations.

    Raises:
        UserError: If a product fails or is wrong, or a converted model has not as much.
    """
    precision = "fp8" if runtime.fp8 else "int8" if runtime.int8 else PRECISION_OF.get(dtype, "")
    if info is not None and info.converted is not None and not info.converted.runs_in(precision):
        raise UserError(info.converted.refusal(info.name, precision))
    if runtime.fp8:
        fp8.check_product(device)
    if runtime.int8:
        int8.check_product(device)


def layers_name(runtime: Runtime, device: torch.device) -> str:
    """What the large layers run in, as the end of a backend's name; empty if it is the dtype of the rest."""
    if runtime.fp8:
        return "-fp8" if device.type == "cuda" else "-fp8-emulated"
    return "-int8" if runtime.int8 else ""


def single_frame_transformer(model: Any, runtime: Runtime, device: torch.device) -> FrameTransformer:
    """A transformer as it is run on a device.

    Args:
        model: A `WanTransformer3DModel` or `WanParts`, which need not be on the device yet; or a `FrameTransformer`
            whose blocks were made ready (`block_maker`).
        runtime: How it is run.
        device: Where it will be run.

    Raises:
        UserError: If the model cannot be run for single frames, or not in FP8 if that is asked for.
    """
    frame = model
    if not isinstance(model, FrameTransformer):
        frame, make_ready = FrameTransformer(model), block_maker(runtime, device)
        for block in frame.blocks:
            make_ready(block)
    if kernels_usable(device):
        frame.use_kernels()
    if runtime.merged_rows:
        frame.merge_rows()
    if not runtime.compile or frame.fused:
        return frame
    set_up_dynamo()
    return frame.compile_blocks()


def block_maker(runtime: Runtime, device: torch.device) -> Callable[[FrameBlock], None]:
    """What makes a transformer's blocks ready to be run: query, key and value joined, and large layers in 8 bits.

    Args:
        runtime: How the model is run.
        device: Where it will be run, and weights are rounded.
    """

    if runtime.int8 and runtime.compile:
        set_up_dynamo()

    def make_ready(block: FrameBlock) -> None:
        block.fuse()
        if runtime.fp8:
            block.replace_linears(partial(fp8.float8_linear, device=device), runtime.merged_rows)
        if runtime.int8:
            linear = partial(int8.int8_linear, device=device, compiled=runtime.compile)
            block.replace_linears(linear, runtime.merged_rows)

    return make_ready


def text_maker(runtime: Runtime, device: torch.device) -> Callable[[UMT5Encoder, str], None] | None:
    """What makes a text encoder's parts ready to be run, see `weights.TextReady`; None: nothing is to be done."""

    def make_ready(encoder: UMT5Encoder, part: str) -> None:
        encoder.to_float8_weights(part, device)

    return make_ready if runtime.text_fp8 else None


def single_frame_text_encoder(
    model: Any, device: torch.device, fp8: bool = False
) -> tuple[PlainUMT5 | FusedUMT5, str]:
    """A `UMT5Encoder` or `UMT5EncoderModel` as it is run on a device, and what runs it: `kernels` or `eager`.

    Args:
        model: The encoder, which need not be on the device yet.
        device: Where it will be run.
        fp8: Whether its weights are to be in FP8.

    Raises:
        UserError: They are not.
    """
    if fp8 and not isinstance(model.shared, Float8Embedding):
        raise UserError("setting text_precision: this runs the model's own text encoder as it is: leave it out")
    if kernels_usable(device):
        from wanbatch.pipeline.models.umt5_fused import FusedUMT5  # needs Triton

        if FusedUMT5.fits(model):
            return FusedUMT5(model), "kernels"
    return PlainUMT5(model), "eager"


def single_frame_vae(model: Any, device: torch.device) -> FrameVAE:
    """An `AutoencoderKLWan`, or a `FrameVAE`, which is changed, as it is run on a device, perhaps not there yet."""
    vae = (model if isinstance(model, FrameVAE) else FrameVAE.from_video(model)).eval().fuse_upsample()
    if device.type == "cuda":
        vae.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return vae


def runnable_vae(vae: FrameVAE, runtime: Runtime, device: torch.device) -> tuple[VAE, str]:
    """What runs a `single_frame_vae`, and its name: `kernels`, `compiled` or `eager`.

    Args:
        vae: Which need not be on the device yet.
        runtime: How it is run.
        device: Where it will be run.
    """
    if device.type == "cuda" and vae.quant_conv.weight.dtype != torch.float32:
        vae.write_scores()
    if kernels_usable(device):
        from wanbatch.pipeline.models.vae_fused import FusedVAE  # needs Triton

        return FusedVAE(vae), "kernels"
    return (compiled_vae(vae), "compiled") if runtime.compile else (vae, "eager")


def compiled_vae(vae: FrameVAE) -> CompiledVAE:
    """The same VAE with both directions compiled."""
    set_up_dynamo()
    encode, decode = (torch.compile(function, fullgraph=True, dynamic=False) for function in (vae.encode, vae.decode))
    return CompiledVAE(encode, decode)
