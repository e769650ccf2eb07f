"""The execution of one operator: finding its class, calling it in a thread or on a loop, and limiting all of it.

Whatever an operator does ends in its output or in a `StepFailed`. The text of that is the reason, to be read after the
words "AddOperator at position 0 on w1".

The module is a little long because the ways to execute an operator, which end alike, stand side by side.
"""

from __future__ import annotations

import asyncio
import inspect
import os
import traceback
from collections.abc import Callable
from contextvars import copy_context
from typing import Any

from attrs import evolve, frozen
from twisted.internet.defer import Deferred, DeferredSemaphore, maybeDeferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from dida.chains.journal import History
from dida.chains.messages import Execute
from dida.chains.records import NO_MARK, KnownValue, Mark
from dida.chains.texts import NotAnOutput, Raised, output_of, raised, shown
from dida.client.blocking import BlockingStorage
from dida.client.storage_client import StorageClient
from dida.errors import DidaError
from dida.interfaces import Access
from dida.protocols.shortage import Lacking, lack_of, lack_of_descriptors
from dida.timestamps import Timestamp
from dida.wire import grammar
from dida.wire.messages import Epoch
from dida.worker.isolation import OperatorProcess
from dida.worker.loading import OperatorFolder
from dida.worker.loops import AsyncioStorage, Loop, Loops
from dida.worker.printing import LogOfSteps, Printed
from dida.worker.run_storage import RunStorage
from dida.worker.threads import Threads, TimedOut

MAX_PAUSE = 3600.0
"""The longest pause between two attempts, in seconds."""
MAX_RETRIES = 1000
ASYNCIO_TEXTS = ("no running event loop", "no current event loop", "await wasn't used with future")
"""Texts of asyncio's errors where no loop runs."""

_log = Logger()


class StepFailed(Exception):
    """The step failed; its text goes to the client."""

    lack: str = ""
    """What this worker lacked for it: another one may be able to do it."""
    trace: str = ""
    """The traceback of the operator's exception, for the log."""
    unsure: bool = False
    """True if a call had no reply: another try is a new execution."""
    mark: Mark = NO_MARK
    """What the run had done."""
    tried: Execute | None = None
    """The request of the last try, whose epoch and numbers are used."""


class NotDeterministic(StepFailed):
    """The operator, executed again, makes other calls when it sees the same: no further try can succeed."""


class StepSuperseded(Exception):
    """Another execution of the run goes on, in the epoch `by`: this one has stopped."""

    tried: Execute | None = None

    def __init__(self, by: Epoch) -> None:
        super().__init__(f"superseded {by}")
        self.by = by


class StepLost(Exception):
    """An update that the step depended on was lost with a storage node; `lost` are the streams."""

    tried: Execute | None = None

    def __init__(self, lost: Timestamp, records: tuple[Access, ...]) -> None:
        super().__init__("lost")
        self.lost = lost
        self.records = records


@frozen
class Outcome:
    """The outcome of a step; the run's timestamp is in the request's meta record."""

    output: str
    records: tuple[Access, ...]
    mark: Mark
    """What the run has done by the end of the step."""
    known: tuple[KnownValue, ...]
    """What it has read or written, for its next step."""


@frozen
class ExecutionPolicy:
    """What a class defines about its execution."""

    timeout: float
    """Time-out for one execution, in seconds."""
    own: bool = False
    """True if the class defines the time-out."""
    retries: int = 0
    """The most retries after failures."""
    backoff: float = 0.0
    """Pause before the first retry, in seconds; it doubles with each retry."""
    loop: str = ""
    """`asyncio`: it is executed on an asyncio loop."""
    isolation: str = "thread"
    """`process`: it is executed in a separate process."""

    def own_thread(self, asynchronous: bool) -> bool:
        """Return True if it is executed in a thread of the worker."""
        return not asynchronous and self.isolation == "thread"

    def pause(self, tries: int) -> float:
        """Return the pause after so many retries, in seconds."""
        return min(self.backoff * float(2 ** min(tries, 30)), MAX_PAUSE)


