"""How long a change of the view takes, in virtual time."""

from __future__ import annotations

from random import Random

import pytest

from dida.messages import Ok, Write
from dida.outputs import Config
from dida.peer_messages import Load
from dida.simulate.network import Cluster, Network
from tests.simnet import Hand


@pytest.mark.parametrize("writer", [1, 2, 3])
def test_a_view_changes_at_once_whoever_has_more(writer: int) -> None:
    """A member dies while one of the others, the leader or not, has updates that nobody else has: the new view
    begins within round trips, not after a time-out, and everybody has those updates."""
    cluster = Cluster(Random(1), 4, Config(gossip_delay=60.0), Network(mean_delay=0.001))
    nodes = list(cluster.nodes.values())
    for node in nodes:
        cluster.start(node)
    assert cluster.run(5.0, lambda: all(node.replica is not None and node.replica.local.serving for node in nodes))
    cluster.run(cluster.now + 1.0)
    cluster.ask(nodes[writer - 1].url, Write("key", "value"), "token")
    cluster.run(cluster.now + 0.1)
    cluster.crash(nodes[3])
    survivors = [node.replica for node in nodes[:3] if node.replica is not None]
    assert cluster.run(cluster.now + 0.3, lambda: all(r.local.serving and r.dead() == ["s4"] for r in survivors))
    for replica in survivors:
        entry = replica.replication.store.newest("key")
        assert entry is not None
        assert entry.value == "value"


def test_taken_in_with_a_state_that_was_replaced() -> None:
    """A joiner to whom, on its way into a view, another side gave another state comes in as a new component."""
    hand = Hand(2)
    hand.answer(1, Write("key", "value"))
    hand.start(3)
    for _ in range(1000):
        install = hand.under_way("install", target=3)
        if install:
            break
        if hand.letters:
            hand.deliver(hand.letters[0])
        else:
            hand.tick()
    joiner = hand.replicas[3]
    assert joiner.local.view is None
    part = {"have": {"9:1": 5}, "value_ts": {"9:1": 5}, "exposed": {}, "records": [], "executed": [], "expired": []}
    load = Load(cluster=hand.config.cluster, view="9@9:1", sender="9:1", part=0, parts=1, state=part)
    hand.act(3, joiner.on_peer("another side", load, hand.now))
    assert isinstance(hand.replies["another side"], Ok)
    assert hand.run(5.0, lambda: all(r.local.serving for r in hand.replicas.values()))
    assert joiner.local.component == "3:1~1"
    assert {r.local.view_name for r in hand.replicas.values()} == {joiner.local.view_name}
    assert hand.run(5.0, hand.quiet)
    assert [hand.stored(n, "key") for n in (1, 2, 3)] == [["value"]] * 3
