"""The storage for a script without a reactor: a connection whose calls block.

    from dida.client import connect

    with connect("localhost:5001", "localhost:5002") as storage:
        storage.write("greeting", "hello")
        print(storage.read("greeting").value)

One of the nodes is enough: it names the others. The first `connect` starts the reactor in a daemon thread. Code that
runs its own reactor uses `dida.client.storage_client.StorageClient`.
"""

from __future__ import annotations

from collections.abc import Callable
from queue import Empty, SimpleQueue
from threading import Event, Lock, Thread
from types import TracebackType
from typing import Any, Protocol, cast

from twisted.internet.defer import Deferred, maybeDeferred
from twisted.python.failure import Failure
from zope.interface import implementer

from dida import errors
from dida.addresses import Address, StorageAddress
from dida.client.operations import Page
from dida.client.storage_client import StorageClient
from dida.errors import DidaError, UserError
from dida.interfaces import IStorage, Record
from dida.timestamps import Timestamp
from dida.versions import Version
from dida.wire.messages import DEFAULT_DEADLINE, Concern

MARGIN = 2.0
"""Time that a blocking call waits past its deadline for the error from the reactor, in seconds."""

_starting = Lock()
"""Held while the reactor is started."""


def blocking(reactor: Any, seconds: float, call: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function on the reactor's thread from another thread and return its result; timed-out after `seconds`."""
    answer: SimpleQueue[Any] = SimpleQueue()
    reactor.callFromThread(lambda: maybeDeferred(call, *arguments).addBoth(answer.put))
    try:
        result = answer.get(timeout=seconds)
    except Empty:
        raise DidaError(errors.TIMED_OUT, f"no reply within {seconds:g} s") from None
    if isinstance(result, Failure):
        result.raiseException()
    return result


class AwaitedStorage(Protocol):
    """A storage whose calls return Deferreds: that of a client, or of a step of a run."""

    @property
    def deadline(self) -> float:
        """Time-out for one call, in seconds."""

    @property
    def read(self) -> Callable[..., Deferred[Record]]:
        """Return the record under a key."""

    @property
    def write(self) -> Callable[..., Deferred[Version]]:
        """Write a new version."""

    @property
    def update_if_value_is(self) -> Callable[..., Deferred[Version | None]]:
        """Compare and swap."""


@implementer(IStorage)
class BlockingStorage:
    """A storage for code in a thread other than the reactor's: each call returns or raises the outcome."""

    def __init__(self, reactor: Any, storage: AwaitedStorage) -> None:
        self._reactor = reactor
        self._storage = storage

    @property
    def deadline(self) -> float:
        return self._storage.deadline

    def read(self, key: str, version: Version | None = None) -> Record:
        """Return the record, the newest or that version."""
        return cast(Record, self._wait(self._storage.read, key, version))

    def write(self, key: str, value: str) -> Version:
        """Write a new version."""
        return cast(Version, self._wait(self._storage.write, key, value))

    def update_if_value_is(self, key: str, old: str, new: str) -> Version | None:
        """Compare and swap; return None if the value is not `old`."""
        return cast("Version | None", self._wait(self._storage.update_if_value_is, key, old, new))

    def _wait(self, call: Callable[..., Any], *arguments: Any) -> Any:
        return blocking(self._reactor, self.deadline + MARGIN, call, *arguments)


class Client(BlockingStorage):
    """The storage, for any thread but the reactor's. `close` it at the end, or use it in a `with` statement."""

    def __init__(self, reactor: Any, storage_client: StorageClient) -> None:
        super().__init__(reactor, storage_client)
        self._storage_client = storage_client
        blocking(reactor, self.deadline, storage_client.start)

    def write(self, key: str, value: str, concern: Concern = 1) -> Version:
        """Write a new version. `concern`: the number of replicas that must have it before the call returns, or
        "all"."""
        version: Version = self._wait(self._storage_client.write, key, value, concern)
        return version

    def records(self, start: str = "", limit: int = 1000) -> Page:
        """Return records from the key `start` on, as one replica (of each group) has them."""
        page: Page = self._wait(self._storage_client.records, start, limit)
        return page

    def versions(self, key: str) -> list[tuple[Version, str]]:
        """Return the kept versions of a record, newest first."""
        kept: list[tuple[Version, str]] = self._wait(self._storage_client.versions, key)
        return kept

    @property
    def after(self) -> Timestamp:
        """The timestamp of what this client has seen: pass it as `{"after": …}` to a run that must see it, too."""
        return dict(self._storage_client.after)

    def close(self) -> None:
        """Close the connection."""
        blocking(self._reactor, self.deadline, self._storage_client.stop)

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def connect(*urls: str, deadline: float = DEFAULT_DEADLINE) -> Client:
    """Connect to the storage. `urls` are URLs, or R=ID@URL; `deadline` is the time-out for one call, in seconds."""
    from twisted.internet import reactor
    from twisted.python.threadable import isInIOThread

    if not urls:
        raise UserError("missing storage node: write connect('localhost:5001')")
    members = [_member(number, url) for number, url in enumerate(urls, 1)]
    running: Any = reactor
    with _starting:
        if not running.running:
            started = Event()
            running.callWhenRunning(started.set)
            Thread(target=running.run, kwargs={"installSignalHandlers": False}, name="reactor", daemon=True).start()
            started.wait(deadline)
    if isInIOThread():
        raise UserError("connect() blocks, and this is the reactor's thread: use dida.client.StorageClient")
    return Client(running, StorageClient(running, members, deadline))


def _member(number: int, url: str) -> StorageAddress:
    """Return a storage node. Without a replica number it gets a provisional one, until the nodes send the right one."""
    if "@" in url:
        return StorageAddress.parse(url)
    address = Address.parse(url)
    return StorageAddress(number, str(address), address)
