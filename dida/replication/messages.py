"""What storage nodes of one group say to each other: gossip, two-phase commit, pings, view changes.

Each carries the cluster's name, the sender's incarnation (on the wire: its component) and its view;
`dida.replication.replica` refuses messages of another view. `dida.replication.streams` explains incarnations and
streams. The module is a little long because it is one list.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Annotated, Any, ClassVar

from attrs import field, frozen
from msgspec import Meta, Struct

from dida.versions import MAX_REPLICA, Version
from dida.wire.messages import FIRST, Concern, Counter, Epoch, Journal, Name, Request, Timestamp, UpdateId

Found = tuple[str, int, int]
"""The name of a prepared record: home, transaction, round."""


class Record(Struct, frozen=True, array_like=True, gc=False):
    """One update in the log: the `seq`-th of its stream, depending on what `prev` covers."""

    stream: str
    seq: Counter
    prev: dict[str, Counter]
    key: str
    number: Annotated[int, Meta(ge=1)]
    replica: int
    value: str
    id: str | None = None
    lowest: Counter = 0
    journal: Journal | None = None

    @property
    def note(self) -> bool:
        """True if the record changes nothing: it carries a part of a run's journal."""
        return self.journal is not None and self.journal.verb == "n"

    @property
    def epoch(self) -> Epoch:
        """The execution that an update of a run belongs to."""
        return self.journal.epoch if self.journal is not None else FIRST

    @property
    def version(self) -> Version:
        return Version(self.number, self.replica)

    @property
    def ts(self) -> dict[str, int]:
        """`prev` with the stream's own entry set to `seq`."""
        return {**self.prev, self.stream: self.seq}


class Range(Struct, frozen=True, array_like=True):
    """A gapless run of records of one stream: `base + 1` and on."""

    stream: str
    base: Counter
    records: tuple[Record, ...]


class Member(Struct, frozen=True):
    """A storage node in a view."""

    component: Name
    replica: Annotated[int, Meta(ge=0, le=MAX_REPLICA)]
    id: Name
    url: Name


class View(Struct, frozen=True):
    """An agreed membership. Its name distinguishes views of one number that different leaders made."""

    number: Counter
    leader: str
    members: tuple[Member, ...]
    previous: str = ""
    """Name of the view that it changes: its state goes on from there. Empty in the first one."""
    before: tuple[tuple[str, ...], ...] = ()
    """With `majority`, the incarnations of the views before it, the newest first, back to the last one that is known to
    be complete. Before the first view they are the replica numbers of the named nodes: any incarnation of each counts.
    """
    found: tuple[Found, ...] = ()
    """The prepared records that are committed as it begins, in their order."""

    @property
    def name(self) -> str:
        return f"{self.number}@{self.leader}"

    @property
    def rank(self) -> tuple[int, str]:
        """The order of two views that exclude each other: the lower one gives way, as of two ballots, whatever their
        sizes."""
        return (self.number, self.leader)

    def lists(self, complete: bool) -> tuple[tuple[str, ...], ...]:
        """Return the lists of which more than half must agree to change this view.

        They are its own and, until all its members are known to have entered it (`complete`), those of the views
        before.
        """
        own = tuple(m.component for m in self.members)
        return (own, *(() if complete else (each for each in self.before if each != own)))

    def member(self, incarnation: str) -> Member | None:
        return next((m for m in self.members if m.component == incarnation), None)


def more_than_half(stay: Iterable[Member], lists: Iterable[Collection[str]]) -> bool:
    """Return True if more than half of each list are among `stay`, by incarnation or by replica number."""
    there = {word for m in stay for word in (m.component, str(m.replica))}
    return all(2 * len(there.intersection(each)) > len(each) for each in lists)


PROTOCOL = 3
"""What storage nodes say to each other: nodes of this number and of the one before it work together."""


@frozen
class Peer(Request):
    usage: ClassVar[str] = "peer URL WORD"
    about: ClassVar[str] = "storage nodes: here speaks the node at URL, which vouches for WORD; {protocol}"
    of_connection: ClassVar[bool] = True
    between_nodes: ClassVar[bool] = True
    url: Name
    word: Name
    protocol: Counter = 1


@frozen
class Vouch(Request):
    usage: ClassVar[str] = "vouch WORD"
    about: ClassVar[str] = "storage nodes: is WORD yours"
    between_nodes: ClassVar[bool] = True
    word: Name


