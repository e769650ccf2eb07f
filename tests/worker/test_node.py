"""The worker on real connections, with a scheduler that only listens."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import attrs
import pytest
import pytest_twisted
from msgspec.structs import replace
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.process import ProcessReader, ProcessWriter
from twisted.internet.task import deferLater
from twisted.logger import ILogObserver, LogEvent, LogLevel, formatEvent, globalLogPublisher
from zope.interface import provider

from dida.addresses import NodeAddress
from dida.chains.messages import (
    Adopt,
    CancelStep,
    Completed,
    Drain,
    Ended,
    Execute,
    Failed,
    ListOperators,
    Output,
    ReportTo,
    Returned,
    WorkerDebug,
)
from dida.chains.records import Assignment, Meta
from dida.chains.redo import rewound
from dida.interfaces import Access
from dida.protocols.lines import Answer, NodeCommands
from dida.protocols.link_pool import ConnectionPool
from dida.protocols.links import ReconnectingClient
from dida.versions import Version
from dida.wire.messages import NODE, Epoch, Error, Ok, Read, Reply, Request, Status, Write, vocabulary
from dida.worker.attempts import Attempts
from dida.worker.execution import Operators
from dida.worker.handover import Handoff
from dida.worker.loading import OperatorFolder
from dida.worker.node import WorkerNode
from dida.worker.timing import Timing
from tests.support.fakes import FakeCluster, Port, refused, the_reactor, until

reactor = the_reactor()

# An operator that sleeps is one that takes long, in its thread: what is tested. No test waits for time itself.
HEAD = "import time\nfrom twisted.internet.task import deferLater\n"
PLAIN = """
class {name}:
    def configure_storage(self, storage):
        self.storage = storage

    def process_record(self, meta, input, previous_output):
        {body}
"""
ASYNC = PLAIN.replace("def process_record", "async def process_record")


class Listener(NodeCommands):
    """A scheduler, and a collector of debug output, that notes what it is told."""

    vocabulary: Mapping[str, type[Request]] = vocabulary(*NODE, Completed, Returned, Ended, Failed, Adopt, Output)

    def __init__(self) -> None:
        self.completed: list[Completed] = []
        self.choice: Answer = Ok()
        """The answer to who asks who is to execute the next step."""
        self.ended: list[Ended] = []
        self.failed: list[Failed] = []
        self.output: list[Output] = []
        self.outcomes: list[Ended | Failed] = []
        self.returned: list[Returned] = []
        self.adopted: list[Adopt] = []
        self.superseded: set[str] = set()
        """Runs whose outcomes do not count."""
        self.unknown: set[str] = set()
        """Runs that it does not know before they are told by `adopt`."""

    def cmd_returned(self, request: Returned) -> Answer:
        self.returned.append(request)
        return Ok()

    def cmd_adopt(self, request: Adopt) -> Answer:
        self.adopted.append(request)
        self.unknown.discard(request.request.meta.run)
        return Ok()

    def cmd_completed(self, request: Completed) -> Answer:
        self.completed.append(request)
        return self.choice if request.choose else Ok()

    def cmd_ended(self, request: Ended) -> Answer:
        if request.run in self.unknown:
            return Error("no-such-run", (request.run,))
        self.ended.append(request)
        self.outcomes.append(request)
        return Ok()

    def cmd_failed(self, request: Failed) -> Answer:
        self.failed.append(request)
        self.outcomes.append(request)
        return Ok(("superseded",) if request.run in self.superseded else ())

    def cmd_output(self, request: Output) -> Answer:
        self.output.append(request)
        return Ok()


class Stage:
    """Two workers with one folder of operators, their scheduler, and one storage node."""

    def __init__(self, folder: Path, storage: int = 1, told: Listener | None = None) -> None:
        self.folder = folder
        self.told = told or Listener()
        self.storage = FakeCluster(reactor, storage)
        self._scheduler = Port(reactor, self.told)
        self.scheduler = self._scheduler.address
        self.workers: dict[str, WorkerNode] = {}
        self._ports: dict[str, Port] = {}
        self._links: list[ReconnectingClient] = []
        self._runs = 0
        for id in ("w1", "w2"):
            self.start(id)

    def start(self, id: str, threads: int = 4, timeout: float = 5.0, **options: Any) -> WorkerNode:
        if id in self.workers:
            self.stop(id)
        operators = Operators(reactor, OperatorFolder(str(self.folder)), threads, timeout)
        worker = WorkerNode(reactor, NodeAddress(id, refused()), operators, **options)
        self._ports[id] = Port(reactor, worker)
        self.workers[id] = worker
        worker.start()
        return worker

    def stop(self, id: str) -> None:
        self.workers[id].stop()
        self._ports[id].close()

    def put(self, text: str, file: str = "ops.py") -> None:
        (self.folder / file).write_text(HEAD + text)

    def operator(self, body: str, form: str = PLAIN) -> None:
        self.put(form.format(name="Op", body=body))

    def request(self, *steps: str, input: str = "13", left: float = 20.0, **meta: Any) -> Execute:
        """`Op@w1` for each step."""
        chain = []
        for position, step in enumerate(steps):
            operator, _, worker = step.partition("@")
            address = self._ports[worker].address
            chain.append(Assignment(operator, position, worker, address.host, address.port))
        known = tuple(map(str, self.storage.addresses))
        self._runs += 1
        described = Meta(run=f"r{self._runs}-x", scheduler=str(self.scheduler), storage=known, **meta)
        return Execute(meta=described, input=input, next=0, size=len(chain), chain=tuple(chain), left=left)

    async def send(self, request: Execute) -> None:
        reply = await self.ask(request.assignment.worker, request)
        assert reply == Ok()

    async def ask(self, worker: str, request: Request) -> Any:
        address = self._ports[worker].address
        link = ReconnectingClient(reactor, address.host, address.port)
        self._links.append(link)
        return await link.ask(request, 5.0)

    async def outcome(self, request: Execute) -> Ended | Failed:
        """Send it, and wait for how the run ends."""
        before = len(self.told.outcomes)
        await self.send(request)
        await until(lambda: len(self.told.outcomes) > before, 20.0)
        return self.told.outcomes[-1]

    async def reason(self, *steps: str, **request: Any) -> str:
        """Why the run fails."""
        failed = await self.outcome(self.request(*(steps or ("Op@w1",)), **request))
        assert isinstance(failed, Failed), failed
        return failed.reason

    def close(self) -> None:
        for link in self._links:
            link.stop()
        for id in self.workers:
            self.stop(id)
        self._scheduler.close()
        self.storage.close()


def no_pipes() -> bool:
    """Whether the reactor has to do with no process of an operator any more."""
    pipes = (ProcessReader, ProcessWriter)
    return not any(isinstance(each, pipes) for each in reactor.getReaders() + reactor.getWriters())


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    """The stage, set and cleared."""
    made = Stage(tmp_path)
    yield made
    made.close()


@pytest.fixture
def warnings() -> Iterator[list[str]]:
    """What is logged as a warning, or worse."""
    found: list[str] = []

    @provider(ILogObserver)
    def observe(event: LogEvent) -> None:
        if event.get("log_level") not in (LogLevel.debug, LogLevel.info):
            found.append(formatEvent(event))

    globalLogPublisher.addObserver(observe)
    yield found
    globalLogPublisher.removeObserver(observe)


@pytest_twisted.ensureDeferred
async def test_a_chain_over_two_workers(stage: Stage) -> None:
    """Each operator gets the input and the output before it; the scheduler hears of every step and of the end."""
    stage.put(
        PLAIN.format(name="First", body="return f'{input}+{previous_output!r}'")
        + ASYNC.format(name="Second", body="return previous_output + '!'")
    )
    ended = await stage.outcome(stage.request("First@w1", "Second@w2", "First@w1"))
    assert isinstance(ended, Ended)
    assert [step.output for step in ended.chain] == ["13+''", "13+''!", """13+"13+''!\""""]
    await until(lambda: len(stage.told.completed) == 2)
    completed = sorted((each.position, each.worker, each.operator) for each in stage.told.completed)
    assert completed == [(0, "w1", "First"), (1, "w2", "Second")]
    assert all(step.ms >= 0 for step in ended.chain)


