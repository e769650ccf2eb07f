"""Steps that are executed again: what they get from the journal, in which order, and what stops an older execution."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import attrs
import pytest
import pytest_twisted
from msgspec.structs import replace
from twisted.internet.defer import Deferred

from dida.chains.messages import Ended, Execute, Failed, Superseded
from dida.protocols.lines import Answer
from dida.wire.messages import Epoch, Error, Note, Ok, Read, Reply, Request, UpdateIf, Write, vocabulary
from tests.support.fakes import the_reactor, until
from tests.worker.test_node import Listener, Stage

reactor = the_reactor()

OP = """
class Op:
    {attributes}

    def configure_storage(self, storage):
        self.storage = storage

    {kind}def process_record(self, meta, input, previous_output):
        {body}
"""


class Told(Listener):
    """A scheduler that also hears of executions that were refused."""

    vocabulary: Mapping[str, type[Request]] = {**Listener.vocabulary, **vocabulary(Superseded)}

    def __init__(self) -> None:
        super().__init__()
        self.stopped: list[Superseded] = []

    def cmd_superseded(self, request: Superseded) -> Answer:
        self.stopped.append(request)
        return Ok()


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    """The stage, set and cleared."""
    made = Stage(tmp_path, told=Told())
    yield made
    made.close()


def write(stage: Stage, body: str, attributes: str = "pass", kind: str = "", name: str = "Op") -> None:
    text = OP.format(attributes=attributes, kind=kind, body=body.replace("\n", "\n        "))
    stage.put("import asyncio\n" + text.replace("class Op", f"class {name}"))


def again(request: Execute, number: int = 1) -> Execute:
    """The request of a new execution, at the other worker."""
    return attrs.evolve(request, epoch=Epoch(number, "x"), ask=True).with_step(worker="w1", attempt=number + 1)


def updates(stage: Stage) -> list[Request]:
    return [each for each in stage.storage.requests() if isinstance(each, Write | UpdateIf)]


SHOP = """
while True:
    record = {call}self.storage.read("stock")
    stock = record.value
    if stock == "0":
        return "sold out"
    if {call}self.storage.update_if_value_is("stock", stock, str(int(stock) - 1)) is not None:
        return stock
