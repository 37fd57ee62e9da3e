"""Workers on nodes that come, go, refuse or cannot be reached, on a Ray that is played by this file."""

from __future__ import annotations

import pickle
from collections import deque
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from ray.exceptions import ActorDiedError, ActorUnavailableError

from wanbatch.errors import MachineryError, NodeError
from wanbatch.jobs.driver import cluster_watch, ray_errors, worker_slot
from wanbatch.jobs.driver.cluster_nodes import Placement
from wanbatch.jobs.driver.cluster_watch import ClusterWatch
from wanbatch.jobs.driver.events import NodeLost, NodeRefused, UnitLost, WorkerReady, WorkersChanged
from wanbatch.jobs.driver.worker_slot import WorkerSlot
from wanbatch.jobs.planning.units import Unit
from wanbatch.jobs.worker.messages import Started, WorkerStatus


class Clock:
    """Time that passes when a test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


class FakeRay:
    """nodes: name -> processors of those that are alive. answers: of the calls of actors, one after the other."""

    def __init__(self) -> None:
        self.there = {"one": 1, "two": 1}
        self.answers: deque[Any] = deque()
        self.killed = 0

    def nodes(self) -> list[dict[str, Any]]:
        return [{"Alive": True, "NodeID": name, "Resources": {"CPU": cpus}} for name, cpus in self.there.items()]

    def kill(self, actor: object) -> None:
        self.killed += 1

    def get(self, ref: object) -> Any:
        answer = self.answers.popleft()
        if isinstance(answer, Exception):
            raise answer
        return answer

    def actor(self) -> Any:
        call = SimpleNamespace(remote=lambda *given: object())
        return SimpleNamespace(ready=call, exchange=call, __ray_call__=call, __ray_ready__=call)


@pytest.fixture
def clock(monkeypatch) -> Clock:
    clock = Clock()
    for module in (cluster_watch, worker_slot):
        monkeypatch.setattr(module, "time", clock)
    return clock


@pytest.fixture
def fake(monkeypatch, clock) -> FakeRay:
    fake = FakeRay()
    for module in (cluster_watch, worker_slot, ray_errors):
        monkeypatch.setattr(module, "ray", fake)
    return fake


@pytest.fixture
def watch(fake) -> ClusterWatch:
    return ClusterWatch(Placement(on_cluster=True, grows=True, start_deadline=60))


@pytest.fixture
def slot(fake, watch) -> WorkerSlot:
    """With a worker on node `one` that holds a unit."""
    slot = WorkerSlot(3, fake.actor, lambda: 1.0, lambda started: None, watch.is_alive)
    fake.answers += [("one", "host-one"), Started(1.0, 0.0, {}, "host-one", "mark", "card")]
    assert slot.receive() == []
    assert slot.placed
    assert not slot.ready
    assert slot.receive() == [WorkerReady(3, 1.0, 0.0, {}, "host-one", "card")]
    slot.give(Unit(7, np.array([0])), SimpleNamespace(unit=7), 100.0)
    slot.send()
    return slot


def unavailable() -> ActorUnavailableError:
    return ActorUnavailableError("RpcError: Connection reset by peer", b"0" * 16)


def test_a_node_that_died(slot, fake, clock):
    clock.now += 10
    del fake.there["one"]
    fake.answers.append(ActorDiedError())
    lost, unit = slot.receive()
    assert (lost.worker, lost.host, lost.node) == (3, "host-one", "one")
    assert (unit.unit.number, unit.blamed, unit.with_node) == (7, True, True)
    assert not slot.placed
    clock.now += worker_slot.FIRST_PAUSE
    slot.start_if_due()
    assert slot.pending_call is not None, "the next one waits for a place"


def test_a_preempted_node_that_ray_still_shows(slot, fake):
    error = ActorDiedError()
    error._preempted = True
    fake.answers.append(error)
    assert [type(event) for event in slot.receive()] == [NodeLost, UnitLost]


def test_a_node_that_died_this_moment(slot, fake):
    """What was known of the nodes a moment ago plays no part."""
    fake.answers.append(unavailable())
    assert slot.receive() == []
    del fake.there["one"]
    slot._doubt = object()
    fake.answers.append(ActorDiedError())
    assert [type(event) for event in slot.receive()] == [NodeLost, UnitLost]


def test_a_worker_that_dies_on_a_node_that_lives(slot, fake):
    fake.answers.append(ActorDiedError())
    [unit] = slot.receive()
    assert (unit.blamed, unit.with_node) == (True, False)


def test_a_broken_connection_is_asked_again_until_ray_knows(slot, fake, clock):
    """Ray takes some 15 s to see that a node is gone; before, the row was charged with its worker's death."""
    fake.answers.append(unavailable())
    assert slot.receive() == []
    assert not slot.ready
    assert slot.busy
    for _ in range(12):
        clock.now += 2.0
        assert slot.check_time() == []
        fake.answers.append(unavailable())
        assert slot.receive() == []
    del fake.there["one"]
    clock.now += 2.0
    assert [type(event) for event in slot.check_time()] == [NodeLost, UnitLost]


def test_a_broken_connection_to_a_worker_that_died_alone(slot, fake, clock):
    fake.answers.append(unavailable())
    assert slot.receive() == []
    clock.now += 2.0
    assert slot.check_time() == []
    fake.answers.append(ActorDiedError())
    [unit] = slot.receive()
    assert not unit.with_node


