"""One run, as the scheduler keeps it, and what it tells of it. The table of all runs is `dida.chains.runs`."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import attrs
from attrs import define, field

from dida.chains.records import Assignment, Step
from dida.timestamps import Timestamp
from dida.wire.runs import DONE, FAILED, GOING_ON

SLACK = 0.2
"""Seconds that a worker's word may be on its way."""
DOUBT = 5.0
"""Seconds for which what a worker has said before it was lost may come late."""
GRACE = 1.0
"""Seconds after a worker was lost until its steps are executed by others."""
MAX_SHOWN = 80
"""Characters of an input, or an operator's name, in the list of all runs."""
MAX_OPERATORS_SHOWN = 10
"""Operators of a chain there."""
MAX_REASON = 500
"""Characters of why a run has failed, there."""

_STEP = tuple(each.name for each in attrs.fields(Step))


@define(eq=False)
class RunRecord:
    """One run."""

    id: str
    input: str
    chain: list[Assignment]
    started: float
    """When it began, on the clock of `now`."""
    ends: float
    """Its deadline."""
    since: Timestamp
    """What the client had seen."""
    after: Timestamp
    gone: Timestamp = field(factory=dict)
    """What of `since` was lost with a storage node, which the run has failed of."""
    state: str = GOING_ON
    ms: float = 0.0
    reason: str = ""
    failed_at: int | None = None
    round: int = 0
    """How often it went back because updates were lost."""
    confirmed: dict[int, int] = field(factory=dict)
    """Position to round, of what is known to be executed."""
    lost: dict[int, int] = field(factory=dict)
    """Position to how often a worker was lost with the step."""
    client_id: str = ""
    """The id that its client gave it."""
    application: str = ""
    """What its client called the application."""
    start: float = 0.0
    """When it began, in seconds since 1970 on the scheduler's clock: for people."""
    life: str = ""
    """The life of the scheduler that has started it."""
    adopted: bool = False
    """Whether another life of the scheduler has started it."""
    apart: int | None = None
    """The position that may be what a worker has died of."""
    again: bool = False
    """Whether steps may have been executed more than once."""
    progress: float = 0.0
    """When the current step became the current one, as far as is known here."""
    resent: float = 0.0
    """When the worker that had to hand on the current step was lost, and the scheduler has sent it instead."""
    unsent: str = ""
    """Why no worker has taken the current step so far, when the scheduler is to send it."""
    why: dict[int, str] = field(factory=dict)
    """Position to why that worker."""
    printed: dict[int, str] = field(factory=dict)
    """Position to what its operator has printed."""
    turn: str = ""
    """The worker at which the policy counts the current step as being executed."""
    steps: list[Step] = field(factory=list)

    @property
    def bytes(self) -> int:
        """About how much memory its outcome takes."""
        told = sum(len(step.output) + len(step.why) + 300 + 300 * len(step.records) for step in self.steps)
        named = len(self.client_id) + len(self.application)
        said = sum(map(len, self.printed.values()))
        return len(self.input) + len(self.reason) + named + said + 1000 + 600 * len(self.chain) + told

    def is_of(self, input: str, operators: Sequence[str], application: str) -> bool:
        """Whether that is what the run was started for."""
        same = (self.input, self.application, len(self.chain)) == (input, application, len(operators))
        return same and all(step.operator == name for step, name in zip(self.chain, operators, strict=True))

    @property
    def updated(self) -> bool:
        """Whether it may have updated a record: of a run that failed not all is known."""
        return self.state != DONE or any(touch.how != "read" for step in self.steps for touch in step.records)

    @property
    def output(self) -> str:
        """What the last operator returned."""
        return self.steps[-1].output if self.steps else ""

    @property
    def current(self) -> Assignment | None:
        """The first step that is not confirmed."""
        return next((each for each in self.chain if each.position not in self.confirmed), None)

    def is_lost(self, lost_at: Mapping[str, float], there: Collection[str], now: float) -> bool:
        """Whether the current step's worker was lost with it: at a time of `lost_at`, or it is not `there`."""
        step = self.current
        if step is None or self.unsent:
            return False
        when = lost_at.get(step.worker)
        if when is not None and self.progress <= when + SLACK:
            return now >= max(when, self.progress) + GRACE
        return step.worker not in there and now >= self.progress + 2 * GRACE

    def doubtful_since(self, lost_at: Mapping[str, float]) -> float | None:
        """When a worker was lost after which nobody may have the current step: its own, or the one before it."""
        step = self.current
        if step is None or self.unsent:
            return None
        near = self.chain[max(0, step.position - 1) : step.position + 1]
        when = max((lost_at[each.worker] for each in near if each.worker in lost_at), default=self.resent)
        return when if when > self.resent and when >= self.progress - DOUBT else None


def _told(step: Step) -> dict[str, object]:
    """A step as it goes into a reply. (`attrs.asdict` asks of each value what it is, several times as slow.)"""
    members = {name: getattr(step, name) for name in _STEP}
    if not step.printed:
        del members["printed"]
    members["records"] = [{"how": each.how, "key": each.key, "version": str(each.version)} for each in step.records]
    return members


def _named(run: RunRecord) -> dict[str, object]:
    """What its client has called it."""
    names = {"id": run.client_id, "application": run.application}
    return {member: name for member, name in names.items() if name}


def summary(run: RunRecord) -> dict[str, object]:
    """A run as `runs` lists it: in short, however long its input and chain are."""
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
    """The object of a `result` reply."""
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
    """At most so many characters of it."""
    return text if len(text) <= most else text[: most - 1] + "…"
