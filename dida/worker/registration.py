"""A worker registers itself at schedulers: it says who and where it is, on each connection and every few seconds.

So a scheduler need not know its workers, may be started after them, and finds them again when it is started anew.
A scheduler that refuses is asked again: the worker that has the id, say, may have died.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Any

from attrs import define
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from dida.addresses import Address, NodeAddress
from dida.chains.messages import HOP_TIMEOUT, Register
from dida.errors import DidaError
from dida.protocols.links import ReconnectingClient
from dida.wire.messages import Error, Reply

SAY_EVERY = 2.0
"""Seconds between two times that a scheduler is told on the same connection."""
NOT_REACHED = "not reached"
REGISTERED = "registered"

_log = Logger()


@define(eq=False)
class _Scheduler:
    address: Address
    link: ReconnectingClient
    state: str = NOT_REACHED


class Registration:
    """Of the worker `me`, at all of `schedulers`."""

    def __init__(self, reactor: Any, me: NodeAddress, schedulers: Iterable[Address]) -> None:
        self._said = Register(me.id, str(me.address))
        self._schedulers = [
            _Scheduler(each, ReconnectingClient(reactor, each.host, each.port)) for each in dict.fromkeys(schedulers)
        ]
        for scheduler in self._schedulers:
            scheduler.link.on_up = partial(self._say, scheduler)
            scheduler.link.on_down = partial(self._become, scheduler, NOT_REACHED)
        self._saying = LoopingCall(self._say_all)
        self._saying.clock = reactor

    @property
    def states(self) -> dict[str, str]:
        """By the address of the scheduler: `registered`, `not reached`, or why it refuses."""
        return {str(each.address): each.state for each in self._schedulers}

    def start(self) -> None:
        """Connect, and go on saying it."""
        for scheduler in self._schedulers:
            scheduler.link.start()
        if self._schedulers:
            self._saying.start(SAY_EVERY, now=False)

    def leave(self) -> list[Address]:
        """Say it no more: the worker wants no more operators. Where it is registered, and may be given some."""
        if self._saying.running:
            self._saying.stop()
        for scheduler in self._schedulers:
            scheduler.link.on_up = lambda: None
        return [each.address for each in self._schedulers if each.state == REGISTERED]

    def stop(self) -> None:
        """Hang up."""
        self.leave()
        for scheduler in self._schedulers:
            scheduler.link.stop()

    def _say_all(self) -> None:
        for scheduler in self._schedulers:
            if scheduler.link.client is not None:
                self._say(scheduler)

    def _say(self, scheduler: _Scheduler) -> None:
        asked = scheduler.link.ask(self._said, HOP_TIMEOUT)
        asked.addCallbacks(self._answered, _not_there, callbackArgs=(scheduler,))

    def _answered(self, reply: Reply, scheduler: _Scheduler) -> None:
        refused = isinstance(reply, Error)
        self._become(scheduler, f"refused: {' '.join(reply.words)}" if refused else REGISTERED)

    def _become(self, scheduler: _Scheduler, state: str) -> None:
        if state != scheduler.state:
            scheduler.state = state
            say = _log.info if state == REGISTERED else _log.warn
            say("scheduler at {address}: {state}", address=scheduler.address, state=state)


def _not_there(failure: Failure) -> None:
    """It is told on the next connection, or soon."""
    failure.trap(DidaError)
