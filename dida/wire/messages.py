"""One frozen class per verb of the wire, and the three replies.

A request's `usage` is its whole form on the line: the words in capitals are fields of the same name in lower case
(brackets: optional; an ellipsis: all the rest). Every other field is a member of the line's object (without a trailing
underscore, as in `from_`). `help` prints the usage, and `dida.wire.grammar` decodes and encodes by it, so a verb is
described in one place. Field types are checked while decoding (msgspec). The module is long because it is one list.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from itertools import takewhile
from typing import Annotated, Any, ClassVar, Literal, cast, get_type_hints

import attrs
import msgspec
from attrs import field, frozen
from msgspec import Meta, Struct

from dida.addresses import Address, NodeAddress, node_id
from dida.errors import BadRequest, UserError
from dida.versions import MAX_NUMBER, Version

DEFAULT_DEADLINE = 10.0
"""Default deadline of a request, in seconds."""

DRAIN = 30.0
"""Default time in which a node that shuts down finishes its open requests (`--drain`), in seconds."""

Seconds = Annotated[float, Meta(ge=0, le=86_400)]
Milliseconds = Annotated[int, Meta(ge=0, le=86_400_000)]
Counter = Annotated[int, Meta(ge=0, le=MAX_NUMBER)]
StreamName = Annotated[str, Meta(min_length=1, max_length=64)]
Name = Annotated[str, Meta(min_length=1, max_length=200)]
Digest = Annotated[int, Meta(ge=0, le=2**63 - 1)]
"""63 bits of a hash."""
UpdateId = Annotated[str, Meta(min_length=1, max_length=200)]
Timestamp = dict[StreamName, Counter]
Concern = Annotated[int, Meta(ge=1, le=1000)] | Literal["all"]
"""The number of members that must have a write before it is answered; "all": all living ones."""


class Epoch(Struct, frozen=True, order=True, array_like=True, gc=False):
    """The number of an execution of a run, and who began it. The storage refuses updates of all but the highest one."""

    number: Counter = 0
    """0: the execution that nobody can have begun before."""
    by: Annotated[str, Meta(max_length=300)] = ""

    def __str__(self) -> str:
        return f"{self.number}.{self.by}" if self.by else str(self.number)


FIRST = Epoch()
"""The epoch of what is executed once."""


class Journal(Struct, frozen=True, array_like=True, gc=False):
    """What the storage keeps of a run with one of its updates: the execution, the call, and what was delivered before.

    The storage reads the epoch only; `dida.chains.journal` writes and reads the rest.
    """

    number: Counter
    by: Annotated[str, Meta(max_length=300)]
    """These two are the epoch."""
    call: Counter
    """The position of the step and the number of the call within the step."""
    digest: Digest
    """A hash chain over the input, the calls so far and the outputs."""
    verb: Literal["w", "c", "n"]
    """`w`: write, `c`: compare and swap, `n`: a note, which changes no record."""
    entries: str = ""
    """What the run got since its last update of the same shard: JSON, or empty."""

    @property
    def epoch(self) -> Epoch:
        return Epoch(self.number, self.by)


@frozen
class Ok:
    """`ok WORD… {object}`"""

    words: tuple[str, ...] = ()
    object: Mapping[str, Any] = field(factory=dict)


@frozen
class No:
    """`no WORD… {object}`: a plain reply, not a failure."""

    words: tuple[str, ...] = ()
    object: Mapping[str, Any] = field(factory=dict)


@frozen
class Error:
    """`error CODE WORD… {object}`; the codes are in `dida.errors`."""

    code: str
    words: tuple[str, ...] = ()
    object: Mapping[str, Any] = field(factory=dict)


Reply = Ok | No | Error


@frozen(kw_only=True)
class Request:
    """The base of all requests: `deadline` is the time for which the reply is useful, in seconds."""

    usage: ClassVar[str] = ""
    about: ClassVar[str] = ""
    of_connection: ClassVar[bool] = False
    """True if the reply depends on who is at the other end of the connection."""
    held: ClassVar[bool] = False
    """True if the request is cancelled when the client closes its side: it counts only while it is open."""
    between_nodes: ClassVar[bool] = False
    """True if only nodes send it: unknown members then belong to a later version and are not typing errors."""
    deadline: Seconds = DEFAULT_DEADLINE


@frozen
class Form:
    """A verb's form, taken from its usage line."""

    verb: str
    usage: str
    about: str
    words: tuple[str, ...]
    required: int
    rest: bool
    plain: int
    """A line of at most so many words is the class called with them: each may be any string."""
    members: tuple[tuple[str, str, Any], ...]
    """(name on the wire, name of the field, default) of all other fields."""
    names: frozenset[str]
    """The names of the members on the wire."""