@pytest.mark.parametrize("comes_back", [True, False])
def test_a_node_out_of_reach(slot, fake, clock, comes_back):
    """Whatever it answered is lost, so its unit is made again, without a strike."""
    fake.answers.append(unavailable())
    assert slot.receive() == []
    clock.now += 2.0
    assert slot.check_time() == []
    if comes_back:
        fake.answers.append(True)
        events = slot.receive()
    else:
        clock.now += worker_slot.DOUBT_SECONDS
        events = slot.check_time()
    assert [type(event) for event in events] == [NodeLost, UnitLost]
    assert events[1].with_node
    assert fake.killed == 1


def test_what_comes_back_in_time_is_no_loss(slot, fake):
    fake.answers.append(pickle.dumps(WorkerStatus([], 0, (7, 0))))
    assert slot.receive() == []
    assert slot.ready


def test_a_worker_has_room_beside_its_first_unit_once_an_image_of_that_is_made(slot, fake):
    assert not slot.has_room
    for made, status in ((False, WorkerStatus([], 0, (7, 1), 1)), (True, WorkerStatus([], 0, (7, 2), 1, True))):
        fake.answers.append(pickle.dumps(status))
        assert slot.receive() == []
        assert slot.has_room is made, "one that has failed shows nothing of the device"
        slot.send()


def test_a_node_that_refuses(fake, watch):
    slot = WorkerSlot(0, fake.actor, lambda: 1.0, lambda started: None, watch.is_alive)
    fake.answers += [("one", "host-one"), NodeError("host host-one: its card is too small")]
    assert slot.receive() == []
    [refused] = slot.receive()
    assert (refused.node, slot.failed_starts) == ("one", 0)
    watch.refuse(refused, placed=0)
    assert watch.refused == ("one",)
    assert watch.workers_wanted(most=10) == 1
    with pytest.raises(NodeError, match=r"no node of the cluster can make these pictures:\nhost host-one.*\nhost b"):
        watch.refuse(NodeRefused(0, "two", NodeError("host b: sees nothing")), placed=0)


def test_a_mark_that_is_seen_late_or_never(fake, watch, clock):
    """The driver goes on meanwhile."""
    unseen = [NodeError("host h: what its worker writes is not seen")] * 3

    def check(started: Started) -> None:
        if unseen:
            raise unseen.pop()

    slot = WorkerSlot(0, fake.actor, lambda: 1.0, check, watch.is_alive)
    fake.answers += [("one", "host-one"), Started(1.0, 0.0, {}, "host-one", "mark")]
    assert slot.receive() == []
    assert slot.receive() == []
    assert not slot.ready
    clock.now += 5
    assert slot.check_time() == slot.check_time() == []
    assert [type(event) for event in slot.check_time()] == [WorkerReady]
    assert slot.ready
    unseen += [NodeError("host h: what its worker writes is not seen")] * 9
    blind = WorkerSlot(1, fake.actor, lambda: 1.0, check, watch.is_alive)
    fake.answers += [("two", "host-two"), Started(1.0, 0.0, {}, "host-two", "mark")]
    assert blind.receive() == blind.receive() == []
    clock.now += 21
    [refused] = blind.check_time()
    assert (type(refused), refused.node) == (NodeRefused, "two")


def test_the_only_node_refuses(fake, watch):
    del fake.there["two"]
    with pytest.raises(NodeError, match=r"^too small$"):
        watch.refuse(NodeRefused(0, "one", NodeError("too small")), placed=0)
    watch.refuse(NodeRefused(0, "one", NodeError("another card there")), placed=1)  # one works: the run goes on


def test_nodes_that_come_and_go(fake, watch, clock):
    assert watch.workers_wanted(most=10) == 2
    fake.there |= {"three": 1, "four": 0}
    assert watch.workers_wanted(most=10) == 2, "nodes are looked at every few seconds"
    clock.now += cluster_watch.LOOK_SECONDS + 1
    assert watch.workers_wanted(most=10) == 3
    assert watch.workers_wanted(most=2) == 2
    fake.there.clear()
    clock.now += cluster_watch.LOOK_SECONDS + 1
    assert watch.workers_wanted(most=10) == 1, "one is always asked for, so that an autoscaler sees it"


def test_the_deadline_of_the_start(fake, watch, clock):
    watch.ensure_any_placed(placed=0, wanted=16)
    clock.now += 59
    watch.ensure_any_placed(placed=0, wanted=16)
    watch.ensure_any_placed(placed=1, wanted=16)
    watch.ensure_any_placed(placed=0, wanted=16)  # all nodes left: the clock starts anew
    clock.now += 61
    with pytest.raises(MachineryError, match=r"within 60 s: 16 wanted, each with 1 CPU; the cluster has 2 nodes"):
        watch.ensure_any_placed(placed=0, wanted=16)


def test_what_is_told_of_the_number_of_workers(watch, clock, fake):
    assert watch.changed(16, 0) == WorkersChanged(16, 0)
    assert watch.changed(16, 8) is None, "once a second at most"
    clock.now += 1.5
    assert watch.changed(16, 8) == WorkersChanged(16, 8)
    clock.now += 1.5
    assert watch.changed(16, 8) is None
    assert ClusterWatch(Placement()).changed(1, 0) is None, "on one machine there is nothing to tell"
