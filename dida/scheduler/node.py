"""The scheduler on the line protocol: starts runs, follows them, and replies with their results.

The table of runs is `dida.chains.runs`, the choice of workers `dida.chains.scheduling`, the links to them
`dida.scheduler.workers`. A storage client watches which storage nodes are alive.

The module is a little long because it has all verbs of a scheduler; what takes more than a few lines is elsewhere.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any, TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from dida import errors
from dida.addresses import Address, NodeAddress, StorageAddress, node_id
from dida.chains.messages import (
    HOP_TIMEOUT,
    SCHEDULER,
    AddStorage,
    AddWorker,
    Adopt,
    CancelStep,
    Completed,
    Ended,
    Execute,
    Failed,
    Leaving,
    Reassign,
    Register,
    ReportTo,
    Returned,
    Superseded,
)
from dida.chains.records import NO_MARK
from dida.chains.run_record import Carried, RunRecord, summary
from dida.chains.runs import Runs
from dida.client.storage_client import StorageClient
from dida.errors import BadRequest, DidaError, Unavailable, UserError
from dida.protocols.deadlines import Deadlines
from dida.protocols.lines import Answer, NodeCommands, ok
from dida.protocols.links import ReconnectingClient
from dida.scheduler.admission import Admission
from dida.scheduler.dispatch import Dispatch
from dida.scheduler.presence import Presence
from dida.scheduler.results import Results
from dida.scheduler.verification import Verification
from dida.scheduler.workers import Timing, Workers
from dida.wire import grammar
from dida.wire.messages import NODE, Debug, Epoch, Forget, Ok, Reply, Request, Status, System, vocabulary
from dida.wire.runs import GOING_ON, Cancel, ListRuns, ListWorkers, Result, Run
from dida.wire.whole import whole

TICK = 0.25
"""Interval between two looks at overdue runs and workers, in seconds."""
NO_STORAGE = (
    "no storage node is known, so operators that use the storage fail:"
    " start the scheduler with --storage R=ID@URL, or send it: storage R ID URL"
)
FORGOTTEN = 500
"""The most runs in one `forget` to a storage node."""

_log = Logger()
_T = TypeVar("_T")


class SchedulerNode(NodeCommands):
    """The scheduler. `start_deadline`: time-out for a declared worker to come, in seconds."""

    vocabulary: Mapping[str, type[Request]] = vocabulary(*NODE, *SCHEDULER)

    def __init__(
        self,
        reactor: Any,
        me: NodeAddress,
        runs: Runs,
        workers: Sequence[NodeAddress] = (),
        storage: Iterable[StorageAddress] = (),
        start_deadline: float = 30.0,
        max_line: int = grammar.MAX_LINE,
        debug: bool = False,
        timing: Timing = Timing(),
    ) -> None:
        self.me = me
        self.runs = runs
        self.max_line = max_line
        self.debug = debug
        self.storage_client = StorageClient(reactor, storage, on_change=self._storage_changed)
        report = ReportTo(str(me.address), life=runs.life)
        self.workers = Workers(reactor, workers, report, runs.policy, runs.catalog, start_deadline, self, timing)
        self._reactor = reactor
        self._storage: tuple[str, ...] = ()
        self._storage_changed()
        deadlines = Deadlines(reactor)
        self.results = Results(deadlines)
        self._admission = Admission(reactor, deadlines, runs, self.workers, max_line, self._begin)
        self._dispatch = Dispatch(reactor, runs, self.workers, self._request, self._tell)
        self._warned = False
        self._presence = Presence(me, self._links)
        self._verification = Verification(reactor, runs, self.storage_client)
        self._forgettable: list[str] = []
        """Runs that have ended since the last `forget`."""
        self._ticking = LoopingCall(self._tick)
        self._ticking.clock = reactor

    def start(self) -> None:
        """Connect to the workers and watch the storage."""
        self.runs.began = self._now()
        self.storage_client.start()
        self.workers.start()
        self._ticking.start(TICK, now=False)

    def stop(self) -> None:
        """Close the connections and fail the requests that wait."""
        if self._ticking.running:
            self._ticking.stop()
        self._verification.stop()
        self.storage_client.stop()
        self.workers.stop()
        stopped = Unavailable("the scheduler is shutting down")
        self.results.close(stopped)
        self._admission.close(stopped)

    # --- verbs for clients ----------------------------------------------------------------------

    def cmd_run(self, request: Run) -> Answer:
        ends = self._now() + request.wait
        answer = self._admission.admit(request)
        if not request.wait:
            return answer

        return answer.addCallback(self._outcome, ends) if isinstance(answer, Deferred) else self._outcome(answer, ends)

    def _outcome(self, started: Any, ends: float) -> Any:
        """Return the outcome of the run that was started; `started` if it goes on then, or is not kept any more."""
        try:
            reply = self.results.of(self.runs[started.words[0]], max(0.0, ends - self._now()))
        except DidaError:
            return _goes_on(Failure(), started)
        return reply.addErrback(_goes_on, started) if isinstance(reply, Deferred) else reply

    def cmd_result(self, request: Result) -> Answer:
        return self._about(request, self.results.of)

    def _about(self, request: Result | Cancel, answer: Callable[[RunRecord, float], Answer]) -> Answer:
        """Answer a request about a run; `answer` is called with the run and the seconds that are left."""
        ends = self._now() + request.deadline
        run = self._admission.find(request.run, request.deadline)
        if isinstance(run, RunRecord):
            return answer(run, request.deadline)

        async def later() -> Any:
            reply = answer(await run, max(0.0, ends - self._now()))
            return await reply if isinstance(reply, Deferred) else reply

        return Deferred.fromCoroutine(later())

    def cmd_cancel(self, request: Cancel) -> Answer:
        return self._about(request, self._cancelled)

    def _cancelled(self, run: RunRecord, seconds: float) -> Reply:
        step = run.current
        if run.state != GOING_ON:
            return Ok(("ended",))
        at = f", at {step.operator} at position {step.position}" if step is not None else ""
        position = step.position if step is not None else None
        self._tell(self.runs.on_failed(run.id, f"cancelled{at}", self._now(), position))
        self.workers.tell(CancelStep(run.id))
        return Ok()

    def cmd_runs(self, request: ListRuns) -> Answer:
        if not request.from_:
            return self._listed(request, None)
        run = self._admission.find(request.from_, request.deadline)
        if isinstance(run, RunRecord):
            return self._listed(request, run)
        return run.addCallback(lambda run: self._listed(request, run))

    def _listed(self, request: ListRuns, first: RunRecord | None) -> Reply:
        def wanted(run: RunRecord) -> bool:
            return (
                request.state in (None, run.state)
                and request.application in (None, run.application)
                and (request.since is None or run.start >= request.since)
                and (request.operator is None or any(step.operator == request.operator for step in run.chain))
            )

        found, following = self.runs.page(wanted, request.limit, first)
        more = {"next": following.id} if following is not None else {}
        return ok(runs=[summary(run) for run in found], dropped=self.runs.dropped, **more)

    def cmd_workers(self, request: ListWorkers) -> Answer:
        loads = self.runs.policy.loads
        return ok(workers=[worker.shown(loads[worker.id]) for worker in self.workers])

    # --- verbs for who starts nodes -------------------------------------------------------------

    def cmd_worker(self, request: AddWorker) -> Answer:
        self.workers.add(_parsed(node_id, request.id), _parsed(Address.parse, request.url))
        return Ok()

    def cmd_register(self, request: Register) -> Answer:
        self.workers.register(_parsed(node_id, request.id), _parsed(Address.parse, request.url))
        return Ok()

    def cmd_storage(self, request: AddStorage) -> Answer:
        id, address = _parsed(node_id, request.id), _parsed(Address.parse, request.url)
        self.storage_client.add(StorageAddress(request.replica, id, address))
        return Ok()

    def cmd_system(self, request: System) -> Answer:
        workers = [NodeAddress(worker.id, worker.address) for worker in self.workers if worker.there]
        return whole(self.storage_client.replicas.living, [self.me], workers)

    def cmd_debug(self, request: Debug) -> Answer:
        self.debug = request.switch == "on"
        return Ok()

    def cmd_status(self, request: Status) -> Answer:
        replicas = self.storage_client.replicas
        workers = self.workers
        return ok(
            id=self.me.id,
            role="scheduler",
            url=str(self.me.address),
            pid=os.getpid(),
            ready=self.ready,
            alive=[worker.id for worker in workers if worker.there] + [each.id for each in replicas.living],
            dead=[worker.id for worker in workers if worker.reached and not worker.there] + list(replicas.dead),
            awaited=[worker.id for worker in workers if not worker.reached],
            policy=self.runs.policy.name,
            runs=self.runs.started,
            going_on=self.runs.going_on,
            done=self.runs.done,
            failed=self.runs.failed,
            adopted=self.runs.adopted,
            reassigned=self.runs.reassigned,
            dropped=self.runs.dropped,
            notes=self._notes,
            debug=self.debug,
        )

    # --- verbs for workers ----------------------------------------------------------------------

    def cmd_completed(self, request: Completed) -> Answer:
        places = self.workers.reachable if request.choose else None
        run, position, ms = request.run, request.position, request.ms
        self.runs.on_printed(run, position, request.printed)
        carried = Carried.by(request)
        other = self.runs.on_completed(
            run, position, self._now(), ms, request.step, request.round, places, request.epoch, carried, request.ago
        )
        return ok(other.worker, other.host, other.port) if other is not None else Ok()

    def cmd_returned(self, request: Returned) -> Answer:
        self.runs.on_returned(request.run, request.position, request.round, self._now(), request.epoch)
        return Ok()

    def cmd_superseded(self, request: Superseded) -> Answer:
        self.runs.on_superseded(request.run, request.by, self._now())
        return Ok()

    def cmd_reassign(self, request: Reassign) -> Answer:
        run, position, now = request.run, request.position, self._now()
        where = self.workers.reachable
        step = self.runs.on_reassign(
            run, position, request.avoid, where, now, request.round, request.epoch, request.sure
        )
        return ok(step.worker, step.host, step.port, step.attempt, epoch=self.runs[run].epoch)

    def cmd_leaving(self, request: Leaving) -> Answer:
        self.workers.leave(request.worker)
        return Ok()

    def cmd_adopt(self, request: Adopt) -> Answer:
        run = self.runs.on_adopt(request.request, self._now(), request.ago, request.late)
        if run is not None:
            self._admission.on_adopted(run)
        return Ok()

    def cmd_ended(self, request: Ended) -> Answer:
        def take(epoch: Epoch) -> Reply:
            self.runs.on_printed(request.run, len(request.chain) - 1, request.printed)
            run = self.runs.on_ended(request.run, request.chain, request.after, self._now(), request.ago, epoch)
            return self._told(run)

        mark = request.chain[-1].mark if request.chain else NO_MARK
        return self._verification.take(self.runs[request.run], request.epoch, mark, take)

    def cmd_failed(self, request: Failed) -> Answer:
        def take(epoch: Epoch) -> Reply:
            self.runs.on_printed(request.run, request.position, request.printed)
            run = self.runs.on_failed(
                request.run,
                request.reason,
                self._now(),
                request.position,
                request.chain,
                request.after,
                request.round,
                request.attempt,
                request.ago,
                request.lost,
                epoch,
            )
            return self._told(run)

        return self._verification.take(self.runs[request.run], request.epoch, request.mark, take)

    def _told(self, run: RunRecord | None) -> Ok:
        """Reply to the report of an outcome: `superseded` if it does not count."""
        self._tell(run)
        return Ok() if run is not None else Ok(("superseded",))

    # --- runs -----------------------------------------------------------------------------------

    def _begin(self, run: RunRecord) -> None:
        """Send a new run to its first worker."""
        self._dispatch.send(run)
        if self.debug:
            route = " ".join(f"{each.operator}@{each.worker}" for each in run.chain)
            _log.info("run {run}: input {input!r}, {route}", run=run.id, input=run.input, route=route)

    def _request(self, run: RunRecord) -> Execute:
        """Return the request with which a run goes on."""
        view = self.storage_client.replicas.number
        return self.runs.request(run, str(self.me.address), self._storage, view, self._now())

    def _tell(self, run: RunRecord | None) -> None:
        """Reply to the clients that wait for a run that has ended."""
        if run is None:
            return
        if run.updated:
            self._forgettable.append(run.id)
        if self.debug:
            _log.info("run {run}: {state} {text}", run=run.id, state=run.state, text=run.output or run.reason)
        self.results.on_end(run)

    # --- nodes ----------------------------------------------------------------------------------

    def _now(self) -> float:
        now: float = self._reactor.seconds()
        return now

    @property
    def _notes(self) -> list[str]:
        """The problems of this scheduler, and what to do."""
        return [NO_STORAGE] if self.storage_client.replicas.unknown else []

    def on_workers(self) -> None:
        """Look at the requests that wait for workers."""
        self._admission.on_workers()

    def on_storage(self, addresses: object) -> None:
        """Use the storage nodes that a worker knows, if this scheduler knows none (an earlier one may have)."""
        if self.storage_client.replicas.unknown and isinstance(addresses, list):
            for each in addresses:
                with suppress(UserError):
                    self.storage_client.add(StorageAddress.parse(str(each)))

    def _warn(self) -> None:
        """Log the problems once, when all workers have reported."""
        if self.workers.all_reported and not self._warned:
            self._warned = True
            for note in self._notes:
                _log.warn("{note}", note=note)

    def _links(self) -> list[ReconnectingClient]:
        """Return the links to all nodes that are in use."""
        storage = [self.storage_client.link(member) for member in self.storage_client.replicas.living]
        return [*storage, *(worker.link for worker in self.workers if worker.there)]

    def _storage_changed(self) -> None:
        self._storage = tuple(str(each) for each in self.storage_client.replicas.living)

    @property
    def ready(self) -> bool:
        """True once every declared worker was reached, or did not come within the start deadline."""
        return self.workers.ready

    def _forget(self) -> None:
        """Tell the storage nodes that the update ids of ended runs are not needed any more; a lost `forget` does no
        harm."""
        while self._forgettable:
            some, self._forgettable = self._forgettable[:FORGOTTEN], self._forgettable[FORGOTTEN:]
            for member in self.storage_client.replicas.living:
                self.storage_client.link(member).ask(Forget(tuple(some)), HOP_TIMEOUT).addErrback(_expected)

    def _tick(self) -> None:
        now = self._now()
        try:
            for run in self.runs.tick(now):
                self._tell(run)
            self.workers.tick()
            self._warn()
            self._presence.tick(now)
            self._execute_again(now)
            self._forget()
        except Exception:  # noqa: BLE001 - a LoopingCall whose call raised never calls again
            _log.failure("the periodic work of the scheduler ended in a bug")

    def _execute_again(self, now: float) -> None:
        """Have the steps of lost workers executed by others."""
        lost_at, there = self.workers.lost_at, self.workers.there
        losses = len(there) < len(self.workers) or any(when > now - self.runs.deadline for when in lost_at.values())
        if losses:
            lost = self.runs.lost(lost_at, there, now)
            at_once = Counter(run.turn for run in lost)
            for run in lost:
                self._each(run, lambda run: self.runs.on_lost(run, self.workers.reachable, now, at_once[run.turn] - 1))
        if losses or self.runs.doubts:
            self.runs.doubtful(lost_at, now)
        for run in self.runs.unsent:
            self._each(run, self._dispatch.send)

    def _each(self, run: RunRecord, look: Callable[[RunRecord], RunRecord | None]) -> None:
        """Look at one of many runs; fail it if it can't go on, so that the others do."""
        try:
            self._tell(look(run))
        except Exception as problem:  # noqa: BLE001 - whatever it is, it is about this run
            why = str(problem)
            if not isinstance(problem, DidaError):
                _log.failure("looking at run {run} ended in a bug", run=run.id)
                why = "a bug at the scheduler; its log has the details"
            self._tell(self.runs.on_failed(run.id, f"can't go on: {why}", self._now()))


def _parsed(parse: Callable[[str], _T], text: str) -> _T:
    try:
        return parse(text)
    except UserError as problem:
        raise BadRequest(str(problem)) from None


def _goes_on(failure: Failure, started: Reply) -> Any:
    """Return the reply to the start of a run whose outcome is not known here."""
    failure.trap(DidaError)
    return started if failure.value.code in (errors.TIMED_OUT, errors.NO_SUCH_RUN) else failure  # type: ignore[union-attr]


def _expected(failure: Failure) -> None:
    """Ignore the error: nobody waits for that reply."""
    failure.trap(DidaError)
