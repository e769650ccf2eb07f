"""The executed table: bounded, and never a silent second execution."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dida.replication import executed
from dida.replication.executed import ReplyCache, answered, split, whole
from dida.wire.messages import No, Ok


def test_a_session_forgets_what_it_no_longer_asks_for() -> None:
    """Answers below the lowest unanswered number go at once, and are never executed again."""
    table = ReplyCache()
    for number in range(1, 101):
        table.note(f"s:{number}", number - 1, answered((f"{number}.1",), {}), 0.0)
    assert table.size == 2
    assert table.answer("s:100") == answered(("100.1",), {})
    assert table.answer("s:5") is None
    assert table.expired("s:5")
    assert not table.expired("s:101")


def test_an_idle_session_expires_and_is_told_so() -> None:
    """After the ttl a retry hears session-expired: its name is remembered."""
    table = ReplyCache(ttl=10.0)
    table.note("old:1", 0, answered(("1.1",), {}), 0.0)
    table.note("new:1", 0, answered(("2.1",), {}), 5.0)
    table.tick(12.0)
    assert table.expired("old:1")
    assert table.answer("new:1") is not None
    assert table.size == 1


def test_a_crowded_table_lets_idle_sessions_go_earlier(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half full, it keeps idle sessions for minutes, not for the ttl: many short sessions never fill it for long."""
    monkeypatch.setattr(executed, "MAX_IDS", 10)
    table = ReplyCache(ttl=3600.0)
    for number in range(8):
        table.note(f"run{number}:1", 0, answered((f"{number}.1",), {}), float(number))
    table.tick(executed.CROWDED_TTL - 1)
    assert table.size == 8
    table.tick(executed.CROWDED_TTL + 5)
    assert table.size == 4
    assert table.expired("run0:1")


def test_an_id_of_another_form_is_a_session_of_its_own() -> None:
    """Any words will do for an id: it is remembered for the ttl, and does not meet others."""
    table = ReplyCache(ttl=10.0)
    for id in ("plain", ":1", "a:", "a:b", "a:-1", "a:1:2", "ünï:7", "a:" + "9" * 30):
        assert table.answer(id) is None
        table.note(id, 0, answered((id,), {}), 0.0)
    for id in ("plain", ":1", "a:", "a:b", "a:-1", "a:1:2", "ünï:7", "a:" + "9" * 30):
        assert table.answer(id) == answered((id,), {})
    table.tick(10.0)
    assert table.size == 0
    assert table.expired("plain")


def test_the_first_answer_stays() -> None:
    """An id has one answer: what is noted again changes nothing."""
    table = ReplyCache()
    table.note("s:1", 0, answered(("1.1",), {"1:1": 1}), 0.0)
    table.note("s:1", 0, No(("2.1", "v")), 1.0)
    assert table.answer("s:1") == answered(("1.1",), {"1:1": 1})
    assert table.size == 1


def test_expired_names_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of expired sessions the newest names are remembered, so many."""
    monkeypatch.setattr(executed, "REMEMBERED", 5)
    table = ReplyCache(ttl=1.0)
    for number in range(20):
        table.note(f"s{number}:1", 0, answered((), {}), float(number))
        table.tick(number + 0.5)
    table.tick(100.0)
    assert [table.expired(f"s{number}:1") for number in range(20)] == [False] * 15 + [True] * 5


def test_a_session_that_has_ended() -> None:
    """Nothing of it is kept but its name, its late updates are refused, and what others have executed adds nothing."""
    table = ReplyCache()
    for number in range(5):
        table.note(f"s:{number}", 0, answered((), {}), 0.0)
    table.note("other:1", 0, answered((), {}), 0.0)
    for _ in range(2):
        table.forget("s")
    table.note("s:7", 0, answered((), {}), 1.0)
    assert (table.size, table.answer("s:1"), table.answer("s:7")) == (1, None, None)
    assert table.expired("s:1")
    assert table.expired("s:8")
    assert not table.expired("other:2")


ids = st.builds("{}:{}".format, st.sampled_from("abc"), st.integers(0, 5))
answers = st.builds(answered, st.just(("1.1",)), st.dictionaries(st.just("1:1"), st.integers(0, 3))) | st.builds(
    No, st.just(("1.1", "v")), st.builds(lambda n: {"after": {"1:1": n}}, st.integers(0, 3))
)
steps = st.lists(st.tuples(ids, st.integers(0, 5), answers, st.floats(0, 5)), max_size=30)


@given(steps)
def test_never_more_than_what_may_be_asked_for(some: list[tuple[str, int, Any, float]]) -> None:
    """An id that is in use has its first answer, is below its session's lowest, or its session has expired."""
    table = ReplyCache(ttl=20.0)
    now, first = 0.0, dict[str, Any]()
    for id, below, answer, later in some:
        now += later
        table.tick(now)
        number = split(id)[1]
        if not table.expired(id):
            table.note(id, min(below, number), answer, now)
            first.setdefault(id, answer)
        for known, said in first.items():
            found = table.answer(known)
            assert found == said or (found is None and table.expired(known))
    assert table.size <= 3 * 6


