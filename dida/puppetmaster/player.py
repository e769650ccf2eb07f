"""Plays commands: the next one does not wait for the one before to have its effect, and yet none is lost.

What is kept in order: node commands start at once, and nobody waits for the node but those who need it.
All others are accepted one after the other, each when the nodes named before it are settled: a populate
is accepted when the data is written, a client when the scheduler has given a run id (so a client sees
the data of the populates before it, and a crash comes after the runs before it have begun, not after
they have ended), the others when they are answered. A wait holds everything after it, and begins when
what stands before it is accepted. What runs come to is told when they end.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Coroutine, Iterable, Sequence
from functools import partial
from typing import Any

from attrs import define, evolve, field
from twisted.internet.defer import CancelledError, Deferred, DeferredList, DeferredSemaphore, succeed
from twisted.internet.task import deferLater
from twisted.logger import Logger

from dida.addresses import StorageAddress
from dida.chains.records import short_id
from dida.client.scheduler_client import RunResult, may_have_begun
from dida.client.storage_client import StorageClient
from dida.console import guide, script
from dida.console.application import Application
from dida.console.data_files import Row, parse_data, parse_inputs
from dida.console.run_report import Outcome, run_report
from dida.console.script import Line
from dida.console.style import BAD, GOOD, ODD, Page
from dida.console.tables import WIDTH, counted, numbered, printable, run_line
from dida.console.words import quoted
from dida.errors import NO_SUCH_RUN, TIMED_OUT, UNAVAILABLE, DidaError, UserError
from dida.puppetmaster.batch import Batch
from dida.puppetmaster.checking import same
from dida.puppetmaster.files import read_file
from dida.puppetmaster.losses import Losses
from dida.puppetmaster.nodes import READY, Node
from dida.puppetmaster.populate import populate
from dida.puppetmaster.questions import Queries, Question
from dida.puppetmaster.records import Access, Records
from dida.puppetmaster.system import Cluster, plain
from dida.puppetmaster.trials import ClientRun, Expectations
from dida.timestamps import Timestamp
from dida.wire import grammar
from dida.wire.runs import Run

RESULT_TIME = 30.0
"""Seconds that one question for a run's result stays open."""
RETRY_INTERVAL = 0.2
MAX_QUESTIONS = 200
"""Runs whose results are asked for at a time."""
_log = Logger()


@define
class Counts:
    """What was played so far."""

    commands: int = 0
    runs: int = 0
    done: int = 0
    failed: list[Line] = field(factory=list)
    """The lines that failed, one or more times."""
    going_on: int = 0
    """Runs that have not ended."""


