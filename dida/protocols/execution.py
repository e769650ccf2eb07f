"""Executing one operator: find its class, call it in a thread or on the reactor, and bound all of it.

Whatever an operator does ends in its output or in a `StepFailed` whose text says what happened, to be
read behind the words "AddOperator at position 0 on w1".
"""

from __future__ import annotations

import inspect
import traceback
from collections.abc import Callable
from typing import Any

from attrs import frozen
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.logger import Logger

from dida.chain import MAX_OUTPUT
from dida.chain_messages import Execute
from dida.errors import DidaError
from dida.loading import OperatorFolder
from dida.protocols.frontend import BlockingStorage, FrontEnd, RunStorage
from dida.protocols.threads import Job, Threads

MAX_TEXT = 500
"""Characters of an exception's text that are told."""

_log = Logger()


class StepFailed(Exception):
    """The step can't be done; its text goes to the client."""


@frozen
class _Late:
    """The result of what took too long; whether it had begun."""

    begun: bool


class Operators:
    """The operators of a folder, ready to be executed; `timeout` is in seconds."""

    def __init__(self, reactor: Any, folder: OperatorFolder, threads: int, timeout: float) -> None:
        self.folder = folder
        self.timeout = timeout
        self.threads = Threads(reactor, threads)
        self._reactor = reactor
        self._loading = Threads(reactor, 1)  # reading files, and executing them, may take its time

    def stop(self) -> None:
        """Let idle threads end."""
        self.threads.stop()
        self._loading.stop()

    async def names(self) -> dict[str, str]:
        """Class name to file name of all operators."""
        found = await self._in_thread(self._loading, self.folder.operators, self.timeout, self.timeout)
        if isinstance(found, _Late):
            raise DidaError("timed-out", "reading the operators folder takes too long")
        return dict(found)

    async def execute(self, request: Execute, front_end: FrontEnd, left: float) -> str:
        """The output of the request's next operator, which may take `left` seconds at most. Raises StepFailed."""
        began = self._reactor.seconds()
        kind = self.folder.known(request.assignment.operator)
        if kind is None:
            kind = await self._find(request.assignment.operator, left)
            left -= self._reactor.seconds() - began
        limit = min(self.timeout, left)
        if limit <= 0:
            raise StepFailed("was not executed: the run is past its deadline")
        storage = RunStorage(front_end, request.meta, min(front_end.deadline, limit))
        asynchronous = inspect.iscoroutinefunction(kind.process_record)
        shown = storage if asynchronous else BlockingStorage(self._reactor, storage)

        def call() -> Any:
            operator = kind()
            operator.configure_storage(shown)
            return operator.process_record(request.meta, request.input, request.previous_output)

        try:
            if asynchronous:
                output = await self._on_reactor(call, limit)
            else:
                output = await self._in_thread(self.threads, call, limit, left)
        except BaseException as problem:
            if isinstance(problem, GeneratorExit):
                raise
            raise StepFailed(_told(problem, request)) from None
        finally:
            storage.close("the step has ended: its storage is closed")
        if isinstance(output, _Late):
            raise StepFailed(self._lateness(output, asynchronous, limit, left))
        if storage.unanswered:
            raise StepFailed(f"returned before {storage.unanswered} of its storage calls were answered: await them")
        return _checked(output)

    async def _find(self, name: str, left: float) -> type[Any]:
        try:
            kind = await self._in_thread(self._loading, lambda: self.folder.find(name), min(left, self.timeout), left)
        except DidaError as problem:
            raise StepFailed(f"could not be loaded: {problem}") from None
        if isinstance(kind, _Late):
            raise StepFailed("could not be loaded in time: its file, or another one, takes too long to import")
        found: type[Any] = kind
        return found

    async def _on_reactor(self, call: Callable[[], Any], limit: float) -> Any:
        work: Deferred[Any] = maybeDeferred(call)
        if work.called and not isinstance(work.result, Deferred):
            return await work
        outcome: Deferred[Any] = Deferred(lambda cancelled: work.cancel())

        def late() -> None:
            outcome.callback(_Late(True))
            work.cancel()

        def done(result: Any) -> None:
            if not outcome.called:
                timer.cancel()
                outcome.callback(result)

        timer = self._reactor.callLater(limit, late)
        work.addBoth(done)
        return await outcome

    async def _in_thread(self, threads: Threads, call: Callable[[], Any], limit: float, left: float) -> Any:
        """The result of `call`, which may take `limit` seconds from when there is a thread for it."""
        outcome: Deferred[Any] = Deferred(lambda cancelled: end())
        job: Job | None = None

        def end() -> None:
            if timer.active():
                timer.cancel()
            if job is not None:
                threads.give_up(job)

        def late() -> None:
            end()
            outcome.callback(_Late(job is not None and job.started))

        timer = self._reactor.callLater(left, late)
        ends = self._reactor.seconds() + left
        job = threads.run(call, on_start=lambda: timer.reset(max(0.0, min(limit, ends - self._reactor.seconds()))))

        def done(result: Any) -> None:
            timer.cancel()
            outcome.callback(result)

        job.result.addBoth(done)
        return await outcome

    def _lateness(self, late: _Late, asynchronous: bool, limit: float, left: float) -> str:
        if not late.begun:
            return f"waited {left:.1f} s in vain for one of {self.threads.size} threads (--threads)"
        why = "the limit is --operator-timeout" if limit == self.timeout else "the run's deadline"
        rest = "" if asynchronous else "; its thread can't be stopped and goes on"
        return f"did not return within {limit:.1f} s, {why}{rest}"


def _told(problem: BaseException, request: Execute) -> str:
    """What an operator raised, in one line; the traceback goes to the log."""
    try:
        text = " ".join(str(problem).split())
    except Exception:  # noqa: BLE001 - even its text is the author's code
        text = "(without text)"
    text = text[:MAX_TEXT].encode(errors="replace").decode()
    if isinstance(problem, DidaError):
        return f"failed: {text}"
    step = request.assignment
    _log.warn(
        "run {run}: {operator} at position {position} raised:\n{trace}",
        run=request.meta.run,
        operator=step.operator,
        position=step.position,
        trace="".join(traceback.format_exception(problem, limit=-20)).rstrip(),
    )
    return f"raised {type(problem).__name__}: {text}" if text else f"raised {type(problem).__name__}"


def _checked(output: object) -> str:
    """The output, when it is one."""
    if not isinstance(output, str):
        hint = ": write async def process_record" if isinstance(output, Deferred) or inspect.isawaitable(output) else ""
        if inspect.iscoroutine(output):
            output.close()
        raise StepFailed(f"returned {type(output).__name__}, not a string{hint}")
    try:
        size = len(output.encode()) if len(output) * 4 > MAX_OUTPUT or not output.isascii() else len(output)
    except UnicodeEncodeError:
        raise StepFailed("returned text that can't be said in UTF-8 (half a surrogate pair)") from None
    if size > MAX_OUTPUT:
        raise StepFailed(f"returned {size} bytes, more than the {MAX_OUTPUT} of an output: write it into the storage")
    return str(output)
