"""Restarting all nodes one after the other, as docs/howto/run-nodes.md says, loses nothing and fails no run."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.support.nodes import ROOT, environment


def rolling(*words: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tools.rolling", *words],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "nothing lost, no run failed" in done.stdout


@pytest.mark.timeout(180)
def test_one_turn() -> None:
    """Three storage nodes and two workers, each restarted once by the recipe, under load."""
    rolling("--nodes", "3", "--workers", "2")


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("how", [(), ("--at-once",)])
def test_ten_turns(how: tuple[str, ...]) -> None:
    """Five storage nodes and all workers, ten times; also when nobody waits for the restarted node to be ready."""
    rolling("--nodes", "5", "--workers", "3", "--turns", "10", *how)
