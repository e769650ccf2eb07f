"""Threads and the reactor: blocking code next to Deferreds, with a bound on everything.

`Threads` executes calls in a bounded number of threads. A thread can't be stopped: one whose call is
given up is replaced, up to twice the number, and counted as stuck until it comes back. They are daemon
threads, so that a stuck one does not keep the process alive. `blocking` is the other direction.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any, TypeVar

from attrs import define, field
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.python.failure import Failure

from dida import errors
from dida.errors import DidaError

_T = TypeVar("_T")


@define(eq=False)
class Job:
    """A call that waits for a thread, is executed by one, or has ended."""

    call: Callable[[], Any]
    on_start: Callable[[], None]
    result: Deferred[Any] = field(factory=Deferred)
    started: bool = False
    given_up: bool = False


class Threads:
    """At most `size` calls at once, the others in order behind them. All methods on the reactor's thread."""

    def __init__(self, reactor: Any, size: int) -> None:
        self.size = size
        self.stuck = 0
        self._reactor = reactor
        self._waiting: deque[Job] = deque()
        self._jobs: SimpleQueue[Job | None] = SimpleQueue()
        self._threads = 0
        self._busy = 0
        self._stopped = False

    @property
    def waiting(self) -> int:
        """Calls that have no thread yet."""
        return len(self._waiting)

    def run(self, call: Callable[[], Any], on_start: Callable[[], None]) -> Job:
        """Execute `call` in a thread; `on_start` is called on the reactor when there is one."""
        job = Job(call, on_start)
        self._waiting.append(job)
        self._dispatch()
        return job

    def give_up(self, job: Job) -> None:
        """Nobody waits for the job any more: it is not started, or another thread takes the place of its own."""
        if job.given_up:
            return
        job.given_up = True
        if job.started:
            self.stuck += 1
            self._dispatch()
        else:
            self._waiting.remove(job)

    def stop(self) -> None:
        """Let the idle threads end."""
        self._stopped = True
        for _ in range(self._threads):
            self._jobs.put(None)

    def _dispatch(self) -> None:
        room = self.size + min(self.stuck, self.size)
        while self._waiting and self._busy < room and not self._stopped:
            job = self._waiting.popleft()
            self._busy += 1
            job.started = True
            if self._busy > self._threads:
                self._threads += 1
                Thread(target=self._work, name=f"operators-{self._threads}", daemon=True).start()
            job.on_start()
            self._jobs.put(job)

    def _work(self) -> None:
        """The life of a thread."""
        while (job := self._jobs.get()) is not None:
            try:
                result = job.call()
            except BaseException:  # noqa: BLE001 - SystemExit, too, must not end the thread in silence
                result = Failure()
            self._reactor.callFromThread(self._ended, job, result)

    def _ended(self, job: Job, result: Any) -> None:
        self._busy -= 1
        if job.given_up:
            self.stuck -= 1
        self._dispatch()
        if not job.given_up:
            job.result.callback(result)


def blocking(reactor: Any, seconds: float, call: Callable[..., Any], *arguments: Any) -> Any:
    """Call on the reactor's thread from another one and wait for what the Deferred gives; timed-out after `seconds`."""
    answer: SimpleQueue[Any] = SimpleQueue()
    reactor.callFromThread(lambda: maybeDeferred(call, *arguments).addBoth(answer.put))
    try:
        result = answer.get(timeout=seconds)
    except Empty:
        raise DidaError(errors.TIMED_OUT, f"no answer within {seconds:g} s") from None
    if isinstance(result, Failure):
        result.raiseException()
    return result