"""
KINDS = [("", "pass"), ("async ", "pass"), ("async ", 'loop = "asyncio"'), ("", 'isolation = "process"')]


@pytest.mark.parametrize(("kind", "attributes"), KINDS)
@pytest_twisted.ensureDeferred
async def test_the_last_item(stage: Stage, kind: str, attributes: str) -> None:
    """Executed again, the step that has sold the last item sells it: it reads what it had read, and swaps nothing.

    So it is for operators in threads, on the reactor, on an asyncio loop, and in processes.
    """
    write(stage, SHOP.format(call="await " if kind else ""), attributes, kind)
    stage.storage.group.put("stock", "1")
    request = stage.request("Op@w1")
    first = await stage.outcome(request)
    second = await stage.outcome(again(request))
    assert isinstance(first, Ended)
    assert isinstance(second, Ended)
    assert [each.chain[0].output for each in (first, second)] == ["1", "1"]
    assert [value for _, value in stage.storage.group.records["stock"]] == ["0", "1"]
    assert len(updates(stage)) == 1
    assert second.chain[0].mark == first.chain[0].mark
    third = await stage.outcome(stage.request("Op@w1"))
    assert isinstance(third, Ended)
    assert third.chain[0].output == "sold out"


@pytest_twisted.ensureDeferred
async def test_another_value_ends_the_run(stage: Stage) -> None:
    """The reason names operator, position, worker and call; what was changed stays, once."""
    write(stage, 'self.tries.append(1)\nself.storage.write("a", str(len(self.tries)))\nreturn "out"', "tries = []")
    request = stage.request("Op@w1")
    assert isinstance(await stage.outcome(request), Ended)
    failed = await stage.outcome(again(request))
    assert isinstance(failed, Failed)
    text = (
        'Op at position 0 on w1, executed again, is not deterministic: call 1 was write "a", now it has another value'
    )
    assert failed.reason == text
    assert [value for _, value in stage.storage.group.records["a"]] == ["1"]


@pytest_twisted.ensureDeferred
async def test_it_ends_the_run_even_if_it_is_caught(stage: Stage) -> None:
    """An operator that catches the error, or that has `retries`, ends its run all the same."""
    body = "self.tries.append(1)\ntry:\n    self.storage.read(str(len(self.tries)))\nexcept Exception:\n    pass"
    write(stage, body + '\nself.storage.write("b", "x")\nreturn "out"', "tries = []\n    retries = 5")
    request = stage.request("Op@w1")
    assert isinstance(await stage.outcome(request), Ended)
    failed = await stage.outcome(again(request))
    assert isinstance(failed, Failed)
    assert failed.reason.endswith('call 1 was read "1", now it is read "2"')
    assert stage.workers["w1"].counts["retried"] == 0


@pytest_twisted.ensureDeferred
async def test_a_paused_execution_stops_at_its_first_update(stage: Stage) -> None:
    """When another one has begun, its update is refused, it reports that, and no outcome."""
    write(stage, 'self.storage.write("a", "1")\nself.storage.read("slow")\nself.storage.write("b", "2")\nreturn "out"')
    stage.storage.group.put("slow", "x")
    node = stage.storage.nodes[0]
    held: list[Any] = []

    def slow(request: Request) -> Any:
        if isinstance(request, Read) and not held:
            held.append(Deferred())
            return held[0]
        return node._read(request) if isinstance(request, Read) else node._once(request)

    node.answer = slow
    request = stage.request("Op@w1")
    await stage.send(request)
    await until(lambda: held)
    second = await stage.outcome(attrs.evolve(again(request), chain=stage.request("Op@w2").chain))
    assert isinstance(second, Ended)
    held[0].callback(node._read(Read("slow")))
    told: Any = stage.told
    await until(lambda: told.stopped)
    assert (told.stopped[0].epoch, told.stopped[0].by) == (Epoch(), Epoch(1, "x"))
    assert len(stage.told.outcomes) == 1
    assert [value for _, value in stage.storage.group.records["b"]] == ["2"]


@pytest_twisted.ensureDeferred
async def test_a_try_gets_what_the_one_before_got(stage: Stage) -> None:
    """A try that failed with no call open is the same execution: what it got up to its last update, no fence."""
    body = """
first = self.storage.read("a").value
self.storage.write("b", first)
self.seen.append((first, self.storage.read("c").value))
if len(self.seen) < 2:
    raise LookupError("not yet")
return str(self.seen)
"""
    write(stage, body, "retries = 3\n    seen = []")
    for key in "ac":
        stage.storage.group.put(key, "old")
    node = stage.storage.nodes[0]

    def changing(request: Request) -> Any:
        reply = node._read(request) if isinstance(request, Read) else node._once(request)
        if isinstance(request, Read) and request.key == "c":
            stage.storage.group.put("a", "new")
            stage.storage.group.put("c", "new")
        return reply

    node.answer = changing
    ended = await stage.outcome(stage.request("Op@w1"))
    assert isinstance(ended, Ended)
    assert ended.chain[0].output == "[('old', 'old'), ('old', 'new')]"
    assert stage.storage.group.fenced == {}
    assert len(updates(stage)) == 1


@pytest_twisted.ensureDeferred
async def test_a_try_with_a_call_in_flight_is_followed_by_a_new_execution(stage: Stage) -> None:
    """Nobody knows what becomes of the call, so the next try first fences the one before."""
    write(
        stage,
        'self.storage.write("a", "1")\nself.storage.write("b", "2")\nreturn "out"',
        "retries = 3\n    timeout = 0.3",
    )
    node = stage.storage.nodes[0]
    held: list[Any] = []

    def slow(request: Request) -> Any:
        if isinstance(request, Write) and request.key == "b" and not held:
            held.append(Deferred())
            return held[0]
        return node._once(request)

    node.answer = slow
    ended = await stage.outcome(stage.request("Op@w1"))
    assert isinstance(ended, Ended)
    assert ended.epoch.number == 1
    assert ended.epoch.by.startswith("w1.")
    assert list(stage.storage.group.fenced.values()) == [ended.epoch]
    assert [value for _, value in stage.storage.group.records["a"]] == ["1"]


@pytest_twisted.ensureDeferred
async def test_a_try_that_has_cancelled_an_update_is_followed_by_a_new_execution(stage: Stage) -> None:
    """The update that an operator no longer waits for may have arrived: it must not be made again."""
    body = """