@pytest.mark.parametrize(("delay", "order"), [(0.0, [Execute, Completed]), (0.05, [Completed, Execute])])
@pytest_twisted.ensureDeferred
async def test_the_run_goes_on_before_it_is_reported(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, delay: float, order: list[type[Request]]
) -> None:
    """After a quick step the request does not wait for the report; the report does not wait for a gossip delay."""
    stage.start("w1", timing=Timing(choose_after=60.0))  # however slow the machine is
    asked: list[type[Request]] = []
    ask = ConnectionPool.ask

    def spy(peers: ConnectionPool, host: str, port: int, request: Request, timeout: float) -> Any:
        if peers is stage.workers["w1"]._pool:
            asked.append(type(request))
        return ask(peers, host, port, request, timeout)

    monkeypatch.setattr(ConnectionPool, "ask", spy)
    stage.operator("return input")
    stage.workers["w1"].gossip_delay = delay
    await stage.outcome(stage.request("Op@w1", "Op@w2"))
    await until(lambda: len(asked) == 2)
    assert asked == order


@pytest.mark.parametrize("form", [PLAIN, ASYNC])
@pytest_twisted.ensureDeferred
async def test_operators_share_the_storage(stage: Stage, form: str) -> None:
    """Plain operators block and async ones await; a later step on another worker sees the very version written."""
    wait = "await " if form is ASYNC else ""
    write = f"version = {wait}self.storage.write(input, 'mine'); return str(version)"
    read = f"record = {wait}self.storage.read(input); return record.value + str(record.version)"
    stage.put(form.format(name="Writer", body=write) + form.format(name="Reader", body=read))
    stage.storage.group.put("13", "theirs")
    ended = await stage.outcome(stage.request("Reader@w1", "Writer@w1", "Reader@w2"))
    assert isinstance(ended, Ended)
    assert [step.output for step in ended.chain] == ["theirs1.1", "2.1", "mine2.1"]
    assert ended.after == {"1:1": 2}


@pytest.mark.parametrize(
    ("body", "form", "reason"),
    [
        ("raise ValueError('no\\n  good')", PLAIN, "raised ValueError: no good"),
        ("raise ValueError('no good')", ASYNC, "raised ValueError: no good"),
        ("raise SystemExit(3)", PLAIN, "raised SystemExit: 3"),
        ("raise SystemExit(3)", ASYNC, "raised SystemExit: 3"),
        ("raise GeneratorExit", PLAIN, "raised GeneratorExit"),
        ("raise GeneratorExit(3)", ASYNC, "raised GeneratorExit: 3"),
        (
            "await deferLater(__import__('twisted.internet').internet.reactor, 0.01); raise GeneratorExit",
            ASYNC,
            "raised",
        ),
        ("pass\n    def __init__(self): raise GeneratorExit('no')", PLAIN, "raised GeneratorExit: no"),
        ("pass\n    def __init__(self): raise KeyboardInterrupt('no')", ASYNC, "raised KeyboardInterrupt: no"),
        ("raise KeyError", PLAIN, "raised KeyError"),
        ("return None", PLAIN, "returned NoneType, not a string"),
        ("return 12", ASYNC, "returned int, not a string"),
        ("return deferLater(None, 1) if input == '' else self.other()", PLAIN, "raised AttributeError: 'Op' object"),
        ("return 'x' * 600_000", PLAIN, "returned 600000 bytes, more than the 524288 of an output"),
        ("return 'é' * 300_000", ASYNC, "returned 600000 bytes, more than the 524288 of an output"),
        ("return '\\udc00'", PLAIN, "returned text that can't be encoded as UTF-8"),
        ("return self.storage.read('nowhere').value", PLAIN, "failed: no-such-record: nowhere"),
        ("return (await self.storage.read('nowhere')).value", ASYNC, "failed: no-such-record: nowhere"),
        ("self.storage.write('k', 'v'); return ''", ASYNC, "returned before 1 of its storage calls were answered"),
        ("return self.storage.write('k', 'v')", ASYNC, "returned before 1 of its storage calls"),
        ("return self.storage.write('k', 5)", PLAIN, "failed: bad-request: keys and values are strings, not int"),
    ],
)
@pytest_twisted.ensureDeferred
async def test_operators_that_fail(stage: Stage, body: str, form: str, reason: str) -> None:
    """Whatever an operator does wrong, the run fails with operator, position, worker and reason in one line."""
    stage.operator(body, form)
    told = await stage.reason()
    assert told.startswith(f"Op at position 0 on w1 {reason}")
    assert "\n" not in told
    (failed,) = stage.told.failed
    assert (failed.run, failed.position, failed.operator, failed.worker) == ("r1-x", 0, "Op", "w1")
    stage.operator("return 'fine'")
    await stage.send(stage.request("Op@w1"))
    await until(lambda: stage.told.ended)


