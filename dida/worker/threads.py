"""Threads and the reactor: blocking code next to Deferreds, within limits.

`Threads` executes calls in a bounded number of threads. A thread can't be stopped: one whose call is given up is
replaced, up to twice the number, and counts as stuck until the call returns. They are daemon threads, so a stuck one
does not keep the process alive. `dida.client.blocking.blocking` is the other direction.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import partial
from queue import SimpleQueue
from threading import Thread
from typing import Any, TypeVar

from attrs import define, field, frozen
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from dida.protocols.deadlines import Deadline, Deadlines
from dida.protocols.shortage import Lacking

_T = TypeVar("_T")


@frozen
class TimedOut:
    """The result of a call that took too long; `begun`: it had begun."""

    begun: bool


@define(eq=False)
class Task:
    """A call that waits for a thread, is executed, or has ended."""

    call: Callable[[], Any]
    limit: float
    """Time-out for the call, in seconds."""
    ends: float
    """The time at which it must have ended, however long it has waited."""
    deadline: Deadline | None = None
    result: Deferred[Any] = field(factory=Deferred)
    started: bool = False
    given_up: bool = False
    ended: bool = False


class Threads:
    """At most `size` calls at a time; the others wait in order. All methods on the reactor's thread.

    A thread that has finished a call looks for the next one itself, and the reactor is woken once for all calls that
    have finished meanwhile: so short calls share a few switches of threads, which cost more than such a call. A thread
    that takes a call while there are more of them first wakes another thread, so that none waits for a long one.
    """

    def __init__(self, reactor: Any, size: int, start_thread: Callable[[Thread], None] = Thread.start) -> None:
        self.size = size
        self.start_thread = start_thread
        self.stuck = 0
        self._reactor = reactor
        self._deadlines = Deadlines(reactor)
        self._waiting: deque[Task] = deque()
        self._ready: deque[Task] = deque()
        """Calls for the threads, one for each thread that is not busy."""
        self._wake: SimpleQueue[bool] = SimpleQueue()
        """A thread that takes True looks for calls; one that takes False ends."""
        self._done: deque[tuple[Task, Any]] = deque()
        self._told = False
        """True if the reactor is about to collect the results."""
        self._threads = 0
        self._busy = 0
        self._stopped = False

    @property
    def waiting(self) -> int:
        """The number of calls that have no thread yet."""
        return len(self._waiting)

    def run(self, call: Callable[[], Any], limit: float, left: float) -> Deferred[Any]:
        """Return the result of `call` from a thread, or TimedOut if it takes more than `limit` seconds, or does not
        end within `left` seconds. To cancel the Deferred gives the call up."""
        task = Task(call, limit, self._reactor.seconds() + left)
        task.result = Deferred(lambda cancelled: self._give_up(task))
        self._waiting.append(task)
        self._dispatch()
        if not (task.started or task.ended):
            task.deadline = self._deadlines.add(left, lambda: self._too_late(task))
        return task.result

    def stop(self) -> None:
        """Let idle threads end."""
        self._stopped = True
        for _ in range(self._threads):
            self._wake.put(False)

    def _too_late(self, task: Task) -> None:
        self._give_up(task)
        task.result.callback(TimedOut(task.started))

    def _give_up(self, task: Task) -> None:
        """Give up a task: it is not started, or another thread takes the place of its thread."""
        self._met(task)
        task.given_up = True
        if task.ended:
            return
        if task.started:
            self.stuck += 1
            self._dispatch()
        else:
            self._waiting.remove(task)

    def _met(self, task: Task) -> None:
        if task.deadline is not None:
            self._deadlines.cancel(task.deadline)
            task.deadline = None

    def _dispatch(self) -> None:
        room = self.size + min(self.stuck, self.size)
        while self._waiting and self._busy < room and not self._stopped:
            task = self._waiting.popleft()
            if self._busy == self._threads and not self._one_more():
                if self._busy:
                    self._waiting.appendleft(task)  # for the next thread that is free
                    return
                self._met(task)
                task.ended = True
                task.result.errback(Failure(Lacking("threads (ulimit -u)")))
                continue
            self._busy += 1
            task.started = True
            self._met(task)
            limit = min(task.limit, task.ends - self._reactor.seconds())
            task.deadline = self._deadlines.add(limit, partial(self._too_late, task))
            self._ready.append(task)
            if len(self._ready) == 1:
                self._wake.put(True)

    def _one_more(self) -> bool:
        """Start a thread; return False if the machine refuses."""
        try:
            self.start_thread(Thread(target=self._work, name=f"operators-{self._threads + 1}", daemon=True))
        except (RuntimeError, MemoryError):
            return False
        self._threads += 1
        return True

    def _work(self) -> None:
        """The loop of a thread."""
        while self._wake.get():
            while self._ready:
                try:
                    task = self._ready.popleft()
                except IndexError:  # another thread has taken it
                    break
                if self._ready:
                    self._wake.put(True)
                result = None
                try:
                    if not task.given_up:
                        result = task.call()
                except BaseException:  # noqa: BLE001 - SystemExit, too, must not end the thread in silence
                    result = Failure()
                self._done.append((task, result))
                if not self._told:
                    self._told = True
                    self._reactor.callFromThread(self._collect)

    def _collect(self) -> None:
        """Collect the results, and start the next calls."""
        self._told = False
        done = []
        while self._done:
            done.append(self._done.popleft())
        for task, _ in done:
            self._busy -= 1
            self.stuck -= task.given_up
            task.ended = True
            self._met(task)
        self._dispatch()
        for task, result in done:
            if not task.given_up:
                task.result.callback(result)
