"""The storage as a step of a run uses it: with the versions and the timestamp of the run and the step's update ids."""

from __future__ import annotations

from collections.abc import Coroutine, Iterable
from typing import Any, TypeVar

from twisted.internet.defer import Deferred
from zope.interface import implementer

from dida import errors
from dida.chains.records import Meta
from dida.chains.redo import first_reads
from dida.client.sessions import CausalContext, StepRequestIds
from dida.client.storage_client import StorageClient
from dida.errors import DidaError, Unavailable
from dida.interfaces import Access, IStorage, Record
from dida.timestamps import Timestamp
from dida.versions import Version

_T = TypeVar("_T")

NO_STORAGE = "the run's scheduler knows no storage node: start it with --storage R=ID@URL, or send it: storage R ID URL"
"""The error for operators of a worker to which no storage node was ever named."""


@implementer(IStorage)
class RunStorage:
    """The storage as one step of a run sees it; its accesses are noted in the run's meta record.

    A record that the run has read or written before is read in that same version.
    """

    def __init__(
        self,
        storage_client: StorageClient,
        meta: Meta,
        deadline: float,
        ids: StepRequestIds | None = None,
        before: Iterable[Access] = (),
    ) -> None:
        """`before`: the accesses of an earlier execution of the step."""
        self.deadline = deadline
        self.unanswered = 0
        """The number of calls without a reply."""
        self._storage_client = storage_client
        self._ids = ids or StepRequestIds(meta.run, 0)
        self._seen = CausalContext(meta.after, meta.versions, pins=first_reads(before))
        self._closed = ""

    @property
    def records(self) -> tuple[Access, ...]:
        """The accesses of the step so far."""
        return tuple(self._seen.records)

    @property
    def lost(self) -> Timestamp:
        """What the run depended on and was lost with a storage node; the step can't go on then."""
        return self._seen.lost

    def read(self, key: str, version: Version | None = None) -> Deferred[Record]:
        """Return the record: that version, or the one that the run has seen, or the newest."""
        return self._counted(self._storage_client.read_as(self._seen, key, version, self.deadline))

    def write(self, key: str, value: str) -> Deferred[Version]:
        """Write a new version."""
        return self._counted(self._storage_client.write_as(self._seen, key, value, self.deadline, self._ids))

    def update_if_value_is(self, key: str, old: str, new: str) -> Deferred[Version | None]:
        """Compare and swap; return None if the value is not `old`. The value found counts as read."""
        work = self._storage_client.update_if_as(self._seen, key, old, new, self.deadline, self._ids)
        return self._counted(work)

    def close(self, why: str) -> None:
        """Refuse further calls: the step has ended."""
        self._closed = why

    def _counted(self, work: Coroutine[Any, Any, _T]) -> Deferred[_T]:
        if self._storage_client.replicas.unknown:
            work.close()
            raise Unavailable(NO_STORAGE)
        if self._closed:
            work.close()
            raise DidaError(errors.UNAVAILABLE, self._closed)
        if self.lost:
            work.close()
            raise DidaError(errors.LOST_UPDATE, "updates that this run has seen were lost with a storage node")
        answer = Deferred.fromCoroutine(work)
        if not answer.called:
            self.unanswered += 1
            answer.addBoth(self._answered)
        return answer

    def _answered(self, result: _T) -> _T:
        self.unanswered -= 1
        return result