@pytest.mark.parametrize(
    "body",
    [
        "raise ValueError('x' * 5_000_000)",
        "raise ValueError('a') from ValueError('x' * 5_000_000)",
        "from dida.errors import DidaError; raise DidaError('odd', 'x' * 5_000_000)",
        "raise type('x' * 5_000_000, (Exception,), {})",
        "pass\nraise ValueError('x' * 5_000_000)",
        "pass\n    retries = 'x' * 5_000_000",
    ],
)
@pytest_twisted.ensureDeferred
async def test_exceptions_with_much_to_say(stage: Stage, warnings: list[str], body: str) -> None:
    """However long the text of what an operator raises is, the reason and the log are short."""
    stage.operator(body)
    assert 35 < len(await stage.reason()) <= 4000
    assert sum(map(len, warnings)) < 20_000
    assert warnings


@pytest.mark.parametrize("kind", [ZeroDivisionError, GeneratorExit])
@pytest_twisted.ensureDeferred
async def test_a_bug_of_the_worker(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, logged_errors: list[LogEvent], kind: type[BaseException]
) -> None:
    """A step that ends in a bug of the worker has failed, in the hand-over, too; its log tells what the bug was."""

    async def bug(*arguments: Any) -> None:
        await deferLater(reactor, 0)
        raise kind("a bug")

    stage.operator("return ''", ASYNC)
    worker = stage.workers["w1"]
    monkeypatch.setattr(Attempts, "secure", bug)
    monkeypatch.setattr(Handoff, "send", bug)
    text = "on w1: a bug at this worker; its log has the details"
    assert await stage.reason() == f"Op at position 0 {text}"
    assert await stage.reason("Op@w1", "Op@w2") == f"Op at position 1 {text}"
    assert [failed.position for failed in stage.told.failed] == [0, 1]
    assert worker.steps.in_hand == 0
    assert [event["log_failure"].type for event in logged_errors] == [kind, kind]
    logged_errors.clear()


@pytest.mark.parametrize("form", [PLAIN, ASYNC])
@pytest_twisted.ensureDeferred
async def test_an_operator_may_do_what_it_likes_to_meta(stage: Stage, form: str) -> None:
    """What an operator does to its meta record has no effect on its own run, on the next worker, or on other runs."""
    body = (
        "meta.versions[13] = 5; meta.versions['13'] = 'x'; meta.after['9:z'] = 5; meta.run = None; "
        "meta.scheduler = 'no'; meta.view = 10**9; meta.storage = ('1=z@localhost:1',); return 'out'"
    )
    wait = "await " if form is ASYNC else ""
    stage.put(
        form.format(name="Spoils", body=body)
        + form.format(name="Reads", body=f"return ({wait}self.storage.read(input)).value")
    )
    stage.storage.group.put("13", "theirs")
    request = stage.request("Spoils@w1", "Reads@w2")
    ended = await stage.outcome(request)
    assert isinstance(ended, Ended), ended
    assert (ended.run, [step.output for step in ended.chain]) == (request.meta.run, ["out", "theirs"])
    assert ended.after == {"1:1": 1}


@pytest_twisted.ensureDeferred
async def test_operators_that_are_not_there(stage: Stage) -> None:
    """A class that is missing, or whose file is broken, fails the run at its position; what was done before is told."""
    stage.operator("return 'out'")
    assert (await stage.reason("Op@w1", "Nowhere@w2")).startswith(
        "Nowhere at position 1 on w2 could not be loaded: no class Nowhere in the files of"
    )
    assert [each.output for each in stage.told.failed[0].chain] == ["out"]
    stage.put("class Bad(\n")
    assert "on w1 could not be loaded: " in await stage.reason("Bad@w1")


@pytest_twisted.ensureDeferred
async def test_operators_are_picked_up(stage: Stage) -> None:
    """A file that is added or changed while the worker runs is what the next run executes."""
    stage.operator("return 'one'")
    await stage.send(stage.request("Op@w1"))
    await until(lambda: len(stage.told.ended) == 1)
    stage.operator("return 'two'")
    await stage.send(stage.request("Op@w1"))
    await until(lambda: len(stage.told.ended) == 2)
    assert [each.chain[0].output for each in stage.told.ended] == ["one", "two"]
    assert await stage.ask("w1", ListOperators()) == Ok((), {"operators": {"Op": "ops.py"}})


@pytest.mark.alone
@pytest_twisted.ensureDeferred
async def test_time_outs(stage: Stage) -> None:
    """An operator that outlives its time-out fails its run then, and can't write any more; others go on."""
    stage.put(
        PLAIN.format(name="Sleeper", body="time.sleep(0.6); self.storage.write('late', 'x'); return ''")
        + ASYNC.format(name="AsyncSleeper", body="from twisted.internet import reactor; await deferLater(reactor, 9)")
        + PLAIN.format(name="Op", body="return 'fine'")
    )
    worker = stage.start("w1", threads=1, timeout=0.2)
    began = reactor.seconds()
    assert await stage.reason("Sleeper@w1") == (
        "Sleeper at position 0 on w1 did not return within 0.2 s,"
        " the limit is --operator-timeout; its thread can't be stopped and goes on"
    )
    status = await stage.ask("w1", Status())
    assert status.object["stuck_threads"] == 1
    assert (await stage.reason("AsyncSleeper@w1")).endswith("0.2 s, the limit is --operator-timeout")
    assert reactor.seconds() - began < 0.55
    await stage.send(stage.request("Op@w1"))
    await until(lambda: stage.told.ended)
    assert reactor.seconds() - began < 0.6, "a stuck thread is replaced"
    await until(lambda: worker.operators.threads.stuck == 0)
    assert "late" not in stage.storage.group.records


@pytest_twisted.ensureDeferred
async def test_nothing_is_executed_past_the_deadline(stage: Stage) -> None:
    """A run's own deadline bounds its operators, also those that wait for a thread."""
    stage.operator("time.sleep(0.5); return ''")
    stage.start("w1", threads=1)
    assert "on w1 did not return within 0.2 s, the run's deadline" in await stage.reason(left=0.2)
    stage.start("w2", threads=1)
    await stage.send(stage.request("Op@w2"))
    assert "on w2 found no free thread within 0.1 s (1 threads; " in await stage.reason("Op@w2", left=0.1)
    assert "was not executed: the run is past its deadline" in await stage.reason("Op@w1", left=0.0)
    await until(lambda: stage.told.ended)


