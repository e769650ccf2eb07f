"""How long a change of the view takes, in virtual time."""

from __future__ import annotations

from random import Random

import pytest

from dida.messages import Write
from dida.outputs import Config
from dida.simulate.network import Cluster, Network


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
