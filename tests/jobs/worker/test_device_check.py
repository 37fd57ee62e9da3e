"""Whether a GPU can run a model: its kind, its architecture, FP8, its memory. No GPU."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from wanbatch.errors import NodeError
from wanbatch.jobs.config.settings import Settings
from wanbatch.jobs.driver.cluster_nodes import Node
from wanbatch.jobs.driver.site import placement_of
from wanbatch.jobs.worker.device_check import GIB, Card, check_card, check_kind, needed_bytes, runs_on, weights_in
from wanbatch.jobs.worker.messages import WorkerSetup
from wanbatch.pipeline.loading import registry
from wanbatch.pipeline.loading.runtime import Runtime

H100 = Card("NVIDIA H100 80GB HBM3", 80 * GIB, "sm_90", ("sm_80", "sm_90", "compute_90"), True)


@pytest.fixture(scope="module")
def setup() -> WorkerSetup:
    return WorkerSetup(registry.find(), "out", "sources", False, "cuda", "bfloat16", slots=4, threads=0)


def test_a_card_that_can(setup):
    check_card(H100, setup, "h")
    check_card(H100, replace(setup, device_kind=H100.name, runtime=Runtime(fp8=True)), "h")


@pytest.mark.parametrize(
    ("card", "changed", "told"),
    [
        (
            replace(H100, memory=1 << 20),
            {},
            r"^host h: its NVIDIA H100 .* has 0\.0 GiB of memory, and the model needs",
        ),
        (replace(H100, architecture="sm_61"), {}, r"is sm_61, for which this build of PyTorch has no code"),
        (replace(H100, has_fp8=False), {"runtime": Runtime(fp8=True)}, r"has no FP8: use --precision bf16"),
        (
            replace(H100, architecture="sm_70", supported=()),
            {"runtime": Runtime(int8=True)},
            r"has no INT8: use --pre",
        ),
        (H100, {"device_kind": "NVIDIA A100"}, r"has NVIDIA H100 .* on NVIDIA A100; .*--mixed-devices$"),
    ],
)
def test_a_card_that_cannot(setup, card, changed, told):
    with pytest.raises(NodeError, match=told):
        check_card(card, replace(setup, **changed), "h")


def test_what_is_offered_for_such_a_card_works(setup):
    """A build for it, another precision, mixed devices; and a placement that keeps it out."""
    full, fp8 = (needed_bytes(Path(setup.model.folder), "bfloat16", False, small) for small in (False, True))
    check_card(replace(H100, memory=(full + fp8) // 2), replace(setup, runtime=Runtime(fp8=True)), "h")
    check_card(replace(H100, architecture="sm_61", supported=("sm_61",)), setup, "h")
    check_card(replace(H100, has_fp8=False), replace(setup, runtime=Runtime(fp8=False)), "h")
    check_card(replace(H100, architecture="sm_70", supported=("sm_70",)), setup, "h")  # without INT8
    check_card(replace(H100, name="NVIDIA A100"), replace(setup, device_kind=None), "h")
    nodes = [Node("a", "one", 1, 8, ("H100",), {"card": "new"}), Node("b", "two", 1, 8, ("P40",), {"card": "old"})]
    for chosen in (Settings(accelerator_type="H100"), Settings(label_selector={"card": "new"})):
        placement = placement_of(chosen, "cuda", chosen.accelerator_type, on_cluster=True)
        assert [placement.workers_on(node) for node in nodes] == [1, 0]


def test_any_kind_where_devices_are_mixed(setup):
    check_kind("cpu AVX2", replace(setup, device_kind=None), "h")
    check_kind("cpu AVX2", replace(setup, device_kind="cpu AVX2"), "h")


@pytest.mark.parametrize(
    ("architecture", "supported", "expected"),
    [
        ("sm_86", ("sm_80",), True),  # the same major version
        ("sm_90", ("sm_80", "sm_86"), False),
        ("sm_100", ("sm_90", "compute_90"), True),  # compiled when it is loaded
        ("sm_75", ("sm_80", "compute_90"), False),
        ("sm_90", ("sm_90a",), True),
        ("sm_90", (), True),  # a build that does not say
    ],
)
def test_code_for_some_architectures_runs_on_others(architecture, supported, expected):
    assert runs_on(architecture, supported) is expected


def test_the_memory_that_a_model_needs(setup):
    folder = Path(setup.model.folder)
    parts = {path.parent.name: weights_in(path) for path in folder.glob("*/*.safetensors")}
    del parts["judge"], parts["adapters"], parts["sound"]
    text = parts.pop("text_encoder")
    assert needed_bytes(folder, "bfloat16", offload=False, eight_bits=False) == 2 * (text + sum(parts.values()))
    assert needed_bytes(folder, "float32", offload=True, eight_bits=False) == 4 * max(text, sum(parts.values()))
    transformer = parts.pop("transformer")
    assert needed_bytes(folder, "bfloat16", False, eight_bits=True) == transformer + 2 * (text + sum(parts.values()))