@pytest.mark.alone
@pytest_twisted.ensureDeferred
async def test_a_slow_operator_stops_nobody(stage: Stage) -> None:
    """While plain and async operators take their time the worker answers, and executes others."""
    stage.put(
        PLAIN.format(name="Slow", body="time.sleep(0.3); return ''") + ASYNC.format(name="Op", body="return 'fine'")
    )
    for _ in range(4):
        await stage.send(stage.request("Slow@w1"))
    began = reactor.seconds()
    await stage.send(stage.request("Op@w1"))
    await until(lambda: stage.told.ended)
    assert reactor.seconds() - began < 0.25
    await until(lambda: len(stage.told.ended) == 5)


@pytest.mark.alone
@pytest_twisted.ensureDeferred
async def test_a_gossip_delay_is_slept_before_forwarding(stage: Stage) -> None:
    """A worker's gossip delay holds back the request that it forwards, not what it tells the scheduler."""
    stage.operator("return ''", ASYNC)
    stage.start("w1", gossip_delay=0.2)
    began = reactor.seconds()
    await stage.send(stage.request("Op@w1", "Op@w2"))
    await until(lambda: stage.told.completed)
    assert stage.workers["w2"].counts["executed"] == 0
    await until(lambda: stage.told.ended)
    assert reactor.seconds() - began >= 0.2


@pytest_twisted.ensureDeferred
async def test_after_a_while_the_scheduler_chooses_the_next_worker(stage: Stage) -> None:
    """A step that has taken its time asks who is to execute the next one; a quick one hands on by the plan."""
    for id in ("w1", "w2"):
        stage.start(id, timing=Timing(choose_after=0.5))  # a quick one is below it on a busy machine, too
    stage.put(PLAIN.format(name="Slow", body="time.sleep(0.6); return 's'"))
    stage.put(ASYNC.format(name="Quick", body="return 'q'"), "quick.py")
    w2 = stage._ports["w2"].address
    stage.told.choice = Ok(("w2", w2.host, str(w2.port)))
    await stage.outcome(stage.request("Quick@w1"))
    ended = await stage.outcome(stage.request("Quick@w1", "Slow@w1", "Quick@w1", "Quick@w1"))
    assert isinstance(ended, Ended)
    assert [(each.worker, each.attempt) for each in ended.chain] == [("w1", 1), ("w1", 1), ("w2", 1), ("w1", 1)]
    await until(lambda: len(stage.told.completed) == 3)
    assert [(each.position, each.choose) for each in stage.told.completed] == [(0, False), (1, True), (2, False)]
    assert not stage.told.adopted


@pytest_twisted.ensureDeferred
async def test_a_scheduler_that_does_not_choose_in_time(stage: Stage) -> None:
    """A scheduler that keeps silent when it is asked holds nothing up: the plan is kept, and it is told so."""
    stage.start("w1", timing=Timing(choose_timeout=0.05))
    stage.operator("time.sleep(0.02); return 's'")
    stage.told.choice = Deferred()
    ended = await stage.outcome(stage.request("Op@w1", "Op@w2"))
    assert isinstance(ended, Ended)
    assert [each.worker for each in ended.chain] == ["w1", "w2"]
    assert [each.choose for each in stage.told.completed] == [True, False]
    await until(lambda: stage.told.adopted)
    (adopted,) = stage.told.adopted
    assert (adopted.request.next, adopted.request.assignment.worker) == (1, "w2")
    stage.told.choice.callback(Ok())


@pytest_twisted.ensureDeferred
async def test_a_chain_goes_on_without_a_scheduler(stage: Stage) -> None:
    """A run that has started ends without its scheduler, by the route that is in the request."""
    stage.operator("time.sleep(0.02); return 's'")
    stage._scheduler.close()
    stage.scheduler = refused()
    await stage.send(stage.request("Op@w1", "Op@w2", "Op@w1"))
    await until(lambda: stage.workers["w1"].counts["executed"] == 2)
    stage._scheduler = Port(reactor, stage.told, stage.scheduler.port)
    await until(lambda: stage.told.ended)
    assert [each.worker for each in stage.told.ended[0].chain] == ["w1", "w2", "w1"]


@pytest_twisted.ensureDeferred
async def test_the_next_worker_is_gone(stage: Stage) -> None:
    """A request that can't be handed on is executed by another worker, without a scheduler that names one, too."""
    stage.operator("return 'out'")
    request = stage.request("Op@w1", "Op@w2")
    stage.stop("w2")
    ended = await stage.outcome(request)
    assert isinstance(ended, Ended)
    assert [(each.worker, each.attempt, each.output) for each in ended.chain] == [("w1", 1, "out"), ("w1", 2, "out")]
    stage.start("w2")


@pytest_twisted.ensureDeferred
async def test_the_next_worker_is_none(stage: Stage) -> None:
    """A request that what is no worker refuses to take is executed by another one, too."""
    stage.operator("return 'out'")
    request = stage.request("Op@w1", "Op@w2")
    storage = stage.storage.addresses[0].address
    first, second = request.chain
    ended = await stage.outcome(attrs.evolve(request, chain=(first, replace(second, port=storage.port))))
    assert isinstance(ended, Ended)
    assert [each.worker for each in ended.chain] == ["w1", "w1"]


@pytest_twisted.ensureDeferred
async def test_outputs_too_long_for_a_line(stage: Stage) -> None:
    """Outputs that together are longer than a line fail their own run, and no other on the same connection."""
    stage.operator("return 'x' * 500_000")
    reason = await stage.reason("Op@w1", "Op@w2", "Op@w1")
    assert reason.startswith("Op at position 2 on w1 was executed, but the outcome of its run has 1500")
    assert "longer than a line may be (1048576)" in reason
    assert stage.told.failed[0].position == 2


@pytest_twisted.ensureDeferred
async def test_a_scheduler_that_is_away_is_told_later(stage: Stage) -> None:
    """What a scheduler that can't be reached should hear, it hears when it is back."""
    stage.operator("return 'out'")
    stage._scheduler.close()
    stage.scheduler = refused()
    await stage.send(stage.request("Op@w1"))
    worker = stage.workers["w1"]
    await until(lambda: worker.counts["executed"] == 1)
    again = stage._scheduler = Port(reactor, stage.told, stage.scheduler.port)
    await until(lambda: stage.told.ended)
    assert again.address == stage.scheduler


