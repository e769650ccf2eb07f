"""The log: per stream a gapless run, of which `have` always says exactly how far it goes."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dida.replication import log as log_module
from dida.replication.log import Log
from dida.replication.messages import Range, Record

STREAMS = ("1:1", "2:1!", "3:1")


def record(stream: str, seq: int, value: str = "v") -> Record:
    return Record(stream, seq, {}, "k", seq, 1, value)


def records(stream: str, first: int, last: int) -> tuple[Record, ...]:
    return tuple(record(stream, seq) for seq in range(first, last + 1))


def log_of(**counts: int) -> Log:
    """A log with so many records of the streams `a`, `b`, …"""
    log = Log()
    for stream, count in counts.items():
        for seq in range(1, count + 1):
            log.append(record(stream, seq))
    return log


some_ranges = st.lists(
    st.builds(
        lambda stream, base, count: Range(stream, base, records(stream, base + 1, base + count)),
        st.sampled_from(STREAMS),
        st.integers(0, 8),
        st.integers(0, 5),
    ),
    max_size=12,
)


@given(some_ranges)
def test_have_says_what_was_received(given_ranges: list[Range]) -> None:
    """`have[s] = n` exactly when all records 1 to n of s were received, whatever came, twice or with a gap."""
    log = Log()
    taken: dict[str, list[int]] = {stream: [] for stream in STREAMS}
    for each in given_ranges:
        continues = each.base <= log.have.get(each.stream, 0)
        new = log.accept(each)
        assert continues or not new
        taken[each.stream] += [r.seq for r in new]
        for stream in STREAMS:
            assert taken[stream] == list(range(1, log.have.get(stream, 0) + 1))
    assert log.size == sum(map(len, taken.values()))


@given(st.fixed_dictionaries({s: st.integers(0, 9) for s in STREAMS}), st.data())
def test_a_peer_gets_what_it_lacks(counts: dict[str, int], data: Any) -> None:
    """What is sent to a peer, computed from what it has, makes it have all, and nothing twice."""
    log = log_of(**counts)
    peer = Log()
    for stream, count in counts.items():
        for r in records(stream, 1, data.draw(st.integers(0, count))):
            peer.append(r)
    before = dict(peer.have)
    for each in log.since(peer.have, log.have):
        assert len(peer.accept(each)) == len(each.records)
        assert each.base == before.get(each.stream, 0)
    assert {s: n for s, n in peer.have.items() if n} == {s: n for s, n in counts.items() if n}


def test_only_what_is_wanted_is_sent() -> None:
    """A stream that nobody asked for stays, and of the others no more than was wanted."""
    sent = log_of(a=5, b=5).since({"a": 1}, {"a": 3})
    assert [(r.stream, r.base, len(r.records)) for r in sent] == [("a", 1, 2)]


def test_an_own_record_continues_the_log() -> None:
    """Appending with a gap, or twice, is a broken invariant."""
    log = log_of(a=2)
    for seq in (2, 4):
        with pytest.raises(AssertionError, match="does not continue the log"):
            log.append(record("a", seq))


def test_truncation_cuts_the_head_only() -> None:
    """What is cut off still counts as received, and is neither sent nor taken again."""
    log = log_of(a=5)
    assert [r.seq for r in log.truncate("a", 3)] == [1, 2, 3]
    assert (log.size, log.truncated("a"), log.have) == (2, 3, {"a": 5})
    assert log.accept(Range("a", 0, records("a", 1, 5))) == ()
    assert [r.base for r in log.since({"a": 3}, log.have)] == [3]
    assert log.truncate("a", 9) and log.size == 0
    assert log.streams() == []


def test_who_needs_what_was_cut_off_gets_nothing_of_it() -> None:
    """A gap can't be sent: who fell behind the cut needs the whole state."""
    log = log_of(a=5, b=2)
    log.truncate("a", 3)
    assert [(r.stream, r.base) for r in log.since({}, log.have)] == [("b", 0)]


def test_a_message_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A message holds so many characters, or a single record that is larger; what is left goes with the next one."""
    monkeypatch.setattr(log_module, "BATCH", 1000)
    log = Log()
    for seq in range(1, 31):
        log.append(record("a", seq, "x" * (100 if seq < 30 else 5000)))
    known: dict[str, int] = {}
    messages = 0
    while known.get("a", 0) < 30:
        (each,) = log.since(known, log.have)
        assert each.base == known.get("a", 0)
        assert sum(len(r.value) for r in each.records[:-1]) < 1000
        known = {"a": each.base + len(each.records)}
        messages += 1
    assert 5 < messages < 15


def test_a_new_view_empties_the_log() -> None:
    """All have all: no record is kept, and only the streams of the living count on."""
    log = log_of(a=3, b=2)
    log.restart({"a": 3})
    assert (log.size, log.have, log.streams()) == (0, {"a": 3}, [])
    log.append(record("a", 4))
    assert log.have == {"a": 4}
