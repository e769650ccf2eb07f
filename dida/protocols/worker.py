"""The worker on the line protocol: executes one operator of a chain and sends the request on.

`execute` is acknowledged at once. Then the operator is executed, its output goes into the request, its
completion to the scheduler (`completed`), and, after the worker's gossip delay, the request to the
worker of the next operator. The last worker tells the outcome (`ended`). Whatever goes wrong on the
way ends in `failed` at the scheduler, which is told until it has understood.
"""

from __future__ import annotations

from collections.abc import Coroutine, Mapping
from typing import Any

import attrs
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from dida import wire
from dida.addresses import Address, NodeAddress
from dida.chain import Assignment
from dida.chain_messages import WORKER, Completed, Ended, Execute, Failed, ListOperators, Output, WorkerDebug
from dida.errors import BadRequest, DidaError, Unavailable, UserError
from dida.messages import NODE, Error, Ok, Request, Status, vocabulary
from dida.protocols.execution import Operators, StepFailed
from dida.protocols.frontend import FrontEnd
from dida.protocols.lines import Answer, NodeCommands, ok
from dida.protocols.peers import Peers

MAX_STEPS = 10_000
"""Steps that a worker has at once, those that wait for a thread included."""
MAX_REPORTS = 20_000
"""Reports to schedulers that are under way at once."""
MAX_DEBUG = 100
"""Debug reports that are under way at once; what comes beyond is dropped and counted."""
HOP_TIMEOUT = 5.0
"""Seconds for a worker to acknowledge a request."""
REPORT_SECONDS = 120.0
"""How long a scheduler that does not answer is told again."""

_log = Logger()