@pytest_twisted.ensureDeferred
async def test_debug_output(stage: Stage) -> None:
    """In debug mode every output and meta record goes to the collector; when that is away nothing is slower."""
    stage.operator("return 'out'", ASYNC)
    assert await stage.ask("w1", WorkerDebug("on", to=str(stage.scheduler))) == Ok()
    await stage.send(stage.request("Op@w1"))
    await until(lambda: stage.told.output)
    (told,) = stage.told.output
    assert (told.run, told.operator, told.worker, told.output, told.meta.run) == ("r1-x", "Op", "w1", "out", "r1-x")
    assert await stage.ask("w1", WorkerDebug("on", to=str(refused()))) == Ok()
    await stage.send(stage.request("Op@w1"))
    await until(lambda: len(stage.told.ended) == 2)
    worker = stage.workers["w1"]
    await until(lambda: worker.debug_reporter.dropped)
    assert await stage.ask("w1", WorkerDebug("off")) == Ok()
    wrong = await stage.ask("w1", WorkerDebug("on", to="nowhere"))
    assert isinstance(wrong, Error)
    assert len(stage.told.output) == 1


@pytest_twisted.ensureDeferred
async def test_status(stage: Stage) -> None:
    """`status` tells which storage nodes are alive and dead by the newest meta record, and what was done."""
    stage.operator("return 'out'")
    stage.storage.group.number = 5
    await stage.outcome(stage.request("Op@w1", view=5))
    status = (await stage.ask("w1", Status())).object
    assert (status["id"], status["role"], status["ready"], status["executed"]) == ("w1", "worker", True, 1)
    assert (status["alive"], status["dead"], status["active"]) == (["s1"], [], 0)
    later = stage.request("Op@w1", view=6)
    later.meta.storage = ("2=s2@127.0.0.1:9",)
    await stage.send(later)
    status = (await stage.ask("w1", Status())).object
    assert (status["alive"], status["dead"]) == (["s2"], ["s1"])


@pytest_twisted.ensureDeferred
async def test_many_runs_at_once(stage: Stage) -> None:
    """A thousand chains at once all end, each step executed once; it may be confirmed twice, if an answer came late."""
    stage.operator("return previous_output + 'x'", ASYNC)
    for _ in range(1000):
        assert stage.workers["w1"].cmd_execute(stage.request("Op@w1", "Op@w2", "Op@w1")) == Ok()
    await until(lambda: len(stage.told.ended) == 1000, 20.0)
    assert {each.chain[-1].output for each in stage.told.ended} == {"xxx"}
    assert len({(each.run, each.position) for each in stage.told.completed}) == 2000
    assert {id: worker.counts["executed"] for id, worker in stage.workers.items()} == {"w1": 2000, "w2": 1000}


@pytest_twisted.ensureDeferred
async def test_the_operators_of_the_documentation(stage: Stage) -> None:
    """The examples of docs/reference/operators.md work as they stand there."""
    text = (Path(__file__).parent.parent.parent / "docs" / "reference" / "operators.md").read_text()
    for number, code in enumerate(re.findall("```python\n(.*?)```", text, re.DOTALL)):
        (stage.folder / f"example{number}.py").write_text(code)
    stage.storage.group.put("page", "7")
    ended = await stage.outcome(stage.request("GreetingOperator@w1", input="Ada"))
    assert isinstance(ended, Ended)
    assert ended.chain[0].output == "hello, Ada (1.1)"
    ended = await stage.outcome(stage.request("VisitsOperator@w1", "VisitsOperator@w2", input="page"))
    assert isinstance(ended, Ended)
    assert [each.output for each in ended.chain] == ["7", "8"]
    ended = await stage.outcome(stage.request("FlakyOperator@w1", input="page"))
    assert isinstance(ended, Ended)
    assert ended.chain[0].output == "9"


WRITE_READ = """
class Writer:
    def configure_storage(self, storage):
        self.storage = storage

    async def process_record(self, meta, input, previous_output):
        await self.storage.write(input, "mine")
        return "written"


class Reader:
    def configure_storage(self, storage):
        self.storage = storage

    async def process_record(self, meta, input, previous_output):
        return previous_output + " " + (await self.storage.read(input)).value
"""


@pytest_twisted.ensureDeferred
async def test_a_request_that_comes_twice(stage: Stage) -> None:
    """The same step is executed once by a worker; in a higher epoch it is executed again."""
    stage.operator("time.sleep(0.1); return 'out'")
    request = stage.request("Op@w1")
    for _ in range(3):
        await stage.send(request)
    await until(lambda: stage.told.ended)
    await stage.send(request)
    await stage.send(attrs.evolve(request, epoch=Epoch(1, "x"), ask=True))
    await until(lambda: len(stage.told.ended) == 2)
    status = (await stage.ask("w1", Status())).object
    assert (status["executed"], status["duplicates"], status["active"]) == (2, 3, 0)


@pytest_twisted.ensureDeferred
async def test_a_step_that_is_executed_again_has_its_effects_once(stage: Stage) -> None:
    """A new execution of a step makes no update that is there: the journal answers it; the older one is refused."""
    stage.put(HEAD + WRITE_READ)
    request = stage.request("Writer@w1")
    first = await stage.outcome(request)
    second = attrs.evolve(rewound(request, 0), epoch=Epoch(1, "x"), ask=True)
    again = await stage.outcome(second.with_step(worker="w2", attempt=2))
    assert isinstance(first, Ended)
    assert isinstance(again, Ended)
    assert first.chain[0].records == again.chain[0].records == (Access("written", "13", Version(1, 1)),)
    writes = [each for each in stage.storage.requests() if isinstance(each, Write)]
    assert [(each.id, each.retry) for each in writes] == [("r1-x:1", False)]
    assert stage.storage.group.fenced == {"r1-x": Epoch(1, "x")}
    assert len(stage.storage.group.records["13"]) == 1


