"""An asyncio loop in a thread of the worker, for operators with `loop = "asyncio"`.

All these operators share it, as other `async` operators share the reactor. The tasks of an operator end with it, and at
its time-out it is cancelled. If the loop does not even process the cancellation, an operator blocks it: it is
abandoned, and later operators get another loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import suppress
from contextvars import ContextVar, copy_context
from threading import Thread
from typing import Any, TypeVar
from weakref import WeakSet

from twisted.internet.defer import Deferred, maybeDeferred
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from dida.interfaces import IStorage, Record
from dida.versions import Version
from dida.worker.printing import Printed
from dida.worker.run_storage import RunStorage
from dida.worker.threads import TimedOut

BLOCKED_AFTER = 1.0
"""Time-out for a loop to process the cancellation of an operator, in seconds."""
MAX_BLOCKED = 8
"""The most abandoned loops at a time."""

SETTLING = 8
"""Rounds of a loop in which the tasks of an operator that wait for each other do all that a result leads to."""

_T = TypeVar("_T")
_log = Logger()
_tasks: ContextVar[WeakSet[asyncio.Task[Any]] | None] = ContextVar("tasks", default=None)
"""The tasks of the operator that runs in this context."""


class Loop:
    """One loop, and its thread."""

    def __init__(self, reactor: Any) -> None:
        self.running = 0
        """The operators that it executes, cancelled ones included."""
        self.asyncio = asyncio.new_event_loop()
        self.asyncio.set_task_factory(_noted)
        self._reactor = reactor
        self._stopped = False
        Thread(target=self._work, name="asyncio", daemon=True).start()

    def tell(self, call: Callable[..., Any], *arguments: Any) -> None:
        """Call something in the loop, if it is still there."""
        with suppress(RuntimeError):
            self.asyncio.call_soon_threadsafe(call, *arguments)

    def after_effects(self, then: Callable[[], None], rounds: int = SETTLING) -> None:
        """Call `then` on the reactor when what was delivered to the loop has had its effect on the tasks that wait."""
        if rounds:
            self.tell(self.after_effects, then, rounds - 1)
        else:
            self._reactor.callFromThread(then)

    def stop(self) -> None:
        """Let the loop end."""
        self._stopped = True
        self.tell(self.asyncio.stop)

    def execute(self, call: Callable[[], Coroutine[Any, Any, Any]], printed: Printed) -> Deferred[Any]:
        """Execute an operator and return its result; to cancel the Deferred cancels the operator."""
        task: asyncio.Task[Any] | None = None
        mine: WeakSet[asyncio.Task[Any]] = WeakSet()
        outcome: Deferred[Any] = Deferred(lambda cancelled: self.tell(cancel))
        self.running += 1

        async def run() -> Any:
            try:
                return await call()
            except asyncio.CancelledError:
                raise
            except BaseException:  # noqa: BLE001 - SystemExit, too, must not end the loop
                return Failure()

        def begin() -> None:
            nonlocal task
            context = copy_context()
            context.run(printed.enter)
            context.run(_tasks.set, mine)
            task = self.asyncio.create_task(run(), context=context)
            task.add_done_callback(done)

        def cancel() -> None:
            if task is not None:
                task.cancel()

        def done(task: asyncio.Task[Any]) -> None:
            for each in list(mine):
                each.cancel()
            problem = asyncio.CancelledError("it cancelled its own task") if task.cancelled() else task.exception()
            self._reactor.callFromThread(deliver, Failure(problem) if problem is not None else task.result())

        def deliver(result: Any) -> None:
            self.running -= 1
            if not outcome.called:
                outcome.callback(result)

        self.tell(begin)
        return outcome

    def _work(self) -> None:
        asyncio.set_event_loop(self.asyncio)
        while not self._stopped:
            try:
                self.asyncio.run_forever()
            except BaseException:  # noqa: BLE001 - raised in a task that an operator has made
                _log.failure("an operator's task has stopped the asyncio loop, which goes on")
        self.asyncio.close()


class Loops:
    """The loop of a worker, and earlier ones that are blocked. All methods on the reactor's thread."""

    def __init__(self, reactor: Any, blocked_after: float = BLOCKED_AFTER) -> None:
        self.blocked_after = blocked_after
        self._reactor = reactor
        self._loop: Loop | None = None
        self._blocked: list[Loop] = []

    @property
    def blocked(self) -> int:
        """The number of loops that operators block."""
        return len(self._blocked)

    def current(self) -> Loop | None:
        """Return the loop for the next operator; None if too many are blocked."""
        for loop in [loop for loop in self._blocked if not loop.running]:
            loop.stop()
            self._blocked.remove(loop)
        if self._loop is None and len(self._blocked) < MAX_BLOCKED:
            self._loop = Loop(self._reactor)
        return self._loop

    def run(
        self, loop: Loop, call: Callable[[], Coroutine[Any, Any, Any]], limit: float, printed: Printed
    ) -> Deferred[Any]:
        """Return the result of an operator, or TimedOut after `limit` seconds, when it is cancelled."""
        work = loop.execute(call, printed)
        outcome: Deferred[Any] = Deferred(lambda cancelled: give_up())

        def give_up() -> None:
            heard = self._reactor.callLater(self.blocked_after, self._is_blocked, loop)
            work.addErrback(lambda cancelled: None)
            work.cancel()
            loop.tell(self._reactor.callFromThread, lambda: heard.active() and heard.cancel())
            if timer.active():
                timer.cancel()

        def late() -> None:
            give_up()
            outcome.callback(TimedOut(True))

        def done(result: Any) -> None:
            if not outcome.called:
                timer.cancel()
                outcome.callback(result)

        timer = self._reactor.callLater(limit, late)
        work.addBoth(done)
        return outcome

    def stop(self) -> None:
        """Let all loops end."""
        for loop in (*self._blocked, *filter(None, (self._loop,))):
            loop.stop()

    def _is_blocked(self, loop: Loop) -> None:
        if loop is self._loop:
            self._loop = None
            self._blocked.append(loop)


