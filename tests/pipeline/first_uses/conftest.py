"""Kernels in Triton's interpreter, which first uses are for."""

from __future__ import annotations

import pytest

from wanbatch.pipeline import generate
from wanbatch.pipeline.first_uses import beside_loading
from wanbatch.pipeline.loading import registry, single_frame
from wanbatch.pipeline.loading.registry import ModelInfo


@pytest.fixture
def kernels(monkeypatch):
    """Our kernels run on the CPU, but for those of the VAE, which take long in the interpreter."""
    pytest.importorskip("wanbatch.pipeline.models.dit_fused", reason="Triton is not installed")
    monkeypatch.setattr(beside_loading, "kernels_usable", lambda device: True)
    monkeypatch.setattr(single_frame, "kernels_usable", lambda device: True)
    monkeypatch.setattr(generate, "runnable_vae", lambda vae, runtime, device: (vae, "eager"))


@pytest.fixture
def info(model_folder) -> ModelInfo:
    return registry.find(str(model_folder))