class Wanted(Struct, frozen=True, array_like=True):
    """A key that a transaction wants to lock; `id` is that of its update, if it comes without a record.

    With a record, which has no place in its stream yet, the member is asked to prepare it: unless it knows a version of
    the key that is newer than `base`.
    """

    txn: Counter
    key: str
    round: Counter = 1
    id: UpdateId | None = None
    epoch: Epoch = FIRST
    base: Version | None = None
    """None if the record is the key's first version."""
    record: Record | None = None

    @property
    def update_id(self) -> str | None:
        return self.record.id if self.record is not None else self.id

    @property
    def update_epoch(self) -> Epoch:
        return self.record.epoch if self.record is not None else self.epoch


class Prepared(Struct, frozen=True, array_like=True):
    """A record that a member has prepared, invisible and in no stream: all it lacks is its place."""

    home: str
    txn: Counter
    round: Counter
    record: Record
    base: Version | None = None
    """The version of the key that it replaces: a newer one that is logged ends it."""

    @property
    def name(self) -> Found:
        return (self.home, self.txn, self.round)


class Ended(Struct, frozen=True, array_like=True):
    """A transaction that has ended without an update."""

    txn: Counter
    key: str
    id: UpdateId | None = None
    answer: tuple[str, ...] | None = None
    """The words of the `no` that the client receives, without a long value, which all members hold. None if nothing was
    decided."""
    after: Timestamp = {}
    """The state to which the `no` belongs."""


@frozen(kw_only=True)
class PeerMessage(Request):
    """A message from one storage node to another."""

    of_connection: ClassVar[bool] = True
    between_nodes: ClassVar[bool] = True
    cluster: str = ""
    view: str = ""
    """Name of the sender's view; empty when it has none."""
    sender: Name


@frozen
class Gossip(PeerMessage):
    usage: ClassVar[str] = "gossip"
    about: ClassVar[str] = "storage nodes: updates of the log, and what the sender has"
    ranges: tuple[Range, ...] = ()
    have: Timestamp = field(factory=dict)


@frozen
class Fetch(PeerMessage):
    usage: ClassVar[str] = "fetch"
    about: ClassVar[str] = "storage nodes: what I have not, please"
    have: Timestamp = field(factory=dict)


@frozen
class Prepare(PeerMessage):
    usage: ClassVar[str] = "prepare"
    about: ClassVar[str] = "storage nodes: commits; hold back writes of keys, prepare their records"
    base: Counter = 0
    """The sender's commits after this one are `commits`."""
    commits: tuple[Counter, ...] = ()
    """Transactions whose records are committed as prepared, in the order of the stream."""
    keys: tuple[Wanted, ...] = ()
    ranges: tuple[Range, ...] = ()
    """What the records depend on, and the receiver may lack."""
    have: Timestamp = field(factory=dict)
    oldest: Counter = 0
    """The sender's transactions with lower numbers have ended."""


@frozen
class Release(PeerMessage):
    usage: ClassVar[str] = "release"
    about: ClassVar[str] = "storage nodes: transactions end without an update"
    keys: tuple[Ended, ...]


@frozen
class Forward(PeerMessage):
    usage: ClassVar[str] = "forward"
    about: ClassVar[str] = "storage nodes: a client's request, for the key's home"
    verb: str
    key: str
    value: str = ""
    old: str = ""
    id: UpdateId | None = None
    lowest: Counter = 0
    retry: bool = False
    concern: Concern = 1
    after: Timestamp = field(factory=dict)
    journal: Journal | None = None


@frozen
class FenceRun(PeerMessage):
    usage: ClassVar[str] = "fencing"
    about: ClassVar[str] = "storage nodes: execute nothing more of a run in lower epochs; say what you know of it"
    run: UpdateId
    epoch: Epoch


@frozen
class Heartbeat(PeerMessage):
    usage: ClassVar[str] = "heartbeat"
    about: ClassVar[str] = "storage nodes: are you there, and what do you have"
    have: Timestamp = field(factory=dict)
    all: bool = False
    """True if `have` is what every member has, at least, not what the sender has."""
    oldest: Counter = 0
    """The sender's transactions with lower numbers have ended."""
    at: float = 0.0
    """The sender's clock when it was sent, in seconds; only the sender can interpret it."""


@frozen
class Suspect(PeerMessage):
    usage: ClassVar[str] = "suspect"
    about: ClassVar[str] = "storage nodes: I don't hear this one; do you"
    component: Name


@frozen
class Stop(PeerMessage):
    usage: ClassVar[str] = "stop"
    about: ClassVar[str] = "storage nodes: I leave; go on without me, with what I have"
    have: Timestamp = field(factory=dict)


