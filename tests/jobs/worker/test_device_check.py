"""Whether a GPU can run a model: its kind, its architecture, FP8, its memory. No GPU."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from wanbatch.errors import NodeError
from wanbatch.jobs.config.settings import Settings
from wanbatch.jobs.driver.cluster_nodes import Node
from wanbatch.jobs.driver.site import placement_of
from wanbatch.jobs.worker.device_check import GIB, Card, check_card, check_kind, needed_bytes, runs_on
from wanbatch.jobs.worker.messages import WorkerSetup
from wanbatch.pipeline.loading import registry
from wanbatch.pipeline.loading.residency import weight_sizes, working_for
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
    model = setup.model
    pixels = model.width * model.height
    full, fp8 = (
        needed_bytes(Path(model.folder), "bfloat16", False, small, setup.slots, pixels) for small in (False, True)
    )
    check_card(replace(H100, memory=(full + fp8) // 2), replace(setup, runtime=Runtime(fp8=True)), "h")
    check_card(replace(H100, architecture="sm_61", supported=("sm_61",)), setup, "h")
    check_card(replace(H100, has_fp8=False), replace(setup, runtime=Runtime(fp8=False)), "h")
    check_card(replace(H100, architecture="sm_70", supported=("sm_70",)), setup, "h")  # without INT8
    check_card(replace(H100, name="NVIDIA A100"), replace(setup, device_kind=None), "h")
    nodes = [Node("a", "one", 1, 8, ("H100",), {"card": "new"}), Node("b", "two", 1, 8, ("P40",), {"card": "old"})]
    for chosen in (Settings(accelerator_type="H100"), Settings(label_selector={"card": "new"})):
        placement = placement_of(chosen, "cuda", chosen.accelerator_type, on_cluster=True)
        assert [placement.workers_on(node) for node in nodes] == [1, 0]


def test_a_card_without_room_for_the_text_encoder_has_it_with_its_weights_in_fp8(setup):
    model = replace(setup.model, width=8, height=8)
    folder, fp8 = Path(model.folder), Runtime(offload=True, text_fp8=True)
    room = needed_bytes(folder, "bfloat16", True, False, setup.slots, 64)
    small = replace(H100, memory=room - 1)
    with pytest.raises(NodeError, match=r"--precision fp8, --text-precision fp8 or a smaller model$"):
        check_card(small, replace(setup, model=model, runtime=Runtime(offload=True)), "h")
    check_card(small, replace(setup, model=model, runtime=fp8), "h")


def test_a_card_without_room_for_weights_of_each_slot(setup):
    """In bf16 four slots take four transformers more, in FP8 half of that and the weights that are merged with."""
    folder, merged = Path(setup.model.folder), Runtime(merged_rows=True)
    transformer = weight_sizes(folder, "bfloat16")["transformer"]
    assert weight_sizes(folder, "bfloat16", slots=4)["transformer"] == 5 * transformer
    rounded = weight_sizes(folder, "bfloat16", True)["transformer"]
    assert weight_sizes(folder, "bfloat16", True, slots=4)["transformer"] == 5 * rounded + transformer
    assert weight_sizes(folder, "bfloat16", slots=4)["text"] == weight_sizes(folder, "bfloat16")["text"]
    pixels = setup.model.width * setup.model.height
    room = needed_bytes(folder, "bfloat16", False, False, 4, pixels, merged=True)
    small = replace(H100, memory=room - 1)
    with pytest.raises(NodeError, match=r"for each of 4 slots needs .* use fewer --slots, --precision"):
        check_card(small, replace(setup, runtime=merged), "h")
    check_card(small, replace(setup, runtime=merged, slots=2), "h")
    check_card(small, replace(setup, runtime=replace(merged, fp8=True)), "h")
    check_card(small, replace(setup, runtime=Runtime()), "h")


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
    sizes = weight_sizes(folder, "bfloat16")
    working = working_for(folder, 4, 128 * 128)
    assert needed_bytes(folder, "bfloat16", False, False, 4, 128 * 128) == sum(sizes.values()) + max(working.values())
    assert needed_bytes(folder, "bfloat16", True, False, 4, 128 * 128) < sum(sizes.values()) + max(working.values())
    alone = max(sizes["transformer"] + working["denoising"], sizes["text"] + working["text"])
    assert needed_bytes(folder, "bfloat16", True, False, 4, 128 * 128) == alone
    rounded = weight_sizes(folder, "bfloat16", eight_bits=True)
    assert needed_bytes(folder, "bfloat16", False, True, 4, 128 * 128) == sum(rounded.values()) + max(
        working.values()
    )