@implementer(IStorage)
class AsyncioStorage:
    """The storage of a step for an operator on a loop: each call returns a future of the loop."""

    def __init__(self, reactor: Any, storage: RunStorage, loop: Loop) -> None:
        self.deadline = storage.deadline
        self._reactor = reactor
        self._storage = storage
        self._loop = loop

    def read(self, key: str, version: Version | None = None) -> asyncio.Future[Record]:
        """Return the record, the newest or that version."""
        return self._ask(self._storage.read, key, version)

    def write(self, key: str, value: str) -> asyncio.Future[Version]:
        """Write a new version."""
        return self._ask(self._storage.write, key, value)

    def update_if_value_is(self, key: str, old: str, new: str) -> asyncio.Future[Version | None]:
        """Compare and swap; return None if the value is not `old`."""
        return self._ask(self._storage.update_if_value_is, key, old, new)

    def _ask(self, call: Callable[..., Deferred[_T]], *arguments: Any) -> asyncio.Future[_T]:
        future: asyncio.Future[_T] = self._loop.asyncio.create_future()
        asked: list[Deferred[Any]] = []

        def ask() -> None:
            asked.append(maybeDeferred(call, *arguments))
            asked[0].addBoth(lambda result: self._loop.tell(answered, result))

        def answered(result: Any) -> None:
            if future.done():
                return
            if isinstance(result, Failure) and result.value is not None:
                future.set_exception(result.value)
            else:
                future.set_result(result)

        def done(future: asyncio.Future[_T]) -> None:
            if future.cancelled():
                self._reactor.callFromThread(lambda: asked[0].cancel())

        future.add_done_callback(done)
        self._reactor.callFromThread(ask)
        return future


def _noted(loop: asyncio.AbstractEventLoop, coroutine: Any, **options: Any) -> asyncio.Task[Any]:
    """Make a task, and note it as one of the operator that makes it."""
    task = asyncio.Task(coroutine, loop=loop, **options)
    mine = _tasks.get()
    if mine is not None:
        mine.add(task)
    return task
