"""The small models of `small_models.py`, made once a session."""

from __future__ import annotations

from pathlib import Path

import pytest
from diffusers import WanPipeline, WanTransformer3DModel
from small_models import random_transformer, save_random_pipeline

from wanbatch.pipeline.generate import Wan
from wanbatch.pipeline.loading import registry


@pytest.fixture(scope="session")
def transformer() -> WanTransformer3DModel:
    return random_transformer()


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory) -> Path:
    return save_random_pipeline(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="session")
def pipeline(model_folder) -> WanPipeline:
    """diffusers' own pipeline on the small model."""
    loaded = WanPipeline.from_pretrained(model_folder, use_safetensors=True)
    loaded.set_progress_bar_config(disable=True)
    return loaded


@pytest.fixture(scope="session")
def wan(model_folder) -> Wan:
    return Wan.load(registry.find(str(model_folder)), slots=3)
