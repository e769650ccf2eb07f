"""One run, as the scheduler keeps it, and what it shows of it. The table of all runs is `dida.chains.runs`."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

import attrs
from attrs import define, field

from dida.chains.messages import Completed, Execute
from dida.chains.records import Assignment, KnownValue, Step
from dida.timestamps import Timestamp
from dida.wire.messages import FIRST, Epoch
from dida.wire.runs import DONE, FAILED, GOING_ON

SLACK = 0.2
"""Time that a worker's report may be in flight, in seconds."""
DOUBT = 5.0
"""Time for which the reports of a lost worker may come late, in seconds."""
GRACE = 1.0
"""Time after the loss of a worker until its steps are executed by others, in seconds."""
MAX_SHOWN = 80
"""The most characters of an input or an operator's name in the list of all runs."""
MAX_OPERATORS_SHOWN = 10
"""The most operators of a chain there."""
MAX_REASON = 500
"""The most characters of the reason of a failure there."""

_STEP = tuple(each.name for each in attrs.fields(Step))


class Carried(NamedTuple):
    """What a request carries from step to step beside its chain; `Execute` says what each is."""

    number: int = 0
    bytes: int = 0
    kept: tuple[Any, ...] = ()
    known: tuple[KnownValue, ...] = ()

    @classmethod
    def by(cls, message: Execute | Completed) -> Carried:
        """Return what a message carries."""
        return cls(message.number, message.bytes, message.kept, message.known)


@define(eq=False)
class RunRecord:
    """One run."""

    id: str
    input: str
    chain: list[Assignment]
    started: float
    """Its start, on the clock of `now`."""
    ends: float
    """Its deadline."""
    since: Timestamp
    """What the client had seen."""
    after: Timestamp
    gone: Timestamp = field(factory=dict)
    """The part of `since` that was lost with a storage node, and of which the run has failed."""
    state: str = GOING_ON
    ms: float = 0.0
    reason: str = ""
    failed_at: int | None = None
    round: int = 0
    """How often it went back because updates were lost."""
    confirmed: dict[int, int] = field(factory=dict)
    """Position to round, of the steps that are known to be executed."""
    lost: dict[int, int] = field(factory=dict)
    """Position to how often a worker was lost with the step."""
    client_id: str = ""
    """The id that its client gave it."""
    application: str = ""
    """The name that its client gave the application."""
    start: float = 0.0
    """Its start in seconds since 1970 on the scheduler's clock, for people."""
    life: str = ""
    """The incarnation of the scheduler that started it."""
    adopted: bool = False
    """True if another incarnation of the scheduler has started it."""
    apart: int | None = None
    """The position of the step that may have killed a worker."""
    epoch: Epoch = FIRST
    """The newest execution that is known here; only its reports count."""
    sealed: bool = False
    """True if no execution can supersede the newest one that is known here."""
    follows: dict[Epoch, int] = field(factory=dict)
    """The epochs that it continues, each to the position: reports of the steps before may come late."""
    carried: dict[int, Carried] = field(factory=dict)
    """Position to what the request carries on after the step."""
    progress: float = 0.0
    """The time at which the current step became the current one, as far as it is known here."""
    resent: float = 0.0
    """The time at which the worker was lost that had to forward the current step; the scheduler has sent it since."""
    unsent: str = ""
    """The reason why no worker has taken the current step so far, if the scheduler must send it."""
    why: dict[int, str] = field(factory=dict)
    """Position to the reason for the worker."""
    printed: dict[int, str] = field(factory=dict)
    """Position to what its operator has printed."""
    turn: str = ""
    """The worker at which the policy counts the current step as being executed."""
    steps: list[Step] = field(factory=list)

    @property
    def bytes(self) -> int:
        """About the memory that its outcome takes, in bytes."""
        steps = sum(len(step.output) + len(step.why) + 300 + 300 * len(step.records) for step in self.steps)
        named = len(self.client_id) + len(self.application)
        printed = sum(map(len, self.printed.values()))
        return len(self.input) + len(self.reason) + named + printed + 1000 + 600 * len(self.chain) + steps

    def is_of(self, input: str, operators: Sequence[str], application: str) -> bool:
        """Return True if the run was started for that request."""
        same = (self.input, self.application, len(self.chain)) == (input, application, len(operators))
        return same and all(step.operator == name for step, name in zip(self.chain, operators, strict=True))

    @property
    def updated(self) -> bool:
        """True if it may have updated a record: the accesses of a failed run are not all known."""
        return (
            self.state != DONE
            or self.epoch > FIRST
            or any(touch.how != "read" for step in self.steps for touch in step.records)
        )

    @property
    def output(self) -> str:
        """The output of the last operator."""
        return self.steps[-1].output if self.steps else ""

    @property
    def current(self) -> Assignment | None:
        """The first step that is not confirmed."""
        return next((each for each in self.chain if each.position not in self.confirmed), None)

    def is_lost(self, lost_at: Mapping[str, float], there: Collection[str], now: float) -> bool:
        """Return True if the current step's worker was lost with it: at a time of `lost_at`, or it is not `there`."""
        step = self.current
        if step is None or self.unsent:
            return False
        when = lost_at.get(step.worker)
        if when is not None and self.progress <= when + SLACK:
            return now >= max(when, self.progress) + GRACE
        return step.worker not in there and now >= self.progress + 2 * GRACE

    def doubtful_since(self, lost_at: Mapping[str, float]) -> float | None:
        """Return the time of a loss after which nobody may have the current step: of its worker, or of the one
        before it."""
        step = self.current
        if step is None or self.unsent:
            return None
        near = self.chain[max(0, step.position - 1) : step.position + 1]
        when = max((lost_at[each.worker] for each in near if each.worker in lost_at), default=self.resent)
        return when if when > self.resent and when >= self.progress - DOUBT else None


