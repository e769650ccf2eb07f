"""What operators do with storage calls that they give up, that are refused, or that are too long for the journal."""

from __future__ import annotations

from typing import Any

import attrs
import pytest
import pytest_twisted
from msgspec.structs import replace
from twisted.internet.defer import Deferred

import dida.chains.journal
from dida.chains.messages import Ended, Execute, Failed
from dida.client.storage_client import StorageClient
from dida.interfaces import Access
from dida.protocols.link_pool import ConnectionPool
from dida.replication.operations import superseded
from dida.versions import Version
from dida.wire.messages import Epoch, Error, Note, Read, Reply, Request, Write
from tests.support.fakes import until
from tests.worker.test_executed_again import again, stage, updates, write
from tests.worker.test_node import Stage

__all__ = ["stage"]


def hold(stage: Stage, kind: type[Request], key: str) -> list[Deferred[Reply]]:
    """Have the storage execute the first such request, and never reply."""
    node = stage.storage.nodes[0]
    held: list[Deferred[Reply]] = []

    def answer(request: Request) -> Any:
        reply = node._read(request) if isinstance(request, Read) else node._once(request)
        if isinstance(request, kind) and getattr(request, "key", None) == key and not held:
            held.append(Deferred())
            return held[0]
        return reply

    node.answer = answer
    return held


@pytest_twisted.ensureDeferred
async def test_a_time_out_around_a_read(stage: Stage) -> None:
    """An operator may give up a read and go on: its step does not end with the read."""
    body = """
try:
    async with asyncio.timeout(0.2):
        await self.storage.read("a")
except TimeoutError:
    return "slow"
return "fast"
"""
    write(stage, body, 'loop = "asyncio"', "async ")
    stage.storage.group.put("a", "1")
    hold(stage, Read, "a")
    ended = await stage.outcome(stage.request("Op@w1"))
    assert isinstance(ended, Ended)
    assert ended.chain[0].output == "slow"


@pytest_twisted.ensureDeferred
async def test_a_time_out_around_two_reads(stage: Stage) -> None:
    """The second read, whose reply is here but must wait for the first one's, can be given up as well."""
    body = """
from twisted.internet import reactor
from twisted.internet.defer import TimeoutError
late = 0
calls = [self.storage.read(key).addTimeout(0.2, reactor) for key in "ab"]
for call in reversed(calls):
    try:
        await call
    except TimeoutError:
        late += 1
return str(late)
"""
    write(stage, body, "pass", "async ")
    for key in "ab":
        stage.storage.group.put(key, "1")
    hold(stage, Read, "a")
    ended = await stage.outcome(stage.request("Op@w1"))
    assert isinstance(ended, Ended)
    assert ended.chain[0].output == "2"


@pytest_twisted.ensureDeferred
async def test_an_operator_that_swallows_every_error(stage: Stage) -> None:
    """What a call is refused with comes later, as a reply does: an operator that tries for ever freezes nobody."""
    body = """
while True:
    try:
        await self.storage.read(5)
    except Exception:
        pass
"""
    write(stage, body, "timeout = 0.5", "async ")
    other = "class Other:\n    def configure_storage(self, storage):\n        pass\n\n"
    stage.put(other + "    def process_record(self, meta, input, previous_output):\n        return 'out'\n", "other.py")
    await stage.send(stage.request("Op@w1"))
    assert isinstance(await stage.outcome(stage.request("Other@w1")), Ended)
    await until(lambda: len(stage.told.outcomes) == 2)
    failed = stage.told.outcomes[1]
    assert isinstance(failed, Failed)
    assert failed.reason == "Op at position 0 on w1 did not return within 0.5 s, the limit is its class's timeout"


MANY = 'for n in range(700):\n    self.storage.read(f"k{n}")\nreturn "out"'
"""Reads more than a request to the next worker should carry."""


def put_many(stage: Stage) -> None:
    for number in range(700):
        stage.storage.group.put(f"k{number}", "v" * 150)


