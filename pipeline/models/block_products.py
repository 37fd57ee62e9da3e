"""The products of a transformer's block by the linear layers that each stands for. No torch."""

from __future__ import annotations

PRODUCTS: dict[str, tuple[str, ...]] = {
    "qkv": ("attn1.to_q", "attn1.to_k", "attn1.to_v"),
    "out": ("attn1.to_out.0",),
    "text_query": ("attn2.to_q",),
    "text_out": ("attn2.to_out.0",),
    "inner": ("ffn.net.0.proj",),
    "outer": ("ffn.net.2",),
}
"""Of a batch's hidden states: the large layers, which may run in eight bits. The layers' names are diffusers'."""

TEXT_PRODUCTS: dict[str, tuple[str, ...]] = {"text_key": ("attn2.to_k",), "text_value": ("attn2.to_v",)}
"""Of the texts, once for each: these stay in the dtype of the rest."""

LARGE_WEIGHTS = frozenset(f"{layer}.weight" for product, layers in PRODUCTS.items() for layer in (*layers, product))
"""Names of the large layers' weights in a block; joined ones have their product's name (`FrameBlock.fuse`)."""
