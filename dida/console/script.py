"""The puppetmaster's commands: one class a command, one command a line.

Words are those of `dida.console.words`. A byte-order mark, CRLF, blank lines, a missing final newline and comments
(`#` at the start of a line or after a blank) are all fine. The files that commands name are read by
`dida.console.data_files`, applications by `dida.chains.records`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from difflib import get_close_matches
from typing import Any, ClassVar

import attrs
from attrs import frozen

from dida.addresses import Address
from dida.console.data_files import MAX_SIZE, decoded_lines
from dida.console.words import Word, words_of
from dida.errors import SHOWN, UserError, shown
from dida.interfaces import is_class_name
from dida.versions import Version

SCRIPT = "script"
"""What a script is called whose file is not known."""
MAX_ID = 100
"""Characters of a node's id."""
MAX_MILLISECONDS = 86_400_000
JSON = "--json"


@frozen
class Command:
    """What one line asks for. The words of `usage` are the fields of the same order."""

    usage: ClassVar[str] = ""
    about: ClassVar[str] = ""
    parsers: ClassVar[tuple[Callable[[str], Any], ...]] = ()
    rest: ClassVar[bool] = False
    """Whether the last field is all words that are left, with one blank between them."""


def _id(word: str) -> str:
    if not 0 < len(word) <= MAX_ID or "=" in word or " " in word or not word.isprintable():
        raise UserError(f"{shown(word)} is no node id: write one word of up to {MAX_ID} characters, without '='")
    return word


def _address(word: str) -> Address:
    if len(word) > SHOWN * 5:
        raise UserError(f"{shown(word)} is no URL: write http://HOST:PORT, as in http://localhost:5001")
    return Address.parse(word)


def _milliseconds(word: str) -> int:
    if not (word.isascii() and word.isdigit() and len(word) < 12 and int(word) <= MAX_MILLISECONDS):
        raise UserError(f"{shown(word)} is no number of milliseconds: write one from 0 to {MAX_MILLISECONDS}")
    return int(word)


def _ignored(word: str) -> str:
    if not (word.isascii() and word.isdigit()):
        raise UserError(f"{shown(word)} follows the scheduler's URL: nothing but a number may stand there")
    return word


def _which(word: str) -> int:
    if word.lower() == "last":
        return 0
    if not (word.isascii() and word.isdigit() and 0 < len(word) < 8 and int(word)):
        raise UserError(f"{shown(word)} names no run: write LAST, or the number of the client command, from 1")
    return int(word)


def _outcome(word: str) -> str:
    if word.lower() not in ("done", "failed"):
        raise UserError(f"{shown(word)} is no outcome of a run: write done or failed")
    return word.lower()


def _version(word: str) -> Version:
    try:
        return Version.parse(word)
    except ValueError as problem:
        raise UserError(str(problem)) from None


def _operators(words: str) -> tuple[str, ...]:
    names = tuple(words.split())
    for name in names:
        if not is_class_name(name):
            raise UserError(f"{shown(name)} is no class name: write it as in the operator's file")
    return names


def _json(word: str) -> bool:
    if word != JSON:
        raise UserError(f"{shown(word)} is too much: nothing but {JSON} may stand there")
    return True


def _topic(word: str) -> str:
    return _kind(word).usage.split()[0]


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
    parsers = (_id, _address, _ignored)
    ignored: str = ""
    """Scripts in the wild have a further number here."""


@frozen
class StorageCommand(NodeCommand):
    usage: ClassVar[str] = "storage ID URL [GOSSIP_DELAY]"
    about: ClassVar[str] = "start a storage node; the delay is in milliseconds"
    role: ClassVar[str] = "storage"
    parsers = (_id, _address, _milliseconds)
    gossip_delay: int = 0


@frozen
class WorkerCommand(NodeCommand):
    usage: ClassVar[str] = "worker ID URL [GOSSIP_DELAY]"
    about: ClassVar[str] = "start a worker; the delay is in milliseconds"
    role: ClassVar[str] = "worker"
    parsers = (_id, _address, _milliseconds)
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
    about: ClassVar[str] = "run these operators one after the other, with no application file"
    parsers = (str, _operators)
    rest = True
    input: str
    operators: tuple[str, ...]


