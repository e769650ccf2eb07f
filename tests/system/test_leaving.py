"""SIGTERM at storage nodes as real processes: what only one of them had is with the others when it ends."""

from __future__ import annotations

import signal
import time
from pathlib import Path

from tests.support.clusters import StorageCluster


def test_told_to_end(tmp_path: Path) -> None:
    """A write that is only at the node which is told to end is read at the other, a second later. A second SIGTERM ends
    a node at once, though it still waits for another to take over."""
    cluster = StorageCluster(tmp_path, 3, "--gossip-delay", "60000", "--membership", "majority")
    try:
        first, second, third = cluster.nodes.values()
        assert first.ask("write key value").startswith("ok 1.1 ")
        told = time.monotonic()
        first.ask_to_end()
        assert first.wait_end() == -signal.SIGTERM
        assert time.monotonic() - told < 3
        assert second.ask("read key").startswith("ok value 1.1 ")
        assert "s2, s3 go on with its state" in first.output
        second.ask_to_end()
        assert third.ask("read key").startswith("ok value 1.1 ")
        assert second.status()["leaving"] is True
        assert second.ask("write key no").startswith("error unavailable ")
        second.ask_to_end()
        assert second.wait_end(2) == -signal.SIGTERM
        assert "go on with its state" not in second.output
    finally:
        cluster.end()