class Operators:
    """The operators of a folder, ready to be executed. `timeout`: in seconds; `lack` returns what the process lacks."""

    def __init__(
        self,
        reactor: Any,
        folder: OperatorFolder,
        threads: int,
        timeout: float,
        lack: Callable[[], str] = lack_of_descriptors,
    ) -> None:
        self.folder = folder
        self.lack = lack
        self.timeout = timeout
        self.threads = Threads(reactor, threads)
        self.log = LogOfSteps(reactor.seconds)
        self._reactor = reactor
        self._processes = DeferredSemaphore(threads)
        self.loops = Loops(reactor)
        self.loading = Threads(reactor, 1)  # reading and executing files may take a while

    def stop(self) -> None:
        """Let idle threads end."""
        self.threads.stop()
        self.loading.stop()
        self.loops.stop()

    def policy(self, name: str) -> ExecutionPolicy:
        """Return what the class of that name defines; the worker's defaults if the class is unknown."""
        kind = self.folder.known(name)
        return self._policy(kind) if kind is not None else ExecutionPolicy(self.timeout)

    def _policy(self, kind: type[Any]) -> ExecutionPolicy:
        try:
            return policy_of(kind, self.timeout)
        except StepFailed:
            return ExecutionPolicy(self.timeout)

    async def names(self) -> tuple[dict[str, str], list[str]]:
        """Return the operators (class name to file name), and other classes that may inherit from an operator
        elsewhere."""

        def look() -> tuple[dict[str, str], list[str]]:
            operators = self.folder.operators()
            return operators, sorted(set(self.folder.defined()) - set(operators))

        found = await self.loading.run(look, self.timeout, self.timeout)
        if isinstance(found, TimedOut):
            raise DidaError("timed-out", "reading the operators folder takes too long")
        operators, others = found
        return operators, others

    async def execute(
        self, request: Execute, storage_client: StorageClient, left: float, history: History, printed: Printed
    ) -> Outcome:
        """Execute the request's next operator, for at most `left` seconds.

        Raises StepFailed, StepLost and StepSuperseded.
        """
        began = self._reactor.seconds()
        kind = await self.find(request.assignment.operator, left)
        left -= self._reactor.seconds() - began
        policy = policy_of(kind, self.timeout)
        asynchronous = inspect.iscoroutinefunction(kind.process_record)
        if request.apart and not asynchronous:
            policy = evolve(policy, isolation="process")
        limit = min(policy.timeout, left)
        if limit <= 0:
            raise StepFailed("was not executed: the run is past its deadline")
        deadline = min(storage_client.deadline, limit)
        loop = self._loop(policy, asynchronous) if policy.loop else None
        apart = loop.after_effects if loop is not None else None
        storage = RunStorage(storage_client, request.meta, deadline, history, apart, request.known)
        try:
            try:
                output = await self._output(kind, policy, request, storage, loop, limit, left, printed, asynchronous)
                mark = await _ended(storage, history, output)
            except StepFailed:
                _check(storage)
                raise
        except StepFailed as problem:
            problem.lack = problem.lack or self.lack()
            problem.unsure = bool(storage.unanswered) or history.unsure
            problem.mark = history.mark
            raise
        return Outcome(output, storage.records, mark, storage.known)

    async def _output(
        self,
        kind: type[Any],
        policy: ExecutionPolicy,
        request: Execute,
        storage: RunStorage,
        loop: Loop | None,
        limit: float,
        left: float,
        printed: Printed,
        asynchronous: bool,
    ) -> str:
        shown: Any = storage if asynchronous else BlockingStorage(self._reactor, storage)
        if loop is not None:
            shown = AsyncioStorage(self._reactor, storage, loop)

        def call() -> Any:
            printing = printed.enter()
            try:
                operator = kind()
                operator.configure_storage(shown)
                meta = request.meta.of_step(request.next)
                return operator.process_record(meta, request.input, request.previous_output)
            finally:
                printed.leave(printing)

        if policy.isolation == "process":
            work = Deferred.fromCoroutine(self._in_process(request, storage, limit, left, printed))
        elif loop is not None:
            work = self.loops.run(loop, call, limit, printed)
        elif asynchronous:
            work = self._on_reactor(call, limit, printed)
        else:
            work = self.threads.run(call, limit, left)
        try:
            output, problem = await work.addBoth(_end)
        finally:
            storage.close("the step has ended: its storage is closed", silent=asynchronous)
        if isinstance(problem, StepFailed):
            raise problem
        if isinstance(problem, Lacking):
            raise _lacking(problem.what)
        if problem is not None:
            described = raised(problem)
            hint = about_asyncio(problem, described.text) if loop is None and policy.isolation != "process" else ""
            raise _has_raised(described, hint)
        if isinstance(output, TimedOut):
            raise StepFailed(self._lateness(output, policy.own_thread(asynchronous), policy, limit, left))
        if storage.unanswered:
            raise StepFailed(f"returned before {storage.unanswered} of its storage calls were answered: await them")
        try:
            return output_of(output)
        except NotAnOutput as wrong:
            raise StepFailed(str(wrong)) from None

    def _loop(self, policy: ExecutionPolicy, asynchronous: bool) -> Loop | None:
        """Return the loop on which an operator is executed, if its class wants one. Raises StepFailed."""
        if not policy.loop or policy.isolation == "process":
            return None
        if not asynchronous:
            raise StepFailed('has loop = "asyncio", which is for async def process_record')
        try:
            loop = self.loops.current()
        except (OSError, MemoryError, RuntimeError) as problem:
            raise _lacking(lack_of(problem) or "what it takes to start an asyncio loop") from None
        if loop is None:
            raise StepFailed(f"found {self.loops.blocked} asyncio loops blocked: let no operator block its loop")
        return loop

    async def find(self, name: str, left: float) -> type[Any]:
        """Return the class of that name. Raises StepFailed."""
        known = self.folder.known(name)
        if known is not None:
            return known
        try:
            kind = await self.loading.run(lambda: self.folder.find(name), min(left, self.timeout), left)
        except Lacking as problem:
            raise _lacking(problem.what) from None
        except DidaError as problem:
            raise StepFailed(f"could not be loaded: {problem}") from None
        except (OSError, MemoryError) as problem:
            raise _lacking(lack_of(problem) or "what it takes to read a file") from None
        if isinstance(kind, TimedOut):
            raise StepFailed("could not be loaded in time: its file, or another one, takes too long to import")
        found: type[Any] = kind
        return found

    def _on_reactor(self, call: Callable[[], Any], limit: float, printed: Printed) -> Deferred[Any]:
        context = copy_context()
        context.run(printed.enter)
        work: Deferred[Any] = context.run(maybeDeferred, call)
        if work.called and not isinstance(work.result, Deferred):
            return work
        outcome: Deferred[Any] = Deferred(lambda cancelled: work.cancel())

        def late() -> None:
            outcome.callback(TimedOut(True))
            work.cancel()

        def done(result: Any) -> None:
            if not outcome.called:
                timer.cancel()
                outcome.callback(result)

        timer = self._reactor.callLater(limit, late)
        work.addBoth(done)
        return outcome

    async def _in_process(
        self, request: Execute, storage: RunStorage, limit: float, left: float, printed: Printed
    ) -> Any:
        """Execute the operator in a separate process, which ends with it."""
        began = self._reactor.seconds()
        await self._processes.acquire()
        process = OperatorProcess(request, storage, self.folder.module_of(request.assignment.operator), printed)
        try:
            limit = min(limit, left - (self._reactor.seconds() - began))
            if limit <= 0:
                return TimedOut(False)
            try:
                process.start(self._reactor, self.folder.path)
            except (OSError, MemoryError, RuntimeError) as problem:
                raise _lacking(lack_of(problem) or "what it takes to start a process") from None
            late = self._reactor.callLater(limit, process.give_up)
            try:
                outcome = await process.outcome
            finally:
                process.kill()
                if late.active():
                    late.cancel()
        finally:
            self._processes.release()
        if not outcome:
            return TimedOut(True)
        if "failed" in outcome:
            raise StepFailed(outcome["failed"])
        if "raised" in outcome:
            raise _has_raised(grammar.structure(outcome["raised"], Raised))
        return outcome["output"]

    def _lateness(self, late: TimedOut, thread: bool, policy: ExecutionPolicy, limit: float, left: float) -> str:
        if not late.begun:
            return f"found no free thread within {left:.1f} s ({self.threads.size} threads; raise --threads)"
        own = "the limit is its class's timeout" if policy.own else "the limit is --operator-timeout"
        why = own if limit == policy.timeout else "the run's deadline"
        rest = "" if not thread else "; its thread can't be stopped and goes on"
        return f"did not return within {limit:.1f} s, {why}{rest}"


