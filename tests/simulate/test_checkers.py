"""The checkers are checked: histories known good and known bad, brute force, mutations."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain as chained
from itertools import combinations, permutations
from random import Random
from typing import Any

import pytest
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st

from dida.interfaces import Access
from dida.simulate import checkers
from dida.simulate.checkers import (
    beginning,
    chain,
    late,
    linearizable,
    nobody,
    once,
    one_value,
    predecessors,
    real_time,
)
from dida.simulate.checkers import sessions as keeps_sessions
from dida.simulate.history import FAILED, FOREVER, LOST, NO, OK, UNKNOWN, Event, History, Shown, by_key, dumped, loaded
from dida.versions import Version

START = "a"


def cas(old: str, new: str, begin: float, end: float, outcome: str = OK, seen: str | None = None) -> Event:
    """An updateif of the key `k`."""
    returned = FOREVER if outcome == UNKNOWN else end
    return Event("c", "updateif", "k", begin, new, old, returned=returned, outcome=outcome, seen=seen, version=v(1))


def get(value: str | None, begin: float, end: float) -> Event:
    """A latest read of the key `k`; None: there was no record."""
    found = value is not None
    outcome = OK if found else NO
    return Event(
        "c", "read", "k", begin, value, latest=True, returned=end, outcome=outcome, version=v(1) if found else None
    )


def v(number: int, replica: int = 1) -> Version:
    return Version(number, replica)


# --- linearizability, and the chain ---------------------------------------------------------------

GOOD: dict[str, History] = {
    "nothing": [],
    "one after the other": [cas("a", "b", 0, 1), cas("b", "c", 2, 3), get("c", 4, 5)],
    "two at once, one refused": [cas("a", "b", 0, 5), cas("a", "c", 0, 5, NO, "b")],
    "refused by a value that comes at the same time": [cas("a", "b", 2, 3), cas("x", "y", 0, 5, NO, "b")],
    "refused by the value before": [cas("a", "b", 2, 3), cas("x", "y", 0, 5, NO, "a")],
    "an unknown outcome that took effect late": [
        cas("a", "b", 0, 0, UNKNOWN),
        get("a", 1, 2),
        get("a", 3, 4),
        get("b", 5, 6),
    ],
    "an unknown outcome that never took effect": [cas("a", "b", 0, 0, UNKNOWN), cas("a", "c", 1, 2), get("c", 3, 4)],
    "an unknown outcome that lost the race": [cas("a", "b", 0, 1), cas("a", "c", 0, 0, UNKNOWN), get("b", 9, 10)],
    "two unknown ones in a row": [cas("a", "b", 0, 0, UNKNOWN), cas("b", "c", 1, 1, UNKNOWN), get("c", 5, 6)],
    "reads that overlap a change": [cas("a", "b", 0, 9), get("a", 1, 2), get("b", 3, 4)],
    "what failed has no place": [cas("a", "b", 0, 1, FAILED), get("a", 2, 3)],
    "what was refused for a loss has no place": [cas("a", "b", 0, 1, LOST), get("a", 2, 3)],
}

BAD: dict[str, History] = {
    "two successes from one value": [cas("a", "b", 0, 1), cas("a", "c", 0, 1)],
    "two successes from one value, one after the other": [cas("a", "b", 0, 1), cas("a", "c", 2, 3)],
    "a read of what was replaced": [cas("a", "b", 0, 1), get("a", 2, 3)],
    "a read of what comes later": [get("b", 0, 1), cas("a", "b", 2, 3)],
    "reads that go back": [cas("a", "b", 0, 9), get("b", 1, 2), get("a", 3, 4)],
    "a value of nobody": [get("z", 0, 1)],
    "success from a value that never was": [cas("z", "b", 0, 1)],
    "refused though it was equal": [cas("a", "b", 0, 1, NO, "a")],
    "refused by a value of nobody": [cas("x", "y", 0, 1, NO, "z")],
    "refused by a value that was replaced": [cas("a", "b", 0, 1), cas("x", "y", 2, 3, NO, "a")],
    "an unknown outcome that came and went": [cas("a", "b", 0, 0, UNKNOWN), get("b", 1, 2), get("a", 3, 4)],
    "an unknown outcome seen before it was asked for": [get("b", 0, 1), cas("a", "b", 2, 2, UNKNOWN)],
    "an unknown outcome that forks": [cas("a", "b", 0, 0, UNKNOWN), cas("a", "c", 1, 2), get("b", 3, 4)],
    "a success forgotten": [cas("a", "b", 0, 1), cas("a", "c", 2, 2, UNKNOWN), get("c", 3, 4)],
    "a cycle": [cas("b", "c", 0, 9), cas("c", "b", 0, 9)],
    "no record though there is one": [get(None, 0, 1)],
    "what failed is seen": [cas("a", "b", 0, 1, FAILED), get("b", 2, 3)],
}


@pytest.mark.parametrize("name", GOOD)
def test_good_histories_pass(name: str) -> None:
    """What a linearizable register could have answered is not complained of, by the search or by the chain."""
    assert linearizable(GOOD[name], START) is None
    assert chain(GOOD[name], START) == []


@pytest.mark.parametrize("name", BAD)
def test_bad_histories_are_found(name: str) -> None:
    """What no linearizable register answers is found, by the search and by the chain."""
    assert linearizable(BAD[name], START) is not None
    assert chain(BAD[name], START) != []


def brute_force(history: History, initial: str | None) -> bool:
    """Whether any order of the operations explains the answers: tries them all."""
    sure = [e for e in history if e.outcome in (OK, NO)]
    unsure = [e for e in history if e.outcome == UNKNOWN and e.changes]
    subsets = chained.from_iterable(combinations(unsure, n) for n in range(len(unsure) + 1))
    return any(_explains(order, initial) for some in subsets for order in permutations([*sure, *some]))


def _explains(order: tuple[Event, ...], state: str | None) -> bool:
    for place, event in enumerate(order):
        if any(later.returned < event.invoked for later in order[place + 1 :]):
            return False
        if event.verb == "read":
            if state != event.value:
                return False
        elif event.outcome == NO:
            if state == event.old or state != event.seen:
                return False
        else:
            if state != event.old:
                return False
            state = event.value
    return True


@st.composite
def some_history(draw: Any, unique: bool) -> History:
    """Up to six operations; with `unique` each writes another value."""
    history = []
    for number in range(draw(st.integers(1, 6))):
        begin = draw(st.integers(0, 8))
        end = begin + draw(st.integers(0, 4)) + 0.5
        known = st.sampled_from(["a", "v0", "v1", "v2"]) if unique else st.sampled_from("abc")
        if draw(st.booleans()):
            history.append(get(draw(known | st.none()), begin, end))
        else:
            outcome = draw(st.sampled_from([OK, OK, NO, UNKNOWN, FAILED]))
            new = f"v{number}" if unique else draw(known)
            history.append(
                cas(draw(known), new, begin, end, outcome, draw(known | st.none()) if outcome == NO else None)
            )
    return history


@given(some_history(unique=False), st.sampled_from(["a", None]))
def test_the_search_agrees_with_brute_force(history: History, initial: str | None) -> None:
    """Of any six operations the search says what trying all orders says."""
    assert (linearizable(history, initial) is None) == brute_force(history, initial)


@given(some_history(unique=True))
def test_the_chain_agrees_with_brute_force(history: History) -> None:
    """Where values are unique, the chain says in linear time what trying all orders says."""
    assert (chain(history, START) == []) == brute_force(history, START)


def atomic(rng: Random, operations: int, clients: int = 4) -> History:
    """What clients hear of a register that does one operation at a time; some never hear anything."""
    history: History = []
    free = [0.0] * clients
    state, now = START, 0.0
    for number in range(operations):
        client = rng.randrange(clients)
        now = max(now, free[client]) + rng.random()
        begin, end = free[client] + rng.random() * (now - free[client]), now + rng.random() * 2
        free[client] = end + 0.001
        roll = rng.random()
        if roll < 0.4:
            event = get(state, begin, end)
        elif roll < 0.75:
            event = cas(state, f"v{number}", begin, end)
            state = f"v{number}"
        else:
            event = cas("never", f"v{number}", begin, end, NO, state)
        if event.changes and rng.random() < 0.1:
            event.outcome, event.returned, event.seen = UNKNOWN, FOREVER, None
        history.append(evolve(event, session=f"c{client}"))
    return history


def mutated(rng: Random, history: History) -> History:
    """One answer is another one."""
    place = rng.randrange(len(history))
    values = [START, *(e.value for e in history if e.changes and e.value is not None)]
    event = evolve(history[place])
    if event.verb == "read":
        event.value = rng.choice(values)
    elif event.outcome == NO:
        event.seen = rng.choice(values)
    elif event.outcome == OK:
        event.old = rng.choice([*values, "never"])
    else:
        event.outcome, event.returned = OK, event.invoked + rng.random()
    return [*history[:place], event, *history[place + 1 :]]


def test_a_thousand_mutations() -> None:
    """One wrong answer in a history is found, unless the history is right with it: brute force says which."""
    rng = Random(20)
    bad = 0
    for _ in range(1000):
        good = atomic(rng, rng.randint(2, 6))
        assert linearizable(good, START) is None
        assert chain(good, START) == []
        other = mutated(rng, good)
        right = brute_force(other, START)
        bad += not right
        assert (linearizable(other, START) is None) == right
        assert (chain(other, START) == []) == right
    assert bad > 400


def test_long_histories() -> None:
    """The search takes 200 operations, the chain tens of thousands; both find one wrong answer among them."""
    rng = Random(21)
    short = atomic(rng, 200, clients=8)
    assert linearizable(short, START) is None
    long = atomic(rng, 20_000, clients=20)
    assert chain(long, START) == []
    place = next(n for n in range(15_000, 20_000) if long[n].verb == "read" and long[n].outcome == OK)
    long[place] = evolve(long[place], value=START)
    assert chain(long, START) == [f"back in time: {long[place]}"]


def test_too_long_for_the_search_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    """More operations than can be searched, or a search that ran out of steps, does not count as right."""
    history = atomic(Random(22), 201)
    assert linearizable(history, START) == "201 operations are more than the 200 that can be searched"
    monkeypatch.setattr(checkers, "MAX_STEPS", 50)
    assert "none excluded" in str(linearizable(history[:200], START))


def test_the_beginning_of_a_long_history() -> None:
    """Cut off at an operation, what had not returned then is of unknown outcome, and the rest is as it was."""
    history = atomic(Random(23), 300)
    first = beginning(history)
    assert len(first) == 200
    assert linearizable(first, START) is None
    assert beginning(history[:10]) == sorted(history[:10], key=lambda e: e.invoked)


# --- any key, by versions ------------------------------------------------------------------------


def did(
    session: str, verb: str, key: str, begin: float, value: str | None, version: Version | None, **rest: Any
) -> Event:
    """An operation that took 0.5 s; `ok` by default."""
    known = {"returned": begin + 0.5, "outcome": OK, **rest}
    return Event(session, verb, key, begin, value, version=version, **known)


W, U, R = "write", "updateif", "read"

REAL_TIME: dict[str, tuple[bool, History]] = {
    "a read sees an acknowledged write": (
        True,
        [did("a", W, "k", 0, "x", v(2)), did("b", R, "k", 1, "x", v(2), latest=True)],
    ),
    "a read misses one": (False, [did("a", W, "k", 0, "x", v(2)), did("b", R, "k", 1, "o", v(1), latest=True)]),
    "it may miss one at the same time": (
        True,
        [did("a", W, "k", 0, "x", v(2)), did("b", R, "k", 0.2, "o", v(1), latest=True)],
    ),
    "a plain read may lag": (True, [did("a", W, "k", 0, "x", v(2)), did("b", R, "k", 1, "o", v(1))]),
    "a plain read sets nothing": (True, [did("a", R, "k", 0, "x", v(2)), did("b", R, "k", 1, "o", v(1), latest=True)]),
    "an updateif is newer": (True, [did("a", W, "k", 0, "x", v(2)), did("b", U, "k", 1, "y", v(3), old="x")]),
    "an updateif is not newer": (
        False,
        [did("a", W, "k", 0, "x", v(2)), did("b", U, "k", 1, "y", v(2), old="o")],
    ),
    "a refusal that lags": (
        False,
        [did("a", W, "k", 0, "x", v(2)), did("b", U, "k", 1, "y", v(1), old="p", outcome=NO, seen="o")],
    ),
    "no record, when there was one": (
        False,
        [did("a", W, "k", 0, "x", v(2)), did("b", R, "k", 1, None, None, latest=True, outcome=NO)],
    ),
    "another key": (True, [did("a", W, "k", 0, "x", v(2)), did("b", R, "l", 1, "o", v(1), latest=True)]),
}


@pytest.mark.parametrize("name", REAL_TIME)
def test_real_time(name: str) -> None:
    """Updateifs and latest reads include all that was acknowledged before, on keys with plain writes, too."""
    good, history = REAL_TIME[name]
    assert (real_time(history) == []) == good


def test_what_was_lost_sets_no_time() -> None:
    """A version that died with its replica need not be included."""
    history = [did("a", W, "k", 0, "x", v(2)), did("b", R, "k", 1, "o", v(1), latest=True)]
    assert real_time(history, {Shown("k", v(2), "x")}) == []


SESSIONS: dict[str, tuple[bool, History]] = {
    "read your writes": (True, [did("a", W, "k", 0, "x", v(2)), did("a", R, "k", 1, "x", v(2))]),
    "not reading your write": (False, [did("a", W, "k", 0, "x", v(2)), did("a", R, "k", 1, "o", v(1))]),
    "no record after writing it": (
        False,
        [did("a", W, "k", 0, "x", v(2)), did("a", R, "k", 1, None, None, outcome=NO)],
    ),
    "monotonic reads": (True, [did("a", R, "k", 0, "o", v(1)), did("a", R, "k", 1, "x", v(2))]),
    "reads that go back": (False, [did("a", R, "k", 0, "x", v(2)), did("a", R, "k", 1, "o", v(1))]),
    "reads of two sessions": (True, [did("a", R, "k", 0, "x", v(2)), did("b", R, "k", 1, "o", v(1))]),
    "monotonic writes": (True, [did("a", W, "k", 0, "x", v(2)), did("a", W, "k", 1, "y", v(3))]),
    "writes out of order": (False, [did("a", W, "k", 0, "x", v(3)), did("a", W, "k", 1, "y", v(2))]),
    "a write over itself": (False, [did("a", W, "k", 0, "x", v(2)), did("a", W, "k", 1, "y", v(2))]),
    "writes follow reads": (True, [did("a", R, "k", 0, "x", v(2)), did("a", W, "k", 1, "y", v(3))]),
    "a write before what was read": (False, [did("a", R, "k", 0, "x", v(2)), did("a", W, "k", 1, "y", v(2, 5))]),
    "a lower replica's version is newer": (
        True,
        [did("a", R, "k", 0, "x", v(2, 5)), did("a", R, "k", 1, "y", v(2, 1))],
    ),
    "a refusal shows, too": (
        False,
        [did("a", W, "k", 0, "x", v(2)), did("a", U, "k", 1, "y", v(1), old="p", outcome=NO, seen="o")],
    ),
    "a cause is seen": (
        True,
        [
            did("a", W, "k", 0, "x", v(2)),
            did("a", W, "l", 1, "y", v(1)),
            did("b", R, "l", 2, "y", v(1)),
            did("b", R, "k", 3, "x", v(2)),
        ],
    ),
    "a cause is missed": (
        False,
        [
            did("a", W, "k", 0, "x", v(2)),
            did("a", W, "l", 1, "y", v(1)),
            did("b", R, "l", 2, "y", v(1)),
            did("b", R, "k", 3, "o", v(1)),
        ],
    ),
    "the cause of a cause is missed": (
        False,
        [
            did("a", W, "k", 0, "x", v(2)),
            did("a", W, "l", 1, "y", v(1)),
            did("b", R, "l", 2, "y", v(1)),
            did("b", W, "m", 3, "z", v(1)),
            did("c", R, "m", 4, "z", v(1)),
            did("c", R, "k", 5, "o", v(1)),
        ],
    ),
    "a cause is missed before its reader heard": (
        False,
        [
            did("a", W, "k", 0, "x", v(2)),
            did("a", W, "l", 1, "y", v(1), returned=9.0),
            did("b", R, "l", 2, "y", v(1)),
            did("b", R, "k", 3, "o", v(1)),
        ],
    ),
    "an updateif depends on what it replaced": (
        False,
        [
            did("a", W, "k", 0, "x", v(2)),
            did("a", W, "l", 1, "y", v(1)),
            did("b", U, "l", 2, "z", v(2), old="y"),
            did("c", R, "l", 3, "z", v(2)),
            did("c", R, "k", 4, "o", v(1)),
        ],
    ),
    "a version that was asked for is not a step back": (
        True,
        [did("a", R, "k", 0, "x", v(2)), did("a", R, "k", 1, "o", v(1), wanted=v(1))],
    ),
}


@pytest.mark.parametrize("name", SESSIONS)
def test_sessions(name: str) -> None:
    """Each session guarantee, kept and violated."""
    good, history = SESSIONS[name]
    assert (keeps_sessions(history) == []) == good


def test_a_loss_is_told_once() -> None:
    """Who saw a version that is lost must hear so, before older ones; who learned of it through others need not."""
    seen, lost = did("a", R, "k", 0, "x", v(2)), {Shown("k", v(2), "x")}
    told, older = did("a", R, "k", 1, None, None, outcome=LOST), did("a", R, "k", 2, "o", v(1))
    assert keeps_sessions([seen, older], lost) != []
    assert keeps_sessions([seen, told, older], lost) == []
    through = [seen, did("a", W, "l", 1, "y", v(1)), did("b", R, "l", 2, "y", v(1)), did("b", R, "k", 3, "o", v(1))]
    assert keeps_sessions(through, lost) == []


def test_a_loss_clears_no_more_than_it_must() -> None:
    """What survived must still be seen after a loss was reported; on the other side of a partition not."""
    history = [
        did("a", R, "l", 0, "z", v(5)),
        did("a", R, "k", 1, None, None, outcome=LOST),
        did("a", R, "l", 2, "y", v(4)),
    ]
    assert keeps_sessions(history) != []
    assert keeps_sessions(history, views={}) == []


def test_what_a_side_of_a_partition_did_and_lost_is_not_judged() -> None:
    """Who goes over to the side that loses may be asked for nothing there; on the side that stays all counts."""
    seen, there = did("a", R, "k", 0, "x", v(2)), did("a", W, "k", 1, "y", v(1))
    assert keeps_sessions([seen, there], {Shown("k", v(1), "y")}, views={}) == []
    assert keeps_sessions([seen, there], {Shown("k", v(1), "y")}) != []
    assert keeps_sessions([seen, there], views={}) != []


def test_who_goes_over_to_another_side_of_a_partition_begins_anew() -> None:
    """Its timestamp may no longer name what both sides have removed. From a view to one that goes on with it, and the
    other way, all counts."""
    views = {"1@a": "", "2@a": "1@a", "2@b": "1@a", "3@b": "2@b"}
    for here, there, counts in (
        ("2@a", "2@b", False),
        ("2@a", "3@b", False),
        ("1@a", "3@b", True),
        ("3@b", "2@b", True),
    ):
        seen = did("a", R, "k", 0, "x", v(2), view=here)
        older = did("a", R, "k", 1, "o", v(1), view=there)
        assert (keeps_sessions([seen, older], views=views) != []) == counts, (here, there)


# --- single answers, and what is stored ------------------------------------------------------------


def test_values_of_nobody() -> None:
    """A value needs a writer that began before it was read and got no reply that nothing happened."""
    read = did("b", R, "k", 2, "x", v(2))
    assert nobody([did("a", W, "k", 0, "x", v(2)), read]) == []
    assert nobody([did("a", W, "k", 0, "x", None, outcome=UNKNOWN), read]) == []
    assert nobody([read]) != []
    assert nobody([did("a", W, "l", 0, "x", v(2)), read]) != []
    assert nobody([did("a", W, "k", 3, "x", v(2)), read]) != []
    for outcome in (NO, FAILED, LOST):
        assert nobody([did("a", U, "k", 0, "x", None, old="o", outcome=outcome), read]) != []
        assert nobody([did("a", U, "k", 0, "x", None, old="o", outcome=outcome)], {"k": [(v(2), "x")]}) != []
    assert nobody([], {"k": [(v(2), "x")]}) != []
    assert nobody([did("a", W, "k", 0, "x", v(2)), did("b", R, "k", 1, "x", v(2), wanted=v(1))]) != []


def test_one_value_of_a_version() -> None:
    """A version shows one value, unless one of the two was lost."""
    history = [did("a", W, "k", 0, "x", v(2)), did("b", W, "k", 0, "y", v(2))]
    assert one_value(history) != []
    assert one_value(history, {Shown("k", v(2), "x")}) == []
    assert one_value([history[0], did("b", W, "l", 0, "y", v(2)), did("b", R, "k", 1, "x", v(2))]) == []


def test_late_answers() -> None:
    """What took longer than its time is late, and what never came."""
    assert late([did("a", W, "k", 0, "x", v(1))], 0.5) == []
    assert late([did("a", W, "k", 0, "x", v(1))], 0.4) != []
    assert late([Event("a", W, "k", 0.0, "x")], 100.0) != []


def test_what_was_executed_twice() -> None:
    """A value under two versions was executed twice."""
    assert once({"k": [(v(2), "y"), (v(1), "x")], "l": [(v(1), "x")]}) == []
    assert once({"k": [(v(2), "x"), (v(1), "x")]}) == ["k: x was executed twice"]


def test_updateifs_stand_after_what_they_replaced() -> None:
    """A stored updateif has its old value right below it; the oldest kept has nothing to stand on."""
    history = [did("a", U, "k", 0, "y", v(2), old="x")]
    assert predecessors(history, {"k": [(v(3), "z"), (v(2), "y"), (v(1), "x")]}) == []
    assert predecessors(history, {"k": [(v(3), "z"), (v(2), "y")]}) == []
    assert predecessors(history, {"k": [(v(2, 1), "y"), (v(2, 3), "other"), (v(1), "x")]}) != []


# --- histories -----------------------------------------------------------------------------------


def test_a_history_is_kept_as_lines() -> None:
    """What a test of real processes writes down is the same history when it is read."""
    history = [
        *atomic(Random(24), 50),
        did("a", R, "k", 0, None, None, outcome=NO),
        did("a", R, "k", 0, "x", v(3, 7), wanted=v(3, 7)),
        Event("b", W, "k", 1.5, "y", node="s1"),
    ]
    again = loaded(dumped(history))
    assert [str(e) for e in again] == [str(e) for e in history]
    assert [(e.invoked, e.returned, e.wanted, e.node) for e in again] == [
        (e.invoked, e.returned, e.wanted, e.node) for e in history
    ]


def test_a_history_key_by_key() -> None:
    """Keys come apart, each in the order in which its operations were asked for."""

    def events() -> Iterator[Event]:
        yield did("a", W, "l", 3, "1", v(1))
        yield did("a", W, "k", 2, "2", v(1))
        yield did("a", W, "k", 1, "3", v(1))

    assert {key: [e.value for e in some] for key, some in by_key(events()).items()} == {"l": ["1"], "k": ["3", "2"]}


# --- runs of chains ---------------------------------------------------------------------------------


def _run(*touches: str) -> list[Access]:
    """`read x 1.1` and the like."""
    return [Access(how, key, Version.parse(version)) for how, key, version in map(str.split, touches)]


GOOD_RUNS: dict[str, dict[str, list[Access]]] = {
    "own writes": {"r1": _run("read x 1.1", "written x 2.1", "read x 2.1", "updated x 3.1", "read x 3.1")},
    "refused counts as read": {"r1": _run("read x 1.1", "refused x 4.2", "read x 4.2")},
    "an older version of a key that was read before": {
        "r1": _run("written y 2.1", "written x 2.1"),
        "r2": _run("read y 1.1", "read x 2.1", "read y 1.1"),
    },
}
BAD_RUNS: dict[str, dict[str, list[Access]]] = {
    "two versions": {"r1": _run("read x 1.1", "read x 2.1")},
    "own write not seen": {"r1": _run("written x 2.1", "read x 1.1")},
    "a write that is older": {"r1": _run("read x 3.1", "written x 2.1")},
    "a write of the version that was read": {"r1": _run("read x 3.1", "updated x 3.1")},
    "refused by an older version": {"r1": _run("read x 3.1", "refused x 2.1")},
    "one version of two writers": {"r1": _run("written x 2.1"), "r2": _run("updated x 2.1")},
    "older than implied": {
        "r1": _run("written y 2.1", "written x 2.1"),
        "r2": _run("read x 2.1", "read y 1.1"),
    },
}


@pytest.mark.parametrize("name", GOOD_RUNS)
def test_good_runs_pass(name: str) -> None:
    """Runs that keep the rules of chains."""
    assert checkers.runs(GOOD_RUNS[name]) == []


@pytest.mark.parametrize("name", BAD_RUNS)
def test_bad_runs_are_found(name: str) -> None:
    """Runs that break one of the rules of chains."""
    assert checkers.runs(BAD_RUNS[name]) != []
