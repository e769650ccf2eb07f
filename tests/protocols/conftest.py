"""What the tests of the protocols share."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.schedulers import System


@pytest.fixture
def system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[System]:
    """The system, started by the test."""
    monkeypatch.setattr("dida.scheduler.workers.REGISTRATION_TIME", 0.05)  # here nobody waits longer than that
    made = System(tmp_path)
    for key, value in (("13", "1"), ("14", "one_ahead_of_13"), ("23", "11"), ("24", "one_ahead_of_23")):
        made.storage.group.put(key, value)
    yield made
    made.close()
