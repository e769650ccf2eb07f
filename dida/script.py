"""The puppetmaster's commands: one class a command, one command a line.

Words are separated by any run of blanks. A byte-order mark, CRLF, blank lines, a missing final newline
and comments (`#` at the start of a line or after a blank) are all fine. Also here: where the files that
commands name are sought, and the form of a data file. Application files are read by `dida.chain`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from difflib import get_close_matches
from typing import Any, ClassVar

import attrs
from attrs import frozen

from dida.addresses import Address
from dida.errors import UserError

MAX_SCRIPT = 2**24
"""Bytes of a script, or of a file that a command names."""
MAX_ID = 100
"""Characters of a node's id."""
MAX_MILLISECONDS = 86_400_000
JSON = "--json"
SHOWN = 60
"""Characters of a faulty word that an error shows."""


@frozen
class Command:
    """What one line asks for. The words of `usage` are the fields of the same order."""

    usage: ClassVar[str] = ""
    about: ClassVar[str] = ""
    parsers: ClassVar[tuple[Callable[[str], Any], ...]] = ()


def _shown(word: str) -> str:
    return repr(word if len(word) <= SHOWN else word[:SHOWN] + "…")


def _id(word: str) -> str:
    if len(word) > MAX_ID or "=" in word or not word.isprintable():
        raise UserError(f"{_shown(word)} is no node id: write up to {MAX_ID} characters, none of them '='")
    return word


def _address(word: str) -> Address:
    if len(word) > SHOWN * 5:
        raise UserError(f"{_shown(word)} is no URL: write http://HOST:PORT, as in http://localhost:5001")
    return Address.parse(word)


def _milliseconds(word: str) -> int:
    if not (word.isascii() and word.isdigit() and len(word) < 12 and int(word) <= MAX_MILLISECONDS):
        raise UserError(f"{_shown(word)} is no number of milliseconds: write one from 0 to {MAX_MILLISECONDS}")
    return int(word)


def _ignored(word: str) -> str:
    if not (word.isascii() and word.isdigit()):
        raise UserError(f"{_shown(word)} follows the scheduler's URL: nothing but a number may stand there")
    return word


def _json(word: str) -> bool:
    if word != JSON:
        raise UserError(f"{_shown(word)} is too much: nothing but {JSON} may stand there")
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
class Scheduler(NodeCommand):
    usage: ClassVar[str] = "scheduler ID URL"
    about: ClassVar[str] = "start the scheduler"
    role: ClassVar[str] = "scheduler"
    parsers = (_id, _address, _ignored)
    ignored: str = ""
    """Scripts in the wild have a further number here."""


@frozen
class Storage(NodeCommand):
    usage: ClassVar[str] = "storage ID URL GOSSIP_DELAY"
    about: ClassVar[str] = "start a storage node; the delay is in milliseconds"
    role: ClassVar[str] = "storage"
    parsers = (_id, _address, _milliseconds)
    gossip_delay: int


@frozen
class Worker(NodeCommand):
    usage: ClassVar[str] = "worker ID URL GOSSIP_DELAY"
    about: ClassVar[str] = "start a worker; the delay is in milliseconds"
    role: ClassVar[str] = "worker"
    parsers = (_id, _address, _milliseconds)
    gossip_delay: int


@frozen
class Client(Command):
    usage: ClassVar[str] = "client INPUT APP_FILE"
    about: ClassVar[str] = "run an application"
    parsers = (str, str)
    input: str
    file: str


@frozen
class Map(Command):
    usage: ClassVar[str] = "map APP_FILE FILE_OF_INPUTS"
    about: ClassVar[str] = "run an application once for each line of the file"
    parsers = (str, str)
    file: str
    inputs: str


@frozen
class Show(Command):
    usage: ClassVar[str] = "show RUN"
    about: ClassVar[str] = "the story of a run: its steps, their workers, what they read and wrote"
    parsers = (_id,)
    run: str


@frozen
class Populate(Command):
    usage: ClassVar[str] = "populate DATA_FILE"
    about: ClassVar[str] = "write each key,value line of the file into the storage"
    parsers = (str,)
    file: str


