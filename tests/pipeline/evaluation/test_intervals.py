"""Confidence intervals: of means, of differences between the same pictures, of the judge's distance."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from wanbatch.pipeline.evaluation.judge import distance, distance_interval
from wanbatch.pipeline.evaluation.metrics import Measured, bootstrap


def measured(gain: float, spread: float) -> Measured:
    """Pictures that are hard or easy for everybody (PSNR of 20 to 60 dB), and differences between ways of making."""
    rng = np.random.default_rng(3)
    hardness, noise = rng.uniform(20, 60, 256), np.random.default_rng(int(gain * 10)).normal(0, spread, 256)
    return Measured(hardness + gain + noise, right=np.ones((256, 9), bool))


def test_pairs_tell_apart_what_means_do_not():
    first, second = measured(1.0, 0.5), measured(0.0, 0.5)
    (_, upper), (lower, _) = second.intervals()["psnr"], first.intervals()["psnr"]
    assert upper > lower, "the intervals of the means overlap"
    mean, low, high = first.differences(second)["psnr"]
    assert 0.8 < low < mean < high < 1.2
    assert first.differences(second)["judge_all"] == (0, 0, 0)
    assert first.differences(second).keys() == {"psnr", "judge_all"}, "only what both measured"


def test_other_pictures_cannot_be_paired():
    with pytest.raises(ValueError, match="256 pictures cannot be paired with 2"):
        measured(0, 1).differences(Measured(np.array([30.0, 31.0])))


def test_an_interval_holds_the_truth_nineteen_times_of_twenty():
    rng = np.random.default_rng(1)
    held = [low < 5 < high for low, high in (bootstrap(rng.normal(5, 2, 100)) for _ in range(300))]
    assert 0.90 < np.mean(held) < 0.99


def test_the_interval_of_a_distance_holds_what_other_pictures_give_on_average():
    mixing = torch.randn(12, 12, generator=torch.Generator().manual_seed(9))

    def drawn(seed: int, shift: float) -> torch.Tensor:
        return torch.randn(384, 12, generator=torch.Generator().manual_seed(seed)) @ mixing + shift

    real = drawn(0, 0.0)
    sets = [drawn(seed, 0.3) for seed in range(1, 61)]
    truth = np.mean([distance(one, real) for one in sets])
    held = [low < truth < high for low, high in (distance_interval(one, real) for one in sets)]
    assert 0.85 <= np.mean(held) < 1, "no interval is so wide that it always holds"
    low, high = distance_interval(sets[0], real)
    assert not low < distance(drawn(99, 1.0), real) < high


def test_a_distance_is_that_of_the_formula_for_normal_distributions():
    """Against the matrix square root of SciPy (Heusel et al. 2017, equation 6)."""
    from scipy.linalg import sqrtm

    first = torch.randn(300, 8, generator=torch.Generator().manual_seed(1)).double() * torch.arange(1, 9)
    second = torch.randn(200, 8, generator=torch.Generator().manual_seed(2)).double() + 0.5
    a, b = first.T.cov().numpy(), second.T.cov().numpy()
    means = (first.mean(0) - second.mean(0)).square().sum().item()
    expected = means + np.trace(a + b - 2 * sqrtm(a @ b).real)
    assert distance(first, second) == pytest.approx(expected, rel=1e-9)
