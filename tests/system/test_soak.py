"""The short form of the soak: see tools/soak.py."""

from __future__ import annotations

from pathlib import Path

import pytest

from tools.soak import Soak

pytestmark = pytest.mark.long


def test_logs_and_memory_stay_bounded(tmp_path: Path) -> None:
    """With a member killed midway, logs and tables are small within 10 s of the last write, and further writes
    to the same keys cost no memory."""
    soak = Soak(tmp_path)
    try:
        soak.write(4000)
        soak.kill_one()
        soak.write(16_000, first=4000)
        soak.wait_quiet()
        before = soak.memory()
        soak.write(20_000, first=20_000)
        soak.wait_quiet()
        assert soak.memory() < before * 1.1
    finally:
        soak.end()
