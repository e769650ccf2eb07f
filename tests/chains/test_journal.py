"""The journal of a run: what an execution leaves, and how the next one is answered from it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs
import pytest

from dida.chains import journal as journal_module
from dida.chains.journal import MAX_CALLS, History, Hole, Kept, borne_out, decoded, encoded, resume
from dida.chains.messages import Execute
from dida.chains.records import Assignment, Mark, Meta
from dida.errors import NOT_DETERMINISTIC, DidaError
from dida.interfaces import Access
from dida.versions import Version
from dida.wire.messages import Epoch, Fenced, Journal, KnownUpdate


def request(size: int = 2, **rest: Any) -> Execute:
    chain = tuple(Assignment("Op", number, "w1", "localhost", 1) for number in range(size))
    return Execute(meta=Meta("r1-x", "sc:1"), input="in", next=0, size=size, chain=chain, left=60.0, **rest)


class Storage:
    """What the shards keep of one run; an execution makes its calls through it."""

    def __init__(self, shards: int = 1, shard: Callable[[str], int] = lambda key: 0) -> None:
        self.updates: list[list[KnownUpdate]] = [[] for _ in range(shards)]
        self.shard = shard

    def read(self, history: History, key: str, value: str, version: str = "1.1") -> None:
        call = history.call("r", key)
        assert call.entry is None
        history.read(call, value, Version.parse(version))

    def write(self, history: History, key: str, value: str, version: str = "2.1", verb: str = "w") -> Journal:
        call = history.call(verb, key, value)
        shard = self.shard(key)
        made = history.journal(call, shard)
        number = history.next_number()
        self.updates[shard].append(KnownUpdate(number, Version.parse(version), key, made))
        history.updated(call, Version.parse(version), shard, len(self.updates))
        return made

    def fence(self) -> list[Fenced]:
        highest = max((each.number for some in self.updates for each in some), default=0)
        return [Fenced(tuple(some), highest=highest, after={"1:1": 7}) for some in self.updates]


def ended(request: Execute, history: History, output: str) -> Execute:
    """The request of the next step."""
    done = request.with_step(output=output, mark=history.end(output))
    return attrs.evolve(done, next=done.next + 1, number=history.number, bytes=history.bytes, kept=history.travelling())


def differs(call: Callable[[], object]) -> str:
    with pytest.raises(DidaError) as caught:
        call()
    assert caught.value.code == NOT_DETERMINISTIC
    return caught.value.words[0]


def again(first: Execute, storage: Storage) -> tuple[Execute, History]:
    """A new execution after a fence."""
    asked, known = resume(attrs.evolve(first, epoch=Epoch(1, "w2"), ask=True), storage.fence())
    assert not asked.ask
    return asked, History(asked, known)


def test_what_travels_with_an_update() -> None:
    """The call, the digest, and what was delivered since the run's last update."""
    storage, history = Storage(), History(request())
    storage.read(history, "a", "1")
    first = storage.write(history, "b", "x")
    assert (first.epoch, first.call, first.verb, decoded(first.entries)) == (
        Epoch(),
        2,
        "w",
        [("r", 1, "a", "1.1", "1")],
    )
    second = storage.write(history, "c", "y")
    assert (second.call, second.entries) == (3, "")
    assert second.digest != first.digest


def test_a_step_is_answered_from_the_journal() -> None:
    """Call by call, up to the last update; from there on all is for real, with numbers above the highest."""
    storage, first = Storage(), request()
    history = History(first)
    storage.read(history, "a", "1")
    storage.write(history, "b", "x", "2.1")
    storage.read(history, "c", "late")
    asked, history = again(first, storage)
    assert (asked.next, asked.meta.after, history.number) == (0, {"1:1": 7}, 1)
    read, written, rest = history.call("r", "a"), history.call("w", "b", "x"), history.call("r", "c")
    assert read.entry is not None
    assert read.entry.entry == ("r", 1, "a", "1.1", "1")
    assert written.entry is not None
    assert written.entry.entry[:5] == ("u", 2, "b", "w", "2.1")
    assert rest.entry is None
    assert history.next_number() == 2


