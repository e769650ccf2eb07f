"""Registration of a worker at schedulers: it sends its id and address on each connection and every few seconds.

So a scheduler need not be configured with its workers, may start after them, and finds them again after a restart.
The worker also retries at a scheduler that refuses: another worker with the same id may have died meanwhile.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from dida.addresses import Address, NodeAddress
from dida.chains.messages import HOP_TIMEOUT, Register
from dida.errors import DidaError
from dida.protocols.links import LinkListener, ReconnectingClient
from dida.wire.messages import Error, Reply

NOT_REACHED = "not reached"
REGISTERED = "registered"

_log = Logger()


class _Scheduler(LinkListener):
    """One scheduler, with the link to it and the worker's state there."""

    def __init__(self, reactor: Any, address: Address, request: Register) -> None:
        self.address = address
        self.state = NOT_REACHED
        self.leaving = False
        self.link = ReconnectingClient(reactor, address.host, address.port, self)
        self._request = request

    def register(self) -> None:
        """Send the registration."""
        self.link.ask(self._request, HOP_TIMEOUT).addCallbacks(self._answered, _not_there)

    def on_up(self, link: ReconnectingClient) -> None:
        if not self.leaving:
            self.register()

    def on_down(self, link: ReconnectingClient, broken: bool) -> None:
        self._become(NOT_REACHED)

    def _answered(self, reply: Reply) -> None:
        self._become(f"refused: {' '.join(reply.words)}" if isinstance(reply, Error) else REGISTERED)

    def _become(self, state: str) -> None:
        if state != self.state:
            self.state = state
            log = _log.info if state == REGISTERED else _log.warn
            log("scheduler at {address}: {state}", address=self.address, state=state)


class Registration:
    """The registration of the worker `me` at all of `schedulers`, repeated every `every` seconds."""

    def __init__(self, reactor: Any, me: NodeAddress, schedulers: Iterable[Address], every: float) -> None:
        request = Register(me.id, str(me.address))
        self._schedulers = [_Scheduler(reactor, each, request) for each in dict.fromkeys(schedulers)]
        self._every = every
        self._repeating = LoopingCall(self._register_again)
        self._repeating.clock = reactor

    @property
    def states(self) -> dict[str, str]:
        """The state at each scheduler, by its address: `registered`, `not reached`, or `refused: REASON`."""
        return {str(each.address): each.state for each in self._schedulers}

    def start(self) -> None:
        """Connect, register, and repeat the registration."""
        for scheduler in self._schedulers:
            scheduler.link.start()
        if self._schedulers:
            self._repeating.start(self._every, now=False)

    def leave(self) -> list[Address]:
        """Stop registering; return the schedulers that may still send operators."""
        if self._repeating.running:
            self._repeating.stop()
        for scheduler in self._schedulers:
            scheduler.leaving = True
        return [each.address for each in self._schedulers if each.state == REGISTERED]

    def stop(self) -> None:
        """Stop registering and close the connections."""
        self.leave()
        for scheduler in self._schedulers:
            scheduler.link.stop()

    def _register_again(self) -> None:
        for scheduler in self._schedulers:
            if scheduler.link.client is not None:
                scheduler.register()


def _not_there(failure: Failure) -> None:
    """Ignore the error: the registration is repeated."""
    failure.trap(DidaError)
