"""A client's request on its way through a replica, and the errors that it can end with."""

from __future__ import annotations

from enum import Enum, auto
from typing import Any

from attrs import Factory, define, frozen

from dida import errors
from dida.errors import BadRequest
from dida.replication.messages import Forward
from dida.timestamps import Timestamp
from dida.versions import Version
from dida.wire.messages import (
    FIRST,
    Concern,
    Epoch,
    Error,
    Fence,
    Home,
    Journal,
    ListRecords,
    Note,
    Read,
    Request,
    UpdateIf,
    Versions,
    Write,
    form_of,
)

Question = ListRecords | Versions | Home | Fence


@frozen(kw_only=True)
class ReplicaRequest:
    """A request of a client, from the client or forwarded by another replica."""

    verb: str
    key: str
    version: Version | None = None
    latest: bool = False
    value: str = ""
    old: str = ""
    id: str | None = None
    lowest: int = 0
    retry: bool = False
    concern: Concern = 1
    after: Timestamp = Factory(dict)
    forwarded: bool = False
    journal: Journal | None = None
    question: Question | None = None
    """A question about the records that is not a read; then `verb` and `key` describe it."""

    @property
    def epoch(self) -> Epoch:
        """The execution that an update of a run belongs to."""
        return self.journal.epoch if self.journal is not None else FIRST


class Obstacle(Enum):
    """What keeps a replica from answering a request of a client from its own state now."""

    OTHER_SHARD = auto()
    VIEW_CHANGE = auto()
    NO_LEASE = auto()
    LOCKED = auto()
    """A transaction has locked the key."""
    LOG_FULL = auto()
    TOO_MANY_REPLIES = auto()
    """The reply cache is full."""
    TOO_FEW_MEMBERS = auto()
    """Fewer than the write concern wants."""
    NO_ROOM = auto()
    """No memory for another version."""


@define(eq=False)
class PendingRequest:
    """A request that is not answered yet. `deadline` and `parked_at` are times of the replica's clock."""

    token: Any
    op: ReplicaRequest
    deadline: float
    passed_on: bool = False
    """True if it was forwarded to the key's home at least once: its outcome may be unknown."""
    parked_at: float | None = None
    """When it began to wait for what it lacks, if it does."""


def operation(request: Request) -> ReplicaRequest | None:
    """Return the request of a replica that a message stands for; None if it reads or changes no record."""
    match request:
        case Read():
            return ReplicaRequest(
                verb="read",
                key=request.key,
                version=request.version,
                latest=request.latest and request.version is None,
                after=request.after,
            )
        case Write():
            return _update(request, "write", request.value, concern=request.concern)
        case UpdateIf():
            return _update(request, "updateif", request.new, request.old)
        case Note():
            note = request.journal
            if note.verb != "n":
                raise BadRequest(f'the journal of a note has the verb "n", not "{note.verb}"')
            return ReplicaRequest(verb="write", key=request.key, id=request.id, journal=note, after=request.after)
        case Fence():
            return ReplicaRequest(verb="fence", key=request.run, question=request)
        case ListRecords():
            return ReplicaRequest(verb="list", key=request.from_, question=request, after=request.after)
        case Versions() | Home():
            return ReplicaRequest(verb=form_of(type(request)).verb, key=request.key, question=request)
    return None


def _update(request: Write | UpdateIf, verb: str, value: str, old: str = "", concern: Concern = 1) -> ReplicaRequest:
    if request.journal is not None and request.journal.verb == "n":
        raise BadRequest('the verb "n" is for the journal of a note: expected "w" or "c"')
    return ReplicaRequest(
        verb=verb,
        key=request.key,
        value=value,
        old=old,
        id=request.id,
        lowest=request.lowest,
        retry=request.retry,
        concern=concern,
        after=request.after,
        journal=request.journal,
    )


def forwarded(message: Forward) -> ReplicaRequest:
    """Return the request that another replica forwards to the home of its key.

    DidaError if it is of a verb that is not forwarded.
    """
    if message.verb not in ("read", "write", "updateif"):
        raise BadRequest(f"{message.verb} cannot be forwarded: expected read, write or updateif")
    return ReplicaRequest(
        verb=message.verb,
        key=message.key,
        latest=message.verb == "read",
        value=message.value,
        old=message.old,
        id=message.id,
        lowest=message.lowest,
        retry=message.retry or message.verb == "write",
        concern=message.concern,
        after=message.after,
        journal=message.journal,
        forwarded=True,
    )


def too_late(waiting: PendingRequest) -> Error:
    """Return the reply at the deadline."""
    return refused(waiting, "not possible within the deadline; nothing was changed, try again")


def refused(waiting: PendingRequest, why: str) -> Error:
    """Return the error of a request that was not executed.

    It says that nothing was changed only where that is sure: an earlier try may take effect.
    """
    if waiting.passed_on or (waiting.op.id is not None and waiting.op.retry):
        return unknown_outcome()
    return Error(errors.UNAVAILABLE, (why,))


def superseded(by: Epoch) -> Error:
    """Return the error of an update of a run that goes on in a higher epoch."""
    return Error(errors.SUPERSEDED, (str(by), "another execution of the run goes on"), {"epoch": by})


def unknown_outcome() -> Error:
    """Return the error of an update that may or may not take effect."""
    return Error(errors.UNKNOWN_OUTCOME, ("not known within the deadline; ask again with the same id",))
