"""Stand-ins: blocks of zeros that are like those of the model in all but their numbers."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from torch import nn

from wanbatch.pipeline.loading import registry, single_frame, weights
from wanbatch.pipeline.loading.random_model import PUBLISHED, TEXT
from wanbatch.pipeline.loading.registry import ModelInfo
from wanbatch.pipeline.loading.runtime import Runtime
from wanbatch.pipeline.loading.stand_ins import STAND_IN_BYTES, stand_ins


@pytest.fixture
def info(model_folder) -> ModelInfo:
    return registry.find(str(model_folder))


@pytest.mark.parametrize("runtime", [Runtime(), Runtime(fp8=True, text_fp8=True), Runtime(int8=True)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_stand_ins_have_the_weights_of_the_model_s_first_blocks_in_shape_dtype_and_strides(info, runtime, dtype):
    cpu = torch.device("cpu")
    makers = single_frame.block_maker(runtime, cpu), single_frame.text_maker(runtime, cpu)
    theirs, ours = weights.load(info, cpu, dtype, *makers), stand_ins(info, cpu, dtype, runtime)
    embeddings = ("shared.", "encoder.embed_tokens.")  # of fewer tokens
    for name in ("transformer", "vae", "text_encoder"):
        expected, found = forms(getattr(theirs, name)), forms(getattr(ours, name))
        assert found.keys() <= expected.keys()
        first_blocks = {key for key in expected if not key.startswith("blocks.2.")}
        assert found.keys() == first_blocks
        assert [key for key in found if found[key] != expected[key] and not key.startswith(embeddings)] == []


def forms(module: nn.Module) -> dict[str, tuple]:
    tensors = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    return {name: (tuple(one.shape), one.stride(), one.dtype, one.requires_grad) for name, one in tensors.items()}


@pytest.mark.parametrize("size", ["5b", "a14b", "1.3b"])
def test_stand_ins_of_wans_models_take_no_more_room_than_is_asked_for(size, tmp_path):
    published = PUBLISHED[size]
    for part, config in (("transformer", published.transformer), ("vae", published.vae), ("text_encoder", TEXT)):
        (tmp_path / part).mkdir()
        (tmp_path / part / "config.json").write_text(json.dumps(config))
    made = stand_ins(replace(registry.find(), folder=str(tmp_path)), torch.device("meta"), torch.bfloat16, Runtime())
    parts = (made.transformer, made.vae, made.text_encoder)
    tensors = {one for part in parts for one in (*part.parameters(), *part.buffers())}
    assert 500e6 < sum(one.nbytes for one in tensors) < STAND_IN_BYTES