class WorkerNode(NodeCommands):
    """A worker. `gossip_delay` is in seconds."""

    vocabulary: Mapping[str, type[Request]] = vocabulary(*NODE, *WORKER)

    def __init__(
        self,
        reactor: Any,
        me: NodeAddress,
        operators: Operators,
        gossip_delay: float = 0.0,
        max_line: int = wire.MAX_LINE,
        debug: bool = False,
    ) -> None:
        self.me = me
        self.operators = operators
        self.gossip_delay = gossip_delay
        self.max_line = max_line
        self.debug = debug
        self.front_end = FrontEnd(reactor, max_line=max_line)
        self.counts = {"executed": 0, "failed": 0, "undelivered": 0, "debug_dropped": 0}
        self._debug_to: Address | None = None
        self._debug_reports = 0
        self._reactor = reactor
        self._peers = Peers(reactor)
        self._stopped = False
        self._steps = 0
        self._reports = 0
        self._tasks: set[Deferred[None]] = set()

    def start(self) -> None:
        """Begin to watch who of the storage lives."""
        self.front_end.start()

    def stop(self) -> None:
        """Give up everything that is going on."""
        self._stopped = True
        for task in list(self._tasks):
            task.cancel()
        self.front_end.stop()
        self.operators.stop()
        self._peers.stop()

    # --- verbs ----------------------------------------------------------------------------------

    def cmd_execute(self, request: Execute) -> Answer:
        if self._steps >= MAX_STEPS:
            raise Unavailable(f"{self.me.id} has {MAX_STEPS} operators to execute already")
        try:
            scheduler = Address.parse(request.meta.scheduler)
            self.front_end.learn(request.meta.view, request.meta.storage)
        except UserError as problem:
            raise BadRequest(f"meta: {problem}") from None
        self._steps += 1
        self._spawn(self._step(request, scheduler))
        return Ok()

    def cmd_operators(self, request: ListOperators) -> Answer:
        return Deferred.fromCoroutine(self._list())

    async def _list(self) -> Ok:
        return ok(operators=await self.operators.names())

    def cmd_debug(self, request: WorkerDebug) -> Answer:
        try:
            self._debug_to = Address.parse(request.to) if request.to and request.switch == "on" else None
        except UserError as problem:
            raise BadRequest(str(problem)) from None
        self.debug = request.switch == "on"
        return Ok()

    def cmd_status(self, request: Status) -> Answer:
        replicas = self.front_end.replicas
        return ok(
            id=self.me.id,
            role="worker",
            url=str(self.me.address),
            ready=True,
            alive=[each.id for each in replicas.living],
            dead=list(replicas.dead),
            active=self._steps,
            waiting=self.operators.threads.waiting,
            stuck_threads=self.operators.threads.stuck,
            gossip_delay=round(self.gossip_delay * 1000),
            debug=self.debug,
            **self.counts,
        )

    # --- one step -------------------------------------------------------------------------------

    async def _step(self, request: Execute, scheduler: Address) -> None:
        arrived = self._reactor.seconds()
        try:
            output = await self.operators.execute(request, self.front_end, request.left)
        except StepFailed as problem:
            if self._stopped:
                return
            self._failed(scheduler, request, request.assignment, f"on {self.me.id} {problem}", ())
            return
        except CancelledError:
            raise
        except Exception:  # noqa: BLE001 - a bug of this worker must not be a silent end of the run
            _log.failure("executing an operator ended in a bug")
            self._failed(scheduler, request, request.assignment, f"on {self.me.id}: a bug, see the worker's log", ())
            return
        finally:
            self._steps -= 1
        took = self._reactor.seconds() - arrived
        chain = request.executed(output, round(took * 1000, 3))
        self.counts["executed"] += 1
        if self.debug:
            self._show(request, output)
        if request.next + 1 == request.size:
            self._conclude(scheduler, request, chain)
            return
        step = chain[request.next]
        self._report(
            scheduler,
            Completed(
                run=request.meta.run, position=step.position, operator=step.operator, worker=step.worker, ms=step.ms
            ),
        )
        if self.gossip_delay:
            await deferLater(self._reactor, self.gossip_delay)
        left = max(0.0, request.left - (self._reactor.seconds() - arrived))
        await self._forward(scheduler, attrs.evolve(request, chain=chain, next=request.next + 1, left=left))

    async def _forward(self, scheduler: Address, request: Execute) -> None:
        """Send the request to the worker of its next operator, which must acknowledge it."""
        to = request.assignment
        why = self._too_long(request, request.chain)
        if not why:
            try:
                reply = await self._peers.ask(to.host, to.port, request, HOP_TIMEOUT)
            except DidaError as problem:
                why = " ".join(problem.words)
            else:
                if isinstance(reply, Ok):
                    return
                why = str(DidaError(reply.code, *reply.words)) if isinstance(reply, Error) else "refused"
        text = f"did not get the request that {self.me.id} handed on to {to.worker}: {why}"
        self._failed(scheduler, request, to, text, request.chain[: request.next])

    def _conclude(self, scheduler: Address, request: Execute, chain: tuple[Assignment, ...]) -> None:
        """Report the end of the run."""
        ended = Ended(run=request.meta.run, chain=chain, after=request.meta.after)
        why = self._too_long(ended, chain)
        if why:
            self._failed(scheduler, request, request.assignment, f"on {self.me.id}: {why}", ())
        else:
            self._report(scheduler, ended)

    def _too_long(self, request: Request, chain: tuple[Assignment, ...]) -> str:
        """Why the request does not fit on a line; empty when it does."""
        if sum(len(each.output) for each in chain) * 8 < self.max_line:
            return ""
        size = len(wire.encode(request)) + 32
        if size <= self.max_line:
            return ""
        return f"{size} bytes, longer than a line may be ({self.max_line}): return less, or raise --max-line"

    # --- telling --------------------------------------------------------------------------------

    def _failed(
        self, scheduler: Address, request: Execute, at: Assignment, why: str, chain: tuple[Assignment, ...]
    ) -> None:
        self.counts["failed"] += 1
        reason = f"{at.operator} at position {at.position} {why}"
        failed = Failed(
            run=request.meta.run,
            position=at.position,
            operator=at.operator,
            worker=at.worker,
            reason=reason[:4000],
            chain=chain or request.chain[: request.next],
            after=request.meta.after,
        )
        if self._too_long(failed, failed.chain):
            failed = attrs.evolve(failed, chain=())
        _log.warn("run {run}: {reason}", run=failed.run, reason=reason)
        self._report(scheduler, failed)

    def _report(self, scheduler: Address, report: Request) -> None:
        if self._reports >= MAX_REPORTS:
            self.counts["undelivered"] += 1
            return
        self._reports += 1
        self._spawn(self._deliver(scheduler, report))

    async def _deliver(self, scheduler: Address, report: Request) -> None:
        """Tell the scheduler until it answers."""
        until = self._reactor.seconds() + REPORT_SECONDS
        pause = 0.05
        try:
            while True:
                try:
                    reply = await self._peers.ask(scheduler.host, scheduler.port, report, HOP_TIMEOUT)
                except DidaError as problem:
                    if self._reactor.seconds() + pause > until:
                        self.counts["undelivered"] += 1
                        _log.warn(
                            "{scheduler} can't be told {report}: {why}", scheduler=scheduler, report=report, why=problem
                        )
                        return
                    await deferLater(self._reactor, pause)
                    pause = min(2 * pause, 2.0)
                    continue
                if isinstance(reply, Error):
                    self.counts["undelivered"] += 1
                    _log.warn("{scheduler} refused {report}: {why}", scheduler=scheduler, report=report, why=reply)
                return
        finally:
            self._reports -= 1

    def _show(self, request: Execute, output: str) -> None:
        """Report the step to whoever collects debug output; nobody waits for it."""
        step = request.assignment
        _log.info(
            "run {run}: {operator} at position {position} returned {output!r}",
            run=request.meta.run,
            operator=step.operator,
            position=step.position,
            output=output,
        )
        if self._debug_to is None:
            return
        if self._debug_reports >= MAX_DEBUG:
            self.counts["debug_dropped"] += 1
            return
        self._debug_reports += 1
        told = Output(
            run=request.meta.run,
            position=step.position,
            operator=step.operator,
            worker=self.me.id,
            output=output,
            meta=request.meta,
        )
        answer = self._peers.ask(self._debug_to.host, self._debug_to.port, told, HOP_TIMEOUT)
        answer.addBoth(self._shown)

    def _shown(self, result: object) -> None:
        self._debug_reports -= 1
        if isinstance(result, Failure):
            self.counts["debug_dropped"] += 1

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Own the work until it has ended."""
        task = Deferred.fromCoroutine(work)
        if not task.called:
            self._tasks.add(task)
            task.addBoth(self._ended, task)
        task.addErrback(_ended_badly)

    def _ended(self, result: Any, task: Deferred[None]) -> Any:
        self._tasks.discard(task)
        return result


def _ended_badly(failure: Failure) -> None:
    if not failure.check(CancelledError):
        _log.failure("a step ended in a bug", failure)