@pytest_twisted.ensureDeferred
async def test_the_journal_of_a_step_cannot_be_kept(stage: Stage) -> None:
    """The reason says that the step was executed, and what the storage said."""
    write(stage, MANY, "retries = 2")
    put_many(stage)
    notes: list[Note] = []

    def refuse(request: Note) -> Error:
        notes.append(request)
        return Error("storage-full", ("no memory",))

    stage.storage.nodes[0].cmd_note = refuse  # type: ignore[method-assign]
    failed = await stage.outcome(stage.request("Op@w1", "Op@w1"))
    assert isinstance(failed, Failed)
    assert failed.reason == (
        "Op at position 0 on w1 was executed, but its journal can't be kept: storage-full: no memory (tried 3 times)"
    )


@pytest_twisted.ensureDeferred
async def test_a_superseded_execution_hears_of_it_when_it_keeps_its_journal(stage: Stage) -> None:
    """The note ahead of the next step is refused as an update is: the execution stops, and reports no outcome."""
    write(stage, MANY)
    put_many(stage)

    def refuse(request: Note) -> Error:
        return superseded(Epoch(3, "y"))

    stage.storage.nodes[0].cmd_note = refuse  # type: ignore[method-assign]
    await stage.send(stage.request("Op@w1", "Op@w1"))
    told: Any = stage.told
    await until(lambda: told.stopped)
    assert told.stopped[0].by == Epoch(3, "y")
    assert told.outcomes == []


