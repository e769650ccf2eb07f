"""The policies on real workers: see tools/makespan.py. The short form is tests/chains/test_scheduling.py."""

from __future__ import annotations

from pathlib import Path

import pytest

from tools.makespan import measured

pytestmark = [pytest.mark.long, pytest.mark.system, pytest.mark.timeout(120)]


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_least_active_is_near_the_ideal(steps: int, tmp_path: Path) -> None:
    """Operators of 10 ms and 1 s mixed on four workers, in chains of some lengths, end within 1.15 of the ideal."""
    took, ideal = measured("least-active", 200, steps, tmp_path)
    assert took <= 1.15 * ideal
