"""The verbs between the scheduler, its workers and the debug port; those of clients are in `dida.wire.runs`."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

import attrs
import msgspec
from attrs import field, frozen
from msgspec.structs import replace

from dida import errors
from dida.chains.records import NO_MARK, Assignment, KnownValue, Mark, Meta, Position
from dida.wire import messages
from dida.wire.messages import FIRST, Counter, Epoch, Error, Name, Request, SchedulerAt, Seconds, Timestamp
from dida.wire.runs import Cancel, ClientId, ListRuns, ListWorkers, Result, Run

HOP_TIMEOUT = 5.0
"""Time-out for a worker to acknowledge a request, in seconds."""
TRANSIENT = (errors.UNAVAILABLE, errors.TIMED_OUT, errors.UNKNOWN_VERB)
"""Errors that another worker, or the same one later, may not repeat."""

Milliseconds = Annotated[float, msgspec.Meta(ge=0)]
Round = Annotated[int, msgspec.Meta(ge=0, le=1000)]
LifeName = Annotated[str, msgspec.Meta(max_length=64)]
Reason = Annotated[str, msgspec.Meta(max_length=4000)]


# --- what travels along a chain -----------------------------------------------------------------


@frozen(kw_only=True)
class Execute(Request):
    """The request that travels from worker to worker; `next` is the position to execute."""

    usage: ClassVar[str] = "execute"
    about: ClassVar[str] = "execute the next operator of {meta, input, next, size, chain, left}"
    between_nodes: ClassVar[bool] = True
    meta: Meta
    input: str
    next: Position
    size: int
    chain: tuple[Assignment, ...]
    left: Seconds
    """Remaining time of the run, in seconds; nothing is executed after it."""
    limit: Seconds = 0.0
    """Whole time of the run, in seconds, for a scheduler that adopts it; 0: unknown."""
    since: Timestamp = field(factory=dict)
    """What the client had seen before the run."""
    round: Round = 0
    """How often the run went back to a step because updates were lost."""
    epoch: Epoch = FIRST
    """The execution; one that may repeat anything has a higher epoch than those before it."""
    ask: bool = False
    """True if the worker must first fence older executions, and ask for the run's journal."""
    number: Counter = 0
    """The highest number in the ids of the run's updates so far."""
    bytes: Counter = 0
    """About the length of the run's journal."""
    kept: tuple[Any, ...] = ()
    """Entries of the journal that some shard lacks, each with the shards that have it (`dida.chains.journal`)."""
    known: tuple[KnownValue, ...] = ()
    """What the run has read or written, as far as it is short: later reads of these versions ask no storage node."""
    apart: bool = False
    """True if this step may have killed a worker: a plain operator is then executed in a separate process."""
    life: LifeName = ""
    """The incarnation of the scheduler that started the run; empty: the end of the run's id names it."""
    id: ClientId = ""
    """The id that the client gave the run; empty: none."""
    application: ClientId = ""
    """The name of the application; empty: none."""

    def __attrs_post_init__(self) -> None:
        if not self.next < self.size == len(self.chain):
            raise ValueError(f"next {self.next} and size {self.size} do not fit a chain of {len(self.chain)}")
        for number, step in enumerate(self.chain):
            if step.position != number:
                raise ValueError(f"step {number} of the chain has position {step.position}: number them 0, 1, 2 …")

    @property
    def assignment(self) -> Assignment:
        """The step to execute."""
        return self.chain[self.next]

    @property
    def previous_output(self) -> str:
        """The output of the previous operator; the empty string for the first one."""
        return self.chain[self.next - 1].output if self.next else ""

    def later(self, seconds: float) -> Execute:
        """Return the request as it is so many seconds later."""
        return attrs.evolve(self, left=max(0.0, self.left - seconds))

    def began_in(self, life: str) -> bool:
        """Return True if that incarnation of a scheduler started the run."""
        return life == (self.life or self.meta.run.rpartition("-")[2])

    def with_step(self, **changes: Any) -> Execute:
        """Return the request with changes to its next step."""
        return attrs.evolve(self, chain=self.chain_with(**changes))

    def chain_with(self, **changes: Any) -> tuple[Assignment, ...]:
        """Return the chain with changes to the next step."""
        changed = replace(self.assignment, **changes)
        return (*self.chain[: self.next], changed, *self.chain[self.next + 1 :])


