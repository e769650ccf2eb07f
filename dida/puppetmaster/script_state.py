"""The nodes that a script has left running at one of its lines, as far as the lines before it tell."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from attrs import define, field

from dida.console.commands import NodeCommand
from dida.errors import UserError
from dida.puppetmaster.refusals import clash, gone, missing, no_operator, no_pcs, same, unknown


@define
class ScriptState:
    """The nodes after the commands so far."""

    folders: Sequence[str]
    machines: Collection[str]
    operators: Collection[str] | None = None
    """The workers' operators; None: unknown."""
    there: dict[str, NodeCommand] = field(factory=dict)
    gone: dict[str, str] = field(factory=dict)
    """Nodes that have ended, and how."""
    ran: dict[str, NodeCommand] = field(factory=dict)
    """Nodes that ran before the script and still do: a script may name them again."""
    clients: int = 0

    def start(self, command: NodeCommand) -> None:
        """Start a node; UserError if it cannot be in this system."""
        if any(same(command, other) for other in self.ran.values()):
            return
        problem = clash(command, self.there.values())
        if problem is not None:
            raise UserError(problem)
        if command.address.machine not in self.machines:
            raise no_pcs(command.address.host)
        self.gone.pop(command.id, None)
        self.there[command.id] = command

    def end(self, id: str, how: str) -> None:
        """End a node."""
        self.node(id)
        del self.there[id]
        self.ran.pop(id, None)
        self.gone[id] = how

    def node(self, id: str) -> NodeCommand:
        """Return a running node; UserError if there is none with that id."""
        if id in self.gone:
            raise gone(id, self.gone[id])
        if id not in self.there:
            raise unknown(id, list(self.there))
        return self.there[id]

    def need(self, *roles: str) -> None:
        """Require a node of each role."""
        for role in roles:
            if not any(node.role == role for node in self.there.values()):
                raise missing(role)

    def need_to_run(self, operators: Collection[str]) -> None:
        """Require what a run of these operators needs."""
        if self.operators is not None:
            for name in operators:
                if name not in self.operators:
                    raise no_operator(name, self.operators)
        self.need("storage", "worker", "scheduler")
