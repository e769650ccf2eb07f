"""Real processes whose clocks are stepped: nothing but what people read depends on the time of day."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.clocks import HOUR, Clocks
from tests.clusters import StorageCluster
from tests.nodes import until
from tests.system.stepping import Stepping

pytestmark = pytest.mark.system


def test_a_system_whose_clocks_are_stepped(tmp_path: Path) -> None:
    """Six seconds of runs and updates while the clocks of one node, or of all, go an hour forward and back: nobody is
    removed, no run fails, time-outs fire, and the checkers of the torture are content."""
    stepping = Stepping(tmp_path, seconds=6, nodes=2, clients=2, seed=3)
    try:
        assert stepping.run() == []
    finally:
        stepping.end()
    assert stepping.faults.total() == 3
    assert stepping.runs > 6


def test_the_storage_an_hour_back(tmp_path: Path) -> None:
    """With the clocks of all storage nodes an hour back gossip goes on, and who is silent is declared dead."""
    clocks = Clocks(tmp_path / "clocks", ["s1", "s2", "s3"])
    cluster = StorageCluster(tmp_path, 3, "--ping-interval", "200", "--ping-timeout", "800", more=clocks.environment)
    try:
        clocks.step(-HOUR)
        assert cluster.nodes[1].ask("write key value").startswith("ok ")
        until("gossip", lambda: cluster.nodes[2].ask("read key").startswith("ok value "), 5)
        cluster.nodes[3].pause()
        cluster.wait_members(1, 2, seconds=10)
    finally:
        cluster.end()
