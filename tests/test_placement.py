"""The ring: an even load, and few keys that move."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dida.placement import Ring

KEYS = 10_000
SHAPES: dict[str, Callable[[int], str]] = {
    "numbers": str,
    "padded numbers": "{:08}".format,
    "named numbers": "key{}".format,
    "numbers with a long tail": "{}/a/long/and/constant/tail/of/a/name".format,
    "addresses": lambda n: f"user{n % 97}@example{n}.org",
    "not ASCII": "schlüssel-⏚-{}".format,
    "binary": "{:b}".format,
}
NAMES = {
    "ids": ["s1", "s2", "s3", "s4"],
    "numbers": ["1", "2", "3", "4"],
    "alike": ["storage-node-1", "storage-node-11", "storage-node-111", "storage-node-1111"],
    "any": ["alpha", "b", "Γ", "a node with a long name"],
}
shapes = pytest.mark.parametrize("shape", SHAPES)
named = pytest.mark.parametrize("names", NAMES)


def keys(shape: str) -> list[str]:
    return [SHAPES[shape](number) for number in range(KEYS)]


@shapes
@named
def test_load_spreads(shape: str, names: str) -> None:
    """On 4 nodes and 10,000 keys every node has its quarter within 15 %, whatever keys and names look like."""
    ring = Ring(NAMES[names])
    shares = Counter(map(ring.owner, keys(shape)))
    assert all(abs(shares[name] - KEYS / 4) <= 0.15 * KEYS / 4 for name in NAMES[names]), shares


@shapes
def test_only_the_keys_of_a_dead_node_move(shape: str) -> None:
    """When a node dies its keys go to the next on the ring, spread over all others, and no other key moves."""
    before, after = Ring(NAMES["ids"]), Ring(["s1", "s2", "s4"])
    heirs = Counter[str]()
    for key in keys(shape):
        if before.owner(key) == "s3":
            heirs[after.owner(key)] += 1
            assert after.owner(key) == list(before.order(key))[1]
        else:
            assert after.owner(key) == before.owner(key)
    assert set(heirs) == {"s1", "s2", "s4"}


names_of = st.sets(st.text(min_size=1, max_size=5), min_size=1, max_size=6)


@given(names_of, st.text())
def test_an_order_names_all_once(names: set[str], key: str) -> None:
    """A key's order has every node once, its owner first."""
    ring = Ring(names, points=16)
    order = list(ring.order(key))
    assert sorted(order) == sorted(names)
    assert order[0] == ring.owner(key)


@given(names_of, st.text(), st.data())
def test_who_is_dead_is_skipped_in_the_order(names: set[str], key: str, data: st.DataObject) -> None:
    """Taking nodes off the ring leaves the order of the others as it was."""
    dead = data.draw(st.sets(st.sampled_from(sorted(names))))
    with_all, without = Ring(names, points=16), Ring(names - dead, points=16)
    assert [name for name in with_all.order(key) if name not in dead] == list(without.order(key))


def test_all_nodes_see_the_same_ring() -> None:
    """The ring depends on the names alone, not on their order, nor on process or release: keys stay where they are."""
    ring = Ring(["s4", "s2", "s1", "s3", "s1"])
    assert ring.names == ("s1", "s2", "s3", "s4")
    owners = {"13": "s4", "14": "s4", "23": "s4", "24": "s2", "": "s1", "⏚": "s4"}
    assert {key: ring.owner(key) for key in owners} == owners


def test_an_empty_ring() -> None:
    """Nobody owns a key when there is nobody."""
    assert list(Ring([]).order("k")) == []
    with pytest.raises(LookupError, match="the ring is empty"):
        Ring([]).owner("k")
