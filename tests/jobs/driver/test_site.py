"""Where a run's workers will be: the device, the kind of GPU and the number of workers of a cluster. No Ray."""

from __future__ import annotations

import json

import pytest

from wanbatch.jobs.config.hardware import Hardware
from wanbatch.jobs.config.settings import Settings
from wanbatch.jobs.driver import site
from wanbatch.jobs.driver.cluster_nodes import Node, Placement
from wanbatch.jobs.driver.site import Site, site_finder, the_cluster, this_machine

GPUS = [Node("a", "one", 8, 64, ("H100",)), Node("b", "two", 4, 64, ("A100",)), Node("c", "three", 0, 4)]
CPUS = [Node("c", "three", 0, 4), Node("d", "four", 0, 1), Node("e", "head")]


@pytest.fixture
def look(monkeypatch, tmp_path):
    """Looks at a cluster of some nodes; gives the site and the placement that the probe ran with."""
    monkeypatch.chdir(tmp_path)

    def call(nodes: list[Node], **chosen) -> tuple[Site, Placement]:
        probed: list[Placement] = []

        def hardware(settings: Settings, placement: Placement) -> Hardware:
            probed.append(placement)
            return Hardware(gpus=1, capability=(9, 0), name="a card", torch="2", cpu="AVX2")

        monkeypatch.setattr(site, "nodes", lambda: nodes)
        monkeypatch.setattr(site, "hardware_there", hardware)
        return the_cluster(Settings(**chosen), tmp_path / "out"), probed[0]

    return call


def test_a_cluster_with_gpus_of_two_kinds(look, caplog):
    found, placement = look(GPUS)
    assert (placement.device, placement.accelerator, placement.grows) == ("cuda", "H100", True)
    assert (found.workers, found.hardware.gpus) == (8, 8)
    assert "this run uses H100 alone, and not A100; --accelerator-type" in caplog.text


def test_the_kind_that_filled_the_folder_goes_on(look, tmp_path):
    run = {"format": 1, "fingerprint": {"environment": {"device_name": "NVIDIA A100-SXM4-80GB"}}, "plan": {}}
    (tmp_path / "out" / "_wanbatch").mkdir(parents=True)
    (tmp_path / "out" / "_wanbatch" / "run.json").write_text(json.dumps(run))
    found, placement = look(GPUS)
    assert (placement.accelerator, found.workers) == ("A100", 4)


def test_all_kinds_or_a_chosen_one(look, caplog):
    found, placement = look(GPUS, mixed_devices=True)
    assert (placement.accelerator, found.workers) == (None, 12)
    found, placement = look(GPUS, accelerator_type="A100", workers=16)
    assert (placement.accelerator, placement.grows, found.workers) == ("A100", False, 16)
    assert caplog.text == ""


def test_a_cluster_without_gpus(look):
    found, placement = look(CPUS, threads=2)
    assert (placement.device, placement.cpus, found.workers, found.hardware.gpus) == ("cpu", 2, 1, 0)
    found, placement = look(CPUS[1:], threads=8)
    assert (placement.cpus, found.workers) == (1, 1), "no node has as many processors as there are threads"


def test_gpus_that_are_to_come(look):
    """An autoscaler sees one actor and starts a node; nobody falls back to processors."""
    found, placement = look(CPUS, device="cuda")
    assert (placement.device, found.workers) == ("cuda", 1)
    found, placement = look(CPUS, accelerator_type="H100")
    assert (placement.device, placement.accelerator) == ("cuda", "H100")


def test_flags_that_have_no_effect_are_told(look, caplog, tmp_path, monkeypatch):
    monkeypatch.setattr(site, "workers_here", lambda threads: 1)
    assert site_finder(None, None) is this_machine
    found = this_machine(Settings(label_selector={"a": "b"}, accelerator_type="H100", device="cpu"), tmp_path)
    assert (found.workers, found.placement.labels) == (1, {})
    for flag in ("--label-selector", "--accelerator-type"):
        assert f"{flag} has no effect without a cluster: --address gives one" in caplog.text
    caplog.clear()
    found, _ = look(GPUS, label_selector={"a": "b"}, accelerator_type="H100", address="head:6379")
    assert (found.placement.labels, found.placement.accelerator, caplog.text) == ({"a": "b"}, "H100", "")