@frozen
class MapCommand(Command):
    usage: ClassVar[str] = "map APP_FILE FILE_OF_INPUTS"
    about: ClassVar[str] = "run an application once for each line of the file"
    parsers = (str, str)
    file: str
    inputs: str


@frozen
class ShowCommand(Command):
    usage: ClassVar[str] = "show RUN"
    about: ClassVar[str] = "the story of a run: its steps, their workers, what they read and wrote"
    parsers = (_id,)
    run: str


@frozen
class CancelCommand(Command):
    usage: ClassVar[str] = "cancel RUN"
    about: ClassVar[str] = "end a run: it has failed as cancelled; what it has written stays"
    parsers = (_id,)
    run: str


@frozen
class PopulateCommand(Command):
    usage: ClassVar[str] = "populate DATA_FILE"
    about: ClassVar[str] = "write each key,value line of the file into the storage"
    parsers = (str,)
    file: str


@frozen
class StatusCommand(Command):
    usage: ClassVar[str] = "status [--json]"
    about: ClassVar[str] = "what every node says of itself"
    parsers = (_json,)
    json: bool = False


@frozen
class ListServerCommand(Command):
    usage: ClassVar[str] = "listServer ID [--json]"
    about: ClassVar[str] = "all records on one storage node"
    parsers = (_id, _json)
    id: str
    json: bool = False


@frozen
class ListGlobalCommand(Command):
    usage: ClassVar[str] = "listGlobal [--json]"
    about: ClassVar[str] = "all records of the whole system"
    parsers = (_json,)
    json: bool = False


@frozen
class ListRunsCommand(Command):
    usage: ClassVar[str] = "runs [--json]"
    about: ClassVar[str] = "all runs that the scheduler knows, newest first"
    parsers = (_json,)
    json: bool = False


@frozen
class DebugCommand(Command):
    usage: ClassVar[str] = "debug"
    about: ClassVar[str] = "show the records that workers output"


@frozen
class CrashCommand(Command):
    usage: ClassVar[str] = "crash ID"
    about: ClassVar[str] = "kill that node at once, with no clean-up"
    parsers = (_id,)
    id: str


@frozen
class PauseCommand(Command):
    usage: ClassVar[str] = "pause ID"
    about: ClassVar[str] = "stop that node's process, until resume"
    parsers = (_id,)
    id: str


@frozen
class ResumeCommand(Command):
    usage: ClassVar[str] = "resume ID"
    about: ClassVar[str] = "let a paused node go on"
    parsers = (_id,)
    id: str


@frozen
class SlowCommand(Command):
    usage: ClassVar[str] = "slow ID MS"
    about: ClassVar[str] = "the gossip delay of a node, from now on"
    parsers = (_id, _milliseconds)
    id: str
    milliseconds: int


@frozen
class RestartCommand(Command):
    usage: ClassVar[str] = "restart ID"
    about: ClassVar[str] = "kill that node, if it lives, and start it again"
    parsers = (_id,)
    id: str


@frozen
class StopCommand(Command):
    usage: ClassVar[str] = "stop ID"
    about: ClassVar[str] = "end that node in order"
    parsers = (_id,)
    id: str


@frozen
class ReadCommand(Command):
    usage: ClassVar[str] = "read KEY [VERSION]"
    about: ClassVar[str] = "a record: its newest version, or that one"
    parsers = (str, _version)
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
    about: ClassVar[str] = "wait until the record has that value; failed if it does not come"
    parsers = (str, str)
    rest = True
    key: str
    value: str


@frozen
class ExpectRunCommand(Command):
    usage: ClassVar[str] = "expect-run LAST done OUTPUT…"
    about: ClassVar[str] = "wait for a run's end; or: expect-run NUMBER failed REASON"
    parsers = (_which, _outcome, str)
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
    parsers = (_milliseconds,)
    milliseconds: int


