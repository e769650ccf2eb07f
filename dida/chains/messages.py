"""The verbs between the scheduler, its workers and the debug port; those of clients are in `dida.wire.runs`."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

import attrs
import msgspec
from attrs import field, frozen

from dida import errors
from dida.chains.records import Assignment, Meta, Position
from dida.wire import messages
from dida.wire.messages import Counter, Error, Name, Request, SchedulerAt, Seconds, Timestamp
from dida.wire.runs import Cancel, ClientId, ListRuns, ListWorkers, Result, Run

HOP_TIMEOUT = 5.0
"""Seconds for a worker to acknowledge a request."""
TRANSIENT = (errors.UNAVAILABLE, errors.TIMED_OUT, errors.UNKNOWN_VERB)
"""Refusals that another worker, or the same one later, may not repeat."""

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
    """Seconds that the run still has; nothing is executed past them."""
    limit: Seconds = 0.0
    """Seconds that the run was given, for a scheduler that adopts it; 0: not known."""
    since: Timestamp = field(factory=dict)
    """What the client had seen before the run."""
    round: Round = 0
    """How often the run went back to a step because updates were lost."""
    again: bool = False
    """Whether this step, or one after it, may have been executed before, here or elsewhere."""
    apart: bool = False
    """Whether this step may be what a worker has died of: a plain operator is executed in a process of its own."""
    life: LifeName = ""
    """The life of the scheduler that has started the run; empty: what the run's id ends in."""
    id: ClientId = ""
    """The id that the client gave the run, if it gave one."""
    application: ClientId = ""
    """The name of the application, if the client told it."""

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
        """What the operator before returned; the empty string for the first."""
        return self.chain[self.next - 1].output if self.next else ""

    def later(self, seconds: float) -> Execute:
        """The request when so many seconds have passed."""
        return attrs.evolve(self, left=max(0.0, self.left - seconds))

    def began_in(self, life: str) -> bool:
        """Whether that life of a scheduler has started the run."""
        return life == (self.life or self.meta.run.rpartition("-")[2])

    def with_step(self, **changes: Any) -> Execute:
        """The request with changes to its next step."""
        changed = attrs.evolve(self.assignment, **changes)
        return attrs.evolve(self, chain=(*self.chain[: self.next], changed, *self.chain[self.next + 1 :]))


# --- scheduler, from whoever starts nodes -------------------------------------------------------


@frozen
class AddWorker(Request):
    usage: ClassVar[str] = "worker ID URL"
    about: ClassVar[str] = "there is a worker (again, or at another URL)"
    id: Name
    url: str


@frozen
class Register(Request):
    """Said again on each connection, and every few seconds."""

    usage: ClassVar[str] = "register ID URL"
    about: ClassVar[str] = "from a worker: it is there, and wants operators"
    between_nodes: ClassVar[bool] = True
    id: Name
    url: str


@frozen
class AddStorage(Request):
    usage: ClassVar[str] = "storage REPLICA ID URL"
    about: ClassVar[str] = "there is a storage node (again, or at another URL)"
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
    """The whole outcome, with which the chain can go on from here elsewhere."""
    choose: bool = False
    """Whether the next step may be given to another worker than was planned: its sender waits for the answer."""
    printed: str = ""
    """What the operator has printed: not more than 64 KiB and a count."""


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


@frozen(kw_only=True)
class Reassign(Request):
    """The worker of a step can't be reached, or refuses: another one is wanted."""

    usage: ClassVar[str] = "reassign"
    about: ClassVar[str] = "from a worker: ok WORKER {host, port} for {run, position, round, avoid}"
    between_nodes: ClassVar[bool] = True
    run: Name
    position: Position
    round: Round = 0
    avoid: tuple[Name, ...] = ()


@frozen(kw_only=True)
class Ended(Request):
    """The last operator was executed; `chain` has all outputs."""

    usage: ClassVar[str] = "ended"
    about: ClassVar[str] = "from the last worker: {run, chain, after, ago, printed}"
    between_nodes: ClassVar[bool] = True
    run: Name
    chain: tuple[Assignment, ...]
    after: Timestamp = field(factory=dict)
    ago: Seconds = 0.0
    """How many seconds ago: it may be told much later, to another scheduler."""
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
    """What the run depended on from its beginning, and is gone: without it the run might be started again."""
    round: Round = 0
    attempt: Counter = 0
    """Which execution of the step it was; 0: whichever."""
    ago: Seconds = 0.0
    """How many seconds ago: it may be told much later, to another scheduler."""
    printed: str = ""
    """What the operator that failed has printed."""


@frozen
class Leaving(Request):
    """That worker ends what it has in hand, and then itself."""

    usage: ClassVar[str] = "leaving WORKER"
    about: ClassVar[str] = "from a worker that is drained: no more operators for it"
    between_nodes: ClassVar[bool] = True
    worker: Name


@frozen(kw_only=True)
class Adopt(Request):
    """A run that a scheduler before this one has started."""

    usage: ClassVar[str] = "adopt"
    about: ClassVar[str] = "from a worker: the request of a run that the scheduler does not know; {ago}"
    between_nodes: ClassVar[bool] = True
    request: Execute
    ago: Seconds = 0.0
    """How many seconds ago the run had got so far, and had as long left as the request says."""


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
    about: ClassVar[str] = "give up what is in hand of that run, and begin nothing more of it"
    between_nodes: ClassVar[bool] = True
    run: Name


@frozen
class Drain(Request):
    usage: ClassVar[str] = "drain"
    about: ClassVar[str] = "finish what is in hand, take nothing more, then end; {within: seconds}"
    within: Seconds = field(default=120.0, kw_only=True)
    """What is not finished by then is left to other workers."""


@frozen
class ReportTo(Request):
    usage: ClassVar[str] = "report URL"
    between_nodes: ClassVar[bool] = True
    about: ClassVar[str] = (
        "from a scheduler that is there (again): it wants to know of its runs; {life: their ids' end}"
    )
    url: str
    life: str = field(default="", kw_only=True)
    """What the ids of runs end in that it has started itself since it was started."""


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
    """What a worker in debug mode reports of a step."""

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
    """Why a worker has not taken a request, in words."""
    said = f"{reply.code}: {' '.join(reply.words)}"
    return f"is no worker: {said}" if reply.code == errors.UNKNOWN_VERB else said
