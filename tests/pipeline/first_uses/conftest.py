"""Kernels in Triton's interpreter, which first uses are for."""

from __future__ import annotations

import pytest
from first_use_making import run_kernels

from wanbatch.pipeline.loading import registry
from wanbatch.pipeline.loading.registry import ModelInfo


@pytest.fixture
def kernels(monkeypatch):
    run_kernels(monkeypatch)


@pytest.fixture
def info(model_folder) -> ModelInfo:
    return registry.find(str(model_folder))