from twisted.internet import reactor
await self.storage.write("b", "2").addTimeout(0.2, reactor)
return "out"
"""
    write(stage, body, "retries = 3", "async ")
    node = stage.storage.nodes[0]
    made: list[Reply] = []

    def silent(request: Request) -> Any:
        if isinstance(request, Write) and not made:
            made.append(node._once(request))
            return Deferred()
        return node._once(request)

    node.answer = silent
    ended = await stage.outcome(stage.request("Op@w1"))
    assert isinstance(ended, Ended)
    assert ended.epoch.number == 1
    assert [value for _, value in stage.storage.group.records["b"]] == ["2"]


@pytest.mark.parametrize("attributes", ["pass", 'loop = "asyncio"'])
@pytest_twisted.ensureDeferred
async def test_results_are_delivered_in_the_order_of_the_calls(stage: Stage, attributes: str) -> None:
    """With several calls in flight the order of the replies does not decide what an operator does next."""
    gather = "asyncio.gather" if "asyncio" in attributes else "gatherResults"
    body = f"""
from twisted.internet.defer import Deferred, gatherResults

async def copy(source, target):
    value = (await self.storage.read(source)).value
    await self.storage.write(target, value)

tasks = [copy("a", "b"), copy("c", "d")]
await {gather}({"*tasks" if "asyncio" in attributes else "[Deferred.fromCoroutine(each) for each in tasks]"})
return "out"
"""
    write(stage, body, attributes, "async ")
    for key in "ac":
        stage.storage.group.put(key, key)
    node = stage.storage.nodes[0]
    for first in ("a", "c"):
        late: list[tuple[Deferred[Reply], Request]] = []

        def answer(request: Request, first: str = first, late: Any = late) -> Any:
            if not isinstance(request, Read):
                return node._once(request)
            if request.key != first:
                late.append((Deferred(), request))
                return late[0][0]
            reactor.callLater(0.02, lambda: late[0][0].callback(node._read(late[0][1])))
            return node._read(request)

        node.answer = answer
        before = len(updates(stage))
        assert isinstance(await stage.outcome(stage.request("Op@w1")), Ended)
        made: list[Any] = updates(stage)[before:]
        assert [(each.key, each.journal.call) for each in made] == [("b", 3), ("d", 4)]


@pytest_twisted.ensureDeferred
async def test_two_updates_of_one_key_in_flight(stage: Stage) -> None:
    """What a run has seen last of a key is the last result that was delivered, whatever reply came last."""
    body = """
from twisted.internet.defer import gatherResults
written = [self.storage.write("a", value) for value in "12"]
swapped = self.storage.update_if_value_is("a", "other", "3")
await gatherResults([*written, swapped])
return (await self.storage.read("a")).value
"""
    write(stage, body, "pass", "async ")
    node = stage.storage.nodes[0]
    late: list[tuple[Deferred[Reply], Reply]] = []

    def answer(request: Request) -> Any:
        if isinstance(request, Read) or len(late) == 3:
            return node._read(request) if isinstance(request, Read) else node._once(request)
        late.append((Deferred(), node._once(request)))
        if len(late) == 3:
            for number, (asked, reply) in enumerate(reversed(late)):
                reactor.callLater(0.02 * number, asked.callback, reply)
        return late[-1][0]

    node.answer = answer
    request = stage.request("Op@w1")
    first = await stage.outcome(request)
    second = await stage.outcome(again(request))
    assert isinstance(first, Ended)
    assert isinstance(second, Ended)
    assert first.chain[0].output == second.chain[0].output == "2"
    assert first.chain[0].records == second.chain[0].records
    assert [each.how for each in first.chain[0].records] == ["written", "written", "refused"]


@pytest_twisted.ensureDeferred
async def test_a_result_is_not_delivered_within_its_call(stage: Stage) -> None:
    """What the journal answers comes later, as a reply does."""
    body = """