@given(steps)
def test_a_joiner_takes_over_all_of_it(some: list[tuple[str, int, Any, float]]) -> None:
    """After a transfer the joiner answers, refuses and expires as the one that gave it, on its own clock."""
    table, now = ReplyCache(ttl=20.0), 1000.0
    for id, below, answer, later in some:
        now += later
        table.tick(now)
        table.note(id, below, answer, now)
    joiner = ReplyCache(ttl=20.0)
    plain = msgspec.json.decode(msgspec.json.encode([list(table.dump(now)), table.expired_sessions]))
    joiner.load(plain[0], plain[1], 7.0)
    for passed in (0.0, 10.0, 30.0):
        table.tick(now + passed)
        joiner.tick(7.0 + passed)
        assert joiner.size == table.size
        for id in (f"{session}:{number}" for session in "abc" for number in range(6)):
            assert joiner.answer(id) == table.answer(id)
            assert joiner.expired(id) == table.expired(id)


@pytest.mark.parametrize(
    ("one", "other"), [("x", "x:0"), ("q:1", "q:01"), ("a:0", "a:00"), ("s", "s:"), (":1", "1"), ("s", "\0s:0")]
)
def test_ids_that_differ_are_different(one: str, other: str) -> None:
    """No two ids have one answer, however alike they look."""
    executed = ReplyCache()
    executed.note(one, 0, Ok(("1.1",)), 0.0)
    assert executed.answer(one) == Ok(("1.1",))
    assert executed.answer(other) is None
    assert not executed.expired(other)


def test_far_jumps_of_the_lowest_number() -> None:
    """What a session no longer asks for is forgotten, however far its lowest number jumps."""
    executed = ReplyCache()
    for number in range(1000):
        executed.note(f"s:{10**9 + number}", 0, Ok(("1.1",)), 0.0)
    for number in range(1000):
        executed.note(f"s:{10**10}", number * 10**5, Ok(("1.1",)), 0.0)
    assert executed.size == 1001
    executed.note(f"s:{10**10}", 10**10, Ok(("1.1",)), 0.0)
    assert executed.size == 1
    assert 0 < executed.bytes < 200
    executed.forget("s")
    assert (executed.size, executed.bytes) == (0, 0)


@given(st.text(max_size=3).filter(bool) | st.sampled_from(["s:1", "\0s:1", "\0\0s:0:0"]))
def test_an_id_is_its_session_and_number(id: str) -> None:
    """What an id is split into is put together again to the same."""
    assert whole(*split(id)) == id


def test_an_id_of_no_session_is_none_of_a_session_s() -> None:
    """What a session no longer asks for says nothing of the id that is its name alone."""
    executed = ReplyCache()
    executed.note("session:9", 5, Ok(("1.1",)), 0.0)
    assert executed.expired("session:4")
    assert not executed.expired("session")


def test_an_id_of_no_session_is_remembered_whatever_lowest_says() -> None:
    """`lowest` is of numbers; an id that has none is asked for again and gets its first answer."""
    executed = ReplyCache()
    executed.note("x", 5, Ok(("1.1",)), 0.0)
    assert executed.answer("x") == Ok(("1.1",))
    assert not executed.expired("x")
