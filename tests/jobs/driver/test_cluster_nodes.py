"""Which nodes could have workers of a run, how many, and what Ray is asked for. No Ray."""

from __future__ import annotations

import pytest

from wanbatch.jobs.driver.cluster_nodes import Node, Placement, alive_nodes, kind_to_use, matches, what_there_is

H100, A100, CPU = (
    Node("a" * 56, "one", 8, 64, ("H100",), {"market-type": "spot"}),
    Node("b" * 56, "two", 4, 32, ("A100",), {"market-type": "on-demand"}),
    Node("c" * 56, "three", 0, 16),
)
NODES = [H100, A100, CPU]


def test_what_ray_says_of_its_nodes():
    told = [
        {
            "Alive": True,
            "NodeID": "a1",
            "NodeManagerHostname": "one",
            "Resources": {"GPU": 8.0, "CPU": 64.0, "accelerator_type:H100": 1.0, "memory": 5.0},
            "Labels": {"ray.io/node-id": "a1"},
        },
        {"Alive": False, "NodeID": "b1", "NodeManagerHostname": "two", "Resources": {}},
    ]
    assert alive_nodes(told) == [Node("a1", "one", 8, 64, ("H100",), {"ray.io/node-id": "a1"})]


@pytest.mark.parametrize(
    ("placement", "expected"),
    [
        (Placement(True, "cuda"), [8, 4, 0]),
        (Placement(True, "cuda", accelerator="A100"), [0, 4, 0]),
        (Placement(True, "cuda", labels={"market-type": "!spot"}), [0, 4, 0]),
        (Placement(True, "cpu", cpus=32), [1, 1, 0]),
        (Placement(False, "cpu", cpus=32), [1, 1, 1]),  # one host, wherever there is room
    ],
)
def test_how_many_workers_a_node_can_have(placement, expected):
    assert [placement.workers_on(node) for node in NODES] == expected
    assert placement.workers_in(NODES, {H100.id}) == sum(expected[1:])


def test_what_ray_is_asked_for():
    assert Placement(True, "cuda", accelerator="H100").actor_options() == {
        **{"num_cpus": 0, "num_gpus": 1, "accelerator_type": "H100"}
    }
    assert Placement(True, "cpu", cpus=2).actor_options() == {
        **{"num_cpus": 2, "num_gpus": 0, "scheduling_strategy": "SPREAD"}
    }
    assert Placement().actor_options() == {"num_cpus": 0, "num_gpus": 0}
    options = Placement(True, "cuda", labels={"zone": "in(a,b)"}).actor_options({"n2", "n1"})
    assert options["label_selector"] == {"zone": "in(a,b)", "ray.io/node-id": "!in(n1,n2)"}


def test_ray_takes_these_options():
    """By its own check of them, without a Ray."""
    ray = pytest.importorskip("ray")

    class Anything:
        pass

    placement = Placement(True, "cuda", labels={"zone": "in(a,b)", "market-type": "!spot"}, accelerator="H100")
    ray.remote(Anything).options(**placement.actor_options({"a" * 56, "b" * 56}))
    ray.remote(Anything).options(**Placement(True, "cpu", 2).actor_options())


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [("spot", True), ("!spot", False), ("in(spot,a)", True), ("in(a, b)", False), ("!in(a,b)", True), ("a", False)],
)
def test_label_selectors_are_read_as_ray_does(wanted, expected):
    assert matches({"market-type": "spot"}, "market-type", wanted) is expected
    assert matches({}, "market-type", wanted) is wanted.startswith("!")


def test_one_kind_of_gpu_is_chosen():
    """That of the folder, or else the commonest."""
    assert kind_to_use(NODES, None) == ("H100", ("A100",))
    assert kind_to_use(NODES, "NVIDIA A100-SXM4-80GB") == ("A100", ("H100",))
    assert kind_to_use(NODES, "NVIDIA L4") == ("H100", ("A100",))
    assert kind_to_use([H100, CPU], None) == (None, ())


def test_what_there_is_in_words():
    assert what_there_is([]) == "no nodes"
    assert what_there_is([H100, CPU, CPU]) == "2 nodes with 0 GPUs and 16 CPUs; 1 node with 8 GPUs (H100) and 64 CPUs"
