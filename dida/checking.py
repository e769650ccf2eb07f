"""What is wrong with a command before anything is started: as far as the commands before it tell.

The puppetmaster's `--check` asks `check` of a whole script. A running system (`dida.protocols.system`)
refuses in the same words.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from attrs import define, field

from dida import script
from dida.addresses import HERE
from dida.chain import Application
from dida.errors import UserError
from dida.files import parse_data, parse_inputs, read_file
from dida.script import Line, NodeCommand, Scheduler

CRASHED = "crashed by command"


def clash(command: NodeCommand, there: Iterable[NodeCommand]) -> str | None:
    """Why that node can't be started beside those that are there."""
    for node in there:
        if node.id == command.id:
            return f"{node.id} is there already, a {node.role} at {node.address}: take another id"
        if (node.address.port, node.address.machine) == (command.address.port, command.address.machine):
            return f"{node.address} is the address of {node.id}: take another port"
        if isinstance(command, Scheduler) and isinstance(node, Scheduler):
            return f"there is a scheduler already, {node.id} at {node.address}: one is enough"
    return None


def unknown(id: str, there: Sequence[str]) -> UserError:
    """No command has named such a node."""
    return UserError(f"no node has the id {id}: there are {', '.join(there) or 'none yet'}")


def gone(id: str, how: str) -> UserError:
    """The node was there."""
    return UserError(f"{id} is not there any more: {how}")


def missing(role: str, hint: str = "") -> UserError:
    """No node of that role is there."""
    what = f"{role}{' node' if role == 'storage' else ''}"
    return UserError(f"no {what} is there: {hint or f'a command {role} ID URL … starts one'}")


def no_pcs(host: str) -> UserError:
    """The host of a URL is nobody's whose PCS is known."""
    return UserError(f"no PCS is known for {host}: start twistd dida-pcs there, and name it with --pcs URL")


def no_client(number: int) -> UserError:
    """The run that is expected was not begun by a command before."""
    if number:
        return UserError(f"there are fewer than {number} client commands before it: count them from 1, or write LAST")
    return UserError("no client command stands before it: put it behind the one that is meant")


@define
class _Checked:
    """The nodes as the commands so far leave them."""

    folders: Sequence[str]
    machines: Collection[str]
    there: dict[str, NodeCommand] = field(factory=dict)
    gone: set[str] = field(factory=set)
    clients: int = 0

    def take(self, command: script.Command | None) -> None:
        """The next command; UserError when it can't go well."""
        match command:
            case NodeCommand():
                self._start(command)
            case script.Crash(id):
                self._node(id)
                del self.there[id]
                self.gone.add(id)
            case script.Restart(id):
                if id not in self.gone:
                    self._node(id)
            case script.Pause(id) | script.Resume(id):
                self._node(id)
            case script.Slow(id):
                if self._node(id).role == "scheduler":
                    raise no_delay(id)
            case script.ListServer(id):
                if (role := self._node(id).role) != "storage":
                    raise no_records(id, role)
            case script.Client():
                self.clients += 1
                path, data = read_file(command.file, self.folders)
                Application.parse(data, path)
                self._need("storage", "worker", "scheduler")
            case script.Map(file, inputs):
                path, data = read_file(file, self.folders)
                Application.parse(data, path)
                path, data = read_file(inputs, self.folders)
                parse_inputs(data, path)
                self._need("storage", "worker", "scheduler")
            case script.Populate(file):
                path, data = read_file(file, self.folders)
                parse_data(data, path)
                self._need("storage")
            case script.Expect() | script.ListGlobal():
                self._need("storage")
            case script.ExpectRun(which) if which > self.clients or not self.clients:
                raise no_client(which)
            case script.Show() | script.ListRuns():
                self._need("scheduler")

    def _start(self, command: NodeCommand) -> None:
        problem = clash(command, self.there.values())
        if problem is not None:
            raise UserError(problem)
        if command.address.machine not in self.machines:
            raise no_pcs(command.address.host)
        self.gone.discard(command.id)
        self.there[command.id] = command

    def _node(self, id: str) -> NodeCommand:
        if id in self.gone:
            raise gone(id, CRASHED)
        if id not in self.there:
            raise unknown(id, list(self.there))
        return self.there[id]

    def _need(self, *roles: str) -> None:
        for role in roles:
            if not any(node.role == role for node in self.there.values()):
                raise missing(role)


def no_delay(id: str) -> UserError:
    """The node is a scheduler."""
    return UserError(f"{id} is a scheduler: only storage nodes and workers have a gossip delay")


def no_records(id: str, role: str) -> UserError:
    """The node is no storage node."""
    return UserError(f"{id} is a {role}: only storage nodes have records")


def check(lines: Iterable[Line], folders: Sequence[str], machines: Iterable[str]) -> list[tuple[Line, str]]:
    """The lines that can't go well, and why. `machines`: the hosts that have a PCS, beside this one."""
    checked = _Checked(folders, {HERE, *machines})
    wrong = []
    for line in lines:
        try:
            if line.command is None:
                raise UserError(line.problem)
            checked.take(line.command)
        except UserError as problem:
            wrong.append((line, str(problem)))
    return wrong
