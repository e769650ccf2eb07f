"""Graceful shutdown of a worker (`drain`): it finishes and reports its steps, takes no new ones, then ends.

The schedulers are notified at once, so that they give it no more operators. A request that comes all the same is
refused, and its sender takes another worker.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger

from dida.addresses import Address
from dida.chains.messages import HOP_TIMEOUT, Drain, Leaving
from dida.errors import DidaError
from dida.protocols.link_pool import ConnectionPool
from dida.wire.messages import Ok, Reply

MAX_SCHEDULERS = 10
"""The most schedulers that are notified."""

_log = Logger()


class Draining:
    """The shutdown of the worker `me`. `spawn` owns the notifications; `in_hand` returns the number of unfinished
    steps; `on_end` is called when the worker may end."""

    def __init__(
        self,
        reactor: Any,
        me: str,
        pool: ConnectionPool,
        spawn: Callable[[Coroutine[Any, Any, None]], None],
        in_hand: Callable[[], int],
        on_end: Callable[[], None],
    ) -> None:
        self.begun = False
        self._on_end: Callable[[], None] | None = on_end
        self._reactor = reactor
        self._me = me
        self._pool = pool
        self._spawn = spawn
        self._in_hand = in_hand
        self._schedulers: dict[Address, None] = {}
        self._late: IDelayedCall | None = None
        self._waiting: list[Deferred[Reply]] = []

    def know(self, scheduler: Address) -> None:
        """Remember a scheduler that gives operators."""
        self._schedulers.pop(scheduler, None)
        self._schedulers[scheduler] = None
        if len(self._schedulers) > MAX_SCHEDULERS:
            del self._schedulers[next(iter(self._schedulers))]
        if self.begun:
            self._spawn(self._take_leave(scheduler))

    def begin(self, request: Drain, ends: bool = False) -> Deferred[Reply]:
        """Begin the shutdown. The reply comes when all is finished, or reports at the request's deadline that it is
        not.

        `ends`: the process is ending already, so `on_end` is not called.
        """
        if ends:
            self._on_end = None
        if self.begun and self._late is None:
            return succeed(Ok(("drained",)))
        answer: Deferred[Reply] = Deferred()
        self._waiting.append(answer)
        if not self.begun:
            self.begun = True
            self._late = self._reactor.callLater(request.within, self._end)
            _log.info("drained: {count} operators in hand", count=self._in_hand())
            for scheduler in self._schedulers:
                self._spawn(self._take_leave(scheduler))

        def waits_no_more(result: Any) -> Any:
            if answer in self._waiting:
                self._waiting.remove(answer)
            return result

        def not_yet(result: object, seconds: float) -> Reply:
            return Ok(("draining",), {"active": self._in_hand()})

        return answer.addBoth(waits_no_more).addTimeout(request.deadline, self._reactor, not_yet)

    def on_idle(self) -> None:
        """End if the worker is shutting down: nothing is going on."""
        if self.begun:
            self._end()

    def stop(self) -> None:
        """Cancel the time-out: the worker ends anyway."""
        if self._late is not None and self._late.active():
            self._late.cancel()
        self._late = None

    async def _take_leave(self, scheduler: Address) -> None:
        try:
            await self._pool.ask(scheduler.host, scheduler.port, Leaving(self._me), HOP_TIMEOUT)
        except DidaError:
            _log.info("{to} was not notified that {id} is leaving", to=scheduler, id=self._me)

    def _end(self) -> None:
        if self._late is None:
            return  # it has ended before
        self.stop()
        waiting, self._waiting = self._waiting, []
        for answer in waiting:
            answer.callback(Ok(("drained",)))
        if self._on_end is not None:  # the replies are sent in the turn between these two
            self._reactor.callLater(0, self._reactor.callLater, 0, self._on_end)
