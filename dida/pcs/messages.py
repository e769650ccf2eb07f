"""The verbs of the PCS."""

from __future__ import annotations

from typing import Annotated, ClassVar

from attrs import field, frozen
from msgspec import Meta

from dida.versions import MAX_REPLICA
from dida.wire.messages import NODE, Counter, Milliseconds, Name, Request, Seconds, vocabulary

STOP_DEADLINE = 40.0
"""Time-out for `stop`, in seconds: nodes finish their current work first."""
ROLES = ("storage", "worker", "scheduler")
"""The roles of the nodes that a PCS starts."""

Replica = Annotated[int, Meta(ge=0, le=MAX_REPLICA)]
Owner = Annotated[str, Meta(max_length=100)]
Url = Annotated[str, Meta(min_length=1, max_length=300)]
Members = Annotated[list[Annotated[str, Meta(max_length=500)]], Meta(max_length=1000)]


@frozen
class NodeEntry:
    """A row of the PCS's table."""

    id: str
    role: str
    url: str
    pid: int
    state: str
    """`starting` (until the node reports that it is ready), `ready` or `ended`."""
    ended: str = ""
    """How it ended: `exit status 1`, `signal SIGKILL`."""
    asked: bool = False
    """Whether a command ended it (stop, crash)."""
    line: str = ""
    """The newest line of its output, once it has ended."""
    log: str = ""
    """The file with its output."""
    owner: str = ""
    """The owner that it ends with; empty: none."""
    paused: bool = False
    replica: int = 0
    """The replica number of a storage node."""
    restarts: int = 0
    """Restarts after failures."""


@frozen
class Elsewhere:
    """A node that another PCS has started."""

    id: Name
    role: str
    url: Url
    pcs: Url
    """The address of that PCS."""
    replica: Replica = 0
    """The replica number of a storage node."""


@frozen
class Start(Request):
    usage: ClassVar[str] = "start ROLE ID URL"
    about: ClassVar[str] = "start storage|worker|scheduler: ok PID; {gossip_delay, replica, storage, worker, owner}"
    role: str
    id: Name
    url: Url
    gossip_delay: Milliseconds = field(default=0, kw_only=True)
    replica: Replica = field(default=0, kw_only=True)
    """The replica number of a storage node; 0: its number in `storage`, or the next one."""
    storage: Members = field(factory=list, kw_only=True)
    """`R=ID@URL`, for storage nodes and the scheduler."""
    worker: Members = field(factory=list, kw_only=True)
    """`ID=URL`, for the scheduler."""
    owner: Owner = field(default="", kw_only=True)
    """The node ends when no `own` of this owner is open any more; empty: it goes on."""


@frozen
class Nodes(Request):
    usage: ClassVar[str] = "nodes"
    about: ClassVar[str] = "the table of the nodes started here"


@frozen
class WatchNodes(Request):
    usage: ClassVar[str] = "watch [NUMBER]"
    about: ClassVar[str] = "the table, once its number differs from NUMBER"
    number: Counter | None = None


@frozen
class CrashNode(Request):
    usage: ClassVar[str] = "crash [ID]"
    about: ClassVar[str] = "kill that node at once (SIGKILL); without ID: this process"
    id: Name | None = None


@frozen
class Stop(Request):
    usage: ClassVar[str] = "stop [ID]"
    about: ClassVar[str] = "end that node in order (SIGTERM); without ID: all nodes started here; {within: seconds}"
    id: Name | None = None
    within: Seconds | None = field(default=None, kw_only=True)
    """Seconds until a second signal ends the node at once; None: its `--drain` holds."""
    deadline: Seconds = field(default=STOP_DEADLINE, kw_only=True)


@frozen
class Pause(Request):
    usage: ClassVar[str] = "pause ID"
    about: ClassVar[str] = "stop that node's process (SIGSTOP) until resume"
    id: Name


@frozen
class Resume(Request):
    usage: ClassVar[str] = "resume ID"
    about: ClassVar[str] = "continue a paused node (SIGCONT)"
    id: Name


@frozen
class Own(Request):
    usage: ClassVar[str] = "own OWNER"
    about: ClassVar[str] = "keep the nodes of OWNER running until the reply, or the end of the connection"
    held: ClassVar[bool] = True
    owner: Annotated[str, Meta(min_length=1, max_length=100)]


@frozen
class Know(Request):
    usage: ClassVar[str] = "know"
    about: ClassVar[str] = "what OWNER has started at other PCSs: {owner, nodes}"
    owner: Annotated[str, Meta(min_length=1, max_length=100)] = field(kw_only=True)
    nodes: Annotated[list[Elsewhere], Meta(max_length=1000)] = field(factory=list, kw_only=True)


@frozen
class Output(Request):
    usage: ClassVar[str] = "output ID [LINES]"
    about: ClassVar[str] = "the newest lines of a node's output"
    id: Name
    lines: Annotated[int, Meta(ge=1, le=1000)] = 20


@frozen
class Tell(Request):
    usage: ClassVar[str] = "tell ID LINE"
    about: ClassVar[str] = 'relay a question to a node, as in: tell s1 status, tell s1 "home 13"'
    id: Name
    line: str


PCS = vocabulary(*NODE, Start, Nodes, WatchNodes, CrashNode, Stop, Pause, Resume, Own, Know, Output, Tell)
"""The verbs of a PCS; `crash` takes a node's id here."""
