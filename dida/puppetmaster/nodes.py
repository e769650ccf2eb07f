"""The nodes that the puppetmaster's commands name, and what is known of each."""

from __future__ import annotations

from collections.abc import Iterator

from attrs import define, field
from twisted.internet.defer import Deferred, succeed

from dida.addresses import Address
from dida.console.commands import NodeCommand, StorageCommand
from dida.errors import UserError
from dida.pcs.client import Pcs
from dida.protocols.links import Unreachable
from dida.puppetmaster.refusals import clash, gone, missing, unknown

PLANNED, STARTING, READY, FAILED, ENDED = "planned", "starting", "ready", "failed", "ended"


class Event:
    """Something that happens once; any number of callers may wait for it."""

    def __init__(self) -> None:
        self.happened = False
        self._waiting: list[Deferred[None]] = []

    def happen(self) -> None:
        """Fire; a second call has no effect."""
        self.happened = True
        waiting, self._waiting = self._waiting, []
        for deferred in waiting:
            deferred.callback(None)

    def wait(self) -> Deferred[None]:
        """Return a Deferred that fires when the event happens, at once if it has."""
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
    """The storage node's number; 0 for other roles."""
    state: str = PLANNED
    problem: str = ""
    """Why it failed, or how it ended."""
    pid: int = 0
    paused: bool = False
    taken_up: bool = False
    """Whether it ran before the puppetmaster, and goes on after it."""
    owner: str | None = None
    """Owner to start it again with; None: this puppetmaster."""
    reports_to: str = ""
    """Address to which a worker reports its outputs."""
    pcs: Pcs | None = None
    pcs_sought: Deferred[Pcs] | None = None
    looked: Event = field(factory=Event)
    """Happens when it is known whether another node listens at the address."""
    taken: str = ""
    """That other node, and what to do."""
    answered: Event = field(factory=Event)
    """Happens when it is ready, or has failed."""
    settled: Event = field(factory=Event)
    """Happens when it is ready and the nodes that need to know it do, or when it has failed."""

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
        """Whether it runs, or is to run."""
        return self.state in (PLANNED, STARTING, READY)

    def become(self, state: str, problem: str = "") -> None:
        """Change the state; fires `answered`."""
        self.state = state
        self.problem = problem
        self.answered.happen()


class Nodes:
    """All nodes that commands have named, in that order."""

    def __init__(self) -> None:
        self._nodes: dict[str, Node] = {}
        self._replicas = 0

    def __getitem__(self, id: str) -> Node:
        return self._nodes[id]

    def __iter__(self) -> Iterator[Node]:
        return iter(list(self._nodes.values()))

    def get(self, id: str) -> Node | None:
        """Return the node with that id, in any state."""
        return self._nodes.get(id)

    def add(self, command: NodeCommand) -> Node:
        """Add a planned node, in place of an earlier one with its id, whose replica number it takes over."""
        before = self._nodes.pop(command.id, None)
        node = self._nodes[command.id] = Node(command)
        if isinstance(command, StorageCommand):
            if before is None or not before.replica:
                self._replicas += 1
            node.replica = before.replica if before is not None and before.replica else self._replicas
        if before is not None:
            node.taken_up, node.owner = before.taken_up, before.owner
        return node

    def take_up(self, node: Node) -> None:
        """Add a node that runs already."""
        self._nodes[node.id] = node
        self._replicas = max(self._replicas, node.replica)

    def clash(self, command: NodeCommand) -> str | None:
        """Return why that node cannot be started; None if it can."""
        return clash(command, [node.command for node in self if node.there])

    def knows(self, command: NodeCommand) -> bool:
        """Return True if another command has named a node of that id."""
        node = self.get(command.id)
        return node is not None and node.command is not command

    def named(self, role: str | None = None) -> list[Node]:
        """Return the nodes, except those that are only planned."""
        return [node for node in self if node.state != PLANNED and role in (None, node.role)]

    def ready(self, role: str) -> list[Node]:
        """Return the ready nodes of a role; UserError when there is none."""
        nodes = [node for node in self.named(role) if node.state == READY]
        if not nodes:
            failed = [f"{n.id} {_short(n.problem).removeprefix(f'{n.id} ')}" for n in self.named(role) if n.problem]
            raise missing(role, failed[-1] if failed else "")
        return nodes

    def reachable(self, role: str) -> list[Node]:
        """Return the ready nodes of a role whose PCS answers; UserError when there is none."""
        nodes = [node for node in self.ready(role) if node.pcs is None or node.pcs.answers]
        if not nodes:
            raise missing(role, "the PCS that could tell does not answer")
        return nodes

    def running(self, id: str) -> Node:
        """Return the node with that id; UserError when it does not run."""
        node = self.get(id)
        if node is None or node.state == PLANNED:
            raise unknown(id, [node.id for node in self.named() if node.there])
        if not node.there:
            raise gone(id, _short(node.problem))
        return node

    def scheduler_address(self) -> Address:
        """Return the address of the scheduler that is ready; Unreachable when there is none."""
        try:
            return self.ready("scheduler")[0].address
        except UserError as problem:
            raise Unreachable(str(problem)) from None

    @property
    def scheduler(self) -> Node | None:
        """The scheduler that runs, or is to run."""
        return next((node for node in self if node.role == "scheduler" and node.there), None)


def _short(problem: str) -> str:
    """Return the first part of a problem that was shown in full before."""
    return problem.partition(": ")[0]
