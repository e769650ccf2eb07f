"""--max-memory: what is refused when a replica is full, what goes on, and how what it takes is counted."""

from __future__ import annotations

import gc
import tracemalloc
from random import Random
from typing import Any

import pytest

from dida.replication.room import used
from dida.replication.store import KEY, Entry, Store, bytes_of
from dida.wire.messages import Error, ListRecords, No, Ok, Read, Reply, UpdateIf, Write
from tests.support.simnet import Hand

SMALL = 200_000
"""Bytes of a limit that some hundreds of writes reach."""


def full(count: int = 2, **config: Any) -> Hand:
    """Replicas with a small limit, filled by writes through the first one, all of which all have."""
    hand = Hand(count, max_memory=SMALL, **config)
    for value in "ab":
        hand.answer(1, Write("kept", value * 200, id=f"s:{value}", retry=False))
    for number in range(1000):
        if number % 20 == 0:
            hand.run(0.02)
        if isinstance(hand.answer(1, Write(f"k{number}", "x" * 100)), Error):
            hand.run(0.2)
            if isinstance(hand.answer(1, Write(f"k{number}", "x" * 100)), Error):
                return hand
    raise AssertionError("it never was full")


def code(reply: Reply) -> str:
    return reply.code if isinstance(reply, Error) else ""


def test_a_write_that_needs_more_is_refused_and_changes_nothing() -> None:
    """By its own error, with what to do; whichever way the write comes. Reads and lists go on."""
    hand = full()
    before = [used(replica.state) for replica in hand.replicas.values()]
    for number in (1, 2):
        reply = hand.answer(number, Write("new", "v"))
        assert reply == Error(
            "storage-full", ("0 of 0 MiB are used: give the storage nodes more (--max-memory), or add nodes",)
        )
        assert hand.replicas[number].plain_write("new", "v", hand.now) is None
        assert code(hand.answer(number, Write("new", "v", id="s:1", retry=False))) == "storage-full"
        assert code(hand.answer(number, Write("new", "v", id="s:2"))) == "storage-full", "by the key's home"
        assert code(hand.answer(number, UpdateIf("k1", "x" * 100, "y"))) == "storage-full"
        assert isinstance(hand.answer(number, Read("k1")), Ok)
        assert isinstance(hand.answer(number, Read("k1", latest=True)), Ok)
        assert isinstance(hand.answer(number, ListRecords()), Ok)
        assert hand.stored(number, "new") == []
    hand.run(1.0)
    assert hand.quiet()
    assert [used(replica.state) for replica in hand.replicas.values()] == before


def test_what_needs_no_more_goes_on() -> None:
    """A comparison that fails is answered, a retry gets its first answer, and a version that goes makes room for one
    that is no longer."""
    hand = full(max_versions=2)
    assert isinstance(hand.answer(1, UpdateIf("kept", "other", "c")), No)
    assert hand.answer(2, Write("kept", "a" * 200, id="s:a")).words == ("1.1",)
    assert isinstance(hand.answer(1, Write("kept", "c" * 200)), Ok)
    assert isinstance(hand.answer(2, UpdateIf("kept", "c" * 200, "d" * 200)), Ok)
    assert code(hand.answer(1, Write("kept", "e" * 201))) == "storage-full"
    assert code(hand.answer(1, Write("k0", "x"))) == "storage-full", "there is one version of it so far"


def test_replication_goes_on() -> None:
    """What others have written is taken, and a node that joins is given all: members are alike, full or not."""
    hand = full(3)
    hand.crash(3)
    assert hand.run(5.0, lambda: len(hand.replicas[1].context.others()) == 1)
    hand.replicas[2].state.store.bytes -= 5000  # as if it had counted less
    assert isinstance(hand.answer(2, Write("late", "v", concern="all")), Ok)
    assert hand.stored(1, "late") == ["v"]
    hand.start(3)
    assert hand.run(5.0, lambda: len(hand.replicas[1].context.others()) == 2)
    assert hand.stored(3, "late") == ["v"]
    assert used(hand.replicas[3].state) > SMALL


def test_it_warns_before() -> None:
    """From 80 % on, in the log and in status, once; again when it is full, and after it was well below."""
    hand = full()
    replica = hand.replicas[1]
    told = [note for note in replica.context.notes if note.startswith("memory: ")]
    assert set(told) == {
        "memory: 0 of 0 MiB (--max-memory) are used",
        "memory: 0 of 0 MiB (--max-memory) are used: writes that need more are refused (storage-full)",
    }
    hand.run(5.0)
    assert [note for note in replica.context.notes if note.startswith("memory: ")] == told
    status = replica.status(hand.now)
    assert (status["nearly_full"], status["max_memory"]) == (True, SMALL)
    assert SMALL <= status["memory"] <= 1.1 * SMALL
    entry = replica.state.store.newest("k1")
    assert entry is not None
    replica.keep_encoded(entry, b"said")
    assert entry.encoded is None, "nothing is kept that only saves time"


def test_a_refusal_is_said_though_there_is_room_again() -> None:
    """The log of updates is cut right behind a refusal: the node is below its limit again, and says it all the same."""
    hand = Hand(1, max_memory=SMALL)
    replica = hand.replicas[1]
    replica.state.store.bytes += SMALL
    assert code(hand.answer(1, Write("new", "v"))) == "storage-full"
    replica.state.store.bytes -= SMALL // 8
    hand.run(1.0)
    assert any("storage-full" in note for note in replica.context.notes)


def test_without_a_limit_nothing_is_said() -> None:
    """So the core is unless options set a limit."""
    status = Hand(1).replicas[1].status(9.0)
    assert (status["nearly_full"], status["max_memory"]) == (False, 0)


def test_the_store_counts_what_it_has() -> None:
    """Whatever is put, and in which order, discarded versions included: the sum of what is there."""
    dice = Random(7)
    store = Store(70)
    for step in range(5000):
        key, value = f"k{dice.randrange(20)}", "é" * dice.randrange(50)
        number = step if dice.random() < 0.7 else dice.randrange(5000, 6000)
        if not any(each.number == number for each in store.versions(key)):
            store.put(key, Entry(number, 1, value, f"s:{step}" if step % 2 else None, None))
        newest = store.newest(key)
        if newest is not None and newest.encoded is None and dice.random() < 0.1:
            store.keep_encoded(newest, b"x" * 10)
    entries = [entry for key in store for entry in store.versions(key)]
    assert max(len(store.versions(key)) for key in store) == 70
    assert store.bytes == sum(KEY + bytes_of(key) for key in store) + sum(entry.bytes for entry in entries)


@pytest.mark.parametrize(("size", "ids", "each"), [(10, False, 1), (1000, False, 1), (10, False, 10), (10, True, 1)])
def test_what_is_counted_is_about_what_is_taken(size: int, ids: bool, each: int) -> None:
    """Of short and long values, of keys with one and with many versions, and of answers that are remembered."""
    hand = Hand(1)
    gc.collect()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        counted = used(hand.replicas[1].state)
        for number in range(3000):
            given: dict[str, Any] = {"id": f"session:{number}", "retry": False} if ids else {}
            hand.ask(1, Write(f"key{number // each:05}", str(number).rjust(size, "v"), **given))
            hand.replies.clear()
            if number % 50 == 0:
                hand.tick()
        hand.tick()
        gc.collect()
        taken = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert 0.95 <= (used(hand.replicas[1].state) - counted) / taken <= 1.35
