"""The nodes that the puppetmaster's commands name, and what is known of each. Kept by `dida.puppetmaster.system`."""

from __future__ import annotations

from attrs import define, field
from twisted.internet.defer import Deferred, succeed

from dida.addresses import Address
from dida.console.script import NodeCommand
from dida.pcs.client import Pcs

PLANNED, STARTING, READY, FAILED, ENDED = "planned", "starting", "ready", "failed", "ended"


class Event:
    """Something that happens once, and that many may wait for."""

    def __init__(self) -> None:
        self.happened = False
        self._waiting: list[Deferred[None]] = []

    def happen(self) -> None:
        """Now. Again changes nothing."""
        self.happened = True
        waiting, self._waiting = self._waiting, []
        for deferred in waiting:
            deferred.callback(None)

    def wait(self) -> Deferred[None]:
        """Fires when it happens, or at once when it has."""
        if self.happened:
            return succeed(None)
        deferred: Deferred[None] = Deferred(self._waiting.remove)
        self._waiting.append(deferred)
        return deferred


@define(eq=False)
class Node:
    """A node that a command names."""

    command: NodeCommand
    replica: int = 0
    """A storage node's number; 0 for others."""
    state: str = PLANNED
    problem: str = ""
    """Why it failed, or how it ended."""
    pid: int = 0
    paused: bool = False
    taken_up: bool = False
    """Whether it was there before, and goes on when the puppetmaster ends."""
    owner: str | None = None
    """With whom it ends when it is started again; None: with this puppetmaster."""
    reports_to: str = ""
    """Where a worker was told to report its outputs."""
    pcs: Pcs | None = None
    pcs_sought: Deferred[Pcs] | None = None
    looked: Event = field(factory=Event)
    """It is known whether somebody else listens at its address."""
    taken: str = ""
    """Who does."""
    answered: Event = field(factory=Event)
    settled: Event = field(factory=Event)

    @property
    def id(self) -> str:
        return self.command.id

    @property
    def role(self) -> str:
        return self.command.role

    @property
    def address(self) -> Address:
        return self.command.address

    @property
    def there(self) -> bool:
        """Whether it runs, or is to."""
        return self.state in (PLANNED, STARTING, READY)

    def become(self, state: str, problem: str = "") -> None:
        """It is known what became of it."""
        self.state = state
        self.problem = problem
        self.answered.happen()
