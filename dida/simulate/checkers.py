"""Whether a history keeps the promises of the storage. Each checker returns what is wrong, in words.

- `linearizable`: updateIfs and latest reads of a key, by the search of Wing and Gong (1993) with Lowe's
  cache of visited states (2017); exact, for short histories. Running out of steps is a failure.
- `chain`: the same operations in near-linear time, for long histories of unique values: every success names
  the value that it replaced, so the order is known.
- `sessions`: read your writes, monotonic reads, monotonic writes, writes follow reads, and causality across
  keys, for plain operations with unique values.
"""

from __future__ import annotations

from collections import defaultdict

from attrs import evolve

from dida.simulate.history import FAILED, LOST, NO, OK, UNKNOWN, Event, History
from dida.versions import Version

MAX_OPERATIONS = 200
MAX_STEPS = 200_000
FOREVER = float("inf")


def by_key(history: History) -> dict[str, History]:
    """The history of each key, by time of invocation."""
    keys: dict[str, History] = defaultdict(list)
    for event in sorted(history, key=lambda e: e.invoked):
        keys[event.key].append(event)
    return dict(keys)


# --- linearizability ------------------------------------------------------------------------------


def linearizable(history: History, initial: str | None) -> str | None:
    """Whether the updateIfs and latest reads of one key have an order that explains all answers.

    An operation of unknown outcome may take effect at any later time, or never.
    """
    events = [e for e in history if e.outcome not in (FAILED, LOST) and (e.verb != "read" or e.outcome == OK)]
    if len(events) > MAX_OPERATIONS:
        return f"{len(events)} operations are more than the {MAX_OPERATIONS} that can be searched"
    events.sort(key=lambda e: e.invoked)
    must = sum(1 << i for i, e in enumerate(events) if e.outcome != UNKNOWN)
    visited = {(0, initial)}
    stack: list[tuple[int, str | None]] = [(0, initial)]
    steps = 0
    while stack:
        done, state = stack.pop()
        if done & must == must:
            return None
        horizon = min(
            (e.returned for i, e in enumerate(events) if not done >> i & 1 and e.outcome != UNKNOWN), default=FOREVER
        )
        for i, event in enumerate(events):
            if event.invoked > horizon:
                break
            if done >> i & 1:
                continue
            for following in _step(event, state):
                steps += 1
                if steps > MAX_STEPS:
                    return f"no order found in {MAX_STEPS} steps, and none excluded"
                entry = (done | 1 << i, following)
                if entry not in visited:
                    visited.add(entry)
                    stack.append(entry)
    return f"no order of its {len(events)} operations explains the answers"


def beginning(history: History, most: int = MAX_OPERATIONS) -> History:
    """The part of a history before its `most`-th operation: linearizable when the whole is."""
    events = sorted(history, key=lambda e: e.invoked)
    if len(events) <= most:
        return events
    end = events[most].invoked
    return [e if e.returned < end else evolve(e, returned=FOREVER, outcome=UNKNOWN) for e in events[:most]]


def _step(event: Event, state: str | None) -> list[str | None]:
    """The states that the operation may lead to from `state`; none when its answer excludes this place."""
    if event.verb == "read":
        return [state] if state == event.value else []
    if event.verb == "write":
        return [event.value]
    if event.outcome == NO:
        return [state] if state != event.old and state == event.seen else []
    if event.outcome == OK:
        return [event.value] if state == event.old else []
    return [event.value] if state == event.old else []  # unknown: when it took effect, then so


# --- the chain of compare and swap ----------------------------------------------------------------


