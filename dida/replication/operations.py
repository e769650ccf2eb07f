"""What a client asks of the storage, on its way through a replica, and what it hears when it is not done."""

from __future__ import annotations

from typing import Any

from attrs import Factory, define, frozen

from dida import errors
from dida.errors import BadRequest
from dida.replication.messages import Forward
from dida.timestamps import Timestamp
from dida.versions import Version
from dida.wire.messages import Concern, Error, Home, ListRecords, Read, Request, UpdateIf, Versions, Write, form_of

Question = ListRecords | Versions | Home


@frozen(kw_only=True)
class ReplicaRequest:
    """What a client asks of the storage, whichever way it came."""

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
    question: Question | None = None
    """What else is asked of the records; then `verb` and `key` tell of it."""


@define(eq=False)
class PendingRequest:
    """An operation that is not answered yet. `deadline` is a time of the replica's clock."""

    token: Any
    op: ReplicaRequest
    deadline: float
    passed_on: bool = False
    """It was sent to the key's home at least once: its outcome may be unknown."""
    parked_at: float | None = None
    """When it began to wait for what it lacks, if it does."""


def operation(request: Request) -> ReplicaRequest | None:
    """Of a request; None when it is none that reads or changes one record."""
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
        case ListRecords():
            return ReplicaRequest(verb="list", key=request.from_, question=request, after=request.after)
        case Versions() | Home():
            return ReplicaRequest(verb=form_of(type(request)).verb, key=request.key, question=request)
    return None


def _update(request: Write | UpdateIf, verb: str, value: str, old: str = "", concern: Concern = 1) -> ReplicaRequest:
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
    )


def forwarded(message: Forward) -> ReplicaRequest:
    """What another replica passes on to the home of its key; DidaError when it is nothing that is passed on."""
    if message.verb not in ("read", "write", "updateif"):
        raise BadRequest(f"{message.verb} is not passed on: only read, write and updateif are")
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
        forwarded=True,
    )


def too_late(waiting: PendingRequest) -> Error:
    """The answer at the deadline."""
    return refused(waiting, "not possible within the deadline; nothing was changed, try again")


def refused(waiting: PendingRequest, why: str) -> Error:
    """The answer when it is not done: nothing was changed, where that is sure, for an earlier try may take effect."""
    if waiting.passed_on or (waiting.op.id is not None and waiting.op.retry):
        return unknown_outcome()
    return Error(errors.UNAVAILABLE, (why,))


def unknown_outcome() -> Error:
    """The honest answer when an update may or may not take effect."""
    return Error(errors.UNKNOWN_OUTCOME, ("not known within the deadline; ask again with the same id",))
