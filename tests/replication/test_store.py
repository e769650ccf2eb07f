"""The store: what is kept depends on the set of updates, and on nothing else."""

from __future__ import annotations

import gc
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dida.replication.store import Entry, Store
from dida.replication.store import shown as versions_shown
from dida.versions import Version

versions = st.builds(Version, st.integers(1, 6), st.integers(1, 3))
updates = st.lists(st.tuples(st.sampled_from("kl"), versions), max_size=20)


def entry(key: str, version: Version) -> Entry:
    """The one update that is this version of the key."""
    return Entry(version.number, version.replica, f"{key} {version}", f"id:{version}", None)


def store_of(some: list[tuple[str, Version]], most: int = 3) -> Store:
    store = Store(most)
    for key, version in some:
        store.put(key, entry(key, version))
    return store


def shown(store: Store) -> dict[str, list[list[str]]]:
    return store.page("", 100)[0]


@given(updates, st.integers(1, 4), st.randoms(use_true_random=False))
def test_what_is_kept_is_a_function_of_the_set_of_updates(
    some: list[tuple[str, Version]], most: int, random: object
) -> None:
    """In whatever order updates come, and however often: the newest ones are kept, newest first."""
    again = [*some, *some]
    random.shuffle(again)  # type: ignore[attr-defined]
    expected = {
        key: [[str(version), f"{key} {version}"] for version in sorted({v for k, v in some if k == key}, reverse=True)]
        for key in {key for key, _ in some}
    }
    assert shown(store_of(again, most)) == {key: kept[:most] for key, kept in expected.items()}


@given(updates, updates)
def test_merging_two_stores(some: list[tuple[str, Version]], others: list[tuple[str, Version]]) -> None:
    """Taking over another's dump is associative, commutative and idempotent, like putting its updates."""
    merged = store_of(some)
    merged.load(list(store_of(others).dump()))
    merged.load(list(store_of(others).dump()))
    back = store_of(others)
    back.load(list(store_of(some).dump()))
    assert shown(merged) == shown(back) == shown(store_of([*some, *others]))


def test_many_versions_of_one_key() -> None:
    """However many versions are kept, and in whatever order they come: the newest, newest first, and a dump of them."""
    numbers = list(range(1, 301))
    Random(1).shuffle(numbers)
    store = store_of([("k", Version(n, 1)) for n in numbers], 200)
    dumped = store.dump()
    assert not store.put("k", entry("k", Version(300, 1)))
    assert not store.put("k", entry("k", Version(100, 1)))
    assert [e.number for e in store.versions("k")] == list(range(300, 100, -1))
    assert store.put("k", entry("k", Version(301, 1)))
    assert [number for _, entries in dumped for number, *_ in entries] == list(range(300, 100, -1))
    assert len(store.versions("k")) == 200


def test_a_dump_is_of_one_moment() -> None:
    """What is put while a dump is gone through is not in it."""
    store = store_of([("k", Version(1, 1)), ("l", Version(1, 1))])
    dumped = store.dump()
    store.put("k", entry("k", Version(2, 1)))
    store.put("m", entry("m", Version(1, 1)))
    assert [(key, len(entries)) for key, entries in dumped] == [("k", 1), ("l", 1)]


def test_garbage_is_not_sought_in_the_store() -> None:
    """However many records there are: Python's search for garbage, during which nothing is answered, looks at none."""
    store = Store()
    gc.collect()
    before = len(gc.get_objects())
    for number in range(10_000):
        store.put(f"k{number}", Entry(1, 1, str(number), "id:1", {"1:1": number}))
    gc.collect()
    assert len(gc.get_objects()) < before + 1000


@given(updates)
def test_put_tells_what_is_kept(some: list[tuple[str, Version]]) -> None:
    """Putting says whether the update is kept now and was not before."""
    store = Store(2)
    for key, version in some:
        before = versions_shown(store.versions(key))
        new = store.put(key, entry(key, version))
        assert new == (versions_shown(store.versions(key)) != before)
        assert new == (store.find(key, version) is not None and [str(version), f"{key} {version}"] not in before)


def test_an_equal_number_of_a_lower_replica_is_newer() -> None:
    """All replicas agree on the newest of two versions with the same number: that of the lower replica."""
    store = store_of([("k", Version(2, 3)), ("k", Version(2, 1)), ("k", Version(2, 2)), ("k", Version(1, 0))], 10)
    newest = store.newest("k")
    assert newest is not None
    assert newest.version == Version(2, 1)
    assert [str(e.version) for e in store.versions("k")] == ["2.1", "2.2", "2.3", "1.0"]


def test_a_discarded_version_does_not_come_back() -> None:
    """An update that comes late, older than all that are kept, stays out."""
    store = store_of([("k", Version(n, 1)) for n in range(1, 5)], 2)
    assert not store.put("k", entry("k", Version(2, 1)))
    assert [str(e.version) for e in store.versions("k")] == ["4.1", "3.1"]


def test_one_version_is_one_update() -> None:
    """Two updates under one version of a key are a broken invariant, not a choice."""
    store = store_of([("k", Version(1, 1))])
    with pytest.raises(AssertionError, match="two updates are k"):
        store.put("k", Entry(1, 1, "another value", "id:1.1", None))


def test_the_records_page_by_page() -> None:
    """A list is given out in pages that together are all records in the order of their keys, new ones among them."""
    store = store_of([(f"k{n:02}", Version(1, 1)) for n in range(25)])
    store.put("k095", entry("k095", Version(1, 1)))
    found: list[str] = []
    start: str | None = ""
    while start is not None:
        page, start = store.page(start, 10)
        assert len(page) <= 10
        found += page
    assert found == sorted({*(f"k{n:02}" for n in range(25)), "k095"})
    assert store.page("zzz", 10) == ({}, None)
    assert len(store) == 26


def test_an_unknown_key_or_version() -> None:
    """What is not there is nothing."""
    store = store_of([("k", Version(1, 1))])
    assert store.newest("l") is None
    assert store.find("k", Version(2, 1)) is None
    assert store.find("l", Version(1, 1)) is None
    assert not store.versions("l")