def chain(history: History, initial: str | None) -> list[str]:
    """Forks, values from nowhere and real-time inversions of one key; values must be unique."""
    wrong: list[str] = []
    parent: dict[str, str | None] = {}
    child: dict[str | None, str] = {}
    maybe: dict[str, str | None] = {}
    known: dict[str, Event] = {}
    for event in history:
        if event.verb != "updateif" or event.value is None:
            continue
        if event.outcome == OK:
            if event.old in child:
                wrong.append(f"fork: {child[event.old]} and {event.value} both replaced {event.old}")
            child[event.old] = event.value
            parent[event.value] = event.old
            known[event.value] = event
        elif event.outcome == UNKNOWN:
            maybe[event.value] = event.old
    if wrong:
        return wrong
    seen = [e.value if e.verb == "read" else e.seen for e in history if e.latest or e.outcome == NO]
    values = [v for v in [*seen, *(p for p in parent.values())] if v is not None]
    while values:  # what was seen happened: also updates of unknown outcome, and what they replaced
        value = values.pop()
        if value == initial or value in parent:
            continue
        if value not in maybe:
            wrong.append(f"value from nowhere: {value}")
            continue
        old = maybe.pop(value)
        if old in child:
            wrong.append(f"fork: {child[old]} and {value} both replaced {old}")
        child[old] = value
        parent[value] = old
        if old is not None:
            values.append(old)
    if wrong:
        return wrong
    place: dict[str | None, int] = {initial: 0}
    value_at: str | None = initial
    while value_at in child and child[value_at] not in place:
        value_at = child[value_at]
        place[value_at] = len(place)
    lost = [value for value in parent if value not in place]
    if lost:
        return [f"not on the chain from {initial}: {value}" for value in lost]
    return wrong + _inversions(history, place)


def _inversions(history: History, place: dict[str | None, int]) -> list[str]:
    """Answers that show less of the chain than an answer that was there before they were asked for."""
    wrong = []
    answers = []
    for event in history:
        if event.outcome in (OK, NO) and (event.verb == "updateif" or event.latest):
            shown = event.seen if event.outcome == NO else event.value
            if shown in place:
                answers.append((event, place[shown]))
    by_return = sorted(answers, key=lambda pair: pair[0].returned)
    newest, at = 0, 0
    for event, shows in sorted(answers, key=lambda pair: pair[0].invoked):
        while at < len(by_return) and by_return[at][0].returned < event.invoked:
            newest = max(newest, by_return[at][1])
            at += 1
        least = newest + 1 if event.verb == "updateif" and event.outcome == OK else newest
        if shows < least:
            wrong.append(f"back in time: {event.session} {event.verb} {event.key} shows {event.seen or event.value}")
    return wrong


# --- sessions -------------------------------------------------------------------------------------

Context = dict[str, Version]


def sessions(history: History, lost: set[str]) -> list[str]:
    """The session guarantees and causality. `lost` are values that died with a crashed replica: what was
    seen of them is not asked for. A session that heard `lost-update` begins anew."""
    wrong: list[str] = []
    contexts: dict[str, Context] = defaultdict(dict)
    written: dict[str, Context] = {}
    for event in sorted(history, key=lambda e: e.returned):
        context = contexts[event.session]
        if event.outcome == LOST:
            context.clear()
            continue
        if event.outcome not in (OK, NO) or event.version is None:
            continue
        shown = event.seen if event.outcome == NO else event.value
        seen = context.get(event.key)
        if seen is not None and (
            event.version < seen or (event.verb != "read" and event.outcome == OK and event.version == seen)
        ):
            wrong.append(f"{event.session}: {event.verb} {event.key} gave {event.version} after {seen} was seen")
        if event.verb != "read" and event.outcome == OK and event.value is not None:
            if event.value not in lost:
                context[event.key] = event.version
            written[event.value] = dict(context)
        elif shown is not None and shown not in lost:
            for key, version in [*written.get(shown, {}).items(), (event.key, event.version)]:
                if key not in context or context[key] < version:
                    context[key] = version
    return wrong


def once(stored: dict[str, list[list[str]]]) -> list[str]:
    """No update was executed twice: unique values stand under one version each."""
    wrong = []
    for key, versions in stored.items():
        values = [value for _, value in versions]
        wrong += [f"{key}: {value} was executed twice" for value in sorted(set(values)) if values.count(value) > 1]
    return wrong