def test_errors_and_refusals_are_results_too() -> None:
    """What an update carries of a refused compare-and-swap, and of an error, answers the same calls."""
    storage, first = Storage(), request()
    history = History(first)
    history.refused(history.call("c", "a", "0", "1"), (Version(3, 1), "9"))
    history.refused(history.call("c", "n", "0", "1"), None)
    history.failed(history.call("r", "gone"), DidaError("no-such-record", "gone"))
    storage.write(history, "b", "x")
    _, history = again(first, storage)
    calls = [history.call("c", "a", "0", "1"), history.call("c", "n", "0", "1"), history.call("r", "gone")]
    assert [call.entry.entry for call in calls if call.entry] == [
        ("n", 1, "a", "3.1", "9"),
        ("n", 2, "n", None, ""),
        ("x", 3, "gone", "r", "no-such-record", ["gone"]),
    ]


def test_another_call() -> None:
    """A call that differs from the one before ends the run, and the reason names both."""
    storage, first = Storage(), request()
    history = History(first)
    storage.read(history, "a", "1")
    storage.write(history, "b", "x")
    _, history = again(first, storage)
    assert 'call 1 was read "a", now it is read "b"' in differs(lambda: history.call("r", "b"))
    _, history = again(first, storage)
    history.call("r", "a")
    assert 'call 2 was write "b", now it is update_if_value_is "b"' in differs(lambda: history.call("c", "b", "x", "y"))
    _, history = again(first, storage)
    history.call("r", "a")
    assert 'call 2 was write "b", now it has another value' in differs(lambda: history.call("w", "b", "y"))
    _, history = again(first, storage)
    history.replayed(history.call("r", "a"))
    assert 'call 2 was write "b", now it has ended' in differs(lambda: history.end("out"))


def test_another_try() -> None:
    """In one execution the next try gets again what the one before got up to its last update, and reads anew then."""
    storage, first = Storage(), request()
    history = History(first)
    storage.read(history, "a", "1")
    storage.write(history, "b", "x")
    storage.read(history, "c", "odd")
    history.begin()
    for call in (history.call("r", "a"), history.call("w", "b", "x")):
        assert call.entry is not None
        history.replayed(call)
    assert history.call("r", "c").entry is None
    assert history.mark.updates == 1
    assert storage.write(history, "d", "y").entries == "", "what was read after the update is gone with its try"


def test_steps_that_have_ended_are_not_executed() -> None:
    """A step whose end an update of a later one has carried: its output counts, and what it has read and written."""
    storage, first = Storage(), request(3)
    history = History(first)
    storage.read(history, "a", "1", "4.2")
    second = ended(first, history, "out")
    assert second.kept == ((("r", 1, "a", "4.2", "1"), []),), "its end is in the chain"
    history = History(second)
    made = storage.write(history, "b", "x")
    assert [entry[0] for entry in decoded(made.entries)] == ["r", "e"]
    asked, history = again(first, storage)
    assert (asked.next, asked.chain[0].output, asked.previous_output) == (1, "out", "out")
    assert asked.chain[0].records == (Access("read", "a", Version(4, 2)),)
    assert asked.meta.versions == {"a": Version(4, 2)}, "later reads of it are of that version"
    assert history.call("w", "b", "x").entry is not None
    assert asked.chain[0].mark == second.chain[0].mark


def test_what_the_scheduler_knows_is_longer() -> None:
    """Steps that were confirmed without an update stay confirmed; nothing of the next one is known."""
    storage, first = Storage(), request(3)
    history = History(first)
    storage.write(history, "b", "x")
    second = ended(first, history, "one")
    history = History(second)
    storage.read(history, "a", "1")
    third = ended(second, history, "two")
    asked, history = again(third, storage)
    assert (asked.next, asked.previous_output) == (2, "two")
    assert [entry[0] for entry, _ in asked.kept] == ["r"]
    assert [entry[0] for entry in decoded(storage.write(history, "c", "y").entries)] == ["e", "r", "e"]