@pytest_twisted.ensureDeferred
async def test_what_a_run_knows_is_read_without_the_storage(stage: Stage) -> None:
    """A later step reads what the run has read or written, in the same version, even if it was discarded meanwhile."""
    stage.put(HEAD + WRITE_READ)
    node = stage.storage.nodes[0]

    def busy(request: Request) -> Any:
        reply = node._once(request)
        for number in range(20):
            stage.storage.group.put("13", str(number))
        return reply

    node.answer = busy
    ended = await stage.outcome(stage.request("Writer@w1", "Reader@w2", "Reader@w1"))
    assert isinstance(ended, Ended)
    assert ended.chain[2].output == "written mine mine"
    assert [type(each) for each in stage.storage.requests()] == [Write]
    read = Access("read", "13", Version(1, 1))
    assert [each.records for each in ended.chain[1:]] == [(read,), (read,)], "the story is that of any other read"


@pytest_twisted.ensureDeferred
async def test_what_a_run_knows_is_bounded(stage: Stage) -> None:
    """Long values, and those from 32 KiB on in all, do not travel: a later step reads them by their versions."""
    body = "values = [self.storage.read(f'k{n}').value for n in range(15)]\n        "
    stage.operator(body + "values.append(self.storage.read('long').value)\n        return str(len(values))")
    for number in range(15):
        stage.storage.group.put(f"k{number}", str(number % 10) * 4000)
    stage.storage.group.put("long", "x" * 5000)
    ended = await stage.outcome(stage.request("Op@w1", "Op@w2"))
    assert isinstance(ended, Ended)
    asked = [each for each in stage.storage.requests() if isinstance(each, Read)]
    assert [each.key for each in asked[:16]] == [*(f"k{number}" for number in range(15)), "long"]
    again = [(each.key, each.version) for each in asked[16:]]
    older = [*(f"k{number}" for number in range(7)), "long"]
    assert again == [(key, Version(1, 1)) for key in older], "eight values of 4,000 characters fit"


@pytest_twisted.ensureDeferred
async def test_lost_writes_are_made_good(stage: Stage) -> None:
    """When a later step hears of lost updates, the run goes back to the step that wrote them, and ends as ever."""
    stage.put(HEAD + WRITE_READ.replace("storage.read(input)", 'storage.read("other")'))
    stage.storage.group.put("other", "theirs")
    node = stage.storage.nodes[0]
    stream = "1:1"

    def crashed(request: Request) -> Any:
        if not isinstance(request, Read):
            return node._once(request)
        node.answer = None
        node.group.records.pop("13", None)
        node.group.results.clear()
        node.group.journals.clear()
        return Error("lost-update", ("lost",), {"lost": {stream: 1}})

    node.answer = crashed
    ended = await stage.outcome(stage.request("Op@w2", "Writer@w1", "Reader@w2"))
    assert isinstance(ended, Failed), "there is no operator Op"
    node.answer = crashed
    ended = await stage.outcome(stage.request("Writer@w1", "Reader@w2"))
    assert isinstance(ended, Ended)
    assert [(each.output, each.attempt) for each in ended.chain] == [("written", 2), ("written theirs", 2)]
    (returned,) = stage.told.returned
    assert (returned.position, returned.round) == (0, 1)
    assert returned.reason == "Reader at position 1 met lost updates"


@pytest_twisted.ensureDeferred
async def test_updates_lost_before_the_run(stage: Stage) -> None:
    """What the client had seen and was lost can't be made good: the run fails, and says so."""
    stage.put(HEAD + WRITE_READ)
    stage.storage.nodes[0].answer = lambda request: Error("lost-update", ("lost",), {"lost": {"9:9": 3}})
    request = stage.request("Reader@w1", after={"9:9": 3})
    outcome = await stage.outcome(attrs.evolve(request, since={"9:9": 3}))
    assert isinstance(outcome, Failed)
    reason = outcome.reason
    assert reason.startswith("Reader at position 0 on w1 failed: lost-update: depends on updates from before the run")
    assert (outcome.lost, outcome.after) == ({"9:9": 3}, {}), "the client learns what to take out, and it is taken out"
    request = attrs.evolve(stage.request("Writer@w2", "Reader@w1", after={"9:9": 3}), next=1, since={"9:9": 3})
    for how, others in (("read", ()), ("written", (Access("read", "other", Version(2, 9)),))):
        records = (*others, Access(how, "13", Version(4, 9)), Access("read", "14", Version(1, 2)))
        chain = (replace(request.chain[0], records=records), request.chain[1])
        reason = (await stage.outcome(attrs.evolve(request, chain=chain))).reason  # type: ignore[union-attr]
        assert reason.endswith("that were lost with a storage node (13 4.9)"), reason
        request = attrs.evolve(request, meta=attrs.evolve(request.meta, run="r9-x"))


@pytest_twisted.ensureDeferred
async def test_a_full_storage_ends_the_run(stage: Stage) -> None:
    """A write that has no room fails the run with the storage's own words."""
    stage.put(HEAD + WRITE_READ)
    stage.storage.nodes[0].answer = lambda request: Error("storage-full", ("100 of 100 MiB are taken",))
    failed = await stage.outcome(stage.request("Writer@w1", "Reader@w2"))
    assert isinstance(failed, Failed)
    assert failed.reason == "Writer at position 0 on w1 failed: storage-full: 100 of 100 MiB are taken"


@pytest_twisted.ensureDeferred
async def test_a_run_that_ends_is_on_two_nodes(tmp_path: Path) -> None:
    """Before the end of a run is told, another storage node than the one that wrote was asked for what was written."""
    stage = Stage(tmp_path, storage=2)
    try:
        stage.put(HEAD + WRITE_READ)
        ended = await stage.outcome(stage.request("Writer@w1"))
        assert isinstance(ended, Ended)
        (touch,) = ended.chain[0].records
        (read,) = stage.storage.nodes[2 - touch.version.replica].requests
        assert isinstance(read, Read)
        assert (read.key, read.after) == ("13", {f"{touch.version.replica}:1": 1})
    finally:
        stage.close()


@pytest_twisted.ensureDeferred
async def test_retries(stage: Stage) -> None:
    """A class's `retries` have a step that failed tried again, its applied updates once; each try is counted."""
    body = """
    retries = 2
    backoff = 0.01
    tries = []

    def configure_storage(self, storage):
        self.storage = storage

    def process_record(self, meta, input, previous_output):
        self.tries.append(input)
        self.storage.write(input, "mine")
        if len(self.tries) < 3:
            raise ValueError("not yet")
        return "out"
"""
    stage.put("class Op:" + body + "\n\nclass Never(Op):\n    tries = []\n    retries = 1\n    backoff = 0\n")
    ended = await stage.outcome(stage.request("Op@w1"))
    assert isinstance(ended, Ended)
    assert ended.chain[0].attempt == 3
    assert len(stage.storage.group.records["13"]) == 1
    reason = await stage.reason("Never@w1", input="14")
    assert reason == "Never at position 0 on w1 raised ValueError: not yet (tried 2 times)"
    assert stage.workers["w1"].counts["retried"] == 3


