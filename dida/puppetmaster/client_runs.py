"""The runs that commands start: their numbers, their results, and waiting for their ends."""

from __future__ import annotations

from attrs import define, field
from twisted.internet.defer import Deferred, DeferredSemaphore
from twisted.internet.task import deferLater

from dida.client.scheduler_client import RunResult
from dida.console.script import Line
from dida.errors import NO_SUCH_RUN, TIMED_OUT, UNAVAILABLE, DidaError
from dida.puppetmaster.cluster import Cluster
from dida.puppetmaster.console_storage import ConsoleStorage
from dida.puppetmaster.nodes import Event, Node
from dida.puppetmaster.refusals import no_client

RESULT_TIME = 30.0
"""Time that one request for a run's result stays open, in seconds."""
RETRY_INTERVAL = 0.2
"""Pause before the next request to a scheduler that did not answer, in seconds."""
MAX_REQUESTS = 200
"""Requests for results that are open at a time."""
MAX_RUNS = 10_000
"""Client commands whose results are kept for `expect-run`."""


@define(eq=False)
class ClientRun:
    """The run of one client command."""

    line: Line
    number: int
    run: str = ""
    """The run's id; empty until it is known."""
    state: str = ""
    text: str = ""
    """The output, or the reason of the failure."""
    ended: Event = field(factory=Event)

    def end(self, state: str, text: str) -> None:
        """The run has ended, or was not started."""
        self.state, self.text = state, text
        self.ended.happen()


class ClientRuns:
    """All runs of one console."""

    def __init__(self, cluster: Cluster, storage: ConsoleStorage) -> None:
        self.finishing = False
        """Whether no command comes any more, and so no scheduler."""
        self._cluster = cluster
        self._storage = storage
        self._requests = DeferredSemaphore(MAX_REQUESTS)
        self._runs: dict[int, ClientRun] = {}
        self._last = 0

    def add(self, line: Line) -> ClientRun:
        """Number a client command."""
        self._last += 1
        self._runs.pop(self._last - MAX_RUNS, None)
        run = self._runs[self._last] = ClientRun(line, self._last)
        return run

    def expected(self, number: int) -> ClientRun:
        """Return the run of the client command with that number; 0: the last one. UserError when there is none."""
        run = self._runs.get(number or self._last)
        if run is None:
            raise no_client(number)
        return run

    async def require_nodes(self) -> None:
        """Require the nodes that a run needs, and drop what storage nodes have lost."""
        self._cluster.nodes.ready("storage")
        self._cluster.nodes.ready("worker")
        await self._storage.drop_lost()

    @property
    def hopeless(self) -> bool:
        """Whether no scheduler runs, and no command can start one."""
        return self.finishing and self._cluster.nodes.scheduler is None

    async def result(self, run: str, scheduler: Node | None = None) -> RunResult:
        """Wait for the end of a run, with a bounded number of open requests."""
        return await self._requests.run(lambda: Deferred.fromCoroutine(self.until_ended(run, scheduler)))

    async def until_ended(self, run: str, began: Node | None = None) -> RunResult:
        """Wait for the end of a run that `began` runs. If that scheduler ends, a later one hears of the run from the
        workers."""
        scheduler = began = began or self._cluster.nodes.scheduler
        ends = 0.0
        while True:
            try:
                result = await self._cluster.scheduler.result(run, RESULT_TIME)
                self._storage.on_result(result)
                return result
            except DidaError as problem:
                if problem.code == TIMED_OUT:
                    ends = 0.0
                    continue
                there = self._cluster.nodes.scheduler
                if problem.code != UNAVAILABLE and (problem.code != NO_SUCH_RUN or there is began):
                    raise
                if there is not scheduler or not ends:
                    scheduler, ends = there, self._cluster.reactor.seconds() + self._cluster.deadline
                if self._cluster.reactor.seconds() >= ends or self.hopeless:
                    self._cluster.nodes.ready("scheduler")
                    raise
            await deferLater(self._cluster.reactor, RETRY_INTERVAL)