def _told(step: Step) -> dict[str, object]:
    """Return a step as a member of a reply. (`attrs.asdict` inspects each value, which takes several times as long.)"""
    members = {name: getattr(step, name) for name in _STEP}
    if not step.printed:
        del members["printed"]
    members["records"] = [{"how": each.how, "key": each.key, "version": str(each.version)} for each in step.records]
    return members


def _named(run: RunRecord) -> dict[str, object]:
    """The name that its client gave the application."""
    names = {"id": run.client_id, "application": run.application}
    return {member: name for member, name in names.items() if name}


def summary(run: RunRecord) -> dict[str, object]:
    """Return a run as `runs` lists it: short, however long its input and chain are."""
    return {
        "run": run.id,
        "state": run.state,
        "input": _cut(run.input, MAX_SHOWN),
        "operators": [_cut(each.operator, MAX_SHOWN) for each in run.chain[:MAX_OPERATORS_SHOWN]],
        "size": len(run.chain),
        "start": run.start,
        "ms": run.ms,
        **({"reason": _cut(run.reason, MAX_REASON)} if run.state == FAILED else {}),
        **_named(run),
    }


def outcome(run: RunRecord) -> dict[str, object]:
    """Return the object of a `result` reply."""
    members: dict[str, object] = {
        "run": run.id,
        "input": run.input,
        "steps": [_told(step) for step in run.steps],
        "ms": run.ms,
        "after": run.after,
        "rounds": run.round,
        **_named(run),
    }
    if run.gone:
        members["lost"] = run.gone
    if run.failed_at is not None:
        failed = run.chain[run.failed_at]
        members |= {"position": failed.position, "operator": failed.operator, "worker": failed.worker}
        if printed := run.printed.get(run.failed_at):
            members["printed"] = printed
    return members


def _cut(text: str, most: int) -> str:
    """Return at most so many characters of a text."""
    return text if len(text) <= most else text[: most - 1] + "…"