@frozen
class Status(Command):
    usage: ClassVar[str] = "status [--json]"
    about: ClassVar[str] = "what every node says of itself"
    parsers = (_json,)
    json: bool = False


@frozen
class ListServer(Command):
    usage: ClassVar[str] = "listServer ID [--json]"
    about: ClassVar[str] = "all records on one storage node"
    parsers = (_id, _json)
    id: str
    json: bool = False


@frozen
class ListGlobal(Command):
    usage: ClassVar[str] = "listGlobal [--json]"
    about: ClassVar[str] = "all records of the whole system"
    parsers = (_json,)
    json: bool = False


@frozen
class ListRuns(Command):
    usage: ClassVar[str] = "runs [--json]"
    about: ClassVar[str] = "all runs that the scheduler knows, newest first"
    parsers = (_json,)
    json: bool = False


@frozen
class Debug(Command):
    usage: ClassVar[str] = "debug"
    about: ClassVar[str] = "show the records that workers output"


@frozen
class Crash(Command):
    usage: ClassVar[str] = "crash ID"
    about: ClassVar[str] = "kill that node at once, with no clean-up"
    parsers = (_id,)
    id: str


@frozen
class Wait(Command):
    usage: ClassVar[str] = "wait MS"
    about: ClassVar[str] = "sleep before the next command"
    parsers = (_milliseconds,)
    milliseconds: int


@frozen
class Help(Command):
    usage: ClassVar[str] = "help [COMMAND]"
    about: ClassVar[str] = "this list, or more of one command"
    parsers = (_topic,)
    topic: str = ""


@frozen
class Quit(Command):
    usage: ClassVar[str] = "quit"
    about: ClassVar[str] = "stop the nodes started here, and end"


COMMANDS: tuple[type[Command], ...] = (
    Scheduler,
    Storage,
    Worker,
    Client,
    Map,
    Show,
    Populate,
    Status,
    ListServer,
    ListGlobal,
    ListRuns,
    Debug,
    Crash,
    Wait,
    Help,
    Quit,
)
_BY_NAME = {kind.usage.split()[0].lower(): kind for kind in COMMANDS}


def _words(text: str) -> list[str]:
    words: list[str] = []
    for word in text.split():
        if word.startswith("#"):
            break
        words.append(word)
    return words


def _kind(name: str) -> type[Command]:
    kind = _BY_NAME.get(name.lower())
    if kind is None:
        near = get_close_matches(name.lower(), _BY_NAME, n=1)
        hint = f"did you mean {_BY_NAME[near[0]].usage.split()[0]}?" if near else "help lists the commands"
        raise UserError(f"unknown command {_shown(name)}: {hint}")
    return kind


def parse_command(text: str) -> Command | None:
    """The command that a line is; None for a blank or a comment. UserError says what to write."""
    words = _words(text)
    if not words:
        return None
    name, *given = words
    kind = _kind(name)
    given.sort(key=lambda word: word == JSON and JSON in kind.usage)  # it may stand anywhere
    fields = attrs.fields(kind)
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

    def __str__(self) -> str:
        """How messages name the line."""
        text = self.text if len(self.text) <= SHOWN else self.text[:SHOWN] + "…"
        return f"script line {self.number}: {text}" if self.number else text


def _decoded_lines(data: bytes) -> Iterator[tuple[int, str, str]]:
    """(number, text, what is wrong with its bytes) of each line."""
    for number, raw in enumerate(data.removeprefix(b"\xef\xbb\xbf").replace(b"\r\n", b"\n").split(b"\n"), start=1):
        try:
            yield number, raw.decode(), ""
        except UnicodeDecodeError as problem:
            yield number, raw.decode(errors="replace"), f"not UTF-8 at byte {problem.start + 1}: save it as UTF-8"


def parse_line(text: str, number: int = 0) -> Line | None:
    """One line; None for a blank or a comment."""
    try:
        command = parse_command(text)
    except UserError as problem:
        return Line(number, " ".join(_words(text)), None, str(problem))
    return None if command is None else Line(number, " ".join(_words(text)), command)