def _form_of(kind: type[Request]) -> Form:
    verb, *given = kind.usage.split()
    words = tuple(word.strip("[]…").lower() for word in given)
    fields = attrs.fields(kind)
    types = get_type_hints(kind, include_extras=True)
    defaults = {
        a.name: a.default.factory() if isinstance(a.default, attrs.Factory) else a.default  # type: ignore[arg-type]
        for a in fields
    }
    arguments = [(a.name, types[a.name]) for a in fields if not a.kw_only]
    plain = takewhile(lambda pair: pair[0] == (pair[1], str), zip(arguments, words, strict=False))
    wanting = any(default is attrs.NOTHING for name, default in defaults.items() if name not in words)
    rest = bool(given) and given[-1].strip("[]").endswith("…")
    members = tuple((name.rstrip("_"), name, value) for name, value in defaults.items() if name not in words)
    return Form(
        verb=verb,
        usage=kind.usage,
        about=kind.about,
        words=words,
        required=sum(not word.startswith("[") for word in given),
        rest=rest,
        plain=-1 if rest or wanting else len(list(plain)),
        members=members,
        names=frozenset(name for name, _, _ in members),
    )


form_of = cast("Callable[[type[Request]], Form]", cache(_form_of))
"""Return the form of a request class."""


def vocabulary(*kinds: type[Request]) -> dict[str, type[Request]]:
    """Return a dict from verb to request class, as `dida.wire.grammar.decode` needs it."""
    return {form_of(kind).verb: kind for kind in kinds}


# --- every node ---------------------------------------------------------------------------------


@frozen
class Help(Request):
    usage: ClassVar[str] = "help"
    about: ClassVar[str] = "the verbs of this node"


@frozen
class Ping(Request):
    usage: ClassVar[str] = "ping"
    about: ClassVar[str] = "ok if the node is alive"


@frozen
class Status(Request):
    usage: ClassVar[str] = "status"
    about: ClassVar[str] = "the node's state, the nodes it considers alive or dead, its counters"


@frozen
class Crash(Request):
    usage: ClassVar[str] = "crash"
    about: ClassVar[str] = "the process kills itself (SIGKILL)"


@frozen
class Debug(Request):
    usage: ClassVar[str] = "debug SWITCH"
    about: ClassVar[str] = "debug on, debug off: more in the log"
    switch: str

    def __attrs_post_init__(self) -> None:
        if self.switch not in ("on", "off"):
            raise ValueError("expected debug on or debug off")


@frozen
class Slow(Request):
    usage: ClassVar[str] = "slow MS"
    about: ClassVar[str] = "the gossip delay from now on, in milliseconds"
    ms: Milliseconds


@frozen
class Quit(Request):
    usage: ClassVar[str] = "quit"
    about: ClassVar[str] = "ok, then the connection is closed"


@frozen
class System(Request):
    usage: ClassVar[str] = "system"
    about: ClassVar[str] = "the nodes of the system that this node knows"


NODE = (Help, Ping, Status, Crash, Debug, Quit, System)
"""The verbs of every node."""


# --- storage ------------------------------------------------------------------------------------


@frozen(kw_only=True)
class Dependent(Request):
    """A request whose reply must come from a state that includes what the client has seen."""

    after: Timestamp = field(factory=dict)


@frozen
class Read(Dependent):
    usage: ClassVar[str] = "read KEY [VERSION]"
    about: ClassVar[str] = "the newest version, or that one; {latest: true}: linearizable"
    key: str
    version: Version | None = None
    latest: bool = field(default=False, kw_only=True)


@frozen
class Write(Dependent):
    usage: ClassVar[str] = "write KEY VALUE"
    about: ClassVar[str] = "a new version of the record"
    key: str
    value: str
    id: UpdateId | None = field(default=None, kw_only=True)
    """The client's unique update id, best as SESSION:N."""
    retry: bool = field(default=True, kw_only=True)
    """False: the client promises that it sends this id for the first time (saves asking the others)."""
    lowest: Counter = field(default=0, kw_only=True)
    """The lowest N of the session that the client may still retry."""
    concern: Concern = field(default=1, kw_only=True)
    """The number of members that must have it before the reply; at least `--write-concern`."""
    journal: Journal | None = field(default=None, kw_only=True)
    """Of an update of a run."""


