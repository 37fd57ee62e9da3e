"""The small world, its judge, the training's ways, and the model that ships."""

import contextlib
import io
import json
import random
from pathlib import Path

import pytest
import torch
from diffusers import WanPipeline
from safetensors import safe_open
from transformers import UMT5Config, UMT5EncoderModel

from wanbatch.pipeline.evaluation import judge
from wanbatch.pipeline.evaluation.attributes import FIELDS, NAMES
from wanbatch.pipeline.training.loop import Average, Budget
from wanbatch.pipeline.training.toy import captions, denoiser, scores, strictness, tiny, world
from wanbatch.pipeline.training.toy.artwork import sprites
from wanbatch.pipeline.training.toy.tokenizer import build_tokenizer

SHIPPED = judge.FOLDER.parent


def smoke(folder: Path, *options: str) -> str:
    """Run the command; what it prints."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        tiny.main(["--out", str(folder), "--smoke", "--device", "cpu", *options])
    return printed.getvalue()


@pytest.fixture(scope="module")
def stopped(tmp_path_factory) -> tuple[Path, str, dict]:
    """A folder in which the second stage was begun, what was printed, and what was noted of the stage."""
    folder = tmp_path_factory.mktemp("smoke")
    printed = smoke(folder, "--stages", "vae", "--stop-after", "0")
    return folder, printed, json.loads((folder / "training.json").read_text())["vae"]


@pytest.fixture(scope="module")
def trained(stopped) -> Path:
    """That folder after all stages."""
    smoke(stopped[0])
    return stopped[0]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return build_tokenizer(tmp_path_factory.mktemp("tokenizer"))


def attributes(count, seed=0, style=0):
    return world.sample(count, torch.Generator().manual_seed(seed), style=style)


class TestWorld:
    def test_samples_every_name_and_no_noun_twice_in_a_picture(self):
        rows = attributes(6000, style=-1)
        for column, field in enumerate(FIELDS):
            never = {NAMES[field].index("large")} if field == "second_size" else set()  # there is no room for it
            assert set(rows[:, column].tolist()) == set(range(len(NAMES[field]))) - never
        several = rows[rows[:, 1] != NAMES["second"].index("none")]
        assert (several[:, 0] != several[:, 1]).all()
        assert (several[:, 1] != several[:, 2]).all()
        assert (several[:, 0] != several[:, 2]).all()
        assert 0.03 < world.held_out(rows).float().mean() < 0.07

    def test_only_as_many_objects_as_the_layout_has(self):
        for names in world.describe(attributes(500)):
            count = {"side by side": 2, "stacked": 2, "row": 3}.get(names["layout"], 1)
            assert [names[field] != "none" for field in ("first", "second", "third")] == [n < count for n in range(3)]
            assert (names["second_size"] == "none") == (count == 1)

    @pytest.mark.parametrize(("layout", "axis"), [("side by side", 1), ("stacked", 0)])
    def test_the_first_object_is_left_or_above(self, layout, axis):
        """On a plain white ground the bat-black hat and the yellow star are told apart by their brightness."""
        names = {"layout": layout, "size": "small", "second_size": "small", "background": "white"}
        pictures = [
            world.render(
                world.attributes_of(first=one, second=other, **names), generator=torch.Generator().manual_seed(1)
            )
            for one, other in (("hat", "star"), ("star", "hat"))
        ]
        for picture, hat_first in zip(pictures, (True, False), strict=True):
            dark = (picture[0].mean(0) < -0.5).nonzero()[:, axis].float().mean()
            assert (dark < 64) == hat_first

    @pytest.mark.parametrize("size", [(128, 160), (128, 128)])
    def test_pictures_are_in_range_and_follow_from_the_seed(self, size):
        rows = attributes(24)
        first, second = (world.render(rows, *size, generator=torch.Generator().manual_seed(5)) for _ in range(2))
        assert first.shape == (24, 3, *size)
        assert first.min() >= -1
        assert first.max() <= 1
        assert torch.equal(first, second)

    def test_describe_names_what_was_sampled(self):
        names = {"first": "owl", "second": "dog", "layout": "stacked", "size": "small", "second_size": "medium"}
        row = world.describe(world.attributes_of(**names, background="snow"))[0]
        assert row == names | {"third": "none", "background": "snow", "texture": "plain", "style": "emoji"}
        assert world.describe(torch.full((1, 9), -1))[0]["first"] == "unreadable"


class TestCaptions:
    def test_every_word_of_a_full_caption_is_known(self, tokenizer):
        rng = random.Random(0)
        texts = [captions.write(names, rng, full=True) for names in world.describe(attributes(500))]
        assert len(set(texts)) > 450
        assert all(tokenizer.unk_token_id not in ids for ids in tokenizer(texts).input_ids)

    def test_upper_case_is_folded(self, tokenizer):
        assert tokenizer("A Big RED Apple").input_ids == tokenizer("a big red apple").input_ids

    def test_unknown_words_are_unknown_and_the_rest_is_kept(self, tokenizer):
        words = tokenizer.tokenize("a fluffy red apple ☃")
        assert {"▁red", "▁apple", "▁a"} < set(words)
        assert tokenizer.unk_token_id in tokenizer("fluffy").input_ids

    def test_nothing_is_the_end_mark(self, tokenizer):
        assert tokenizer("").input_ids == [tokenizer.eos_token_id]


class TestArtwork:
    @pytest.mark.parametrize("side", world.OBJECT_SIZES)
    def test_every_noun_has_a_sprite_of_its_own_in_every_style(self, side):
        drawn = sprites(side)
        assert drawn.shape == (2, len(NAMES["first"]), 4, side, side)
        assert (drawn[:, :, 3].mean((2, 3)) > 0.05).all()
        clear = drawn[:, :, 3:] == 0
        assert (drawn[:, :, :3] * clear).max() < 0.05, "colours are multiplied by alpha, but for the filter's ringing"
        flat = drawn.flatten(0, 1).flatten(1)
        assert len(torch.unique(flat, dim=0)) == len(flat)


class TestStrictness:
    def test_the_highest_certainty_that_real_pictures_allow(self):
        sure = torch.tensor([0.9999] * 97 + [0.96] * 2 + [0.6])
        assert strictness.choose([sure], [sure]) == 0.95, "of 100 renders one may be lost"
        assert strictness.choose([sure, torch.zeros(10)], [sure]) == 0.0, "of every size"
        assert strictness.share_read(sure, 0.97) == pytest.approx(0.97)

    def test_a_misread_object_is_never_sure(self):
        rows, reader = attributes(16, seed=6), judge.Judge.load()
        images = scores.renders(rows, 128, 128, seed=6)
        assert (strictness.smallest_certainty(reader, images, rows) > 0.9).all()
        assert (strictness.smallest_certainty(reader, images, rows.roll(1, 0)) == 0).all()


class TestLoop:
    def test_budget_ends_with_its_steps_and_the_rate_rises_and_falls(self):
        budget = Budget(minutes=60, steps=100)
        rates = [budget.rate(1.0) for _ in budget]
        assert len(rates) == 100
        assert rates[0] < 0.01
        assert max(rates) > 0.98
        assert rates[-1] < 0.01

    def test_average_is_in_place_only_within(self):
        parameter = torch.nn.Parameter(torch.zeros(3))
        average = Average([parameter], 0.9)
        parameter.data.fill_(1)
        average.update()
        with average.applied():
            torch.testing.assert_close(parameter.data, torch.full((3,), 0.1))
        assert parameter.data.eq(1).all()


@torch.no_grad()
def test_text_states_equal_those_with_the_library_s_own_mask():
    torch.manual_seed(0)
    config = UMT5Config(vocab_size=50, d_model=16, d_kv=8, num_heads=2, d_ff=32, num_layers=2)
    encoder = UMT5EncoderModel(config).eval()
    tokens, lengths = torch.randint(3, 50, (4, 9)), torch.tensor([1, 4, 8, 9])
    real = torch.arange(9) < lengths[:, None]
    expected = encoder(tokens, real.long()).last_hidden_state * real[..., None]
    torch.testing.assert_close(denoiser.embed(encoder, tokens, lengths), expected)


class TestSmoke:
    def test_leaves_a_folder_that_diffusers_loads_and_runs(self, trained):
        pipeline = WanPipeline.from_pretrained(trained, dtype=torch.float32, use_safetensors=True)
        assert pipeline.transformer_2 is None
        pipeline.set_progress_bar_config(disable=True)
        generator = torch.Generator().manual_seed(3)
        prompts = ["a red apple", "A fluffy owl"]
        video = pipeline(
            prompts, height=128, width=160, num_frames=1, num_inference_steps=2, guidance_scale=2.0,
            generator=generator, output_type="pt",
        ).frames  # fmt: skip
        studio = scores.Studio(trained, torch.device("cpu"))
        made = studio.generate(prompts, 128, 160, steps=2, guidance=2.0, seed=3)
        torch.testing.assert_close((made + 1) / 2, video[:, 0], atol=1e-4, rtol=0)

    def test_weights_are_bf16_safetensors(self, trained):
        for name in ("transformer", "vae"):
            with safe_open(trained / name / "diffusion_pytorch_model.safetensors", "pt") as weights:
                assert {weights.get_tensor(key).dtype for key in weights.keys()} == {torch.bfloat16}  # noqa: SIM118

    def test_the_card_has_the_numbers(self, trained):
        card = (trained / "README.md").read_text()
        assert "never trained on" in card
        assert json.loads((trained / "wanbatch.json").read_text())["guidance"] == tiny.Recipe().guidance

    def test_the_same_command_goes_on_where_it_ended(self, stopped, trained):
        _, printed, noted = stopped
        assert "give the same command again" in printed
        assert (noted["steps"], noted["progress"] < 1) == (0, True)
        assert json.loads((trained / "training.json").read_text())["vae"]["steps"] == 3
        kept = torch.load(trained / "vae-state.pt", weights_only=True)
        assert kept["step"] == 3
        assert smoke(trained) == "", "all stages are at their ends"

    @pytest.mark.parametrize("option", [["--stages", "paint"], ["--minutes", "paint=3"]])
    def test_unknown_stages_are_refused(self, tmp_path, option, capsys):
        with pytest.raises(SystemExit) as exit_:
            tiny.main(["--out", str(tmp_path), *option])
        assert exit_.value.code == 2
        assert "paint" in capsys.readouterr().err


class TestShipped:
    """The weights in the package."""

    def test_fit_in_32_megabytes(self):
        beside = {SHIPPED / "adapters", SHIPPED / "sound"}
        files = [file for file in SHIPPED.rglob("*") if file.is_file() and not beside & set(file.parents)]
        assert sum(file.stat().st_size for file in files) <= 32_000_000

    @pytest.mark.parametrize("size", [(128, 128), (128, 160)])
    def test_judge_reads_real_renders(self, size):
        rows = attributes(64, seed=1)
        score = judge.Judge.load().score(scores.renders(rows, *size, seed=1), rows)
        assert score["all"] >= 0.98

    def test_judge_reads_the_other_style(self):
        rows = attributes(64, seed=1, style=1)
        score = judge.Judge.load().score(scores.renders(rows, 128, 128, seed=1), rows)
        assert score["style"] == 1
        assert score["all"] >= 0.93

    def test_judge_is_not_fooled_by_mush(self):
        rows, reader = attributes(48, seed=4), judge.Judge.load()
        real = scores.renders(rows, 128, 128, seed=4)
        shares = [reader.score(worsen(real), rows)["all"] for worsen in
                  (scores.WORSENED["blurred by 1 pixel"], scores.WORSENED["blurred by 2 pixels"],
                   scores.WORSENED["blurred by 3 pixels"])]  # fmt: skip
        assert shares == sorted(shares, reverse=True)
        assert shares[1] < 0.5
        assert shares[2] < 0.25

    def test_distance_tells_ghosts_and_a_lack_of_variety(self):
        reader, rows = judge.Judge.load(), attributes(96, seed=2)
        first, second = (scores.renders(rows, 128, 128, seed=seed) for seed in (1, 2))
        real, other = reader.features(first), reader.features(second)
        ghosts = reader.features(0.7 * second + 0.3 * second.roll(1, 0))
        assert judge.distance(real, real) == pytest.approx(0, abs=1)
        assert judge.distance(real, ghosts) > 2 * judge.distance(real, other)
        assert judge.distance(real, other[:6].repeat(16, 1)) > 2 * judge.distance(real, other)

    @pytest.mark.slow
    def test_pictures_show_what_prompts_ask_for(self):
        studio, rows = scores.Studio(SHIPPED, torch.device("cpu")), attributes(24, seed=3)
        images = studio.generate(scores.write_prompts(rows, 3), 128, 128, steps=8, guidance=2.0, seed=3)
        assert studio.judge.score(images, rows)["all"] >= 0.9
        real = scores.renders(rows, 128, 128, seed=3)
        assert studio.judge.score(studio.reconstruct(real), rows)["all"] >= 0.95
