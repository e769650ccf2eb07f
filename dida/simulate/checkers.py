"""Checks whether a history keeps the promises of the storage. Each returns what is wrong, as text.

- `linearizable`: updateIfs and latest reads of a key, by the search of Wing and Gong (1993) with Lowe's
  cache of visited states (2017); exact, for short histories. Running out of steps is a failure.
- `chain`: the same operations in near-linear time, for long histories of keys that only updateifs write: every
  success names the value that it replaced, so the order is known.
- `real_time`: updateifs and latest reads of any key never go back, and see all writes that were acknowledged.
- `sessions`: read your writes, monotonic reads, monotonic writes, writes follow reads, and causality across keys.
- `predecessors`, `once`: what is stored in the end is an order in which each updateif replaced what it says.
- `runs`: the consistency along chains, from the provenance of their runs.
- `nobody`, `one_value`, `late`: no reply shows what nobody wrote, or two values of one version, or comes late.

Values are unique. All but the first take time in proportion to the history (times its logarithm), so they suit
histories of real processes, too. `lost` are the versions that died with a crashed replica.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from itertools import pairwise

from attrs import evolve

from dida.interfaces import Access
from dida.simulate.history import FAILED, FOREVER, LOST, NO, OK, UNKNOWN, Event, History, Shown
from dida.versions import Version

MAX_OPERATIONS = 200
MAX_STEPS = 200_000

Stored = Mapping[str, list[tuple[Version, str]]]
"""Key to its versions with their values, newest first."""


# --- linearizability ------------------------------------------------------------------------------


def linearizable(history: History, initial: str | None) -> str | None:
    """Return why no order of the updateIfs and latest reads of one key explains all replies; None if one does.

    An operation of unknown outcome may take effect at any later time, or never; plain reads are left out.
    """
    heard = (OK, NO)
    events = [
        e for e in history if e.outcome in heard and (e.changes or e.latest) or e.outcome == UNKNOWN and e.changes
    ]
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
            if done >> i & 1 or not _possible(event, state):
                continue
            steps += 1
            if steps > MAX_STEPS:
                return f"no order found in {MAX_STEPS} steps, and none excluded"
            written = event.changes and event.outcome != NO
            entry = (done | 1 << i, event.value if written else state)
            if entry not in visited:
                visited.add(entry)
                stack.append(entry)
    return f"no order of its {len(events)} operations explains the answers"


def beginning(history: History, most: int = MAX_OPERATIONS) -> History:
    """Return the part of a history before its `most`-th operation: linearizable if the whole is."""
    events = sorted(history, key=lambda e: e.invoked)
    if len(events) <= most:
        return events
    end = events[most].invoked
    return [e if e.returned < end else evolve(e, returned=FOREVER, outcome=UNKNOWN) for e in events[:most]]


def _possible(event: Event, state: str | None) -> bool:
    """Return True if the operation can have its reply in `state`."""
    if event.verb == "write":
        return True
    if event.verb == "read":
        return state == (event.value if event.outcome == OK else None)
    if event.outcome == NO:
        return state != event.old and state == event.seen
    return state == event.old  # of unknown outcome: if it took effect, then here


# --- the chain of compare and swap ----------------------------------------------------------------


def chain(history: History, initial: str | None) -> list[str]:
    """Return forks, values from nowhere and real-time inversions of one key that only updateifs write."""
    wrong: list[str] = []
    parent: dict[str, str | None] = {}
    child: dict[str | None, str] = {}
    maybe: dict[str, str | None] = {}
    for event in history:
        if event.verb != "updateif" or event.value is None:
            continue
        if event.outcome == OK:
            if event.old in child:
                wrong.append(f"fork: {child[event.old]} and {event.value} both replaced {event.old}")
            child[event.old] = event.value
            parent[event.value] = event.old
        elif event.outcome == UNKNOWN:
            maybe[event.value] = event.old
    for event in history:
        if event.outcome == NO and event.ordered and (event.seen is None or event.seen == event.old):
            wrong += [f"refused without a reason: {event}"] if initial is not None or event.seen is not None else []
    if wrong:
        return wrong
    values = [shown.value for e in history if (shown := e.shown) is not None]
    values += [old for old in parent.values() if old is not None]
    while values:  # what was seen has happened: so have updates of unknown outcome, and what they replaced
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
    apart = [value for value in parent if value not in place]
    if apart:
        return [f"not on the chain from {initial}: {value}" for value in apart]
    return _back_in_time(history, place)


def _back_in_time(history: History, place: dict[str | None, int]) -> list[str]:
    """Return replies that show less of the chain than a reply that came before they were asked for."""
    wrong = []
    answers = []
    for event in history:
        if event.ordered and (event.outcome in (OK, NO) or (event.changes and event.outcome == UNKNOWN)):
            value = event.seen if event.outcome == NO else event.value
            if value in place:
                answers.append((event, place[value]))
    by_return = sorted(answers, key=lambda pair: pair[0].returned)
    newest, at = 0, 0
    for event, shows in sorted(answers, key=lambda pair: pair[0].invoked):
        while at < len(by_return) and by_return[at][0].returned < event.invoked:
            newest = max(newest, by_return[at][1])
            at += 1
        if shows < newest + (event.changes and event.outcome != NO):
            wrong.append(f"back in time: {event}")
    return wrong


def real_time(history: Iterable[Event], lost: Collection[Shown] = ()) -> list[str]:
    """Return updateifs and latest reads that show less than what was acknowledged before they were asked for."""
    wrong: list[str] = []
    floors: dict[str, tuple[list[float], list[Version]]] = {}
    events = list(history)
    for event in sorted(events, key=lambda e: e.returned):
        shown = event.shown
        if shown is None or not (event.ordered or event.changes) or shown in lost:
            continue
        times, versions = floors.setdefault(event.key, ([], []))
        if not versions or versions[-1] < shown.version:
            times.append(event.returned)
            versions.append(shown.version)
    for event in events:
        if not event.ordered or event.outcome not in (OK, NO) or event.key not in floors:
            continue
        times, versions = floors[event.key]
        before = bisect_left(times, event.invoked)
        if before == 0:
            continue
        floor = versions[before - 1]
        replaced = event.changes and event.outcome == OK
        if event.version is None or event.version < floor or (replaced and event.version == floor):
            wrong.append(f"back in time: {event} when {floor} was there")
    return wrong


# --- sessions -------------------------------------------------------------------------------------

Context = dict[str, Version]


def sessions(
    history: Iterable[Event], lost: Collection[Shown] = (), views: Mapping[str, str] | None = None
) -> list[str]:
    """Return violations of the session guarantees and of causality.

    What a session saw of lost versions counts until it heard of the loss; what it learned of them through others does
    not count. Where two sides of a partition go on, `views` has the name of each view with that of the view which it
    changes. Then a session that hears of a loss, or is answered in a view that does not continue the one before, nor
    the other way round, goes over to the other side, and begins again; and lost versions neither count nor are judged:
    a session that goes over may have nothing in its timestamp any more that would show them.
    """
    forks = views is not None
    place: dict[str, str] = {}
    wrong: list[str] = []
    kept: dict[str, Context] = defaultdict(dict)
    fragile: dict[str, Context] = defaultdict(dict)
    causes: dict[str, Context] = {}
    moments = [(e.invoked, 1, n, e) for n, e in enumerate(history)]
    moments += [(e.returned, 0, n, e) for _, _, n, e in moments if e.returned < FOREVER]
    for _, begins, _, event in sorted(moments):
        context, key = kept[event.session], event.key
        if begins:
            if event.changes and event.value is not None:
                causes[event.value] = dict(context)
                if event.old is not None:
                    _raise(causes[event.value], causes.get(event.old, {}))
            continue
        if event.outcome == LOST:
            fragile[event.session].clear()
            if forks:
                context.clear()
            continue
        if views is not None and event.view:
            before = place.get(event.session, event.view)
            place[event.session] = event.view
            if before not in _line(event.view, views) and event.view not in _line(before, views):
                fragile[event.session].clear()
                context.clear()
        shown = event.shown
        if event.outcome not in (OK, NO) or event.wanted is not None:
            continue
        if forks and shown in lost:
            continue
        for seen in (context.get(key), fragile[event.session].get(key)):
            if seen is None:
                continue
            if shown is None or shown.version < seen:
                wrong.append(f"{event} after {seen} was seen")
            elif event.changes and event.outcome == OK and shown.version == seen:
                wrong.append(f"{event} is not newer than what was seen")
        if shown is None:
            continue
        if shown in lost:
            _raise(fragile[event.session], {key: shown.version})
        else:
            _raise(context, {key: shown.version})
        if not (event.changes and event.outcome == OK):
            _raise(context, causes.get(shown.value, {}))
    return wrong


def _line(view: str, views: Mapping[str, str]) -> Iterator[str]:
    """Yield the view, and those that it continues."""
    while view:
        yield view
        view = views.get(view, "")


def _raise(context: Context, other: Mapping[str, Version]) -> None:
    for key, version in other.items():
        if key not in context or context[key] < version:
            context[key] = version


# --- runs of chains ---------------------------------------------------------------------------------


def runs(touched: Mapping[str, Iterable[Access]]) -> list[str]:
    """Return violations of the consistency along chains.

    `touched` is what each run reports that it has read and written, in order: a run sees its own writes, reads a record
    in one version, and sees what the writers of what it has read had seen.
    """
    wrong: list[str] = []
    causes: dict[Access, Context] = {}
    for run, touches in touched.items():
        seen: Context = {}
        for touch in touches:
            known = seen.get(touch.key)
            if touch.how == "read":
                if known not in (None, touch.version):
                    wrong.append(f"{run} read {touch.key} {touch.version}, having seen {known}")
                seen.setdefault(touch.key, touch.version)
                continue
            if known is not None and (touch.version < known or (touch.version == known and touch.how != "refused")):
                wrong.append(f"{run}: {touch.key} {touch.version} was {touch.how} after {known}")
            seen[touch.key] = touch.version
            if touch.how != "refused":
                written = Access("read", touch.key, touch.version)
                if written in causes:
                    wrong.append(f"{run} wrote {touch.key} {touch.version}, which another one had written")
                causes[written] = dict(seen)
    for run, touches in touched.items():
        least: Context = {}
        fixed: set[str] = set()
        for touch in touches:
            if touch.key not in fixed and touch.key in least and touch.version < least[touch.key]:
                wrong.append(
                    f"{run}: {touch.key} {touch.version} was {touch.how}, though {least[touch.key]} was implied"
                )
            fixed.add(touch.key)
            if touch.how in ("read", "refused"):
                _raise(least, causes.get(Access("read", touch.key, touch.version), {}))
    return wrong


# --- single answers, and what is stored in the end ---------------------------------------------------


def nobody(history: Iterable[Event], stored: Stored | None = None, forks: bool = False) -> list[str]:
    """Return values that nobody wrote, or not yet, or whose writer heard that nothing was written.

    The last does not count where two sides of a partition go on: the other side may have done it.
    """
    events = list(history)
    writers = {(e.key, e.value): e for e in events if e.changes}
    wrong = []
    for event in events:
        shown = event.shown
        if shown is None:
            continue
        if event.wanted not in (None, shown.version):
            wrong.append(f"another version than was asked for: {event}")
        writer = writers.get((shown.key, shown.value))
        if writer is None or writer.invoked > event.returned:
            wrong.append(f"value of nobody: {event}")
        elif writer.outcome in (NO, FAILED, LOST) and writer is not event and not forks:
            wrong.append(f"value that was refused: {event}; its writer heard {writer.outcome}")
    for key, versions in (stored or {}).items():
        for version, value in versions:
            writer = writers.get((key, value))
            if writer is None or (writer.outcome in (NO, FAILED, LOST) and not forks):
                wrong.append(f"stored, and of nobody: {key} {version} {value}")
    return wrong


def one_value(history: Iterable[Event], lost: Collection[Shown] = ()) -> list[str]:
    """Return versions that were shown with two values (the version of a lost update may be given again)."""
    wrong = []
    values: dict[tuple[str, Version], str] = {}
    for event in history:
        shown = event.shown
        if shown is None or shown in lost:
            continue
        value = values.setdefault((shown.key, shown.version), shown.value)
        if value != shown.value:
            wrong.append(f"two values of one version: {value}, and {event}")
    return wrong


def late(history: Iterable[Event], seconds: float) -> list[str]:
    """Return operations that took longer than `seconds`, or never returned."""
    return [f"late: {e}" for e in history if e.returned - e.invoked > seconds]


def once(stored: Stored) -> list[str]:
    """Return updates that were executed twice: unique values have one version each."""
    wrong = []
    for key, versions in stored.items():
        values = [value for _, value in versions]
        wrong += [f"{key}: {value} was executed twice" for value in sorted(set(values)) if values.count(value) > 1]
    return wrong


def predecessors(history: Iterable[Event], stored: Stored) -> list[str]:
    """Return stored updateifs that do not stand right after the value that they compared with."""
    wrong = []
    olds = {(e.key, e.value): e.old for e in history if e.verb == "updateif"}
    for key, versions in stored.items():
        for (version, value), (before, replaced) in pairwise(versions):
            old = olds.get((key, value), replaced)
            if old != replaced:
                wrong.append(f"{key} {version} {value} replaced {before} {replaced}, but was to replace {old}")
    return wrong