@pytest.mark.parametrize(
    ("attribute", "reason"),
    [
        ("timeout = 0", "has timeout = 0: give it a number of seconds, more than 0"),
        ("retries = 1.5", "has retries = 1.5: give it a whole number from 0 to 1000"),
        ("backoff = 'x'", "has backoff = 'x': give it a number of seconds from 0 to 3600"),
        ("isolation = 'jail'", """has isolation = 'jail': give it "process", or leave it out"""),
    ],
)
@pytest_twisted.ensureDeferred
async def test_attributes_that_can_not_be(stage: Stage, attribute: str, reason: str) -> None:
    """A class attribute that makes no sense is told, with what it can be."""
    stage.put(PLAIN.format(name="Op", body="return ''").replace("class Op:\n", f"class Op:\n    {attribute}\n"))
    assert await stage.reason() == f"Op at position 0 on w1 {reason}"


@pytest_twisted.ensureDeferred
async def test_an_operators_own_timeout(stage: Stage) -> None:
    """A class's `timeout` takes the place of the worker's."""
    stage.put(
        PLAIN.format(name="Op", body="time.sleep(0.4); return ''").replace(
            "class Op:\n", "class Op:\n    timeout = 0.1\n"
        )
    )
    assert "did not return within 0.1 s, the limit is its class's timeout" in await stage.reason()
    await until(lambda: stage.workers["w1"].operators.threads.stuck == 0)


@pytest_twisted.ensureDeferred
async def test_a_worker_with_enough_to_do(stage: Stage) -> None:
    """Beyond its bound a worker refuses, with a hint; the request goes to another worker."""
    stage.operator("time.sleep(0.2); return 'out'")
    stage.start("w2", max_steps=1)
    await stage.send(stage.request("Op@w2"))
    refused = await stage.ask("w2", stage.request("Op@w2"))
    assert refused == Error("unavailable", ("w2 has 1 operators to execute already: try another worker",))
    await stage.send(stage.request("Op@w1", "Op@w2"))
    await stage.send(stage.request("Op@w2", "Op@w1").with_step(worker="w1", host="127.0.0.1"))
    await until(lambda: len(stage.told.ended) == 3)


@pytest_twisted.ensureDeferred
async def test_a_cancelled_run(stage: Stage, warnings: list[str]) -> None:
    """What is in hand of a cancelled run is given up without a word, and nothing more of it is begun; others go on."""
    stage.put(
        HEAD
        + ASYNC.format(name="Op", body="from twisted.internet import reactor; await deferLater(reactor, 9)")
        + ASYNC.format(name="Quick", body="return 'out'")
    )
    request = stage.request("Op@w1")
    await stage.send(request)
    assert await stage.ask("w1", CancelStep(request.meta.run)) == Ok()
    assert stage.workers["w1"].steps.in_hand == 0
    assert warnings == []
    again = await stage.ask("w1", request.with_step(attempt=2))
    assert isinstance(again, Error)
    assert again.code == "superseded"
    assert isinstance(await stage.outcome(stage.request("Quick@w1")), Ended)
    assert not stage.told.failed


@pytest_twisted.ensureDeferred
async def test_a_scheduler_that_asks_is_told_what_is_in_hand(stage: Stage) -> None:
    """A scheduler that is there again hears of the steps in hand; a run that it does not know it gets as a request."""
    stage.operator("time.sleep(0.2); return 'out'")
    stage.told.unknown.add("r1-x")
    request = stage.request("Op@w1")
    await stage.send(request)
    assert (await stage.ask("w1", ReportTo(str(stage.scheduler)))).words == ("w1",)
    await until(lambda: stage.told.adopted)
    assert stage.told.adopted[0].request.meta.run == "r1-x"
    await until(lambda: stage.told.ended)


@pytest_twisted.ensureDeferred
async def test_a_scheduler_that_asks_is_told_what_is_on_the_way(stage: Stage) -> None:
    """A request that the next worker has not accepted yet is known nowhere else: it is reported, too."""
    stage.operator("return 'out'")
    handed: list[Execute] = []
    taken: list[Deferred[Reply]] = []

    def slow(request: Execute) -> Deferred[Reply]:
        handed.append(request)
        taken.append(Deferred())
        return taken[-1]

    other: Any = stage.workers["w2"]
    accept, other.cmd_execute = other.cmd_execute, slow
    await stage.send(stage.request("Op@w1", "Op@w2"))
    await until(lambda: handed)
    await stage.ask("w1", ReportTo(str(stage.scheduler)))
    assert [each.request.next for each in stage.told.adopted] == [1]
    taken[0].callback(accept(handed[0]))
    await until(lambda: stage.told.ended)
    await stage.ask("w1", ReportTo(str(stage.scheduler)))
    assert len(stage.told.adopted) == 1


@pytest_twisted.ensureDeferred
async def test_outcomes_are_kept_for_the_scheduler_after_this_one(stage: Stage) -> None:
    """A scheduler of another life hears the newest outcomes that the one before it has taken, that one does not."""
    stage.workers["w1"].reports.max_outcomes = 2
    stage.operator("return input + previous_output")
    for _ in range(3):
        await stage.outcome(stage.request("Op@w1"))
    refused = stage.request("Nowhere@w1")
    stage.told.superseded.add(refused.meta.run)
    await stage.outcome(refused)
    told = list(stage.told.outcomes)
    await stage.ask("w1", ReportTo(str(stage.scheduler), life="x"))
    await stage.ask("w1", ReportTo(str(stage.scheduler)))
    await stage.ask("w1", ReportTo("localhost:1", life="y"))
    assert (await stage.ask("w1", Status())).object["reports"] == 0
    stage.told.unknown |= {each.run for each in told}
    await stage.ask("w1", ReportTo(str(stage.scheduler), life="y"))
    await until(lambda: len(stage.told.outcomes) == 6)
    again = stage.told.outcomes[4:]
    same = [attrs.evolve(each, ago=0.0) for each in again]
    assert same == told[1:3], "not the oldest, and not the one that did not count"
    assert all(each.ago > 0 for each in again), "they say that it was a while ago"
    assert [each.request.meta.run for each in stage.told.adopted] == [each.run for each in told[1:3]]


