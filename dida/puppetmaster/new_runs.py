"""Starting runs at the system's scheduler, each with an id: who lost the answer asks again, and starts none twice."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence

from attrs import evolve
from twisted.internet.task import deferLater

from dida.chains.messages import Run
from dida.errors import TIMED_OUT, UNAVAILABLE, UNKNOWN_OUTCOME, DidaError, Unavailable
from dida.protocols.links import Unreachable
from dida.puppetmaster.system import Cluster
from dida.timestamps import Timestamp

RETRY_INTERVAL = 0.2
"""Seconds until a scheduler is asked again."""


class NewRuns:
    """Of one puppetmaster. Ids end in numbers, and so the runs are called r1, r2 …"""

    def __init__(self, system: Cluster) -> None:
        self._system = system
        self._session = uuid.uuid4().hex[:16]
        self._count = 0

    def request(self, input: str, operators: Sequence[str], after: Timestamp, application: str) -> Run:
        """A run, to be asked for; `application` is what it is called."""
        self._count += 1
        id = f"{self._session}:{self._count}"
        return Run(input, tuple(operators), after=after, id=id, retry=False, application=application[-200:])

    async def ask(self, request: Run) -> str:
        """The id of the run, once it is started."""
        return (await self._system.ask_scheduler(request)).words[0]

    async def ask_again(self, request: Run, hopeless: Callable[[], bool] = lambda: False) -> str:
        """The same, after the answer was lost (`may_have_begun`): until there is one, while it is not `hopeless`."""
        request = evolve(request, retry=True)
        reactor = self._system.reactor
        ends = reactor.seconds() + self._system.deadline
        while True:
            try:
                return await self.ask(request)
            except DidaError as problem:
                passing = may_have_begun(problem) or problem.code == UNAVAILABLE
                if not passing or reactor.seconds() >= ends or hopeless():
                    raise
            await deferLater(reactor, RETRY_INTERVAL)


def may_have_begun(problem: DidaError) -> bool:
    """Whether a run that ended in this may have been started all the same."""
    if isinstance(problem, Unavailable):
        return not isinstance(problem, Unreachable)  # the connection broke before the answer came
    return problem.code in (TIMED_OUT, UNKNOWN_OUTCOME)