class ScriptRunner:
    """Plays lines on a `Cluster`; what comes of them goes to `say`, line by line."""

    def __init__(self, system: Cluster, say: Callable[[str], None], folders: Sequence[str], page: Page) -> None:
        self.system = system
        self.reactor = system.reactor
        self.say = say
        self.folders = folders
        self.page = page
        self.questions = Queries(system, say, page)
        self.counts = Counts()
        self.listen_for_debug: Callable[[str], str] = _no_debug
        """Opens the debug port on that address of this machine; its URL."""
        self.waits_until: float | None = None
        """When the wait ends that is going on."""
        self.progress: Callable[[str], None] = lambda text: None
        """Shows in the terminal's last line how far something is; an empty text: no more."""
        self._tail: Deferred[None] = succeed(None)
        """Fires when all that was queued is accepted."""
        self._open: dict[Deferred[None], Line] = {}
        self._lines: dict[int, Line] = {}
        """The `id` of a node command to its line."""
        self._questions = DeferredSemaphore(MAX_QUESTIONS)
        self._front_end: StorageClient | None = None
        self._losses = Losses(system, lambda told: self.say(self.page.paint.word(ODD, told)))
        self._finishing = False  # no command comes any more
        self._ended = False
        self._scheduler = system.scheduler_client
        self._records = Records(system, say, self._storage_client)
        self._trials = Expectations(system, say, self._storage_client)
        self._trials.start = self._start_again
        self._trials.forgive = self._forgive
        system.on_ready = self._on_ready
        system.on_failed = self._on_failed
        system.on_lost = self._on_lost
        system.on_trouble = lambda text: self.say(printable(text))

    # --- playing --------------------------------------------------------------------------------

    def plan(self, lines: Iterable[Line]) -> None:
        """A script that will be played: the nodes of its leading block know each other from the start."""
        self.system.plan(script.first_members(lines))

    async def play(self, line: Line) -> None:
        """Play one line; returns when the next one may be played."""
        self.counts.commands += 1
        command = line.command
        if command is None:
            self.fail(line, line.problem)
        elif isinstance(command, script.WaitCommand):
            await _copy(self._tail)
            await self._wait(command.milliseconds / 1000)
        elif isinstance(command, script.HelpCommand):
            for text in guide.help_lines(command.topic, self.page.width, self.page.paint):
                self.say(text)
        elif isinstance(command, script.NodeCommand) and not self.system.knows(command):
            self._begin(line, self._start(line, command))
        else:
            work = self._work(line)
            if work is not None:
                self._queue(line, work)

    async def _wait(self, seconds: float) -> None:
        self.waits_until = self.reactor.seconds() + seconds
        try:
            await deferLater(self.reactor, seconds)
        finally:
            self.waits_until = None

    async def finish(self) -> None:
        """Wait for the commands to be accepted, then for the runs; those that go on at the deadline have failed."""
        for node in self.system.named():
            await node.settled.wait()
        await _copy(self._tail)
        self._finishing = True
        deadline = self.system.deadline
        late = self.reactor.callLater(deadline, self._give_up, f"not ended within {deadline:g} s of the script's end")
        while self._open:
            await DeferredList([_copy(work) for work in self._open])
        if late.active():
            late.cancel()

    async def close(self) -> None:
        """Drop what is still going on; runs that are cut off have failed."""
        self.system.on_ready = lambda node, seconds: None  # it would be told behind the end
        for work, line in list(self._open.items()):
            if isinstance(line.command, script.ClientCommand | script.RunCommand | script.MapCommand):
                self.fail(line, "cut off by the end of the puppetmaster")
            work.cancel()
        self._ended = True
        if self._front_end is not None:
            self._front_end.stop()

    def fail(self, line: Line, problem: str) -> None:
        """Say that a line failed, and why."""
        if self._ended:
            return
        if line not in self.counts.failed:
            self.counts.failed.append(line)
        told = "\n  ".join(printable(part) for part in f"{line}: {problem}".split("\n"))
        self.say(self.page.paint(BAD, told))

    def _forgive(self, line: Line) -> None:
        """What went wrong with a line was expected."""
        if line in self.counts.failed:
            self.counts.failed.remove(line)

    def summary(self) -> str:
        """What was played, in one line."""
        counts = self.counts
        text = f"{counted(counts.commands, 'command')}, {counted(counts.runs, 'run')}: {counts.done} done"
        failed = [line.number for line in counts.failed]
        return f"{text}; failed: {numbered('line', failed)}" if failed else f"{text}, none failed"

    def _begin(self, line: Line, work: Coroutine[Any, Any, None]) -> Deferred[None]:
        """Do something for a line; its problem is the line's."""
        going_on = Deferred.fromCoroutine(self._told(line, work))
        if not going_on.called:
            self._open[going_on] = line
            going_on.addBoth(lambda result: self._open.pop(going_on, None) and None)
        return going_on

    async def _told(self, line: Line, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except CancelledError:
            pass
        except DidaError as problem:
            self.fail(line, plain(problem))
        except Exception:  # noqa: BLE001 - a bug: the log has it, the line has failed, the others go on
            _log.failure("a command ended in a bug: {line}", line=str(line))
            self.fail(line, "a bug in the puppetmaster; its log has the details")

    def _queue(self, line: Line, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        before = self._tail
        ids = [node.id for node in self.system.named()]

        async def in_turn() -> None:
            await _copy(before)
            for id in ids:  # a node may have been started anew meanwhile
                await self.system.nodes[id].settled.wait()
            await work()

        self._tail = _copy(self._begin(line, in_turn()))

    def _give_up(self, problem: str) -> None:
        for work, line in list(self._open.items()):
            self.fail(line, problem)
            work.cancel()

    # --- nodes ----------------------------------------------------------------------------------

    async def _start(self, line: Line, command: script.NodeCommand) -> None:
        self._lines[id(command)] = line
        node = await self.system.start(command)
        await node.settled.wait()

    def _on_failed(self, node: Node) -> None:
        self.fail(self._lines[id(node.command)], node.problem)

    def _on_ready(self, node: Node, seconds: float) -> None:
        told = f"ready    {node.id:<6} {node.role:<10} {node.address!s:<22} {seconds:6.2f} s"
        self.say(self.page.paint.word(GOOD, told))
        if self._front_end is not None and node.replica:
            self._front_end.add(StorageAddress(node.replica, node.id, node.address))

    def _on_lost(self, node: Node) -> None:
        line = self._lines.get(id(node.command))
        told = f"{node.id} has ended by itself: {node.problem}"
        if line is None:  # it was there before
            self.say(self.page.paint(ODD, printable(f"note: {told}")))
        else:
            self.fail(line, told)

    # --- the other commands ---------------------------------------------------------------------

    def _work(self, line: Line) -> Callable[[], Coroutine[Any, Any, None]] | None:
        """What is to be done for a line when its turn comes. The files it names are read now."""
        try:
            match line.command:
                case script.ClientCommand() as command:
                    begun = self._trials.client(line)
                    path, data = read_file(command.file, self.folders)
                    operators = Application.parse(data, path).operators
                    return partial(self._client, begun, command.input, command.file, operators)
                case script.RunCommand(input, operators):
                    begun = self._trials.client(line)
                    return partial(self._client, begun, input, ",".join(operators), operators)
                case script.MapCommand() as command:
                    path, data = read_file(command.file, self.folders)
                    application = Application.parse(data, path)
                    path, data = read_file(command.inputs, self.folders)
                    return partial(self._map, line, command, application, path, parse_inputs(data, path))
                case script.PopulateCommand(file):
                    path, data = read_file(file, self.folders)
                    return partial(self._populate, path, parse_data(data, path))
                case script.NodeCommand() as again:
                    return partial(self._start_again, line, again)
                case script.CrashCommand(id):
                    return partial(self._crash, id)
                case script.StopCommand(id):
                    return partial(self._stop, id)
                case access if isinstance(access, Access):
                    return partial(self._records.access, access)
                case question if isinstance(question, Question):
                    return partial(self.questions.answer, question)
                case script.ShowCommand(run):
                    return partial(self._show, line, run)
                case script.DebugCommand():
                    return partial(self._debug, self._switch_debug_on())
                case _:
                    return self._trials.work(line)
        except UserError as problem:
            self.fail(line, str(problem))
            self._trials.dropped(line, str(problem))
        return None

    async def _start_again(self, line: Line, command: script.NodeCommand) -> None:
        node = self.system.nodes[command.id]
        if node.there and node.taken_up and same(command, node.command):
            self.say(f"there    {node.id:<6} {node.role:<10} {node.address}")
            return
        self._begin(line, self._start(line, command))

    async def _after(self) -> Callable[[], Timestamp]:
        """What a run is to start from, now that one can: what was seen here, without what was lost since."""
        self.system.ready("storage")
        self.system.ready("worker")
        await self._losses.drop(self._front_end)
        return lambda: dict(self._front_end.after) if self._front_end is not None else {}

    async def _client(self, begun: ClientRun, input: str, name: str, operators: tuple[str, ...]) -> None:
        try:
            after = (await self._after())()
            request = self._scheduler.request(input, operators, after, name)
            begun.run = await self._scheduler.start_once(request)
        except DidaError as problem:
            if not may_have_begun(problem):
                self._trials.ended(begun, "failed", plain(problem))
                raise
        except CancelledError:
            self.counts.runs += 1  # it may have begun
            raise
        self.counts.runs += 1
        self._begin(begun.line, self._result(begun, input, name) if begun.run else self._begun(begun, request, name))

    async def _begun(self, begun: ClientRun, request: Run, name: str) -> None:
        """The answer to a run was lost: what became of it, once a scheduler says so; commands go on meanwhile."""
        try:
            begun.run = await self._scheduler.start(
                evolve(request, retry=True), lambda: self._finishing and self.system.scheduler is None
            )
        except DidaError as problem:
            self._trials.ended(begun, "failed", plain(problem))
            raise
        await self._result(begun, request.input, name)

    async def _result(self, begun: ClientRun, input: str, name: str) -> None:
        line, run, scheduler = begun.line, begun.run, self.system.scheduler
        self.counts.going_on += 1
        try:
            result = await self._questions.run(lambda: Deferred.fromCoroutine(self._until_ended(run, scheduler)))
        finally:
            self.counts.going_on -= 1
        if result.done:
            self.counts.done += 1
            shown = grammar.structure(result.members, Outcome)
            told = run_line(run, quoted(input), name, result.text, shown.steps, shown.ms, self.page.width)
            self.say(self.page.paint.word(GOOD, told))
        else:
            self.fail(line, f"run {short_id(run)} failed: {result.text}")
        self._trials.ended(begun, result.state, result.text)

    async def _map(
        self,
        line: Line,
        command: script.MapCommand,
        application: Application,
        path: str,
        inputs: Sequence[tuple[int, str]],
    ) -> None:
        self.system.ready("scheduler")
        after = await self._after()

        def start(input: str) -> Coroutine[Any, Any, str]:
            return self._scheduler.run(input, application.operators, after(), command.file)

        batch = Batch(self.system, start, inputs, path, self._until_ended)
        batch.on_failed = partial(self.fail, line)
        if self.page.width is not None:
            batch.on_progress = lambda: self.progress(batch.bar(self.page.width or WIDTH))
        self._begin(line, self._run_batch(command, batch))
        await batch.begun.wait()

    async def _run_batch(self, command: script.MapCommand, batch: Batch) -> None:
        try:
            await batch.run()
        finally:
            self.progress("")
            self.counts.runs += batch.done + batch.failed
            self.counts.done += batch.done
        names = f"{os.path.basename(command.file)} over {os.path.basename(command.inputs)}"
        self.say(f"map      {names}: {batch.summary()}")

    async def _show(self, line: Line, run: str) -> None:
        try:
            result = await self._scheduler.result(run)
        except DidaError as problem:
            if problem.code != TIMED_OUT:
                raise
            self.say(f"{problem.words[0].partition(':')[0]}; its story comes when it has ended")
            self._begin(line, self._show_later(run))
        else:
            self._say_report(result)

    async def _show_later(self, run: str) -> None:
        self._say_report(await self._questions.run(lambda: Deferred.fromCoroutine(self._until_ended(run))))

    def _say_report(self, result: RunResult) -> None:
        outcome = grammar.structure(result.members, Outcome)
        for each in run_report(result.state, result.text, outcome, self.page.width):
            self.say(each)

    async def _until_ended(self, run: str, began: Node | None = None) -> RunResult:
        """How a run ended. A scheduler that is gone may be started again, and hears of the run from the workers."""
        scheduler = began = began or self.system.scheduler
        ends = 0.0
        while True:
            try:
                result = await self._scheduler.result(run, RESULT_TIME)
                if self._front_end is not None:
                    self._front_end.seen.on_lost(result.members)
                return result
            except DidaError as problem:
                if problem.code == TIMED_OUT:
                    ends = 0.0
                    continue
                there = self.system.scheduler
                if problem.code != UNAVAILABLE and (problem.code != NO_SUCH_RUN or there is began):
                    raise
                if there is not scheduler or not ends:
                    scheduler, ends = there, self.reactor.seconds() + self.system.deadline
                if self.reactor.seconds() >= ends or (there is None and self._finishing):
                    self.system.ready("scheduler")
                    raise
            await deferLater(self.reactor, RETRY_INTERVAL)

    async def _populate(self, path: str, rows: Sequence[Row]) -> None:
        began = self.reactor.seconds()
        front_end = self._storage_client()
        await self._losses.drop(self._front_end)
        await populate(front_end, path, rows)
        ms = (self.reactor.seconds() - began) * 1000
        self.say(f"populate {os.path.basename(path)}: {counted(len(rows), 'record')} written, {ms:.0f} ms")

    def _storage_client(self) -> StorageClient:
        nodes = [node for node in self.system.ready("storage") if node.replica]
        members = [StorageAddress(node.replica, node.id, node.address) for node in nodes]
        if self._front_end is None:
            deadline = self.system.deadline
            self._front_end = StorageClient(self.reactor, members, deadline, on_gone=self._losses.tell)
            self._front_end.start()
        return self._front_end

    async def _crash(self, id: str) -> None:
        node = self.system.node(id)
        await self.system.crash(id)
        self.say(self.page.paint.word(ODD, f"crashed  {node.id:<6} {node.role:<10} {node.address}"))

    def _switch_debug_on(self) -> list[str]:
        """Workers that are named from now on report once they are ready; the ids of those that are to be told."""
        self.system.debug_to = self.listen_for_debug
        return [worker.id for worker in self.system.named("worker")]

    async def _stop(self, id: str) -> None:
        node = self.system.node(id)
        await self.system.stop(id)
        self.say(f"stopped  {node.id:<6} {node.role:<10} {node.address}")

    async def _debug(self, ids: Sequence[str]) -> None:
        workers = [node for id in ids if (node := self.system.nodes[id]).state == READY]
        if not workers:
            self.say("debug on: workers started from now on report, too")
            return
        told = await self.system.debug(workers)
        self.say(f"debug    {counted(len(told), 'worker')} told to report outputs to {', '.join(sorted(set(told)))}")


def _copy(work: Deferred[Any]) -> Deferred[None]:
    """Fires when `work` does, whatever comes of it; to wait for it more than once."""
    copy: Deferred[None] = Deferred()

    def done(result: Any) -> Any:
        if not copy.called:
            copy.callback(None)
        return result

    work.addBoth(done)
    return copy


def _no_debug(host: str) -> str:
    raise UserError("there is no debug port here")
