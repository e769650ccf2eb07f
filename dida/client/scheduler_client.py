"""The scheduler's client: starts runs, waits for their results, lists and cancels them.

Each run is sent with an id. When a reply is lost, the client sends the same id again, so a run is started only once.

    scheduler = SchedulerClient(reactor, lambda: Address.parse("localhost:2000"))
    run = await scheduler.run("13", ["AddOperator"])
    result = await scheduler.result(run, wait=30)
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from attrs import evolve, frozen
from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import deferLater

from dida.addresses import Address
from dida.errors import TIMED_OUT, UNAVAILABLE, UNKNOWN_OUTCOME, DidaError, Unavailable
from dida.protocols.lines import GRACE
from dida.protocols.links import ReconnectingClient, Unreachable
from dida.timestamps import Timestamp
from dida.wire.messages import DEFAULT_DEADLINE, Ok, Request
from dida.wire.runs import DONE, Cancel, ListRuns, Result, Run

RETRY_INTERVAL = 0.2
"""Pause between two attempts to start a run, in seconds."""
MAX_APPLICATION = 200
"""The most characters of an application's name; of a longer one the end is sent."""


@frozen
class RunResult:
    """The reply to `result`, once the run has ended."""

    state: str
    """`done` or `failed`."""
    text: str
    """The output of the last operator, or the reason of the failure."""
    members: Mapping[str, Any]
    """The steps, the timestamp and the other members of the reply (docs/reference/protocol.md)."""

    @property
    def done(self) -> bool:
        """Return True if the run did not fail."""
        return self.state == DONE


class SchedulerClient:
    """A client of one scheduler. `deadline`: time-out for starting a run, in seconds.

    `find` returns the scheduler's address before each request: a scheduler may move. It raises Unreachable when there
    is not a scheduler.
    """

    def __init__(self, reactor: Any, find: Callable[[], Address], deadline: float = DEFAULT_DEADLINE) -> None:
        self.deadline = deadline
        self._reactor = reactor
        self._find = find
        self._link: ReconnectingClient | None = None
        self._session = uuid.uuid4().hex[:16]
        self._count = 0

    # --- runs -----------------------------------------------------------------------------------

    def request(
        self, input: str, operators: Sequence[str], after: Timestamp | None = None, application: str = ""
    ) -> Run:
        """Return a request to start a run, with an id that no other request has.

        `after`: what the run must see; `application`: the run's name in listings.
        """
        self._count += 1
        id = f"{self._session}:{self._count}"
        name = application[-MAX_APPLICATION:]
        return Run(input, tuple(operators), after=after or {}, id=id, retry=False, application=name)

    async def run(
        self, input: str, operators: Sequence[str], after: Timestamp | None = None, application: str = ""
    ) -> str:
        """Start a run and return its id; retry while no worker is there or a reply was lost."""
        return await self.start(self.request(input, operators, after, application))

    async def start(self, request: Run, hopeless: Callable[[], bool] = lambda: False) -> str:
        """Send `request` until it has started a run, at most until the deadline or until it is `hopeless`."""
        ends = self._reactor.seconds() + self.deadline
        while True:
            try:
                return await self.start_once(request)
            except DidaError as problem:
                lost = may_have_begun(problem)
                if lost and not request.retry:
                    request, ends = evolve(request, retry=True), self._reactor.seconds() + self.deadline
                    continue
                if not (lost or problem.code == UNAVAILABLE) or self._reactor.seconds() >= ends or hopeless():
                    raise
            await deferLater(self._reactor, RETRY_INTERVAL)

    async def start_once(self, request: Run) -> str:
        """Send `request` once and return the run's id. After an error, `may_have_begun` tells whether to retry."""
        return (await self.ask(request)).words[0]

    async def result(self, run: str, wait: float = 0.0) -> RunResult:
        """Wait at most `wait` seconds for the end of a run and return its result; raise timed-out if it goes on."""
        reply = await self.ask(Result(run, timeout=wait))
        state, text = reply.words[:2]
        return RunResult(state, text, reply.object)

    async def cancel(self, run: str) -> bool:
        """Cancel a run; return False if it had ended before."""
        return not (await self.ask(Cancel(run))).words

    async def runs(self, request: ListRuns | None = None) -> list[dict[str, Any]]:
        """Return the runs that the scheduler knows, newest first; `request` selects some of them."""
        runs: list[dict[str, Any]] = (await self.ask(request or ListRuns())).object.get("runs", [])
        return runs

    # --- the connection -------------------------------------------------------------------------

    def ask(self, request: Request) -> Deferred[Ok]:
        """Return the scheduler's `ok`; Unreachable when there is not a scheduler."""
        address = self._find()
        if self._link is None or self._link.address != f"{address.host}:{address.port}":
            self.stop()
            self._link = ReconnectingClient(self._reactor, address.host, address.port)
        return self._link.ask_ok(request, request.deadline + 2 * GRACE)

    def stop(self) -> Deferred[None]:
        """Close the connection; requests in flight end with Unavailable."""
        return succeed(None) if self._link is None else self._link.stop()


def may_have_begun(problem: DidaError) -> bool:
    """Return True if the run may have been started in spite of this error."""
    if isinstance(problem, Unavailable):
        return not isinstance(problem, Unreachable)  # the connection broke before the reply came
    return problem.code in (TIMED_OUT, UNKNOWN_OUTCOME)