def test_a_confirmation_of_another_execution() -> None:
    """What a step confirmed is not what the storage has: the run goes on where the journal ends."""
    storage, first = Storage(), request(2)
    history = History(first)
    storage.write(history, "b", "x")
    second = ended(first, history, "one")
    storage.write(history, "tail", "y")  # a newer execution has read on, and written more in the first step
    asked, _ = again(second, storage)
    assert asked.next == 0


def test_long_values(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a long value the journal has version and hash; of a run that has read very much no values, then nothing."""
    storage, first = Storage(), request()
    history = History(first)
    storage.read(history, "a", "x" * 5000, "3.1")
    (entry,) = decoded(storage.write(history, "b", "y").entries)
    assert entry[:5] == ("r", 1, "a", "3.1", None)
    assert len(str(entry)) < 60
    monkeypatch.setattr(journal_module, "MAX_VALUES", history.bytes)
    storage.read(history, "c", "short" * 10)
    assert history.kept[-1].entry[4] is not None
    storage.read(history, "d", "short")
    assert history.kept[-1].entry[4] is None
    monkeypatch.setattr(journal_module, "MAX_JOURNAL", history.bytes - 1)
    storage.read(history, "e", "short")
    storage.write(history, "b", "z")
    with pytest.raises(Hole):
        again(first, storage)


def test_two_thousand_reads_before_an_update() -> None:
    """What one update has no room for goes ahead in notes; together they answer all the reads."""
    storage, first = Storage(), request()
    history = History(first)
    for number in range(2000):
        storage.read(history, f"key{number}", "v" * 50)
    notes = 0
    while (note := history.note(0)) is not None:
        made, some = note
        assert made.verb == "n"
        assert len(str(made)) < 200_000
        storage.updates[0].append(KnownUpdate(history.next_number(), Version(1, 1), "b", made))
        history.carried(some, 0)
        notes += 1
    assert notes >= 2
    storage.write(history, "b", "x")
    _, history = again(first, storage)
    assert all(history.call("r", f"key{number}").entry is not None for number in range(2000))
    assert history.call("w", "b", "x").entry is not None


def test_a_note_without_its_update() -> None:
    """What a note has said of a try that came to nothing is not used."""
    storage, first = Storage(), request()
    history = History(first)
    storage.read(history, "a", "odd")
    made = Journal(0, "", 1, history.mark.digest, "n", encoded(history.kept))
    storage.updates[0].append(KnownUpdate(history.next_number(), Version(1, 1), "b", made))
    history.begin()
    storage.read(history, "a", "even")
    storage.write(history, "b", "x")
    _, history = again(first, storage)
    call = history.call("r", "a")
    assert call.entry is not None
    assert call.entry.entry[4] == "even"


def test_several_shards() -> None:
    """An update carries what its own shard lacks, updates of others included; the longest journal counts."""
    storage, first = Storage(2, lambda key: int(key == "far")), request()
    history = History(first)
    storage.read(history, "a", "1")
    storage.write(history, "near", "x")
    made = storage.write(history, "far", "y")
    assert [entry[0] for entry in decoded(made.entries)] == ["r", "u"]
    storage.updates[0].clear()  # its shard has lost the plain write
    _, history = again(first, storage)
    assert history.call("r", "a").entry is not None
    lost, kept = history.call("w", "near", "x"), history.call("w", "far", "y")
    assert lost.entry is not None
    assert lost.entry.lost, "it must be written again"
    assert kept.entry is not None
    assert not kept.entry.lost


def test_a_lost_write_that_was_made_again() -> None:
    """Its new version counts, whatever the journal of another shard says: the old one is gone."""
    storage, first = Storage(2, lambda key: int(key == "far")), request(2)
    history = History(first)
    storage.write(history, "near", "x", "2.1")
    storage.write(history, "far", "y")
    storage.updates[0].clear()
    _, history = again(first, storage)
    storage.write(history, "near", "x", "5.2")
    _, history = again(first, storage)
    made = history.call("w", "near", "x").entry
    assert made is not None
    assert not made.lost
    assert made.entry[4] == "5.2"


def test_an_end_with_a_lost_write_before_it() -> None:
    """A step that has ended is executed again when a write of it is lost, so that it is written again."""
    storage, first = Storage(2, lambda key: int(key == "far")), request(2)
    history = History(first)
    storage.write(history, "near", "x")
    second = ended(first, history, "out")
    storage.write(History(second), "far", "y")
    storage.updates[0].clear()
    asked, history = again(first, storage)
    assert asked.next == 0
    made = storage.write(history, "near", "x", "5.2")
    assert made.call == 1
    history.end("out")
    assert history.more, "the update of the next step, of which this one knows nothing"


def test_results_in_any_order() -> None:
    """Two calls in flight: one whose update is lost is executed again, the other is answered."""
    storage, first = Storage(), request()
    history = History(first)
    one, two = history.call("r", "a"), history.call("r", "c")
    history.read(one, "1", Version(1, 1))
    left = history.call("w", "b", "x")
    history.journal(left, 0)  # it is on its way, and never arrives
    history.read(two, "2", Version(1, 1))
    right = history.call("w", "d", "y")
    made = history.journal(right, 0)
    assert [entry[1] for entry in decoded(made.entries)] == [1, 2]
    storage.updates[0].append(KnownUpdate(2, Version(1, 1), "d", made))
    _, history = again(first, storage)
    entries = [history.call(*call).entry for call in (("r", "a"), ("r", "c"), ("w", "b", "x"), ("w", "d", "y"))]
    assert [entry is not None for entry in entries] == [True, True, False, True]


def test_an_outcome_is_borne_out() -> None:
    """By as many updates, the last with the same digest."""
    storage, first = Storage(), request(1)
    assert borne_out(Mark(5, 0, 0), storage.fence())
    history = History(first)
    storage.write(history, "b", "x")
    mark = history.end("out")
    assert borne_out(mark, storage.fence())
    assert not borne_out(attrs.evolve(request(1), next=0).chain[0].mark, storage.fence())
    storage.write(history, "c", "x")
    assert not borne_out(mark, storage.fence())


def test_a_long_key() -> None:
    """A very long key stands in entries with its hash, and is compared by it."""
    storage, first = Storage(), request()
    history = History(first)
    storage.read(history, "k" * 100_000, "1")
    storage.write(history, "b", "x")
    _, history = again(first, storage)
    assert "call 1 was read" in differs(lambda: history.call("r", "k" * 100_001))


def test_kept_entries_are_those_of_the_request() -> None:
    """A request that could not be handed on carries the same as before."""
    storage, first = Storage(), request(3)
    history = History(first)
    storage.read(history, "a", "1")
    second = ended(first, history, "out")
    storage.write(History(second), "b", "x")
    assert second.kept == ((("r", 1, "a", "1.1", "1"), []),)
    assert isinstance(Kept(("e", MAX_CALLS, "", 1)).carried, set)


@pytest.mark.parametrize(
    "entries", ["no JSON", "5", "[5]", "[[]]", '[["r"]]', '[["r", "1", "k", "1.1", "v"]]', '[["z", 1]]', "[[[], 1]]"]
)
def test_entries_that_no_worker_has_written(entries: str) -> None:
    """A run whose journal somebody else has written to ends with a reason."""
    update = KnownUpdate(1, Version(1, 1), "k", Journal(0, "", 1, 5, "w", entries))
    with pytest.raises(Hole, match="can't be read"):
        resume(request(), [Fenced((update,), highest=1)])