@frozen
class UpdateIf(Dependent):
    usage: ClassVar[str] = "updateif KEY OLD NEW"
    about: ClassVar[str] = "compare and swap: ok VERSION, or no VERSION VALUE"
    key: str
    old: str
    new: str
    id: UpdateId | None = field(default=None, kw_only=True)
    retry: bool = field(default=True, kw_only=True)
    lowest: Counter = field(default=0, kw_only=True)
    journal: Journal | None = field(default=None, kw_only=True)


@frozen
class Note(Dependent):
    usage: ClassVar[str] = "note KEY"
    about: ClassVar[str] = "from a worker: a part of a run's journal, where KEY is held; changes no record"
    between_nodes: ClassVar[bool] = True
    key: str
    id: UpdateId = field(kw_only=True)
    """A new one each time that it is sent."""
    journal: Journal = field(kw_only=True)


@frozen
class Fence(Request):
    """All members promise to execute nothing more of the run in a lower epoch; then the reply has what they know."""

    usage: ClassVar[str] = "fence RUN"
    about: ClassVar[str] = "what the run has changed, and from now on only {epoch: [NUMBER, BY]} may change more"
    run: UpdateId
    epoch: Epoch = field(kw_only=True)
    from_: Counter = field(default=0, kw_only=True)
    """The lowest number of an update in the reply."""


class KnownUpdate(Struct, frozen=True, array_like=True, gc=False):
    """An update of a run, as a reply to `fence` has it."""

    number: Counter
    version: Version | None
    key: str
    journal: Journal


@frozen
class Fenced:
    """The reply to `fence`."""

    updates: tuple[KnownUpdate, ...] = ()
    next: Counter | None = None
    """The number from which the next reply goes on; None: this one is the last."""
    highest: Counter = 0
    """The highest number of an update that a member knows, refused ones included."""
    after: Timestamp = field(factory=dict)
    """The timestamp that all of them make."""


@frozen
class ListRecords(Dependent):
    usage: ClassVar[str] = "list"
    about: ClassVar[str] = "all records, newest version first; {limit: n, from: KEY}"
    limit: Annotated[int, Meta(ge=1)] = field(default=1000, kw_only=True)
    from_: str = field(default="", kw_only=True)


@frozen
class Home(Request):
    usage: ClassVar[str] = "home KEY"
    about: ClassVar[str] = "the coordinator of the key's updateifs, and the nodes that hold it"
    key: str


@frozen
class Versions(Request):
    usage: ClassVar[str] = "versions KEY"
    about: ClassVar[str] = "the kept versions of a record, newest first"
    key: str


@frozen
class Forget(Request):
    usage: ClassVar[str] = "forget SESSION…"
    about: ClassVar[str] = "these sessions of update ids have ended: their updates will not be retried"
    session: Annotated[tuple[UpdateId, ...], Meta(min_length=1, max_length=1000)]


@frozen
class Watch(Request):
    usage: ClassVar[str] = "watch [VIEW]"
    about: ClassVar[str] = "the members of the view, once it differs from VIEW"
    view: str | None = None


@frozen
class Member:
    """A living storage node."""

    replica: int
    id: str
    url: str


@frozen
class View:
    """The reply to `watch`."""

    view: str
    number: Counter = 0
    members: tuple[Member, ...] = ()
    dead: tuple[str, ...] = ()
    groups: tuple[tuple[int, ...], ...] = ()
    elsewhere: tuple[Member, ...] = ()
    """Nodes of other groups, as they were named to the node at its start."""


@frozen
class SchedulerAt(Request):
    """Sent every few seconds, to storage nodes, too; a scheduler that stops sending it is forgotten."""

    usage: ClassVar[str] = "scheduler ID URL"
    about: ClassVar[str] = "from a scheduler that uses this node: its address"
    between_nodes: ClassVar[bool] = True
    id: Name
    url: Annotated[str, msgspec.Meta(max_length=300)]

    @property
    def where(self) -> NodeAddress:
        """The scheduler's id and address; BadRequest if the URL is invalid."""
        try:
            return NodeAddress(node_id(self.id), Address.parse(self.url))
        except UserError as problem:
            raise BadRequest(str(problem)) from None
