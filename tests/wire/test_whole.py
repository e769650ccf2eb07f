"""What a node knows of the whole system."""

from __future__ import annotations

import pytest

from dida.addresses import Address, NodeAddress, StorageAddress
from dida.errors import BadRequest
from dida.wire.messages import SchedulerAt
from dida.wire.whole import MAX_SCHEDULERS, REMEMBERED, Schedulers, whole
from tests.support.simnet import Hand


def scheduler(number: int) -> NodeAddress:
    return NodeAddress(f"sc{number}", Address("localhost", 2000 + number))


def test_the_answer() -> None:
    """Every part is an array, also an empty one; each node has an id and a URL, a storage node its number, too."""
    storage = StorageAddress(2, "s2", Address("::1", 5002))
    assert whole([storage], [scheduler(1)]).object == {
        "storage": [{"replica": 2, "id": "s2", "url": "[::1]:5002"}],
        "schedulers": [{"id": "sc1", "url": "localhost:2001"}],
        "workers": [],
        "pcs": [],
        "http": [],
    }


def test_schedulers_that_fall_silent_are_forgotten() -> None:
    """A scheduler is known for a while after its last word, under each address that it has given; and not too many."""
    known = Schedulers()
    known.note(scheduler(1), 0.0)
    known.note(scheduler(2), 20.0)
    known.note(scheduler(1), 21.0)
    assert known.living(21.0) == [scheduler(2), scheduler(1)]
    assert known.living(20.0 + REMEMBERED + 0.5) == [scheduler(1)]
    assert known.living(1000.0) == []
    for number in range(100):
        known.note(scheduler(number), 1000.0)
    assert known.living(1000.0) == [scheduler(number) for number in range(100 - MAX_SCHEDULERS, 100)]


@pytest.mark.parametrize("where", [SchedulerAt("sc1", "nowhere"), SchedulerAt("two words", "localhost:1")])
def test_what_is_no_scheduler_changes_nothing(where: SchedulerAt) -> None:
    """An id that is none, or a URL that is none, is refused."""
    with pytest.raises(BadRequest):
        _ = where.where


def test_a_storage_node_knows_its_view_and_the_other_groups() -> None:
    """The members of the view, not those that have left it; before there is a view, those that were named."""
    hand = Hand(3, start=False)
    hand.start(1)
    assert [each.id for each in hand.replicas[1].directory.pool()] == ["s1", "s2", "s3"]
    hand = Hand(3)
    hand.crash(2)
    hand.run(3.0)
    assert [each.id for each in hand.replicas[1].directory.pool()] == ["s1", "s3"]
    grouped = Hand(4, replication_factor=2)
    assert [each.replica for each in grouped.replicas[1].directory.pool()] == [1, 2, 3, 4]