# --- scheduler, from whoever starts nodes -------------------------------------------------------


@frozen
class AddWorker(Request):
    usage: ClassVar[str] = "worker ID URL"
    about: ClassVar[str] = "add a worker, or change its URL"
    id: Name
    url: str


@frozen
class Register(Request):
    """Sent on each connection, and every few seconds."""

    usage: ClassVar[str] = "register ID URL"
    about: ClassVar[str] = "from a worker: register for operators"
    between_nodes: ClassVar[bool] = True
    id: Name
    url: str


@frozen
class AddStorage(Request):
    usage: ClassVar[str] = "storage REPLICA ID URL"
    about: ClassVar[str] = "add a storage node, or change its URL"
    replica: Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)]
    id: Name
    url: str


# --- scheduler, from workers --------------------------------------------------------------------


@frozen(kw_only=True)
class Completed(Request):
    """An operator was executed, and the request goes on."""

    usage: ClassVar[str] = "completed"
    about: ClassVar[str] = (
        "from a worker: {run, position, operator, worker, ms, and what else a step has, choose, printed}"
    )
    between_nodes: ClassVar[bool] = True
    run: Name
    position: Position
    operator: Name
    worker: Name
    ms: Milliseconds
    round: Round = 0
    step: Assignment | None = None
    """The whole outcome, with which the chain can go on elsewhere."""
    epoch: Epoch = FIRST
    number: Counter = 0
    bytes: Counter = 0
    kept: tuple[Any, ...] = ()
    known: tuple[KnownValue, ...] = ()
    """These four as in the request of the next step."""
    choose: bool = False
    """True if the sender waits for the reply, which may name another worker for the next step than was planned."""
    printed: str = ""
    """What the operator has printed: at most 64 KiB and a count."""
    ago: Seconds = 0.0
    """Age of the report, in seconds."""


@frozen(kw_only=True)
class Returned(Request):
    """Updates were lost, and the run goes back to the step at `position`."""

    usage: ClassVar[str] = "returned"
    about: ClassVar[str] = "from a worker: {run, position, round, reason}"
    between_nodes: ClassVar[bool] = True
    run: Name
    position: Position
    round: Round
    reason: Reason
    epoch: Epoch = FIRST


@frozen(kw_only=True)
class Superseded(Request):
    """An execution of a run was refused by the storage, because another one goes on; it has stopped."""

    usage: ClassVar[str] = "superseded"
    about: ClassVar[str] = "from a worker: {run, position, epoch, by}"
    between_nodes: ClassVar[bool] = True
    run: Name
    position: Position
    epoch: Epoch
    by: Epoch


@frozen(kw_only=True)
class Reassign(Request):
    """Another worker is wanted for a step: its worker refuses or can't be reached."""

    usage: ClassVar[str] = "reassign"
    about: ClassVar[str] = "from a worker: ok WORKER HOST PORT ATTEMPT {epoch} for {run, position, round, avoid, epoch}"
    between_nodes: ClassVar[bool] = True
    run: Name
    position: Position
    round: Round = 0
    avoid: tuple[Name, ...] = ()
    epoch: Epoch = FIRST
    sure: bool = False
    """True if no worker has begun the step in this epoch."""


@frozen(kw_only=True)
class Ended(Request):
    """The last operator was executed; `chain` has all outputs."""

    usage: ClassVar[str] = "ended"
    about: ClassVar[str] = "from the last worker: {run, chain, after, ago, printed}"
    between_nodes: ClassVar[bool] = True
    run: Name
    chain: tuple[Assignment, ...]
    epoch: Epoch = FIRST
    after: Timestamp = field(factory=dict)
    ago: Seconds = 0.0
    """Age of the report in seconds: it may be sent much later, to another scheduler."""
    printed: str = ""
    """What the last operator has printed."""