@frozen
class Join(PeerMessage):
    usage: ClassVar[str] = "join"
    about: ClassVar[str] = "storage nodes: take me into the view"
    member: Member
    heard: tuple[Member, ...] = ()
    loaded: str = ""
    """Name of the view whose snapshot the sender has; empty if it has none."""
    giver: str = ""
    """The node that gave the snapshot."""
    copy: Counter = 0
    """Which of that node's snapshots it was."""
    told: str = ""
    """Name of the view of which it heard last: it existed, outside of that view, when the view was in force."""


@frozen
class Load(PeerMessage):
    usage: ClassVar[str] = "load"
    about: ClassVar[str] = "storage nodes: a part of the whole state, for a node that joins"
    copy: Counter
    part: Counter
    last: bool
    state: dict[str, Any]


@frozen
class Flush(PeerMessage):
    usage: ClassVar[str] = "flush"
    about: ClassVar[str] = "storage nodes: stop the old view, say what you have"
    number: Counter
    members: tuple[Member, ...]
    leaving: tuple[Member, ...] = ()
    """Members of the old view that leave in order: they report what they have, and go."""
    promises: dict[UpdateId, Epoch] = field(factory=dict)
    """To a node that joins: the epochs to which runs were fenced since its snapshot."""


@frozen
class Level(PeerMessage):
    usage: ClassVar[str] = "level"
    about: ClassVar[str] = "storage nodes: what you lack of what survivors have"
    number: Counter
    ranges: tuple[Range, ...] = ()
    prepared: tuple[Prepared, ...] = ()
    """To a node that joins: what all members of the old view have prepared."""


@frozen
class Install(PeerMessage):
    usage: ClassVar[str] = "install"
    about: ClassVar[str] = "storage nodes: the new view"
    installs: View
    base: Timestamp


# --- the objects of replies ---------------------------------------------------------------------


@frozen
class Has:
    """Reply: what the answering node has in its log; and, when it has stopped the old view, what it has prepared."""

    have: Timestamp
    component: str = ""
    """The incarnation that answers, where another one may have been at its URL when it was asked."""
    prepared: tuple[Found, ...] = ()
    complete: bool = False
    """True if it knows that all members have entered the view."""


@frozen
class Alive:
    """Reply to a heartbeat: what the answering node has, and reports with every message."""

    have: Timestamp
    oldest: Counter = 0
    lease: float = 0.0
    """Seconds that remain of its lease, if this is the hub of a large view: they are the asking node's lease."""
    complete: bool = False
    """True if it knows that all members have entered the view."""


@frozen
class Fetched:
    """Reply: ranges that the asking node lacks, and all that the answering one has."""

    have: Timestamp
    ranges: tuple[Range, ...] = ()


@frozen
class Grant:
    """The key is locked, and the record prepared; else its newest version here. Or the update was executed before."""

    prepared: bool = False
    newest: Version | None = None
    known: tuple[str, ...] | None = None
    """The words of the reply to the update, which was executed before."""
    ok: bool = True
    after: Timestamp = field(factory=dict)
    expired: bool = False
    """True if the update was executed before, and its reply is forgotten."""
    superseded: Epoch | None = None
    """The epoch to which the run is fenced here, if that is higher."""
    ended: bool = False
    """True if the transaction has gone on since, or its key waits for the commit of another one: nothing was done."""


@frozen
class Granted:
    """Reply: a grant for each key of a PREPARE, in its order, and what is logged here, those versions included."""

    grants: tuple[Grant, ...] = ()
    have: Timestamp = field(factory=dict)


@frozen
class RunFenced:
    """Reply: the promise is made. The timestamp of the run's updates that are known here, and their highest number."""

    after: Timestamp = field(factory=dict)
    highest: Counter = 0
    open: bool = False
    """True if a record of the run in a lower epoch is prepared here: whether it is committed is not known yet."""


@frozen
class Silence:
    """Reply: seconds since the answering node heard from a suspect."""

    silent: float


@frozen
class Heard:
    """Reply: storage nodes that the answering node knows of, and the view that it is in."""

    heard: tuple[Member, ...] = ()
    view: str = ""


@frozen
class OtherView:
    """Refusal of a message of another view: the answering node's view, and the state that it began with."""

    view: View | None = None
    base: Timestamp = field(factory=dict)
    complete: bool = False
    """True if it knows that all members have entered that view."""


@frozen
class Promised:
    """Refusal during a change of the view: the highest ballot that the answering node has promised to follow."""

    promised: Counter = 0
    complete: bool = False
    """True if it knows that all members have entered the view that is being changed."""


INTRODUCTIONS = (Peer, Vouch)
PEER = (
    *(Gossip, Fetch, Prepare, Release, Forward, FenceRun),
    *(Heartbeat, Suspect, Stop, Join, Load, Flush, Level, Install),
)
"""The verbs between storage nodes."""
