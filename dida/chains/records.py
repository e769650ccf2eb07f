"""Applications, and the records that travel along a chain from worker to worker.

An `Application` is read from a file. A run of it is a request: the `Meta` record, the input, and one
`Assignment` per operator, which worker executes it and, once it did, what came out. The line that
carries a request is `dida.chains.messages.Execute`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated

import msgspec
from attrs import define, field, frozen

from dida.interfaces import MAX_OPERATORS, Access
from dida.versions import Version
from dida.wire.messages import Counter, Name, Timestamp

MAX_OUTPUT = 512 * 1024
"""Bytes that the output of one operator may have, as UTF-8."""
SHORT = 6
"""Characters behind the hyphen of a run's id that people are shown."""

Position = Annotated[int, msgspec.Meta(ge=0, lt=MAX_OPERATORS)]
Port = Annotated[int, msgspec.Meta(ge=1, le=65535)]


@define
class Meta:
    """What a run knows on its way: who it is, where the nodes are, and what it has seen of the storage."""

    run: Name
    scheduler: str
    """`host:port`"""
    storage: tuple[str, ...] = ()
    """The live storage nodes, each as `R=ID@host:port`."""
    view: Counter = 0
    """The number of the storage's view that `storage` was taken from; 0 when none was known."""
    versions: dict[str, Version] = field(factory=dict)
    """Of every record that the run has read or written, the version; later reads give that one."""
    after: Timestamp = field(factory=dict)
    """The run's front-end timestamp."""

    def of_step(self, position: int) -> StepMeta:
        """For an operator, which may do to it what it likes."""
        mine = dict(self.versions), dict(self.after)
        return StepMeta(self.run, self.scheduler, self.storage, self.view, *mine, position)


@define
class StepMeta(Meta):
    """The meta record as an operator gets it."""

    position: int = 0
    """The operator's place in the chain, from 0."""


@frozen
class Assignment:
    """One operator of a chain and the worker that executes it; then also what came of it."""

    operator: Name
    position: Position
    worker: Name
    host: Name
    port: Port
    output: str = ""
    ms: float = 0.0
    attempt: Counter = 1
    """Which execution of the step this is; more than one were needed when workers died, or it was retried."""
    start: float = 0.0
    """When it was begun, in seconds since 1970 on the worker's clock."""
    records: tuple[Access, ...] = ()
    """What it has read and written, in that order. Before an execution: what an earlier one has."""
    after: Timestamp = field(factory=dict)
    """The run's front-end timestamp when it had ended."""


@frozen
class Step:
    """One executed operator, as the result of a run tells it."""

    operator: str
    worker: str
    output: str
    ms: float
    start: float = 0.0
    attempt: int = 1
    why: str = ""
    """Why that worker: what the scheduler counted at each."""
    records: tuple[Access, ...] = ()
    printed: str = ""


def steps(
    chain: Iterable[Assignment], why: Mapping[int, str] | None = None, printed: Mapping[int, str] | None = None
) -> list[Step]:
    """The executed part of a chain as steps; `why` and what was `printed` are by position."""
    told, said = why or {}, printed or {}
    return [
        Step(
            a.operator,
            a.worker,
            a.output,
            a.ms,
            a.start,
            a.attempt,
            told.get(a.position, ""),
            a.records,
            said.get(a.position, ""),
        )
        for a in chain
    ]


def short_id(run: str) -> str:
    """A run's id as people are shown it, by which the scheduler knows it, too."""
    head, hyphen, rest = run.partition("-")
    return head + hyphen + rest[:SHORT]