def _check(storage: RunStorage) -> None:
    """Raise what ends the execution, whatever the operator has made of it."""
    if storage.superseded is not None:
        raise StepSuperseded(storage.superseded)
    if storage.lost:
        raise StepLost(storage.lost, storage.records)
    if storage.differs:
        raise NotDeterministic(storage.differs)


async def _ended(storage: RunStorage, history: History, output: str) -> Mark:
    """End a step that has returned, and keep what its journal is too long for."""
    _check(storage)
    try:
        mark = history.end(output)
    except DidaError as problem:
        raise NotDeterministic(problem.words[0]) from None
    try:
        if history.long:
            await storage.relieve()
    except DidaError as problem:
        raise StepFailed(f"was executed, but its journal can't be kept: {problem}") from None
    return mark


def _lacking(what: str) -> StepFailed:
    failed = StepFailed(f"was not executed: the worker lacks {what}")
    failed.lack = what
    return failed


def policy_of(kind: type[Any], timeout: float) -> ExecutionPolicy:
    """Return what a class defines about its execution: the attributes timeout, retries, backoff, isolation and loop."""
    own = getattr(kind, "timeout", None)
    retries = getattr(kind, "retries", 0)
    backoff = getattr(kind, "backoff", 0.0)
    isolation = getattr(kind, "isolation", "thread")
    loop = getattr(kind, "loop", "")
    if own is not None and not (_is_number(own) and 0 < own <= 86_400):
        raise StepFailed(f"has timeout = {shown(own)}: give it a number of seconds, more than 0")
    if not (isinstance(retries, int) and not isinstance(retries, bool) and 0 <= retries <= MAX_RETRIES):
        raise StepFailed(f"has retries = {shown(retries)}: give it a whole number from 0 to {MAX_RETRIES}")
    if not (_is_number(backoff) and 0 <= backoff <= MAX_PAUSE):
        raise StepFailed(f"has backoff = {shown(backoff)}: give it a number of seconds from 0 to {MAX_PAUSE:g}")
    if isolation not in ("thread", "process"):
        raise StepFailed(f'has isolation = {shown(isolation)}: give it "process", or leave it out')
    if isinstance(loop, str) and loop not in ("", "asyncio"):
        raise StepFailed(f'has loop = {shown(loop)}: give it "asyncio", or leave it out')
    loop = loop if isinstance(loop, str) else ""
    limit = float(own) if own is not None else timeout
    return ExecutionPolicy(limit, own is not None, retries, float(backoff), loop, isolation)


def about_asyncio(problem: BaseException, text: str) -> str:
    """Return a hint for an operator off the asyncio loop that failed because it uses asyncio, or a library on it."""
    frames = traceback.extract_tb(problem.__traceback__)
    last = frames[-1].filename if frames else ""
    if (
        os.path.dirname(last) == os.path.dirname(asyncio.__file__)
        or any(known in text for known in ASYNCIO_TEXTS)
        or type(problem).__module__.partition(".")[0] in ("sniffio", "anyio")
    ):
        return ': give the class loop = "asyncio", and write async def process_record'
    return ""


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _end(result: Any) -> tuple[Any, BaseException | None]:
    """Return the result of an operator and its exception. Does not raise: GeneratorExit would end a coroutine here."""
    return (None, result.value) if isinstance(result, Failure) else (result, None)


def _has_raised(problem: Raised, hint: str = "") -> StepFailed:
    failed = StepFailed(problem.reason + hint)
    failed.trace = problem.trace if problem.kind else ""
    return failed
