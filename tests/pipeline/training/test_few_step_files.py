"""What a distillation leaves: a file that diffusers reads, too, and never weights that are not numbers."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from diffusers import WanPipeline
from few_step_making import SETTINGS, distillation, small_model

from wanbatch.errors import UserError
from wanbatch.pipeline.adapters.files import ModelLayers, read_adapter
from wanbatch.pipeline.adapters.merging import merge
from wanbatch.pipeline.adapters.tensors import load_tensors
from wanbatch.pipeline.training.few_step.distillation import ADAPTER_FILE, STATE_FILE, Distillation
from wanbatch.pipeline.training.few_step.teacher import STUDENT


def test_diffusers_reads_the_file_as_a_run_does(tmp_path):
    distillation(tmp_path, 3).run(dict)
    theirs, ours = small_model(), small_model()
    (tensors,) = load_tensors(read_adapter(tmp_path / ADAPTER_FILE, ModelLayers.of_config(ours.config)))
    merge(ours, tensors)
    pipeline = WanPipeline(None, None, None, None, transformer=theirs)
    pipeline.load_lora_weights(tmp_path, weight_name=ADAPTER_FILE)
    pipeline.fuse_lora(components=["transformer"])
    pipeline.unload_lora_weights()
    before, found = dict(small_model().named_parameters()), dict(theirs.named_parameters())
    assert sum(not torch.equal(before[name], weight) for name, weight in ours.named_parameters()) == 2 * 8
    for name, weight in ours.named_parameters():
        torch.testing.assert_close(found[name], weight, rtol=1e-5, atol=1e-7, msg=name)


def test_a_loss_that_is_not_a_number_ends_the_training_and_keeps_the_last_good_state(tmp_path):
    distillation(tmp_path, 6, 2).run(dict)
    kept = (tmp_path / ADAPTER_FILE).read_bytes()
    broken = distillation(tmp_path, 6)
    broken.bank.latents.fill_(math.nan)
    with pytest.raises(UserError, match=r"loss is nan at step 6: the last good state is in .*lower learning rate"):
        broken.run(dict)  # which is seen when a state is to be kept, and now and then before
    (tmp_path / "early").mkdir()
    early = distillation(tmp_path / "early", 6)
    early.bank.latents.fill_(math.nan)
    with pytest.raises(UserError, match=r"loss is nan at step 0: no state was kept yet"):
        early.run(dict)
    assert (tmp_path / ADAPTER_FILE).read_bytes() == kept


def test_weights_that_are_not_numbers_are_never_kept_though_the_loss_was_one(tmp_path):
    def broken(steps: int) -> Distillation:
        training = distillation(tmp_path, steps)
        training.learners[STUDENT].parameters[0].register_hook(lambda gradient: gradient * math.nan)
        return training

    with pytest.raises(UserError, match="student are no numbers at step 1: no state was kept yet; begin again"):
        broken(1).run(dict)
    assert not list(tmp_path.glob("*.pt")) + list(tmp_path.glob("*.safetensors"))
    lower = replace(SETTINGS, consistency_rate=SETTINGS.consistency_rate / 3)
    distillation(tmp_path, 2, settings=lower).run(dict)
    kept = {name: (tmp_path / name).read_bytes() for name in (STATE_FILE, ADAPTER_FILE)}
    with pytest.raises(UserError, match="weights of the student are no numbers at step 3: the last good state is in"):
        broken(3).run(dict)
    assert {name: (tmp_path / name).read_bytes() for name in kept} == kept