@frozen(kw_only=True)
class Failed(Request):
    """The run can't go on; `chain` is what was executed before."""

    usage: ClassVar[str] = "failed"
    about: ClassVar[str] = "from a worker: {run, position, operator, worker, reason, chain, after, lost, ago, printed}"
    between_nodes: ClassVar[bool] = True
    run: Name
    position: Position
    operator: Name
    worker: Name
    reason: Reason
    chain: tuple[Assignment, ...] = ()
    after: Timestamp = field(factory=dict)
    lost: Timestamp = field(factory=dict)
    """What the run depended on from its beginning and what is lost: without it the run might be started again."""
    round: Round = 0
    epoch: Epoch = FIRST
    mark: Mark = NO_MARK
    """What the run had done when it failed."""
    attempt: Counter = 0
    """The number of the step's execution; 0: any."""
    ago: Seconds = 0.0
    """Age of the report in seconds: it may be sent much later, to another scheduler."""
    printed: str = ""
    """What the failed operator has printed."""


@frozen
class Leaving(Request):
    """The worker finishes its operators and shuts down."""

    usage: ClassVar[str] = "leaving WORKER"
    about: ClassVar[str] = "from a worker that is drained: no more operators for it"
    between_nodes: ClassVar[bool] = True
    worker: Name


@frozen(kw_only=True)
class Adopt(Request):
    """A run that an earlier scheduler has started."""

    usage: ClassVar[str] = "adopt"
    about: ClassVar[str] = "from a worker: the request of a run that the scheduler does not know; {ago, late}"
    between_nodes: ClassVar[bool] = True
    request: Execute
    ago: Seconds = 0.0
    """Age of the request in seconds; its remaining time counts from then."""
    late: Seconds = 0.0
    """Time since a worker is known to have had the step, in seconds: it may have lost it meanwhile."""


SCHEDULER = (
    Run,
    Result,
    ListRuns,
    Cancel,
    ListWorkers,
    AddWorker,
    Register,
    AddStorage,
    Completed,
    Returned,
    Superseded,
    Reassign,
    Ended,
    Failed,
    Leaving,
    Adopt,
)


# --- worker -------------------------------------------------------------------------------------


@frozen
class CancelStep(Request):
    usage: ClassVar[str] = "cancel RUN"
    about: ClassVar[str] = "cancel the steps of that run, and begin no more of them"
    between_nodes: ClassVar[bool] = True
    run: Name


@frozen
class Drain(Request):
    usage: ClassVar[str] = "drain"
    about: ClassVar[str] = "finish the accepted steps, accept no more, then shut down; {within: seconds}"
    within: Seconds = field(default=120.0, kw_only=True)
    """Time after which unfinished steps are left to other workers, in seconds."""


@frozen
class ReportTo(Request):
    usage: ClassVar[str] = "report URL"
    between_nodes: ClassVar[bool] = True
    about: ClassVar[str] = "from a scheduler that has connected: report its runs; {life: the end of their ids}"
    url: str
    life: str = field(default="", kw_only=True)
    """The end of the ids of the runs that this incarnation of the scheduler has started."""


@frozen
class ListOperators(Request):
    usage: ClassVar[str] = "operators"
    about: ClassVar[str] = "the operators that this worker finds, and their files"


@frozen
class WorkerDebug(messages.Debug):
    about: ClassVar[str] = "debug on, debug off; {to: URL}: also report every output there"
    to: str = field(default="", kw_only=True)


WORKER = (Execute, CancelStep, Drain, ReportTo, ListOperators, WorkerDebug, SchedulerAt)


# --- where debug output is collected ------------------------------------------------------------


@frozen(kw_only=True)
class Output(Request):
    """The report of a step by a worker in debug mode."""

    usage: ClassVar[str] = "output"
    about: ClassVar[str] = "from a worker in debug mode: {run, position, operator, worker, output, meta}"
    between_nodes: ClassVar[bool] = True
    run: Name
    position: Position
    operator: Name
    worker: Name
    output: str
    meta: Meta


def why_not(reply: Error) -> str:
    """Return the reason why a worker did not take a request."""
    text = f"{reply.code}: {' '.join(reply.words)}"
    return f"is not a worker: {text}" if reply.code == errors.UNKNOWN_VERB else text