@pytest_twisted.ensureDeferred
async def test_operators_in_a_process(stage: Stage) -> None:
    """An operator in a process of its own uses the storage as others do; what it does to the process harms no one."""
    bodies = {
        "Good": "self.storage.write(input, previous_output + 'x'); return self.storage.read(input).value",
        "Swap": "return str(self.storage.update_if_value_is(input, 'x', 'y')) + str(self.storage.update_if_value_is("
        "input, 'x', 'z'))",
        "Exits": "import os; os._exit(3)",
        "Crashes": "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)",
        "Raises": "raise ValueError('no good')",
        "Missing": "return self.storage.read('nowhere').value",
        "Sleeps": "time.sleep(60)",
        "Wrong": "return 5",
        "Long": "return 'x' * 10_000_000",
        "Wordy": "return 'x' * 600_000",
    }
    stage.put("".join(PLAIN.format(name=name, body=body) for name, body in bodies.items()))
    file = stage.folder / "ops.py"
    file.write_text(
        file.read_text()
        .replace("(self, storage):", "(self, storage):")
        .replace("class Sleeps:", "class Sleeps:\n    timeout = 1.5")
        .replace("    def configure_storage", '    isolation = "process"\n\n    def configure_storage')
    )
    for id in ("w1", "w2"):
        stage.start(id, timeout=30.0)
    ended = await stage.outcome(stage.request("Good@w1", "Swap@w2", left=60.0))
    assert isinstance(ended, Ended)
    assert [each.output for each in ended.chain] == ["x", "2.1None"]
    for name, reason in {
        "Exits": "ended its process with exit status 3",
        "Crashes": "ended its process by signal 11",
        "Raises": "raised ValueError: no good",
        "Missing": "failed: no-such-record: nowhere",
        "Sleeps": "did not return within 1.5 s, the limit is its class's timeout",
        "Wrong": "returned int, not a string",
        "Long": "returned 10000000 bytes, more than the 524288 of an output: write it into the storage",
        "Wordy": "returned 600000 bytes, more than the 524288 of an output: write it into the storage",
    }.items():
        assert await stage.reason(f"{name}@w1") == f"{name} at position 0 on w1 {reason}"
    stage.put(PLAIN.format(name="Plain", body="import os; os._exit(3)"))
    stage.put(PLAIN.format(name="Other", body="import os; return str(os.getpid())"), "other.py")
    pids = await stage.outcome(attrs.evolve(stage.request("Other@w1", "Other@w1"), apart=True))
    assert isinstance(pids, Ended)
    assert pids.chain[0].output != str(os.getpid()) == pids.chain[1].output, "the step that is suspected, and no other"
    told = await stage.outcome(attrs.evolve(stage.request("Plain@w1"), apart=True))
    assert isinstance(told, Failed)
    assert told.reason == "Plain at position 0 on w1 ended its process with exit status 3"
    await until(no_pipes)


MULTIPROCESSING = """
import multiprocessing

from .numbers import double


class Number:
    def __init__(self, value):
        self.value = value

    def half(self):
        return Number(self.value // 2)


class Op:
    def configure_storage(self, storage):
        pass

    def process_record(self, meta, input, previous_output):
        with multiprocessing.get_context(input).Pool(1) as pool:
            return str([pool.map(double, [1, 2]), pool.apply(Number(8).half).value])
"""


@pytest.mark.parametrize("isolation", ["thread", "process"])
@pytest_twisted.ensureDeferred
async def test_multiprocessing(stage: Stage, isolation: str) -> None:
    """Child processes that an operator has started find its module, and its neighbours', by name."""
    # Not "fork" in a thread: a child of this process has its signal handlers. A worker takes care of that.
    stage.put("def double(n):\n    return 2 * n\n", "numbers.py")
    stage.put(MULTIPROCESSING.replace("class Op:\n", f"class Op:\n    isolation = {isolation!r}\n\n"), "multi.py")
    stage.start("w1", timeout=30.0)
    for method in ("spawn",) if isolation == "thread" else ("spawn", "fork"):
        ended = await stage.outcome(stage.request("Op@w1", input=method, left=40.0))
        assert isinstance(ended, Ended), ended
        assert ended.chain[0].output == "[[2, 4], 4]"
    await until(no_pipes)


@pytest.mark.parametrize("body", ["time.sleep(60)", "time.sleep(0.2); self.storage.write('k', 'v')"])
def test_a_process_ends_with_its_worker(tmp_path: Path, body: str) -> None:
    """An operator in a process of its own does not outlive its worker, whatever it does, and leaves no traceback."""
    (tmp_path / "ops.py").write_text(HEAD + PLAIN.format(name="Op", body=f"self.storage.write('begun', ''); {body}"))
    (hears, told), (heard, says) = os.pipe(), os.pipe()
    arguments = [sys.executable, "-m", "dida.worker.isolated", str(tmp_path)]
    command = f"import os; os.dup2({says}, 3); os.execv({sys.executable!r}, {arguments})"
    meta = {"run": "r1", "scheduler": "localhost:1"}
    task = {"operator": "Op", "meta": meta, "input": "", "previous_output": "", "deadline": 5.0}
    with subprocess.Popen(
        [sys.executable, "-c", command], stdin=hears, stderr=subprocess.PIPE, pass_fds=(says,)
    ) as process:
        os.close(hears)
        os.close(says)
        os.write(told, json.dumps(task).encode() + b"\n")
        assert json.loads(os.read(heard, 1000)) == {"call": "write", "arguments": ["begun", ""]}
        os.write(told, b'{"answer": ["1.1"]}\n')
        os.close(heard)
        os.close(told)
        try:
            assert process.communicate(timeout=5)[1] == b""
        finally:
            process.kill()
    assert process.returncode == 1


@pytest_twisted.ensureDeferred
async def test_drains_whose_clients_are_gone(stage: Stage) -> None:
    """Who asked a worker to leave and went away is not kept waiting for; the worker leaves all the same."""
    departure = stage.workers["w1"].departure
    for _ in range(10):
        answer = departure.begin(Drain(deadline=3600))
        answer.cancel()
        answer.addErrback(lambda failure: failure.trap(CancelledError))
    assert departure._waiting == []
    assert departure.begun