called = self.storage.read("a")
self.order.append(bool(called.called))
await called
await self.storage.write("b", "x")
return str(self.order)
"""
    write(stage, body, "order = []", "async ")
    stage.storage.group.put("a", "1")
    request = stage.request("Op@w1")
    await stage.outcome(request)
    second = await stage.outcome(again(request))
    assert isinstance(second, Ended)
    assert second.chain[0].output == "[False, False]"


@pytest_twisted.ensureDeferred
async def test_a_long_value_is_read_by_its_version(stage: Stage) -> None:
    """Of a value of 1 MiB the update carries version and hash: it is read again in that version, or not at all."""
    write(stage, 'value = self.storage.read("a").value\nself.storage.write("b", value[:9])\nreturn value[:9]')
    stage.storage.group.put("a", "x" * 2**20)
    request = stage.request("Op@w1")
    assert isinstance(await stage.outcome(request), Ended)
    (made,) = updates(stage)
    assert isinstance(made, Write)
    assert made.journal is not None
    assert len(str(made.journal)) < 300
    stage.storage.group.put("a", "another")
    second = await stage.outcome(again(request))
    assert isinstance(second, Ended)
    assert second.chain[0].output == "x" * 9
    for number in range(20):
        stage.storage.group.put("a", str(number))
    failed = await stage.outcome(again(request, 2))
    assert isinstance(failed, Failed)
    assert failed.reason == "Op at position 0 on w1, executed again, needs a 1.1, which was discarded"


@pytest_twisted.ensureDeferred
async def test_many_reads_and_many_updates(stage: Stage) -> None:
    """2,000 reads before one update travel in notes; of 500 updates each carries what it adds."""
    write(stage, 'for n in range(2000):\n    self.storage.read(f"key{n}")\nself.storage.write("b", "x")\nreturn "out"')
    for number in range(2000):
        stage.storage.group.put(f"key{number}", "v" * 50)
    request = stage.request("Op@w1")
    assert isinstance(await stage.outcome(request), Ended)
    notes = [each for each in stage.storage.requests() if isinstance(each, Note)]
    assert len(notes) >= 2
    assert all(len(str(each)) < 200_000 for each in notes)
    assert len(updates(stage)) == 1
    before = len(stage.storage.requests())
    assert isinstance(await stage.outcome(again(request)), Ended)
    assert stage.storage.requests()[before:] == [], "all is in the journal"
    write(stage, 'for n in range(500):\n    self.storage.write(f"w{n}", str(n))\nreturn "out"')
    request = stage.request("Op@w1")
    assert isinstance(await stage.outcome(request), Ended)
    made = [each for each in updates(stage) if isinstance(each, Write) and each.key.startswith("w")]
    assert len(made) == 500
    assert all(each.journal is not None and each.journal.entries == "" for each in made)
    assert isinstance(await stage.outcome(again(request)), Ended)
    assert len([each for each in updates(stage) if isinstance(each, Write) and each.key.startswith("w")]) == 500


@pytest_twisted.ensureDeferred
async def test_the_storage_has_forgotten_the_run(stage: Stage) -> None:
    """Then nobody knows what it has changed: it is not executed again, and the reason says why."""
    write(stage, 'return "out"')
    node = stage.storage.nodes[0]
    node.cmd_fence = lambda request: Error("session-expired", (request.run,))  # type: ignore[method-assign]
    failed = await stage.outcome(again(stage.request("Op@w1")))
    assert isinstance(failed, Failed)
    assert "was not executed again: its run's journal cannot be read: session-expired" in failed.reason


@pytest_twisted.ensureDeferred
async def test_a_write_as_long_as_a_line(stage: Stage) -> None:
    """A value that fills its line has no room for what was read before: that goes ahead, and the write is done."""
    write(stage, 'self.storage.read("a")\nself.storage.write("b", "x" * (2**20 - 5000))\nreturn "out"')
    stage.storage.group.put("a", "y" * 4000)
    request = stage.request("Op@w1")
    assert isinstance(await stage.outcome(request), Ended)
    assert [type(each) for each in stage.storage.requests()] == [Read, Note, Write]
    assert isinstance(await stage.outcome(again(request)), Ended)


@pytest_twisted.ensureDeferred
async def test_the_scheduler_hears_where_the_run_goes_on(stage: Stage) -> None:
    """Steps that the journal has are not executed, but reported: else the scheduler would look for the run at them."""
    write(stage, 'self.storage.write(f"key{meta.position}", "x")\nreturn f"out{meta.position}"')
    request = stage.request("Op@w1", "Op@w2", "Op@w1")
    assert isinstance(await stage.outcome(request), Ended)
    stage.told.completed.clear()
    ended = await stage.outcome(again(request))
    assert isinstance(ended, Ended)
    assert [each.output for each in ended.chain] == ["out0", "out1", "out2"]
    assert len(updates(stage)) == 3
    assert {(each.position, each.epoch) for each in stage.told.completed} == {(0, Epoch(1, "x")), (1, Epoch(1, "x"))}
    assert all(each.step is not None and each.step.records for each in stage.told.completed)


@pytest_twisted.ensureDeferred
async def test_the_scheduler_hears_that_the_run_goes_back(stage: Stage) -> None:
    """A lost write of a step before is made again there, in another execution, and the scheduler is told so."""
    write(stage, 'self.storage.write(f"key{meta.position}", "x")\nreturn f"out{meta.position}"')
    request = stage.request("Op@w1", "Op@w2")
    first = await stage.outcome(request)
    assert isinstance(first, Ended)
    group = stage.storage.group
    (known,) = [id for id, (key, _) in group.journals.items() if key == "key0"]
    lost = group.journals.pop(known)
    group.records.pop("key0")
    made = group.journals[f"{request.meta.run}:2"]
    entries = f'[["u",1,"key0","w","1.1",{lost[1].digest}],["e",1000000,"out0",{first.chain[0].mark.digest}]]'
    group.journals[f"{request.meta.run}:2"] = made[0], replace(made[1], entries=entries)  # as another shard has it
    later = attrs.evolve(request, chain=first.chain, next=1)
    ended = await stage.outcome(again(later))
    assert isinstance(ended, Ended)
    (returned,) = stage.told.returned
    assert (returned.position, returned.round) == (0, 1)
    assert returned.epoch.number == 2
    assert "key0" in group.records


@pytest_twisted.ensureDeferred
async def test_an_execution_that_goes_back_is_another_one_than_its_last_try(stage: Stage) -> None:
    """A try after one with a call in flight has an epoch of its own: who goes back from it must not take it again."""
    body = """
self.storage.write("a", "1")
self.storage.write("b", "2")
return self.storage.read("c").value
"""
    write(stage, body, "retries = 3\n    timeout = 0.3")
    stage.storage.group.put("c", "3")
    node = stage.storage.nodes[0]
    held: list[Any] = []
    lost: list[Any] = []

    def answer(request: Request) -> Any:
        if isinstance(request, Write) and request.key == "b" and not held:
            held.append(Deferred())
            return held[0]
        if isinstance(request, Read) and request.key == "c" and not lost:
            lost.append(request)
            return Error("lost-update", ("lost",), {"lost": {"1:1": 1}})
        return node._read(request) if isinstance(request, Read) else node._once(request)

    node.answer = answer
    ended = await stage.outcome(stage.request("Op@w1"))
    assert isinstance(ended, Ended)
    (returned,) = stage.told.returned
    assert (returned.epoch.number, ended.epoch) == (2, returned.epoch)
    ids = [each.id for each in updates(stage) if isinstance(each, Write)]
    assert len(ids) == len(set(ids))