def parse_script(data: bytes) -> tuple[Line, ...]:
    """All lines of a script that say something, right or wrong."""
    if len(data) > MAX_SCRIPT:
        raise UserError(f"the script is longer than {MAX_SCRIPT} bytes")
    lines: list[Line] = []
    for number, text, problem in _decoded_lines(data):
        line = Line(number, " ".join(text.split()), None, problem) if problem else parse_line(text, number)
        if line is not None:
            lines.append(line)
    return tuple(lines)


def first_members(lines: Iterable[Line]) -> tuple[NodeCommand, ...]:
    """The nodes of the script's leading block: those named before the first command of another kind."""
    members: list[NodeCommand] = []
    for line in lines:
        if isinstance(line.command, NodeCommand):
            members.append(line.command)
        elif line.command is not None:
            break
    return tuple(members)


def in_order(lines: Sequence[Line]) -> tuple[Line, ...]:
    """The lines as they are played: a scheduler that is named behind the first client or map comes before it."""
    first = next((at for at, line in enumerate(lines) if isinstance(line.command, Client | Map)), len(lines))
    late = next((at for at, line in enumerate(lines) if isinstance(line.command, Scheduler)), 0)
    if late < first or first == len(lines):
        return tuple(lines)
    return (*lines[:first], lines[late], *lines[first:late], *lines[late + 1 :])


def parse_data(data: bytes, name: str) -> tuple[tuple[str, str], ...]:
    """The (key, value) pairs of a data file: `key,value` a line, split at the first comma.

    Blanks around the line are dropped, blank lines skipped. UserError names file and line.
    """
    pairs: list[tuple[str, str]] = []
    for number, text, problem in _decoded_lines(data):
        if problem:
            raise UserError(f"{name} line {number}: {problem}")
        if not text.strip():
            continue
        key, comma, value = text.partition(",")
        if not comma:
            raise UserError(f"{name} line {number}: no comma in {_shown(text.strip())}: write key,value")
        pairs.append((key.strip(), value.strip()))
    return tuple(pairs)


def parse_inputs(data: bytes, name: str) -> tuple[tuple[int, str], ...]:
    """The (line number, input) pairs of a file of inputs, one a line.

    Blanks around the line are dropped, blank lines skipped. UserError names file and line.
    """
    inputs: list[tuple[int, str]] = []
    for number, text, problem in _decoded_lines(data):
        if problem:
            raise UserError(f"{name} line {number}: {problem}")
        if text.strip():
            inputs.append((number, text.strip()))
    if not inputs:
        raise UserError(f"{name}: no input in it: write one a line")
    return tuple(inputs)


def find_file(name: str, folders: Sequence[str]) -> str:
    """The path of a file that a command names: in the current folder, else in `folders` and below them.

    UserError names the places, and a file of nearly that name.
    """
    if os.path.isfile(name):
        return name
    found: dict[str, str] = {}
    for top in folders:
        for folder, subfolders, files in os.walk(top):
            subfolders[:] = sorted(sub for sub in subfolders if not sub.startswith((".", "__")))
            path = os.path.join(folder, name)
            if os.path.isfile(path):
                return path
            found.update((file, os.path.join(folder, file)) for file in sorted(files) if file not in found)
    near = get_close_matches(os.path.basename(name), found, n=1)
    hint = f"did you mean {near[0]} (in {os.path.dirname(found[near[0]])})?" if near else "check the name"
    raise UserError(f"no file {_shown(name)} in the current folder or below {', '.join(folders) or 'it'}: {hint}")


def read_file(name: str, folders: Sequence[str]) -> tuple[str, bytes]:
    """Path and content of a file that a command names."""
    path = find_file(name, folders)
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_SCRIPT + 1)
    except OSError as problem:
        raise UserError(f"can't read {path}: {os.strerror(problem.errno or 0).lower()}") from None
    if len(data) > MAX_SCRIPT:
        raise UserError(f"{path} is longer than {MAX_SCRIPT} bytes")
    return path, data