@frozen
class HelpCommand(Command):
    usage: ClassVar[str] = "help [COMMAND]"
    about: ClassVar[str] = "this list, or more of one command"
    parsers = (_topic,)
    topic: str = ""


@frozen
class QuitCommand(Command):
    usage: ClassVar[str] = "quit"
    about: ClassVar[str] = "stop the nodes started here, and end"


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


def _kind(name: str) -> type[Command]:
    kind = _BY_NAME.get(_ALSO.get(name.lower(), name.lower()))
    if kind is None:
        near = " or ".join(_BY_NAME[each].usage.split()[0] for each in _near(name.lower()))
        hint = f"did you mean {near}?" if near else "help lists the commands"
        raise UserError(f"unknown command {shown(name)}: {hint}")
    return kind


def parse_command(text: str) -> Command | None:
    """The command that a line is; None for a blank or a comment. UserError says what to write."""
    return _parsed(words_of(text))


def _parsed(words: Sequence[Word]) -> Command | None:
    if not words:
        return None
    if words[-1].problem:
        raise UserError(words[-1].problem)
    name, *given = [word.text for word in words]
    kind = _kind(name)
    given.sort(key=lambda word: word == JSON and JSON in kind.usage)  # it may stand anywhere
    fields = attrs.fields(kind)
    if kind.rest and len(given) > len(fields):
        given[len(fields) - 1 :] = [" ".join(given[len(fields) - 1 :])]
    least = sum(a.default is attrs.NOTHING for a in fields)
    if not least <= len(given) <= len(fields):
        plural = "" if len(given) == 1 else "s"
        raise UserError(f"expected {kind.usage}, got {len(given)} word{plural} after {name}")
    return kind(*(parse(word) for parse, word in zip(kind.parsers, given, strict=False)))


@frozen
class Line:
    """A line of a script that is neither blank nor a comment: its command, or what is wrong with it."""

    number: int
    """From 1; 0 for a line typed on a terminal."""
    text: str
    command: Command | None
    problem: str = ""
    file: str = SCRIPT

    def __str__(self) -> str:
        """How messages name the line."""
        text = self.text if len(self.text) <= SHOWN else self.text[:SHOWN] + "…"
        return f"{self.file} line {self.number}: {text}" if self.number else text


def parse_line(text: str, number: int = 0, file: str = SCRIPT) -> Line | None:
    """One line; None for a blank or a comment."""
    words = words_of(text)
    told = " ".join(word.written for word in words)
    try:
        command = _parsed(words)
    except UserError as problem:
        return Line(number, told, None, str(problem), file)
    return None if command is None else Line(number, told, command, file=file)


def parse_script(data: bytes, file: str = SCRIPT) -> tuple[Line, ...]:
    """All lines of a script that say something, right or wrong."""
    if len(data) > MAX_SIZE:
        raise UserError(f"{file} is longer than {MAX_SIZE} bytes: cut it in two")
    lines: list[Line] = []
    for number, text, problem in decoded_lines(data):
        if problem:
            line: Line | None = Line(number, " ".join(text.split()), None, problem, file)
        else:
            line = parse_line(text, number, file)
        if line is not None:
            lines.append(line)
    return tuple(lines)


def first_members(lines: Iterable[Line]) -> tuple[NodeCommand, ...]:
    """The nodes of the script's leading block: those named before the first command of another kind, `debug` aside."""
    members: list[NodeCommand] = []
    for line in lines:
        if isinstance(line.command, NodeCommand):
            members.append(line.command)
        elif line.command is not None and not isinstance(line.command, DebugCommand):
            break
    return tuple(members)


def in_order(lines: Sequence[Line]) -> tuple[Line, ...]:
    """The lines as they are played: a scheduler that is named behind the first run comes before it."""
    first = next(
        (at for at, line in enumerate(lines) if isinstance(line.command, ClientCommand | RunCommand | MapCommand)),
        len(lines),
    )
    late = next((at for at, line in enumerate(lines) if isinstance(line.command, SchedulerCommand)), 0)
    if late < first or first == len(lines):
        return tuple(lines)
    return (*lines[:first], lines[late], *lines[first:late], *lines[late + 1 :])
