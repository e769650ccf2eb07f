"""The workers of a scheduler: the link to each, and whether it gets operators.

A ping every second detects a worker that is connected but silent. A worker that is leaving (`drain`) finishes its
operators and gets no new ones. The choice among the workers is `dida.chains.scheduling`.

The module is a little long because the state of a link and what the scheduler may do with the worker change together.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol, cast

from attrs import frozen
from twisted.internet.defer import Deferred, DeferredList
from twisted.logger import Logger
from twisted.python.failure import Failure

from dida import errors
from dida.addresses import Address, NodeAddress
from dida.chains.catalog import Catalog
from dida.chains.messages import HOP_TIMEOUT, ListOperators, ReportTo
from dida.chains.scheduling import LeastActive, Load
from dida.errors import BadRequest, DidaError, Unavailable
from dida.protocols.links import LinkListener, ReconnectingClient
from dida.wire.messages import Error, Ok, Ping, Reply, Request

MAX_WORKERS = 1000
REPORT_PATIENCE = 5.0
"""Time for a declared worker to report the runs of earlier schedulers, in seconds."""
ASK_EVERY = 10.0
"""Interval between two such requests, in seconds, for files that are added."""

_log = Logger()


@frozen
class Timing:
    """How long a scheduler waits for its workers, in seconds."""

    ping_every: float = 1.0
    ping_timeout: float = 3.0
    """For the reply to a ping; a worker that does not reply gets no more operators."""
    report_timeout: float = HOP_TIMEOUT
    """For the reply to `report`."""
    ask_timeout: float = 1.0
    """For a worker's list of its operators; one that does not reply may have any."""
    registration: float = 1.5
    """After the scheduler's start, for unknown workers to register: they try once a second."""
    gone_for: float = 30.0
    """Until a worker that has registered itself and is gone is forgotten."""


class Worker(LinkListener):
    """A worker that the scheduler knows, and the link to it."""

    def __init__(self, workers: Workers, reactor: Any, id: str, address: Address, named: bool) -> None:
        self.id = id
        self.address = address
        self.link = ReconnectingClient(reactor, address.host, address.port, self)
        self.declared: float = reactor.seconds()
        """When the scheduler learned of it."""
        self.named = named
        """True if an option or a command named it to the scheduler; False if it has registered itself."""
        self.reached = False
        """True once it was connected."""
        self.reported = False
        """True once it has reported the runs of earlier schedulers, or can't know any."""
        self.operators_at = 0.0
        """The time of the next request for its operators; infinity while a request is in flight."""
        self.silent = False
        """True if it did not reply to a ping in time."""
        self.stranger = False
        """True if the node at its address is not a worker."""
        self.name = ""
        """The id that it gives itself, once known."""
        self.leaving = False
        """True while it drains: it finishes its operators and shuts down."""
        self.left = False
        """True if it was leaving when its connection broke."""
        self.ping_at = 0.0
        """The time of the next ping; infinity while a ping is in flight."""
        self.lost: float | None = None
        """The last time its connection broke or it became silent."""
        self._workers = workers

    def on_up(self, link: ReconnectingClient) -> None:
        self._workers.on_up(self)

    def on_down(self, link: ReconnectingClient, broken: bool) -> None:
        self._workers.on_down(self)

    def on_refused(self, link: ReconnectingClient, tried: float) -> None:
        self._workers.has_reported(self)

    @property
    def there(self) -> bool:
        """Return True if it is connected and replies as a worker."""
        return self.link.client is not None and not self.silent and not self.stranger

    @property
    def reachable(self) -> bool:
        """Return True if it may get operators."""
        return self.there and not self.leaving

    def shown(self, load: Load) -> dict[str, object]:
        """Return its entry in the reply to `workers`."""
        return {
            "id": self.id,
            "active": load.active,
            "assigned": load.assigned,
            "url": str(self.address),
            "reachable": self.reachable,
            "leaving": self.leaving,
            "executing": load.executing,
        }


class WorkersListener(Protocol):
    """Notified of changes among the workers."""

    def on_workers(self) -> None:
        """Other workers may get operators than before, or all have reported the runs of earlier schedulers."""

    def on_storage(self, addresses: object) -> None:
        """A worker has sent the addresses of the storage nodes that it knows."""


