"""Which replicas hold a key under partial replication."""

from __future__ import annotations

from collections import Counter

import pytest

from dida.placement import Shards


@pytest.mark.parametrize(
    ("named", "factor", "groups"),
    [
        ([1, 2, 3, 4], 2, [[1, 2], [3, 4]]),
        ([1, 2, 3, 4, 5], 2, [[1, 2], [3, 4, 5]]),
        ([7, 3, 9, 1], 2, [[1, 3], [7, 9]]),
        ([1, 2, 3], 5, [[1, 2, 3]]),
        ([1, 2, 3], None, [[1, 2, 3]]),
        ([1, 2], 1, [[1], [2]]),
    ],
)
def test_groups_have_at_least_the_factor(named: list[int], factor: int | None, groups: list[list[int]]) -> None:
    """The pool is split in the order of the numbers; what is left over joins the last group."""
    found = Shards(named, factor)
    assert [found.replicas(group) for group in range(len(found))] == groups


def test_keys_are_spread_over_the_groups() -> None:
    """No group of four holds more than 15 % over its share of 10,000 keys."""
    found = Shards(range(1, 9), 2)
    spread = Counter(found.of_key(f"key{n}") for n in range(10_000))
    assert set(spread) == {0, 1, 2, 3}
    assert max(spread.values()) < 2500 * 1.15
    assert min(spread.values()) > 2500 * 0.85


def test_a_node_that_was_not_named_falls_into_a_group() -> None:
    """A replica that joins later belongs to one group, whoever asks."""
    found = Shards([1, 2, 5, 6], 2)
    assert [found.of_replica(number) for number in (1, 2, 3, 5, 6, 7)] == [0, 0, 1, 1, 1, 1]
