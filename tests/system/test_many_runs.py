"""Many runs leave nothing behind: see tools/many_runs.py."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.netcat import object_of
from tests.support.nodes import until
from tools.many_runs import KEPT, ManyRuns

pytestmark = pytest.mark.system


@pytest.fixture
def many(tmp_path: Path) -> Iterator[ManyRuns]:
    made = ManyRuns(tmp_path)
    yield made
    made.end()


@pytest.mark.long
def test_runs_leave_nothing_behind(many: ManyRuns) -> None:
    """When all runs have ended the storage remembers none of their updates, nothing counts at a worker, and
    the scheduler keeps as many outcomes as it was told to."""
    count = KEPT + 100
    many.run(count)
    until("the ids of updates are forgotten", lambda: many.remembered() == 0, 10)
    assert many.loads() == 0
    status = object_of(many.scheduler.ask("status"))
    assert (status["done"], status["dropped"]) == (count, 100)


@pytest.mark.long
def test_memory_stays_flat(many: ManyRuns) -> None:
    """Once the tables have the size that they keep, thousands of runs more cost no memory."""
    many.run(2000)
    before = many.memory()
    many.run(4000)
    after = many.memory()
    assert all(after[id] < before[id] * 1.1 for id in after), (before, after)