class Workers:
    """All workers of a scheduler. Each is sent `report`; the scheduler waits `start_deadline` seconds for those in
    `declared`."""

    def __init__(
        self,
        reactor: Any,
        declared: Sequence[NodeAddress],
        report: ReportTo,
        policy: LeastActive,
        catalog: Catalog,
        start_deadline: float,
        listener: WorkersListener,
        timing: Timing = Timing(),
    ) -> None:
        self.start_deadline = start_deadline
        self.timing = timing
        self.declared = declared
        self._listener = listener
        self.reachable: dict[str, tuple[str, int]] = {}
        """The workers that may get operators, with host and port."""
        self.ready = not declared
        """True once every declared worker was reached, or did not come within the start deadline."""
        self.all_reported = False
        """True once all workers have reported the runs of earlier schedulers, or had the time to do so."""
        self._reactor = reactor
        self._report = report
        self._policy = policy
        self._catalog = catalog
        self._asking: list[Deferred[bool]] = []
        """Those that wait for the workers that are asked for their operators now."""
        self._to_ask: list[Deferred[bool]] = []
        """Those that came later and wait for the next round of asking."""
        self._all: dict[str, Worker] = {}
        self._began = self._now()

    def start(self) -> None:
        """Connect to the declared workers."""
        self._began = self._now()
        for worker in self.declared:
            self.add(worker.id, worker.address)

    def stop(self) -> None:
        """Close the connections."""
        for worker in self:
            worker.link.stop()

    def __getitem__(self, id: str) -> Worker:
        return self._all[id]

    def __iter__(self) -> Iterator[Worker]:
        return iter(self._all.values())

    def __len__(self) -> int:
        return len(self._all)

    def find(self, id: str, address: Address) -> Worker | None:
        """Return the worker of that id if it is at that address."""
        worker = self._all.get(id)
        return worker if worker is not None and worker.address == address else None

    @property
    def there(self) -> set[str]:
        """The workers that reply, leaving ones included."""
        return {worker.id for worker in self if worker.there}

    @property
    def lost_at(self) -> dict[str, float]:
        """The time of the last loss of each worker that was lost."""
        return {worker.id: worker.lost for worker in self if worker.lost is not None}

    def add(self, id: str, address: Address, named: bool = True) -> None:
        """Add a worker, or change its address. BadRequest if another worker is at that address.

        A worker that has registered itself and is not `named` is forgotten some time after it is gone.
        """
        old = self._all.get(id)
        if old is not None and old.address == address:
            old.named = old.named or named
            if old.leaving:
                old.leaving = False
                self.look()
            return
        other = next((worker for worker in self if worker.address == address), None)
        if other is not None and other.there and other.name != id:
            raise BadRequest(f"{address} is the address of {other.id}: take another port")
        if old is None and len(self._all) >= MAX_WORKERS:
            self._forget_one()
        if old is not None:
            old.link.stop()
        if other is not None:
            other.link.stop()
            del self._all[other.id]
        worker = self._all[id] = Worker(self, self._reactor, id, address, named)
        if old is not None or other is not None:
            worker.lost = self._now()
        self._policy.on_worker(id)
        self.look()
        worker.link.start()

    def register(self, id: str, address: Address) -> None:
        """Take the registration of a worker. BadRequest if another worker has its id or its address."""
        old = self._all.get(id)
        if old is not None and old.address != address and old.there:
            raise BadRequest(f"{id} is the id of the worker at {old.address}: start this one with another --id")
        if old is None or old.address != address or not old.leaving:  # a leaving worker has registered before it left
            self.add(id, address, named=old is not None and old.named)

    def leave(self, id: str) -> None:
        """Give no more operators to a worker that is leaving."""
        worker = self._all.get(id)
        if worker is not None and not worker.leaving:
            worker.leaving = True
            _log.info("{id} is leaving", id=id)
            self.look()

    def tell(self, request: Request) -> None:
        """Send a request to all workers that reply, and ignore their replies."""
        for worker in self:
            if worker.there:
                worker.link.ask(request, HOP_TIMEOUT).addErrback(_expected)

    def look(self) -> None:
        """Work out which workers get operators."""
        oldest = self._now() - self.start_deadline
        self.ready = all(worker.reached or not worker.named or worker.declared < oldest for worker in self)
        self.all_reported = self.all_reported or self._have_all_reported()
        self.reachable = {worker.id: (worker.address.host, worker.address.port) for worker in self if worker.reachable}
        self._listener.on_workers()

    def _have_all_reported(self) -> bool:
        now = self._now()
        patience = min(REPORT_PATIENCE, self.start_deadline)
        come = now >= self._began + min(self.timing.registration, self.start_deadline)
        return come and all(worker.reported or worker.declared + patience <= now for worker in self)

    def tick(self) -> None:
        """Ping the workers whose time has come, and ask them for their operators."""
        now = self._now()
        for worker in [each for each in self if self._is_over(each, now)]:
            self._forget(worker)
        self.look()
        for worker in self:
            if worker.link.client is not None and now >= worker.ping_at:
                self._ping(worker)
            if worker.link.client is not None and now >= worker.operators_at:
                self._ask_for_operators(worker)

    def ask_for_operators(self) -> Deferred[bool]:
        """Ask all workers for their operators; fires with True when all have replied or timed out since this call."""
        asked: Deferred[bool] = Deferred()
        self._to_ask.append(asked)
        if not self._asking:
            self._ask_next()
        return asked

    def _ask_next(self) -> None:
        """Ask all workers on behalf of those that wait for the next round."""
        self._asking, self._to_ask = self._to_ask, []
        if self._asking:
            DeferredList([self._ask_for_operators(self._all[id]) for id in self.reachable]).addCallback(self._all_said)

    def _all_said(self, result: object) -> None:
        asking, self._asking = self._asking, []
        for asked in asking:
            if not asked.called:
                asked.callback(True)
        if not self._asking:
            self._ask_next()

    def _ask_for_operators(self, worker: Worker) -> Deferred[None]:
        worker.operators_at = float("inf")

        def answered(result: Reply | Failure) -> None:
            worker.operators_at = self._now() + ASK_EVERY
            if isinstance(result, Failure):
                _expected(result)
            operators = result.object.get("operators") if isinstance(result, Ok) else None
            if self._all.get(worker.id) is not worker:
                return
            if isinstance(operators, dict):
                others = cast(Ok, result).object.get("classes")
                self._catalog.on_list(worker.id, operators, map(str, others) if isinstance(others, list) else ())
            else:
                self._catalog.on_unknown(worker.id)

        request = ListOperators(deadline=self.timing.ask_timeout)
        return worker.link.ask(request, request.deadline).addBoth(answered)

    def _forget_one(self) -> None:
        """Forget the worker that has been gone for longest and has no steps."""
        gone = [worker for worker in self if not worker.there and not self._policy.loads[worker.id].active]
        if not gone:
            raise Unavailable(f"there are {MAX_WORKERS} workers already")
        self._forget(min(gone, key=lambda worker: worker.lost or worker.declared))

    def _is_over(self, worker: Worker, now: float) -> bool:
        """Return True if a worker that was not named is gone for good."""
        if worker.named or worker.there or self._policy.loads[worker.id].active:
            return False
        return worker.left or now >= (worker.lost or worker.declared) + self.timing.gone_for

    def _forget(self, worker: Worker) -> None:
        worker.link.stop()
        del self._all[worker.id]
        self._policy.on_gone(worker.id)
        self._catalog.on_unknown(worker.id)
        _log.info("{id} is forgotten", id=worker.id)

    def _now(self) -> float:
        now: float = self._reactor.seconds()
        return now

    def on_up(self, worker: Worker) -> None:
        """Ask a worker that is connected for its operators and its report."""
        worker.reached = True
        worker.silent = worker.leaving = worker.left = worker.stranger = False
        worker.name = ""
        self._catalog.on_unknown(worker.id)
        self._ask_for_operators(worker)
        asked = worker.link.ask(self._report, self.timing.report_timeout)
        asked.addCallbacks(self._known, self._not_known, callbackArgs=(worker,), errbackArgs=(worker,))
        self.look()

    def _not_known(self, failure: Failure, worker: Worker) -> None:
        _expected(failure)
        if cast(DidaError, failure.value).code == errors.TIMED_OUT:  # else it is asked on the next connection
            self.has_reported(worker)

    def has_reported(self, worker: Worker) -> None:
        """Expect no report of a worker any more: where nobody listens, nobody knows a run."""
        if not worker.reported:
            worker.reported = True
            self.look()

    def _known(self, reply: Reply, worker: Worker) -> None:
        """Take note of a worker's id and report, or that the node is not a worker."""
        worker.reported = True
        if isinstance(reply, Ok) and reply.words:
            worker.name = reply.words[0]
            if storage := reply.object.get("storage"):
                self._listener.on_storage(storage)
        elif isinstance(reply, Error) and reply.code == errors.UNKNOWN_VERB:
            worker.stranger = True
            worker.lost = self._now()
            _log.warn(
                "{address}, given as {id}, is not a worker: it gets no operators", address=worker.address, id=worker.id
            )
        self.look()

    def on_down(self, worker: Worker) -> None:
        """Give no operators to a worker that is not connected."""
        if worker.id in self.reachable or worker.silent or worker.leaving:
            worker.lost = self._now()
            worker.left = worker.leaving
            worker.silent = worker.leaving = False
            _log.warn("{id} can't be reached", id=worker.id)
        self.look()

    def _ping(self, worker: Worker) -> None:
        worker.ping_at = float("inf")

        def answered(result: Reply | Failure) -> None:
            worker.ping_at = self._now() + self.timing.ping_every
            if isinstance(result, Failure):
                if result.check(DidaError) and cast(DidaError, result.value).code != errors.TIMED_OUT:
                    return  # the connection broke, which was noted already
                if not worker.silent:
                    _log.warn("{id} does not reply: it gets no operators until it does", id=worker.id)
                worker.lost = worker.lost if worker.silent else self._now()
            worker.silent = isinstance(result, Failure)
            self.look()

        worker.link.ask(Ping(), self.timing.ping_timeout).addBoth(answered)


def _expected(failure: Failure) -> None:
    """Ignore the error: nobody waits for that reply, and the ping detects a silent worker."""
    failure.trap(DidaError)
