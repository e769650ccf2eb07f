"""The short form of the torture: see tools/torture.py."""

from __future__ import annotations

from pathlib import Path

import pytest

from tools.torture import Torture

pytestmark = pytest.mark.long


def test_promises_are_kept_under_crashes_pauses_and_joins(tmp_path: Path) -> None:
    """Twelve seconds of all operations by ten clients on few keys, with coordinators killed and restarted at once,
    nodes paused, and new ones joining: every checker is content, and all nodes end with the same."""
    torture = Torture(tmp_path, seconds=12, nodes=4, clients=10, seed=7)
    try:
        assert torture.run() == []
    finally:
        torture.end()
    assert torture.rate > 20
    assert torture.faults["killed"] > 0