@pytest_twisted.ensureDeferred
async def test_what_a_run_has_written_is_copied_at_once(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """For each storage node that has written another one is asked, all at once; the run ends after the last reply."""
    asked: list[tuple[int, Deferred[None]]] = []

    async def secure(self: Any, seen: Any, key: str, by: int, seconds: float) -> None:
        asked.append((by, Deferred()))
        await asked[-1][1]

    monkeypatch.setattr(StorageClient, "secure", secure)
    write(stage, "return 'out'")
    request = stage.request("Op@w1", "Op@w1")
    records = tuple(Access("written", key, Version(2, number)) for number, key in enumerate("abc", 1))
    await stage.send(
        attrs.evolve(request, next=1, chain=(replace(request.chain[0], records=records), request.chain[1]))
    )
    await until(lambda: len(asked) == 3)
    assert [by for by, _ in asked] == [1, 2, 3]
    for _, copied in asked:
        assert not stage.told.outcomes
        copied.callback(None)
    await until(lambda: stage.told.ended)


@pytest_twisted.ensureDeferred
async def test_a_worker_hands_on_to_itself(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next step of the same worker needs no line."""
    pool = stage.workers["w1"]._handoff._pool
    sent: list[Request] = []

    def ask(host: str, port: int, request: Request, timeout: float) -> Any:
        sent.append(request)
        return ConnectionPool.ask(pool, host, port, request, timeout)

    monkeypatch.setattr(pool, "ask", ask)
    write(stage, "return 'out'")
    assert isinstance(await stage.outcome(stage.request("Op@w1", "Op@w1", "Op@w2")), Ended)
    assert [each.next for each in sent if isinstance(each, Execute)] == [2]


@pytest_twisted.ensureDeferred
async def test_what_was_read_again_may_be_read_once_more(stage: Stage) -> None:
    """A value that the journal has is found for later reads, too, when the storage has discarded that version."""
    body = 'value = self.storage.read("a").value\nself.storage.write("b", value)\nreturn self.storage.read("a").value'
    write(stage, body)
    stage.storage.group.put("a", "first")
    request = stage.request("Op@w1")
    assert isinstance(await stage.outcome(request), Ended)
    for number in range(12):
        stage.storage.group.put("a", str(number))
    second = await stage.outcome(again(request))
    assert isinstance(second, Ended)
    assert second.chain[0].output == "first"


@pytest_twisted.ensureDeferred
async def test_a_value_that_is_another_one_now(stage: Stage) -> None:
    """Of a long value the journal has the hash: a version that now has another value was lost and used anew."""
    write(stage, 'value = self.storage.read("a").value\nself.storage.write("b", value[:9])\nreturn "out"')
    version = stage.storage.group.put("a", "x" * 5000)
    request = stage.request("Op@w1")
    assert isinstance(await stage.outcome(request), Ended)
    stage.storage.group.records["a"] = [(version, "y" * 5000)]
    failed = await stage.outcome(again(request))
    assert isinstance(failed, Failed)
    assert failed.reason == "Op at position 0 on w1, executed again, needs a 1.1, whose value was lost"


@pytest_twisted.ensureDeferred
async def test_a_try_that_has_read_too_much(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """Above the limit nothing is kept: what a next try would need before its last update is gone, and it says so."""
    monkeypatch.setattr(dida.chains.journal, "MAX_JOURNAL", 1000)
    body = """
for n in range(40):
    self.storage.read(f"k{n}")
self.storage.write("b", "x")
raise LookupError("not yet")
"""
    write(stage, body, "retries = 3")
    put_many(stage)
    failed = await stage.outcome(stage.request("Op@w1"))
    assert isinstance(failed, Failed)
    assert "LookupError: not yet" in failed.reason
    assert failed.reason.endswith("can't be tried again: it has read too much for its journal")
    assert len(updates(stage)) == 1


@pytest_twisted.ensureDeferred
async def test_reads_of_long_keys_that_fail(stage: Stage) -> None:
    """An error is kept with its words, which name the key: shortened, so that the update has room for them."""
    body = """
from dida.errors import DidaError
for n in range(8):
    try:
        self.storage.read(f"{n}" + "k" * 200000)
    except DidaError:
        pass
self.storage.write("b", "x")
return "out"
"""
    write(stage, body)
    request = stage.request("Op@w1")
    assert isinstance(await stage.outcome(request), Ended)
    (made,) = updates(stage)
    assert isinstance(made, Write)
    assert made.journal is not None
    assert len(made.journal.entries) < 10_000
    assert isinstance(await stage.outcome(again(request)), Ended)
    assert len(updates(stage)) == 1


@pytest_twisted.ensureDeferred
async def test_a_write_whose_outcome_nobody_knows(stage: Stage) -> None:
    """After unknown-outcome a retry is a new execution: it sees what became of the write, and makes it once."""
    write(stage, 'self.storage.write("a", "1")\nreturn "out"', "retries = 1\n    timeout = 0.5")
    node = stage.storage.nodes[0]

    def answer(request: Request) -> Any:
        reply = node._once(request)
        return reply if stage.storage.group.fenced else Error("unknown-outcome", ("the reply was lost",))

    node.answer = answer
    ended = await stage.outcome(stage.request("Op@w1"))
    assert isinstance(ended, Ended)
    assert ended.epoch.number == 1
    assert [value for _, value in stage.storage.group.records["a"]] == ["1"]


@pytest_twisted.ensureDeferred
async def test_a_replayed_refusal_pins_the_version(stage: Stage) -> None:
    """A later read gets what the refused compare-and-swap has found, when executed again as at first."""
    body = """
swapped = self.storage.update_if_value_is("a", "other", "x")
self.storage.write("b", str(swapped))
return self.storage.read("a").value
"""
    write(stage, body)
    stage.storage.group.put("a", "first")
    request = stage.request("Op@w1")
    first = await stage.outcome(request)
    stage.storage.group.put("a", "second")
    second = await stage.outcome(again(request))
    for ended in (first, second):
        assert isinstance(ended, Ended)
        assert ended.chain[0].output == "first"
        assert [(each.how, each.key) for each in ended.chain[0].records][:1] == [("refused", "a")]


@pytest_twisted.ensureDeferred
async def test_a_digest_that_does_not_agree(stage: Stage) -> None:
    """With the same calls but another input the journal is not this run's: nothing is executed."""
    write(stage, 'self.storage.write("a", "1")\nreturn input')
    request = stage.request("Op@w1")
    assert isinstance(await stage.outcome(request), Ended)
    other = attrs.evolve(again(request), input="another")
    failed = await stage.outcome(other)
    assert isinstance(failed, Failed)
    assert "not deterministic" in failed.reason
