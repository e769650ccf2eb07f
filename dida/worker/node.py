"""The worker on the line protocol: it executes one operator of a chain and sends the request on.

`execute` is acknowledged at once, and a request that comes twice is executed once (`dida.chains.steps`). Then the
worker executes the operator, adds its output to the request, reports the completion to the scheduler (`completed`),
and, after its gossip delay, hands the request to the worker of the next operator (`dida.worker.handover`). The last
worker makes sure that two storage nodes have what the run has written, and reports the outcome (`ended`). When an
update that the run depends on was lost, the request goes back (`dida.chains.redo`). Any other failure is reported as
`failed`, until the scheduler has acknowledged it (`dida.worker.reports`).

The module is a little long because it has all verbs of a worker, and the way of a step through its collaborators.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Coroutine, Iterable, Mapping
from typing import Any

import attrs
from msgspec.structs import replace
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from dida import errors
from dida.addresses import Address, NodeAddress
from dida.chains import redo
from dida.chains.journal import Kept
from dida.chains.messages import (
    WORKER,
    Adopt,
    CancelStep,
    Drain,
    Execute,
    ListOperators,
    ReportTo,
    Returned,
    Superseded,
    WorkerDebug,
)
from dida.chains.records import NO_MARK, Assignment, Mark
from dida.chains.steps import Steps
from dida.client.storage_client import StorageClient
from dida.errors import BadRequest, DidaError, Unavailable, UserError
from dida.protocols.clock import time_of_day
from dida.protocols.lines import Answer, NodeCommands, ok
from dida.protocols.link_pool import ConnectionPool
from dida.timestamps import Timestamp
from dida.wire import grammar
from dida.wire.messages import DRAIN, NODE, Epoch, Ok, Reply, Request, SchedulerAt, Slow, Status, System, vocabulary
from dida.wire.whole import Schedulers, whole
from dida.worker.attempts import Attempts, StepMoved
from dida.worker.collector import DebugReporter
from dida.worker.departure import Draining
from dida.worker.execution import NotDeterministic, Operators, StepFailed, StepLost, StepSuperseded
from dida.worker.handover import Handoff, NotHandedOn
from dida.worker.outcomes import LineTooLong, Outcomes
from dida.worker.printing import Streams
from dida.worker.registration import Registration
from dida.worker.reports import ReportQueue
from dida.worker.shortage import Shortage
from dida.worker.timing import Timing

MAX_STEPS = 10_000
"""Default for the most unfinished steps of a worker, those that wait for a thread included."""

MAX_PASSES = 50
"""The most executions of a step that workers may pass on because they lack something."""

_log = Logger()


class WorkerNode(NodeCommands):
    """A worker. `gossip_delay` is in seconds; `max_steps` is the most unfinished steps."""

    vocabulary: Mapping[str, type[Request]] = vocabulary(*NODE, Slow, *WORKER)

    def __init__(
        self,
        reactor: Any,
        me: NodeAddress,
        operators: Operators,
        gossip_delay: float = 0.0,
        max_line: int = grammar.MAX_LINE,
        debug: bool = False,
        max_steps: int = MAX_STEPS,
        schedulers: Iterable[Address] = (),
        drain: float = DRAIN,
        streams: Streams | None = None,
        on_end: Callable[[], None] = lambda: None,
        timing: Timing = Timing(),
    ) -> None:
        """`drain`: time for finishing the steps at the end, in seconds; `streams`: the standard streams, if the
        process is the worker's own; `on_end` is called when the worker has been drained."""
        self.me = me
        self.operators = operators
        self.gossip_delay = gossip_delay
        self.max_line = max_line
        self.debug = debug
        self.max_steps = max_steps
        self.storage_client = StorageClient(reactor, max_line=max_line)
        self.counts = {"executed": 0, "failed": 0, "retried": 0, "went_back": 0, "passed_on": 0}
        name = f"{me.id}.{uuid.uuid4().hex[:6]}"
        self._attempts = Attempts(reactor, operators, self.storage_client, self._given_up, self.counts, name)
        self.shortage = Shortage(reactor, timing.lacking_time)
        self.steps = Steps()
        self._reactor = reactor
        self._drain = drain
        self._timing = timing
        self._streams = streams
        self._stopped = False
        self._tasks: dict[Deferred[None], str] = {}
        """Tasks in progress, each with its run (empty: none)."""
        self._schedulers = Schedulers()
        self.registration = Registration(reactor, me, schedulers, timing.register_every)
        self._pool = ConnectionPool(reactor)
        self.reports = ReportQueue(reactor, self._pool, self._on_idle, timing.choose_timeout)
        self._outcomes = Outcomes(self.reports, max_line)
        self.debug_reporter = DebugReporter(me.id, self._pool)
        self._on_the_way: dict[tuple[str, int], Execute] = {}
        """Run and position to a request that no worker has accepted yet: a new scheduler hears of it from here."""
        self.departure = Draining(reactor, me.id, self._pool, self._spawn, lambda: self.steps.in_hand, on_end)
        self._handoff = Handoff(reactor, me.id, self._pool, self.reports, self._begin)

    def start(self) -> None:
        """Begin to watch the storage, and register at the schedulers."""
        if self._streams is not None:
            self._streams.start()
        self.storage_client.start()
        self.registration.start()

    def stop(self) -> None:
        """Cancel everything that is going on."""
        self._stopped = True
        self.registration.stop()
        self.departure.stop()
        self.reports.stop()
        for task in list(self._tasks):
            task.cancel()
        self.storage_client.stop()
        self.operators.stop()
        self._pool.stop()
        if self._streams is not None:
            self._streams.stop()

    # --- verbs ----------------------------------------------------------------------------------

    def cmd_execute(self, request: Execute) -> Answer:
        try:
            self.storage_client.learn(request.meta.view, request.meta.storage)
            Address.parse(request.meta.scheduler)
        except UserError as problem:
            raise BadRequest(f"meta: {problem}") from None
        self._begin(request)
        return Ok()

    def _given_up(self, run: str) -> bool:
        return self._stopped or self.steps.cancelled(run)

    def _begin(self, request: Execute) -> None:
        """Accept a request; Unavailable if there are too many, or the worker is leaving."""
        if self.steps.cancelled(request.meta.run):
            raise DidaError(errors.SUPERSEDED, f"run {request.meta.run} was cancelled")
        if not self.steps.covers(request):
            if self.departure.begun:
                raise Unavailable(f"{self.me.id} is leaving: try another worker")
            if lack := self.shortage.now():
                raise Unavailable(f"{self.me.id} has no more {lack}: try another worker")
            if self.steps.in_hand >= self.max_steps:
                raise Unavailable(f"{self.me.id} has {self.max_steps} operators to execute already: try another worker")
        if self.steps.begin(request, self._reactor.seconds()):
            self._spawn(self._step(request, Address.parse(request.meta.scheduler)), request)

    def cmd_cancel(self, request: CancelStep) -> Answer:
        self.steps.cancel(request.run)
        for task, run in list(self._tasks.items()):
            if run == request.run:
                task.cancel()
        return Ok()

    def cmd_report(self, request: ReportTo) -> Answer:
        try:
            scheduler = Address.parse(request.url)
        except UserError as problem:
            raise BadRequest(str(problem)) from None
        for each, at in list(self.steps.requests(str(scheduler))):
            self.reports.tell(scheduler, Adopt(request=each, ago=self._reactor.seconds() - at), each)
        for each in [each for each in self._on_the_way.values() if each.meta.scheduler == str(scheduler)]:
            self.reports.tell(scheduler, Adopt(request=each), each)
        self.reports.tell_outcomes(scheduler, request.life)
        self.departure.know(scheduler)
        return self.reports.when_told(scheduler).addCallback(self._reported)

    def _reported(self, result: None) -> Ok:
        storage = [str(each) for each in self.storage_client.replicas.living]
        return ok(self.me.id, **({"storage": storage} if storage else {}))

    def cmd_drain(self, request: Drain) -> Deferred[Reply]:
        return self._leave(request)

    def _leave(self, request: Drain, ends: bool = False) -> Deferred[Reply]:
        for scheduler in self.registration.leave():
            self.departure.know(scheduler)
        self._handoff.leaving = True
        answer = self.departure.begin(request, ends)
        self._on_idle()
        return answer

    def leave(self) -> Deferred[Any]:
        """Notify the schedulers and finish the open steps."""
        return self._leave(Drain(within=self._drain, deadline=self._drain), ends=True)

    def cmd_operators(self, request: ListOperators) -> Answer:
        return Deferred.fromCoroutine(self._list())

    async def _list(self) -> Ok:
        operators, others = await self.operators.names()
        return ok(operators=operators, **({"classes": others} if others else {}))

    def cmd_scheduler(self, request: SchedulerAt) -> Answer:
        self._schedulers.note(request.where, self._reactor.seconds())
        return Ok()

    def cmd_system(self, request: System) -> Answer:
        return whole(self.storage_client.replicas.living, self._schedulers.living(self._reactor.seconds()), [self.me])

    def cmd_debug(self, request: WorkerDebug) -> Answer:
        try:
            self.debug_reporter.to = Address.parse(request.to) if request.to and request.switch == "on" else None
        except UserError as problem:
            raise BadRequest(str(problem)) from None
        self.debug = request.switch == "on"
        return Ok()

    def cmd_slow(self, request: Slow) -> Answer:
        self.gossip_delay = request.ms / 1000
        return Ok()

    def cmd_status(self, request: Status) -> Answer:
        replicas = self.storage_client.replicas
        return ok(
            id=self.me.id,
            role="worker",
            url=str(self.me.address),
            pid=os.getpid(),
            ready=True,
            alive=[each.id for each in replicas.living],
            dead=list(replicas.dead),
            draining=self.departure.begun,
            schedulers=self.registration.states,
            active=self.steps.in_hand,
            waiting=self.operators.threads.waiting,
            stuck_threads=self.operators.threads.stuck,
            reports=self.reports.waiting,
            gossip_delay=round(self.gossip_delay * 1000),
            debug=self.debug,
            **self.counts,
            duplicates=self.steps.duplicates,
            handed_elsewhere=self._handoff.elsewhere,
            undelivered=self.reports.undelivered,
            debug_dropped=self.debug_reporter.dropped,
        )

    # --- one step -------------------------------------------------------------------------------

    async def _step(self, request: Execute, scheduler: Address) -> None:
        try:
            following = await self._execute(request, scheduler)
        finally:
            self.steps.end(request)
        if following is not None:
            self._spawn(self._pass_on(following, scheduler), following)

    async def _pass_on(self, request: Execute, scheduler: Address, elsewhere: bool = False) -> None:
        began = self._reactor.seconds()
        here = (request.meta.run, request.next)
        self._on_the_way[here] = request
        try:
            if elsewhere:
                await deferLater(self._reactor, self._timing.lacking_pause)
            await self._handoff.send(scheduler, request, elsewhere)
        except NotHandedOn as problem:
            text = f"did not get the request that {self.me.id} handed on: {problem}"
            late = request.later(self._reactor.seconds() - began)
            self._failed(scheduler, late, request.assignment, text)
        finally:
            if self._on_the_way.get(here) is request:
                del self._on_the_way[here]

    async def _execute(self, request: Execute, scheduler: Address) -> Execute | None:
        """Execute the step. Return what is to be handed on then, if the run has not ended."""
        began, start = self._reactor.seconds(), time_of_day()
        step = request.assignment
        printed = self.operators.log.of(request.meta.run, step.operator, step.position)
        try:
            known: Mapping[int, Kept] = {}
            if request.ask:
                asked, known = await self._attempts.ask(request)
                if asked.next != request.next:
                    raise StepMoved(asked)
                request = asked.later(self._reactor.seconds() - began)
            tried, outcome, history = await self._attempts.execute(request, known, printed)
            took = self._reactor.seconds() - began
            chain = tried.chain_with(
                worker=self.me.id,
                output=outcome.output,
                ms=round(took * 1000, 3),
                start=round(start, 3),
                records=outcome.records,
                after=dict(tried.meta.after),
                mark=outcome.mark,
            )
            self.counts["executed"] += 1
            if self.debug:
                self.debug_reporter.show(request, outcome.output)
            if tried.next + 1 == tried.size:
                done = attrs.evolve(tried, chain=chain)
                await self._attempts.secure(done, request.left - took)
                self._end_run(scheduler, done.later(self._reactor.seconds() - began), printed.end())
                return None
        except StepLost as lost:
            return self._go_back(lost.tried or request, scheduler, lost, self._reactor.seconds() - began)
        except StepMoved as moved:
            return self._moved(request, scheduler, moved.request.later(self._reactor.seconds() - began))
        except StepSuperseded as stopped:
            self._superseded(stopped.tried or request, scheduler, stopped.by)
            return None
        except StepFailed as problem:
            request = problem.tried or request
            if problem.lack and request.assignment.attempt <= MAX_PASSES and not self._stopped:
                lacked = self._lack(request.later(self._reactor.seconds() - began), problem)
                self._spawn(self._pass_on(lacked, scheduler, True), lacked)
                return None
            if not self._given_up(request.meta.run):
                late = request.later(self._reactor.seconds() - began)
                comma = "," if isinstance(problem, NotDeterministic) else ""
                why = f"on {self.me.id}{comma} {problem}"
                self._failed(scheduler, late, request.assignment, why, printed=printed.end(), mark=problem.mark)
            return None
        following = attrs.evolve(
            tried,
            chain=chain,
            left=max(0.0, tried.left - took),
            next=tried.next + 1,
            apart=False,
            ask=history.more,
            number=history.number,
            bytes=history.bytes,
            kept=history.travelling(),
            known=outcome.known,
        )
        following = self._outcomes.fitting(following)
        choose = took >= self._timing.choose_after
        completed = self._outcomes.completed(following, printed.end(), choose)
        if not choose:
            self.reports.tell(scheduler, completed, following, soon=False)
        else:
            following = await self.reports.choose(scheduler, completed, following)
        if self.gossip_delay:
            await deferLater(self._reactor, self.gossip_delay)
        if choose or self.gossip_delay:
            following = attrs.evolve(following, left=max(0.0, request.left - (self._reactor.seconds() - began)))
        try:
            self._outcomes.check(following, following.chain)
        except LineTooLong as problem:
            self._failed(scheduler, following, following.assignment, f"did not get the request: {problem}")
            return None
        return following

    def _end_run(self, scheduler: Address, request: Execute, printed: str) -> None:
        try:
            self._outcomes.ended(scheduler, request, printed)
        except LineTooLong as problem:
            raise StepFailed(f"was executed, but the outcome of its run has {problem}") from None

    def _lack(self, request: Execute, problem: StepFailed) -> Execute:
        """Return the step for another worker, because this one lacks something."""
        self.counts["passed_on"] += 1
        self.shortage.note(problem.lack)
        return self._attempts.anew(redo.rewound(request, request.next))

    def _superseded(self, request: Execute, scheduler: Address, by: Epoch) -> None:
        """Report that this execution was refused: the scheduler knows whether another one goes on."""
        run, position = request.meta.run, request.next
        _log.info(
            "run {run}: position {position} is executed elsewhere, in epoch {by}", run=run, position=position, by=by
        )
        report = Superseded(run=run, position=position, epoch=request.epoch, by=by)
        self.reports.tell(scheduler, report, request)

    def _go_back(self, request: Execute, scheduler: Address, lost: StepLost, took: float) -> Execute | None:
        """Return the request from the step on by which the lost updates have entered the run."""
        position = redo.step_to_redo(request, lost.lost)
        request = request.later(took).with_step(records=lost.records or request.assignment.records)
        if position is None or request.round >= redo.MAX_ROUNDS:
            named = redo.lost_records(request.chain, lost.lost)
            which = f" ({named})" if named else ""
            why = (
                f"depends on updates from before the run that were lost with a storage node{which}"
                if position is None
                else f"depends on updates that were lost with a storage node{which}, the {request.round + 1}th time"
            )
            why = f"on {self.me.id} failed: lost-update: {why}"
            self._failed(scheduler, redo.without(request, lost.lost), request.assignment, why, lost=lost.lost)
            return None
        self.counts["went_back"] += 1
        back = redo.rewound(request, position, lost.lost)
        chain = tuple(
            replace(step, attempt=step.attempt + 1) if position <= step.position <= request.next else step
            for step in back.chain
        )
        back = self._attempts.anew(attrs.evolve(back, chain=chain, round=request.round + 1))
        reason = f"{request.assignment.operator} at position {request.next} met lost updates"
        returned = Returned(run=back.meta.run, position=position, round=back.round, reason=reason, epoch=back.epoch)
        self.reports.tell(scheduler, returned, back)
        _log.info(
            "run {run}: {reason}: back to position {position}", run=back.meta.run, reason=reason, position=position
        )
        return back

    def _moved(self, request: Execute, scheduler: Address, goes_on: Execute) -> Execute | None:
        """Return the request of the step at which the journal lets the run go on, and tell the scheduler so.

        Else it would wait for the steps between, and look for the run at their workers when some die.
        """
        run = request.meta.run
        goes_on = attrs.evolve(goes_on, ask=True)
        for position in range(request.next, goes_on.next):
            chain = attrs.evolve(goes_on, next=position).chain_with(worker=self.me.id)
            goes_on = attrs.evolve(goes_on, chain=chain)
            following = attrs.evolve(goes_on, next=position + 1)
            self.reports.tell(scheduler, self._outcomes.completed(following, "", False), following, soon=False)
        if goes_on.next < request.next and request.round >= redo.MAX_ROUNDS:
            times = f"the {request.round + 1}th time"
            why = f"on {self.me.id} failed: lost-update: depends on updates that were lost, {times}"
            self._failed(scheduler, request, request.assignment, why)
            return None
        if goes_on.next < request.next:
            goes_on = self._attempts.anew(attrs.evolve(goes_on, round=request.round + 1))
            reason = f"an update of {goes_on.assignment.operator} at position {goes_on.next} is lost"
            told = Returned(run=run, position=goes_on.next, round=goes_on.round, reason=reason, epoch=goes_on.epoch)
            self.reports.tell(scheduler, told, goes_on)
        _log.info("run {run}: the journal goes on at position {position}", run=run, position=goes_on.next)
        return goes_on

    def _failed(
        self,
        scheduler: Address,
        request: Execute,
        at: Assignment,
        why: str,
        bare: bool = False,
        lost: Timestamp | None = None,
        printed: str = "",
        mark: Mark = NO_MARK,
    ) -> None:
        """Report that the run can't go on (see `Outcomes.failed`)."""
        self.counts["failed"] += 1
        self._outcomes.failed(scheduler, request, at, why, bare, lost, printed, mark)

    def _spawn(self, work: Coroutine[Any, Any, None], request: Execute | None = None) -> None:
        """Own a task, which works on that request if there is one, until it has ended."""
        task = Deferred.fromCoroutine(work)
        if not task.called:
            self._tasks[task] = request.meta.run if request is not None else ""
            task.addBoth(self._over, task)
        task.addErrback(self._ended_badly, request)

    def _over(self, result: Any, task: Deferred[None]) -> Any:
        self._tasks.pop(task, None)
        self._on_idle()
        return result

    def _on_idle(self) -> None:
        """Continue a shutdown if nothing is left: something has ended."""
        if not self._tasks and not self.reports.waiting:
            self.departure.on_idle()

    def _ended_badly(self, failure: Failure, request: Execute | None) -> None:
        if failure.check(CancelledError):
            return
        _log.failure("a step ended in a bug", failure)
        if request is not None:  # a bug must not end the run in silence
            scheduler, text = Address.parse(request.meta.scheduler), "a bug at this worker; its log has the details"
            self._failed(scheduler, request, request.assignment, f"on {self.me.id}: {text}", bare=True)
