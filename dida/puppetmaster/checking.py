"""What is wrong with a command before anything is started: as far as the commands before it tell.

The puppetmaster's `--check` asks `check` of a whole script. A running system (`dida.puppetmaster.system`)
refuses in the same words.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from difflib import get_close_matches

from attrs import define, field

from dida.addresses import HERE
from dida.console import script
from dida.console.application import Application
from dida.console.data_files import parse_data, parse_inputs
from dida.console.script import Line, NodeCommand, SchedulerCommand
from dida.errors import UserError, shown
from dida.puppetmaster.files import read_file

CRASHED = "crashed by command"
STOPPED = "stopped by command"


def clash(command: NodeCommand, there: Iterable[NodeCommand]) -> str | None:
    """Why that node can't be started beside those that are there."""
    for node in there:
        if node.id == command.id:
            return f"{node.id} is there already, a {node.role} at {node.address}: take another id"
        if (node.address.port, node.address.machine) == (command.address.port, command.address.machine):
            return f"{node.address} is the address of {node.id}: take another port"
        if isinstance(command, SchedulerCommand) and isinstance(node, SchedulerCommand):
            return f"there is a scheduler already, {node.id} at {node.address}: one is enough"
    return None


def same(one: NodeCommand, other: NodeCommand) -> bool:
    """Whether both name one node."""
    return _place(one) == _place(other)


def _place(command: NodeCommand) -> tuple[str, str, int, str]:
    return command.role, command.id, command.address.port, command.address.machine


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


def no_operator(name: str, there: Collection[str]) -> UserError:
    """No file of the operators folder has that class."""
    near = get_close_matches(name, there, n=1)
    hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(sorted(there)) or 'none'}"
    return UserError(f"no worker has an operator {shown(name)}: {hint}")


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
    operators: Collection[str] | None = None
    """What the workers have; None: not known."""
    there: dict[str, NodeCommand] = field(factory=dict)
    gone: dict[str, str] = field(factory=dict)
    """Nodes that are not there any more, and why."""
    ran: dict[str, NodeCommand] = field(factory=dict)
    """Nodes that ran before, and still do: to name one of them is no mistake."""
    clients: int = 0

    def take(self, command: script.Command | None) -> None:
        """The next command; UserError when it can't go well."""
        match command:
            case NodeCommand():
                self._start(command)
            case script.CrashCommand(id) | script.StopCommand(id):
                self._node(id)
                del self.there[id]
                self.ran.pop(id, None)
                self.gone[id] = STOPPED if isinstance(command, script.StopCommand) else CRASHED
            case script.RestartCommand(id):
                if id not in self.gone:
                    self._node(id)
            case script.PauseCommand(id) | script.ResumeCommand(id):
                self._node(id)
            case script.SlowCommand(id):
                if self._node(id).role == "scheduler":
                    raise no_delay(id)
            case script.ListServerCommand(id):
                if (role := self._node(id).role) != "storage":
                    raise no_records(id, role)
            case script.ClientCommand():
                self.clients += 1
                self._run(self._application(command.file))
            case script.RunCommand():
                self.clients += 1
                self._run(Application(command.operators))
            case script.MapCommand(file, inputs):
                application = self._application(file)
                path, data = read_file(inputs, self.folders)
                parse_inputs(data, path)
                self._run(application)
            case script.PopulateCommand(file):
                path, data = read_file(file, self.folders)
                parse_data(data, path)
                self._need("storage")
            case (
                script.ExpectCommand()
                | script.ListGlobalCommand()
                | script.ReadCommand()
                | script.WriteCommand()
                | script.UpdateIfCommand()
            ):
                self._need("storage")
            case script.ExpectRunCommand(which) if which > self.clients or not self.clients:
                raise no_client(which)
            case script.ShowCommand() | script.ListRunsCommand():
                self._need("scheduler")

    def _start(self, command: NodeCommand) -> None:
        if any(same(command, other) for other in self.ran.values()):
            return
        problem = clash(command, self.there.values())
        if problem is not None:
            raise UserError(problem)
        if command.address.machine not in self.machines:
            raise no_pcs(command.address.host)
        self.gone.pop(command.id, None)
        self.there[command.id] = command

    def _node(self, id: str) -> NodeCommand:
        if id in self.gone:
            raise gone(id, self.gone[id])
        if id not in self.there:
            raise unknown(id, list(self.there))
        return self.there[id]

    def _application(self, file: str) -> Application:
        path, data = read_file(file, self.folders)
        return Application.parse(data, path)

    def _run(self, application: Application) -> None:
        if self.operators is not None:
            for name in application.operators:
                if name not in self.operators:
                    raise no_operator(name, self.operators)
        self._need("storage", "worker", "scheduler")

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


def check(
    lines: Iterable[Line],
    folders: Sequence[str],
    machines: Iterable[str],
    operators: Collection[str] | None = None,
    there: Iterable[NodeCommand] = (),
) -> list[tuple[Line, str]]:
    """The lines that can't go well, and why.

    `machines`: the hosts that have a PCS, beside this one; `operators`: what the workers have, if that is known;
    `there`: nodes that run already.
    """
    ran = {command.id: command for command in there}
    checked = _Checked(folders, {HERE, *machines}, operators, there={**ran}, ran={**ran})
    wrong = []
    for line in lines:
        try:
            if line.command is None:
                raise UserError(line.problem)
            checked.take(line.command)
        except UserError as problem:
            wrong.append((line, str(problem)))
    return wrong
