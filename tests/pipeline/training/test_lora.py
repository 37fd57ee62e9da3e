"""Training of adapters: captions and sizes, a training that goes on to the bit, and what is left in the folder."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKLWan, WanPipeline
from huggingface_hub import ModelCard
from PIL import Image
from safetensors.torch import load_file, save_file
from two_experts import two_blocks

from wanbatch.errors import UserError
from wanbatch.pipeline.loading.registry import ModelInfo
from wanbatch.pipeline.training.few_step import card as few_step_card
from wanbatch.pipeline.training.few_step import measures as few_step_measures
from wanbatch.pipeline.training.few_step.settings import FewStepSettings
from wanbatch.pipeline.training.lora.buckets import bucket, fitted
from wanbatch.pipeline.training.lora.captions import check_template, fill
from wanbatch.pipeline.training.lora.card import About, write
from wanbatch.pipeline.training.lora.examples import Picture, encode_examples
from wanbatch.pipeline.training.lora.measures import Measures
from wanbatch.pipeline.training.lora.model import TrainingModel
from wanbatch.pipeline.training.lora.run import Listener, train_lora
from wanbatch.pipeline.training.lora.settings import LoraSettings
from wanbatch.pipeline.training.lora.start import AT_NO_CHANGE, check_start, start_of
from wanbatch.pipeline.training.lora.training import LoraTraining, fixed_loss
from wanbatch.pipeline.training.low_rank import LowRankAdapters, LowRankLinear, read_state

SETTINGS = LoraSettings(
    rank=2,
    alpha=1.0,
    rate=5e-3,
    steps=6,
    batch=2,
    save_every=2,
    sample_every=0,
    sample_steps=1,
    warm_up=1,
    average=0.5,
)
ABOUT = About("plain", "tiny", "a list", 5, template="{trigger} {caption}", trigger="wug", rights="drawn here")


def pictures() -> list[Picture]:
    drawn = np.random.default_rng(3)
    shapes = [(16, 16)] * 4 + [(16, 32)]
    return [
        Picture(drawn.integers(0, 255, (*shape, 3), dtype=np.uint8), f"wug picture {number}")
        for number, shape in enumerate(shapes)
    ]


@pytest.fixture(scope="module")
def info(tmp_path_factory) -> ModelInfo:
    return two_blocks(tmp_path_factory.mktemp("small") / "model")


def model_of(info) -> TrainingModel:
    return TrainingModel.load(info, torch.device("cpu"), torch.float32)


def train(info, out, settings=SETTINGS, given=None, model=None, start=AT_NO_CHANGE):
    return train_lora(
        model or model_of(info), given or pictures(), ABOUT, settings, out, area=32 * 32,
        unrelated=("a dog",), start=start, listener=Listener(say=lambda text: None),
    )  # fmt: skip


def stopped_after(monkeypatch, steps: int):
    """Ends the training as a killed process does: after so many steps nothing is written any more."""

    class Killed(Exception):
        pass

    whole = LoraTraining._step

    def step(self, number):
        if number >= steps:
            raise Killed
        return whole(self, number)

    monkeypatch.setattr(LoraTraining, "_step", step)
    return Killed


def test_a_training_that_is_killed_goes_on_to_the_bit_and_leaves_all_that_was_promised(info, tmp_path, monkeypatch):
    file, measured = train(info, tmp_path / "whole")
    with monkeypatch.context() as patched:
        killed = stopped_after(patched, 3)  # a state was kept after 2
        with pytest.raises(killed):
            train(info, tmp_path / "halves")
    again, _ = train(info, tmp_path / "halves")
    wanted, header = read_state(file)
    found, _ = read_state(again)
    assert all(torch.equal(found[name], value) for name, value in wanted.items())
    assert json.loads((tmp_path / "halves/losses.json").read_text()) == json.loads(
        (tmp_path / "whole/losses.json").read_text()
    )
    assert header["ss_network_dim"] == "2"
    assert header["modelspec.trigger_phrase"] == "wug"
    assert 0 < measured.file_difference < 0.01
    assert "20 of 20" in measured.coverage, measured.coverage
    assert measured.held_out_pictures == 1
    card = (tmp_path / "whole/README.md").read_text()
    assert ModelCard(card).data["base_model"] == "tiny"
    assert "Rights in them: drawn here" in card
    for picture in re.findall(r"^!\[.*?\]\((.*?)\)$", card, re.MULTILINE):
        assert (tmp_path / "whole" / picture).exists(), picture
    assert (tmp_path / "whole/loss.svg").read_text().startswith("<svg")
    with Image.open(tmp_path / "whole/samples/end.png") as sheet:
        assert sheet.height == 4 * 36  # two pairs of lines


def test_the_adapter_is_there_before_it_is_measured(info, tmp_path, monkeypatch):
    def interrupted(*given):
        raise KeyboardInterrupt

    said: list[str] = []
    settings, listener = replace(SETTINGS, steps=1), Listener(say=said.append)
    given = {"area": 32 * 32, "unrelated": ("a dog",), "listener": listener}
    with monkeypatch.context() as patched:
        patched.setattr("wanbatch.pipeline.training.lora.run.compare", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train_lora(model_of(info), pictures(), ABOUT, settings, tmp_path / "out", **given)
    (file,) = (tmp_path / "out").glob("*.safetensors")
    before, _ = read_state(file)
    assert f"{file} is written; now pictures of" in said[-1]
    assert train_lora(model_of(info), pictures(), ABOUT, settings, tmp_path / "out", **given)[0] == file
    assert all(torch.equal(value, before[name]) for name, value in read_state(file)[0].items())


def test_prior_pictures_are_trained_beside_the_others_and_a_training_has_always_the_same(info, tmp_path):
    drawn = np.random.default_rng(9)
    prior = [Picture(drawn.integers(0, 255, (16, 16, 3), dtype=np.uint8), f"other {number}") for number in range(3)]
    losses = {}
    settings = replace(SETTINGS, steps=10, held_out=0.0, average=0.0, rate=5e-2, save_every=10)
    for name, given in (("plain", ()), ("prior", prior)):
        model = model_of(info)
        train_lora(
            model, pictures(), ABOUT, settings, tmp_path / name, area=32 * 32, unrelated=("a dog",), prior=given,
            prior_weight=4.0, listener=Listener(say=lambda text: None),
        )  # fmt: skip
        # What it was trained with lies in the transformer still, and is active while it is measured.
        kept = encode_examples(prior, model, 32 * 32, tmp_path / "cache", lambda number: None)
        for layer in model.dit.modules():
            if isinstance(layer, LowRankLinear):
                layer.active = ABOUT.name
        losses[name] = fixed_loss(model, kept)
    assert losses["prior"] < 0.97 * losses["plain"]
    with pytest.raises(UserError, match="has a training with another --prior or none: give what"):
        train(info, tmp_path / "prior", settings)


def test_a_training_begins_with_an_adapter_that_there_is(info, tmp_path):
    first, adapters = tmp_path / "first.safetensors", LowRankAdapters(model_of(info).dit)
    for parameter in adapters.add("first", 2):
        torch.nn.init.normal_(parameter, std=0.02)
    adapters.save("first", first, {})
    settings = replace(SETTINGS, steps=1, rate=1e-9, average=0.0, alpha=4.0, weight_decay=0.0)
    start = start_of(check_start(first, info, settings), settings)
    again, measured = train(info, tmp_path / "again", settings, start=start)
    wanted, found = read_state(first)[0], read_state(again)[0]
    for name, matrix in wanted.items():
        torch.testing.assert_close(found[name].float(), matrix.float(), rtol=0.01, atol=1e-6)
    assert measured.gain != 0
    with pytest.raises(UserError, match="has a training with another --start-from or none"):
        train(info, tmp_path / "again", settings)
    tensors, header = read_state(first)
    half = {name: value for name, value in tensors.items() if "ffn" not in name}
    save_file(half, tmp_path / "half.safetensors", header)
    with pytest.raises(UserError, match=r"changes 16 of 20 layers, .* start from a LoRA that has them, or drop it"):
        check_start(tmp_path / "half.safetensors", info, settings)
    with pytest.raises(UserError, match="has rank 2, and the training 3: give --rank 2"):
        check_start(first, info, replace(settings, rank=3))


def test_latents_and_captions_are_encoded_once(info, tmp_path, monkeypatch):
    def kept(given: list[Picture]):
        return encode_examples(given, model, 32 * 32, tmp_path, lambda number: None)

    model = model_of(info)
    first = kept(pictures())
    encoded: list[str] = []
    encode = model.text.encode
    monkeypatch.setattr(model.text, "encode", lambda prompts: (encoded.extend(prompts), encode(prompts))[1])
    monkeypatch.setattr(model.vae, "encode", lambda pixels: pytest.fail("there are latents"))
    again = kept(pictures())
    assert encoded == []
    assert list(again.texts) == list(first.texts)
    assert all(torch.equal(states, first.texts[prompt]) for prompt, states in again.texts.items())
    assert all(torch.equal(*both) for both in zip(first.latents, again.latents, strict=True))
    next(tmp_path.glob("text-*")).write_bytes(b"cut off")
    kept([replace(picture, caption="wug") for picture in pictures()])
    assert "wug" in encoded
    assert len(encoded) <= 2


COMFYUI_NAMES = (
    "self_attn.q", "self_attn.k", "self_attn.v", "self_attn.o", "cross_attn.q", "cross_attn.k", "cross_attn.v",
    "cross_attn.o", "ffn.0", "ffn.2",
)  # fmt: skip
"""Of the linear layers of a block; ComfyUI takes `diffusion_model.blocks.N.` before them, as its model has them."""


def test_diffusers_reads_the_file_and_gives_the_same_velocity_and_its_names_are_those_of_comfyui(info, tmp_path):
    model = model_of(info)
    file, _ = train(info, tmp_path, replace(SETTINGS, steps=2, save_every=2, rate=0.1), model=model)
    assert set(load_file(file)) == {
        f"diffusion_model.blocks.{block}.{name}.lora_{side}.weight"
        for block in range(info.layers) for name in COMFYUI_NAMES for side in "AB"
    }  # fmt: skip
    pipeline = WanPipeline.from_pretrained(info.folder, dtype=torch.float32)
    pipeline.load_lora_weights(str(tmp_path), weight_name=file.name)
    states = next(iter(model.embeddings(["a dog"]).values()))[None]
    noisy = torch.randn(1, 32, 8, 8, generator=torch.Generator().manual_seed(0))
    level = torch.tensor([0.6])
    with torch.no_grad():
        theirs = pipeline.transformer(
            noisy[:, :, None], level * 1000, torch.nn.functional.pad(states, (0, 0, 0, 512 - states.shape[1]))
        ).sample[:, :, 0]  # fmt: skip
        ours = _velocity(model, noisy, level, states)
        plain = _velocity(model, noisy, level, states, active=False)
    assert (ours - plain).norm() > 1e-3 * plain.norm()
    assert (theirs - ours).norm() < 0.01 * (ours - plain).norm() + 1e-4 * plain.norm()


def _velocity(model, noisy, level, states, active: bool = True):
    layers = [module for module in model.dit.modules() if hasattr(module, "scales")]
    for layer in layers:
        layer.active = "read back" if active else None
    try:
        return model.velocity(noisy, level, states, torch.tensor([states.shape[1]]))
    finally:
        for layer in layers:
            layer.active = None


def test_a_loss_that_is_not_a_number_ends_the_training_and_keeps_the_last_state(info, tmp_path, monkeypatch):
    whole = LoraTraining._loss

    def broken(self, examples):
        return whole(self, examples) * (math.nan if len(self.losses) == 3 else 1.0)

    monkeypatch.setattr(LoraTraining, "_loss", broken)
    with pytest.raises(UserError, match=r"the loss is nan at step 4: the state after 2 steps is kept in .*--rate"):
        train(info, tmp_path)
    assert torch.load(tmp_path / "state.pt", weights_only=True)["step"] == 2


def test_weights_that_are_not_numbers_are_never_kept_though_the_loss_was_one(info, tmp_path, monkeypatch):
    whole = LoraTraining._loss

    def broken(self, examples):
        nothing = self.learner.parameters[0].sum() * 0  # whose square root has a gradient that is no number
        return whole(self, examples) + (nothing.sqrt() if len(self.losses) == 3 else 0)

    monkeypatch.setattr(LoraTraining, "_loss", broken)
    said = r"weights of the adapter are no numbers after step 4: the state after 2 steps is kept in .*--rate"
    with pytest.raises(UserError, match=said):
        train(info, tmp_path)
    assert torch.load(tmp_path / "state.pt", weights_only=True)["step"] == 2
    with pytest.raises(UserError, match="after step 4: no state was kept yet"):
        train(info, tmp_path / "seldom", replace(SETTINGS, steps=4, save_every=5))
    assert not list((tmp_path / "seldom").glob("*.pt")) + list((tmp_path / "seldom").glob("*.safetensors"))


def test_a_folder_of_another_training_is_refused(info, tmp_path):
    model = model_of(info)
    quick = replace(SETTINGS, steps=1)
    train(info, tmp_path, quick, model=model)
    with pytest.raises(UserError, match=r"has a training with rate 0.005, not 0.1: give what it was begun with"):
        train(info, tmp_path, replace(quick, rate=0.1))
    with pytest.raises(UserError, match="has a training with other pictures or captions"):
        train(info, tmp_path, quick, [*pictures()[:4], Picture(np.zeros((16, 32, 3), np.uint8), "wug")])


def test_captions_go_into_their_template():
    assert fill("{caption}, in {trigger} style", "a cat", "wug") == "a cat, in wug style"
    check_template("{caption}", None)
    with pytest.raises(UserError, match=r"has no \{caption\}: write where the caption goes"):
        check_template("in crayon", None)
    with pytest.raises(UserError, match="there is no trigger word: give --trigger"):
        check_template("{trigger} {caption}", None)
    with pytest.raises(UserError, match="the trigger 'wug' is not in the template"):
        check_template("{caption}", "wug")


@pytest.mark.parametrize("trigger", ["[V]", "sks: a dog", "a 'quoted' \"one\"", "#1", "yes", "düne"])
def test_cards_can_be_read_whatever_the_user_said(trigger):
    about = About("n", "models/[a]: b", "x", 1, trigger=trigger, license="other")
    measured = Measures(1, 1.0, 1.0, 0.1, 1.0, 1.0, 0.0, 30.0, 0.0, "all")
    read = ModelCard(write(about, LoraSettings(), measured, 1.0)).data
    assert (read["instance_prompt"], read["base_model"], read["license"]) == (trigger, about.base, "other")
    few = few_step_card.About("n", "models/[a]: b", "x", 1, license="a: b")
    made = few_step_measures.Measures(4, 1.0, 0.5, 0.5, 0.5, 0.0, "all")
    done = {"steps": 1, "seconds": 1.0, "phase": "matching"}
    text = few_step_card.write(few, FewStepSettings(), made, done, (32, 32), ["n.safetensors"])
    assert ModelCard(text).data["license"] == "a: b"


def test_pictures_are_brought_to_sizes_of_one_area():
    assert bucket(100, 100, 16, 128 * 128) == (128, 128)
    assert bucket(4000, 2000, 32, 512 * 512) == (736, 352)
    assert bucket(1, 500, 16, 64 * 64) == (16, 256)
    picture = Image.fromarray(np.repeat(np.arange(90, dtype=np.uint8)[None, :, None], 30, 0).repeat(3, 2))
    cut = fitted(picture, (32, 32))
    assert cut.size == (32, 32)
    assert 28 <= cut.getpixel((0, 16))[0] <= 31  # the middle third of the width


def test_settings_that_cannot_be_are_refused():
    with pytest.raises(UserError, match="unknown noise levels 'cosine'; there are logit_normal, uniform"):
        LoraSettings(levels="cosine")
    with pytest.raises(UserError, match="rank is 0: must be at least 1"):
        LoraSettings(rank=0)


def test_checkpointing_changes_memory_and_not_gradients(info):
    gradients = []
    for checkpointing in (False, True):
        model = model_of(info)
        adapters = LowRankAdapters(model.dit)
        adapters.add("a", 2)
        if checkpointing:
            adapters.checkpoint_blocks()
        noisy = torch.randn(1, 32, 2, 2, generator=torch.Generator().manual_seed(0)).requires_grad_()
        states = next(iter(model.embeddings(["a dog"]).values()))[None]
        with adapters.active("a"):
            velocity = model.velocity(noisy, torch.tensor([0.5]), states, torch.tensor([states.shape[1]]))
        gradients.append(torch.autograd.grad(velocity.square().sum(), noisy)[0])
    assert torch.equal(*gradients)


def test_the_autoencoder_is_the_frozen_one(info):
    model = model_of(info)
    assert not any(parameter.requires_grad for parameter in model.vae.parameters())
    assert AutoencoderKLWan.load_config(f"{info.folder}/vae")["z_dim"] == len(model.vae.mean)
