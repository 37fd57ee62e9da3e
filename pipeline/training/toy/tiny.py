"""Trains the small model that ships with the package, from nothing.

    python -m wanbatch.pipeline.training.toy.tiny --out DIR            on one GPU, about 35 minutes
    python -m wanbatch.pipeline.training.toy.tiny --out DIR --smoke    on a CPU, seconds: the ways, not the quality

Stages, in order: judge (the network that reads pictures back), vae, latents (their mean and deviation), dit (the
transformer with the text encoder), strictness (how sure the judge has to be), score (the numbers and the model card).
Each leaves its result in DIR, which in the end is a diffusers folder; `--stages` names those to run. The same command
goes on where an earlier one ended, as after `--stop-after MINUTES`.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import random
import time
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKLWan, UniPCMultistepScheduler, WanPipeline, WanTransformer3DModel
from safetensors.torch import load_file
from torch import Tensor
from transformers import UMT5Config, UMT5EncoderModel

from wanbatch.pipeline.evaluation.judge import Judge
from wanbatch.pipeline.models.vae import FrameVAE
from wanbatch.pipeline.training.loop import Budget
from wanbatch.pipeline.training.toy import autoencoder, captions, card, denoiser, judge, scores, strictness, world
from wanbatch.pipeline.training.toy.tokenizer import build_tokenizer

ANY_STYLE = -1
STAGES = ("judge", "vae", "latents", "dit", "strictness", "score")


@dataclass(frozen=True, slots=True)
class Recipe:
    """Every number of the training. Sizes are (height, width) in pixels, the first the main one."""

    seed: int = 21
    sizes: tuple[tuple[int, int], ...] = ((128, 128), (160, 160), (128, 192), (192, 128), (256, 256))
    main_share: float = 0.7
    minutes: dict[str, float] = field(default_factory=lambda: {"judge": 3.0, "vae": 8.0, "dit": 20.0})
    max_steps: int = 1_000_000
    judge_pictures: int = 120_000
    judge_batch: int = 256
    vae_pictures: int = 160_000
    vae_batch: int = 256
    dit_pictures: int = 400_000
    dit_batch: int = 512
    dit_rate: float = 1e-3
    score_pictures: int = 1024
    steps: int = 30
    step_counts: tuple[int, ...] = (1, 2, 4, 8, 12, 20, 30, 50)
    guidance: float = 2.0
    guidances: tuple[float, ...] = (1.0, 1.5, 2.0, 3.0, 4.0)
    flow_shift: float = 3.0
    vae: dict = field(
        default_factory=lambda: {
            "base_dim": 24, "decoder_base_dim": 40, "z_dim": 32, "dim_mult": [1, 2, 2, 2], "num_res_blocks": 2,
            "temperal_downsample": [False, True, True], "is_residual": True, "patch_size": 2,
            "in_channels": 12, "out_channels": 12, "scale_factor_temporal": 4, "scale_factor_spatial": 16,
        }
    )  # fmt: skip
    transformer: dict = field(
        default_factory=lambda: {
            "patch_size": (1, 1, 1), "num_attention_heads": 8, "attention_head_dim": 32, "freq_dim": 256,
            "ffn_dim": 832, "num_layers": 8, "text_dim": 128, "rope_max_seq_len": 256,
        }
    )  # fmt: skip
    encoder: dict = field(
        default_factory=lambda: {
            "d_model": 128, "d_kv": 32, "num_heads": 4, "d_ff": 256, "num_layers": 3, "dropout_rate": 0.0,
        }
    )  # fmt: skip
    caption_tokens: int = 40

    def smoke(self) -> Recipe:
        """The same ways with next to no work."""
        return replace(
            self,
            sizes=((128, 128), (128, 160)),
            max_steps=3, judge_pictures=16, judge_batch=8, vae_pictures=16, vae_batch=4, dit_pictures=16, dit_batch=4,
            score_pictures=4, steps=2, step_counts=(2,), guidances=(1.0, 2.0),
            vae=self.vae | {"base_dim": 8, "decoder_base_dim": 8, "z_dim": 4, "num_res_blocks": 1},
            transformer=self.transformer | {"num_attention_heads": 2, "ffn_dim": 64, "num_layers": 2, "text_dim": 32},
            encoder=self.encoder | {"d_model": 32, "d_kv": 16, "num_heads": 2, "d_ff": 64, "num_layers": 1},
        )  # fmt: skip


class Training:
    """The stages over one output folder. What each did is kept in `training.json`."""

    def __init__(self, out: Path, recipe: Recipe, device: torch.device, stop_after: float = math.inf):
        self.out, self.recipe, self.device, self.stop_after = out, recipe, device, stop_after
        out.mkdir(parents=True, exist_ok=True)
        self.record_file = out / "training.json"
        self.record = json.loads(self.record_file.read_text()) if self.record_file.exists() else {}

    def run(self, stage: str) -> bool:
        """Run one stage by name; False if it has to be gone on with."""
        torch.manual_seed(self.recipe.seed + STAGES.index(stage))
        start = time.monotonic()
        result = getattr(self, f"_{stage}")()
        self.record["recipe"] = asdict(self.recipe)
        self.record[stage] = result | {"torch": torch.__version__, "device": _device_name(self.device)}
        self.record_file.write_text(json.dumps(self.record, indent=1) + "\n")
        print(f"{stage}: {time.monotonic() - start:.0f} s in all; {json.dumps(result)[:2000]}", flush=True)
        return result.get("progress", 1.0) >= 1

    def done(self, stage: str) -> bool:
        """Whether an earlier run came to a stage's end."""
        return stage in self.record and self.record[stage].get("progress", 1.0) >= 1

    def _judge(self) -> dict:
        count = self.recipe.judge_pictures
        banks = [self._pictures(count if i == 0 else count // 2, size, i) for i, size in enumerate(self.recipe.sizes)]
        reader, result = judge.train(banks, self._budget("judge"), self.recipe.judge_batch)
        reader.save(self.out / "judge")
        reader = Judge.load(self.out / "judge", self.device)
        images, attributes = self._pictures(min(count, 4096), self.recipe.sizes[0], 99)
        return result | {"renders": reader.score(images.float() / 127.5 - 1, attributes)}

    def _vae(self) -> dict:
        video = AutoencoderKLWan(
            **self.recipe.vae, latents_mean=[0.0] * self.recipe.vae["z_dim"],
            latents_std=[1.0] * self.recipe.vae["z_dim"],
        )  # fmt: skip
        frame = FrameVAE.from_video(video)
        bank = self._pictures(self.recipe.vae_pictures, self.recipe.sizes[0], 100)
        result = autoencoder.train(
            frame, bank, self._budget("vae"), batch=self.recipe.vae_batch, state=self.out / "vae-state.pt"
        )
        frame.store(video)
        _save(video, self.out / "vae")
        return result

    @torch.no_grad()
    def _latents(self) -> dict:
        video = AutoencoderKLWan.from_pretrained(self.out / "vae")
        frame = FrameVAE.from_video(video).to(self.device)
        bank = self._pictures(min(self.recipe.vae_pictures, 8192), self.recipe.sizes[0], 101)
        frame.normalise_by(*autoencoder.statistics(frame, bank, len(bank[0])))
        frame.store(video)
        _save(video, self.out / "vae")
        images, attributes = (part[:1024] for part in bank)
        images = images.float() / 127.5 - 1
        reader = Judge.load(self.out / "judge", self.device)
        again = torch.cat([frame.decode(frame.encode(part)) for part in images.split(256)])
        return {
            "mean": frame.mean.tolist(),
            "std": frame.std.tolist(),
            "reconstructions": reader.score(again, attributes),
        }

    def _dit(self) -> dict:
        tokenizer = build_tokenizer(self.out / "tokenizer")
        vae = AutoencoderKLWan.from_pretrained(self.out / "vae")
        channels = vae.config.z_dim
        transformer: Any = WanTransformer3DModel(
            **self.recipe.transformer, in_channels=channels, out_channels=channels
        )
        vocabulary = -(-len(tokenizer) // 16) * 16
        encoder = UMT5EncoderModel(UMT5Config(**self.recipe.encoder, vocab_size=vocabulary))
        scheduler: Any = UniPCMultistepScheduler(
            prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=self.recipe.flow_shift,
            num_train_timesteps=1000, solver_order=2,
        )  # fmt: skip

        budget, state = self._budget("dit"), self.out / "dit-state.pt"
        if not state.exists() and "dit" in self.record:  # only the weights came along
            transformer.load_state_dict(load_file(self.out / "transformer" / "diffusion_pytorch_model.safetensors"))
            encoder.load_state_dict(load_file(self.out / "text_encoder" / "model.safetensors"), strict=False)
            budget.go_on(self.record["dit"]["steps"], self.record["dit"]["seconds"])
        banks = self._banks(FrameVAE.from_video(vae).to(self.device), tokenizer)
        result = denoiser.train(
            transformer, encoder, banks, budget, batch=self.recipe.dit_batch,
            rate=self.recipe.dit_rate, shift=self.recipe.flow_shift, state=state,
        )  # fmt: skip
        _save(transformer, self.out / "transformer")
        _save(encoder, self.out / "text_encoder")
        scheduler.save_pretrained(self.out / "scheduler")
        # diffusers' expanded timesteps suppose patches of 2x2; one frame has one noise level, so they would be equal.
        pipeline: Any = WanPipeline(tokenizer, encoder, vae, scheduler, transformer, expand_timesteps=False)
        pipeline.save_config(self.out)
        return result

    def _strictness(self) -> dict:
        studio = scores.Studio(self.out, self.device)
        sure = partial(strictness.smallest_certainty, studio.judge)
        real, rebuilt = [], []
        for index, size in enumerate(self.recipe.sizes):
            pictures, attributes = self._pictures(self.recipe.score_pictures, size, 300 + index, style=0)
            images = pictures.float() / 127.5 - 1
            real.append(sure(images, attributes))
            rebuilt.append(sure(studio.reconstruct(images), attributes))
        studio.judge.certainty = strictness.choose(real, rebuilt)
        studio.judge.save(self.out / "judge")
        made = {"renders": torch.cat(real), "reconstructions": torch.cat(rebuilt)}
        for steps in (1, 2, self.recipe.steps):
            images = studio.generate(
                scores.write_prompts(attributes.cpu(), 301), *self.recipe.sizes[0], steps=steps,
                guidance=self.recipe.guidance, seed=self.recipe.seed,
            )  # fmt: skip
            made[f"{steps} steps"] = sure(images, attributes)
        needed = studio.judge.certainty
        return {"certainty": needed} | {
            name: {"any": strictness.share_read(values, 0), "certain": strictness.share_read(values, needed)}
            for name, values in made.items()
        }

    def _score(self) -> dict:
        measured = scores.measure(
            self.out, sizes=list(self.recipe.sizes), count=self.recipe.score_pictures, steps=self.recipe.steps,
            guidance=self.recipe.guidance, guidances=list(self.recipe.guidances),
            step_counts=list(self.recipe.step_counts), seed=self.recipe.seed, device=self.device,
        )  # fmt: skip
        height, width = self.recipe.sizes[0]
        defaults = {
            "name": "tiny", "width": width, "height": height, "steps": self.recipe.steps,
            "guidance": self.recipe.guidance, "negative_prompt": "",
        }  # fmt: skip
        (self.out / "wanbatch.json").write_text(json.dumps(defaults, indent=2) + "\n")
        recipe = json.loads(json.dumps(asdict(self.recipe)))
        (self.out / "README.md").write_text(card.write(defaults, recipe, self.record | {"score": measured}))
        return measured

    def _budget(self, stage: str) -> Budget:
        return Budget(self.recipe.minutes[stage], self.recipe.max_steps, self.stop_after)

    def _pictures(
        self, count: int, size: tuple[int, int], salt: int, style: int = ANY_STYLE
    ) -> tuple[Tensor, Tensor]:
        """Random pictures, uint8 `[count, 3, H, W]`, and their attributes, on the training device."""
        chooser = torch.Generator().manual_seed(self.recipe.seed * 1000 + salt)
        generator = torch.Generator(self.device).manual_seed(self.recipe.seed * 1000 + salt)
        attributes = world.sample(count, chooser, self.device, style)
        images = torch.cat([_bytes(world.render(a, *size, generator=generator)) for a in attributes.split(1024)])
        return images, attributes

    @torch.no_grad()
    def _banks(self, vae: FrameVAE, tokenizer) -> list[denoiser.Bank]:
        """Latents and captions of random pictures of every size, without the combinations that are held out."""
        sizes, banks = self.recipe.sizes, []
        other_share = (1 - self.recipe.main_share) / max(1, len(sizes) - 1)
        for index, size in enumerate(sizes):
            share = other_share if index else self.recipe.main_share
            chooser = torch.Generator().manual_seed(self.recipe.seed * 1000 + 200 + index)
            generator = torch.Generator(self.device).manual_seed(self.recipe.seed * 1000 + 200 + index)
            attributes = world.sample(int(self.recipe.dit_pictures * share), chooser, self.device)
            attributes = attributes[~world.held_out(attributes)]
            latents = torch.cat(
                [vae.encode(world.render(a, *size, generator=generator)).half() for a in attributes.split(512)]
            )
            tokens, lengths = self._captions(attributes, tokenizer, index)
            banks.append(denoiser.Bank(latents, tokens, lengths, share))
        return banks

    def _captions(self, attributes: Tensor, tokenizer, salt: int) -> tuple[Tensor, Tensor]:
        """One caption a picture: tokens `[N, 1, L]` and lengths `[N, 1]`."""
        rng = random.Random(self.recipe.seed * 1000 + salt)
        texts = [captions.write(names, rng) for names in world.describe(attributes)]
        width = self.recipe.caption_tokens
        rows = [encoding.ids for encoding in tokenizer.backend_tokenizer.encode_batch(texts)]
        rows = [ids if len(ids) <= width else [*ids[: width - 1], 1] for ids in rows]
        lengths = torch.tensor([len(ids) for ids in rows])
        tokens = torch.tensor([ids + [0] * (width - len(ids)) for ids in rows])
        return tokens[:, None].to(self.device), lengths[:, None].to(self.device)


def _bytes(images: Tensor) -> Tensor:
    return ((images + 1) * 127.5).round().to(torch.uint8)


def _save(model: Any, folder: Path) -> None:
    """Saves a bf16 copy; the model itself stays where it is, for a captured step knows its addresses."""
    copy.deepcopy(model).to(torch.bfloat16).save_pretrained(folder, safe_serialization=True)
    config = json.loads((folder / "config.json").read_text())
    config.pop("_name_or_path", None)  # where it lay in training
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="wanbatch.pipeline.training.toy.tiny", description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="folder for the model")
    parser.add_argument("--stages", default=",".join(STAGES), help="which stages to run (default: %(default)s)")
    parser.add_argument("--minutes", default="", help="time budgets, such as vae=5,dit=10")
    parser.add_argument("--stop-after", type=float, default=math.inf, metavar="MINUTES",
                        help="leave the rest to the same command, given again")  # fmt: skip
    parser.add_argument("--smoke", action="store_true", help="a run of seconds that trains nothing of use")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    given = parser.parse_args(arguments)

    recipe = Recipe()
    budgets = dict(part.split("=") for part in given.minutes.split(",") if part)
    stages = [stage for stage in given.stages.split(",") if stage]
    unknown = sorted({*stages} - {*STAGES}) + sorted({*budgets} - {*recipe.minutes})
    if unknown:
        parser.error(f"unknown stage {unknown[0]!r}; there are {', '.join(STAGES)}")
    recipe = replace(recipe, minutes=recipe.minutes | {stage: float(value) for stage, value in budgets.items()})
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    recipe = recipe.smoke() if given.smoke else recipe
    training = Training(given.out, recipe, torch.device(given.device), given.stop_after)
    for stage in stages:
        if not training.done(stage) and not training.run(stage):
            print(f"{stage}: not at its end; give the same command again to go on")
            break


if __name__ == "__main__":
    main()
