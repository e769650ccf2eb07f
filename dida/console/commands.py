"""The puppetmaster's commands as values: one class per command, made from the words of one line.

A class names its usage line, a help text, and the parser of each word. What a command does is not here: see
`dida.puppetmaster.commands`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from difflib import get_close_matches
from typing import Any, ClassVar

import attrs
from attrs import frozen

from dida.addresses import Address
from dida.console import fields
from dida.console.fields import JSON
from dida.errors import UserError, shown
from dida.versions import Version


@frozen
class Command:
    """One command. The words of `usage` are the fields, in the same order."""

    usage: ClassVar[str] = ""
    about: ClassVar[str] = ""
    parsers: ClassVar[tuple[Callable[[str], Any], ...]] = ()
    rest: ClassVar[bool] = False
    """Whether the last field takes all remaining words, joined by one blank."""


def _topic(word: str) -> str:
    return command_class(word).usage.split()[0]


@frozen
class NodeCommand(Command):
    """A command that starts a node."""

    role: ClassVar[str] = ""
    id: str
    address: Address


@frozen
class SchedulerCommand(NodeCommand):
    usage: ClassVar[str] = "scheduler ID URL"
    about: ClassVar[str] = "start the scheduler"
    role: ClassVar[str] = "scheduler"
    parsers = (fields.node_id, fields.address, fields.ignored_number)
    ignored: str = ""
    """Scripts in the wild have a further number here."""


@frozen
class StorageCommand(NodeCommand):
    usage: ClassVar[str] = "storage ID URL [GOSSIP_DELAY]"
    about: ClassVar[str] = "start a storage node; the delay is in milliseconds"
    role: ClassVar[str] = "storage"
    parsers = (fields.node_id, fields.address, fields.milliseconds)
    gossip_delay: int = 0


@frozen
class WorkerCommand(NodeCommand):
    usage: ClassVar[str] = "worker ID URL [GOSSIP_DELAY]"
    about: ClassVar[str] = "start a worker; the delay is in milliseconds"
    role: ClassVar[str] = "worker"
    parsers = (fields.node_id, fields.address, fields.milliseconds)
    gossip_delay: int = 0


@frozen
class ClientCommand(Command):
    usage: ClassVar[str] = "client INPUT APP_FILE"
    about: ClassVar[str] = "run an application"
    parsers = (str, str)
    input: str
    file: str


@frozen
class RunCommand(Command):
    usage: ClassVar[str] = "run INPUT OPERATOR…"
    about: ClassVar[str] = "run these operators one after the other, without an application file"
    parsers = (str, fields.operator_names)
    rest = True
    input: str
    operators: tuple[str, ...]


@frozen
class MapCommand(Command):
    usage: ClassVar[str] = "map APP_FILE FILE_OF_INPUTS"
    about: ClassVar[str] = "run an application once per line of a file"
    parsers = (str, str)
    file: str
    inputs: str


@frozen
class ShowCommand(Command):
    usage: ClassVar[str] = "show RUN"
    about: ClassVar[str] = "report the steps of a run: workers, times, records read and written"
    parsers = (fields.node_id,)
    run: str


@frozen
class CancelCommand(Command):
    usage: ClassVar[str] = "cancel RUN"
    about: ClassVar[str] = "end a run: it has failed as cancelled; what it has written stays"
    parsers = (fields.node_id,)
    run: str


@frozen
class PopulateCommand(Command):
    usage: ClassVar[str] = "populate DATA_FILE"
    about: ClassVar[str] = "write each key,value line of a file into the storage"
    parsers = (str,)
    file: str


@frozen
class StatusCommand(Command):
    usage: ClassVar[str] = "status [--json]"
    about: ClassVar[str] = "show the state of every node"
    parsers = (fields.json_flag,)
    json: bool = False


@frozen
class ListServerCommand(Command):
    usage: ClassVar[str] = "listServer ID [--json]"
    about: ClassVar[str] = "list the records of one storage node"
    parsers = (fields.node_id, fields.json_flag)
    id: str
    json: bool = False


@frozen
class ListGlobalCommand(Command):
    usage: ClassVar[str] = "listGlobal [--json]"
    about: ClassVar[str] = "list the records of the whole system"
    parsers = (fields.json_flag,)
    json: bool = False


@frozen
class ListRunsCommand(Command):
    usage: ClassVar[str] = "runs [--json]"
    about: ClassVar[str] = "list the runs that the scheduler knows, newest first"
    parsers = (fields.json_flag,)
    json: bool = False


@frozen
class DebugCommand(Command):
    usage: ClassVar[str] = "debug"
    about: ClassVar[str] = "show the records that workers output"


@frozen
class CrashCommand(Command):
    usage: ClassVar[str] = "crash ID"
    about: ClassVar[str] = "kill a node at once, without clean-up"
    parsers = (fields.node_id,)
    id: str


@frozen
class PauseCommand(Command):
    usage: ClassVar[str] = "pause ID"
    about: ClassVar[str] = "stop a node's process (SIGSTOP) until resume"
    parsers = (fields.node_id,)
    id: str


@frozen
class ResumeCommand(Command):
    usage: ClassVar[str] = "resume ID"
    about: ClassVar[str] = "continue a paused node (SIGCONT)"
    parsers = (fields.node_id,)
    id: str


@frozen
class SlowCommand(Command):
    usage: ClassVar[str] = "slow ID MS"
    about: ClassVar[str] = "set a node's gossip delay, in milliseconds"
    parsers = (fields.node_id, fields.milliseconds)
    id: str
    milliseconds: int


@frozen
class RestartCommand(Command):
    usage: ClassVar[str] = "restart ID"
    about: ClassVar[str] = "kill a node, if it runs, and start it again"
    parsers = (fields.node_id,)
    id: str


@frozen
class StopCommand(Command):
    usage: ClassVar[str] = "stop ID"
    about: ClassVar[str] = "shut a node down in order"
    parsers = (fields.node_id,)
    id: str


@frozen
class ReadCommand(Command):
    usage: ClassVar[str] = "read KEY [VERSION]"
    about: ClassVar[str] = "show a record: its newest version, or VERSION"
    parsers = (str, fields.version)
    key: str
    version: Version | None = None


@frozen
class WriteCommand(Command):
    usage: ClassVar[str] = "write KEY VALUE"
    about: ClassVar[str] = "write a new version of a record"
    parsers = (str, str)
    key: str
    value: str


@frozen
class UpdateIfCommand(Command):
    usage: ClassVar[str] = "updateif KEY OLD NEW"
    about: ClassVar[str] = "write NEW if the record's value is OLD"
    parsers = (str, str, str)
    key: str
    old: str
    new: str


@frozen
class ExpectCommand(Command):
    usage: ClassVar[str] = "expect KEY VALUE…"
    about: ClassVar[str] = "wait until a record has a value; fails after 10 s"
    parsers = (str, str)
    rest = True
    key: str
    value: str


@frozen
class ExpectRunCommand(Command):
    usage: ClassVar[str] = "expect-run LAST done OUTPUT…"
    about: ClassVar[str] = "wait for a run's end; or: expect-run NUMBER failed REASON"
    parsers = (fields.client_number, fields.outcome, str)
    rest = True
    which: int
    """The number of the client command, from 1; 0: the last one before this."""
    state: str
    text: str = ""
    """The output, or a part of the reason; empty: whatever."""


@frozen
class WaitCommand(Command):
    usage: ClassVar[str] = "wait MS"
    about: ClassVar[str] = "sleep before the next command"
    parsers = (fields.milliseconds,)
    milliseconds: int


@frozen
class HelpCommand(Command):
    usage: ClassVar[str] = "help [COMMAND]"
    about: ClassVar[str] = "show this list, or more about one command"
    parsers = (_topic,)
    topic: str = ""


@frozen
class QuitCommand(Command):
    usage: ClassVar[str] = "quit"
    about: ClassVar[str] = "stop the nodes started here, and end the session"


COMMANDS: tuple[type[Command], ...] = (
    SchedulerCommand,
    StorageCommand,
    WorkerCommand,
    ClientCommand,
    RunCommand,
    MapCommand,
    ShowCommand,
    CancelCommand,
    PopulateCommand,
    StatusCommand,
    ListServerCommand,
    ListGlobalCommand,
    ListRunsCommand,
    ReadCommand,
    WriteCommand,
    UpdateIfCommand,
    DebugCommand,
    CrashCommand,
    StopCommand,
    PauseCommand,
    ResumeCommand,
    SlowCommand,
    RestartCommand,
    ExpectCommand,
    ExpectRunCommand,
    WaitCommand,
    HelpCommand,
    QuitCommand,
)
_BY_NAME = {kind.usage.split()[0].lower(): kind for kind in COMMANDS}
_ELSEWHERE = {
    "exit": "quit",
    "kill": "crash",
    "sleep": "wait",
    "load": "populate",
    "get": "read",
    "put": "write",
    "set": "write",
}
"""What other consoles call a command."""
_ALSO = {"wait_interval": "wait"}
"""What scripts in the wild call a command."""


def _near(name: str) -> list[str]:
    """The commands that may be meant by a word that is none."""
    if name in _ELSEWHERE:
        return [_ELSEWHERE[name]]
    return [each for each in _BY_NAME if each.startswith(name)] or get_close_matches(name, _BY_NAME, n=1)


def command_class(name: str) -> type[Command]:
    """Return the class of the command with that name; UserError suggests the nearest one."""
    kind = _BY_NAME.get(_ALSO.get(name.lower(), name.lower()))
    if kind is None:
        near = " or ".join(_BY_NAME[each].usage.split()[0] for each in _near(name.lower()))
        hint = f"did you mean {near}?" if near else "help lists the commands"
        raise UserError(f"unknown command {shown(name)}: {hint}")
    return kind


def command_of(name: str, words: Sequence[str]) -> Command:
    """Make the command `name` from the words after it; UserError says what to write."""
    kind = command_class(name)
    given = sorted(words, key=lambda word: word == JSON and JSON in kind.usage)  # the flag may stand anywhere
    places = attrs.fields(kind)
    if kind.rest and len(given) > len(places):
        given[len(places) - 1 :] = [" ".join(given[len(places) - 1 :])]
    least = sum(a.default is attrs.NOTHING for a in places)
    if not least <= len(given) <= len(places):
        plural = "" if len(given) == 1 else "s"
        raise UserError(f"expected {kind.usage}, got {len(given)} word{plural} after {name}")
    return kind(*(parse(word) for parse, word in zip(kind.parsers, given, strict=False)))
