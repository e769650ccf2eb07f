"""The console's client of the storage: made when first used, and what it has seen less what storage nodes have lost.

Runs start from what the console has seen. If that named updates that no living node has any more, all of them would
fail, for ever.
"""

from __future__ import annotations

from typing import Any

from twisted.logger import Logger

from dida.addresses import StorageAddress
from dida.client.scheduler_client import RunResult
from dida.client.storage_client import StorageClient
from dida.console.style import ODD
from dida.errors import DidaError
from dida.puppetmaster.cluster import Cluster
from dida.puppetmaster.line_work import Output
from dida.puppetmaster.nodes import Node
from dida.puppetmaster.refusals import plain
from dida.timestamps import Timestamp

LOST_TIME = 2.0
"""Time-out for the storage to say what is lost, in seconds."""
_log = Logger()


class ConsoleStorage:
    """One client for all commands, so that each sees what those before it have written."""

    def __init__(self, cluster: Cluster, output: Output, lost_time: float = LOST_TIME) -> None:
        self._cluster = cluster
        self._output = output
        self._lost_time = lost_time
        self._client: StorageClient | None = None
        self._asked_of: Any = None
        """The storage nodes and views when the storage was asked last for what is lost."""

    def client(self) -> StorageClient:
        """Return the client; UserError when there is no storage node."""
        nodes = [node for node in self._cluster.nodes.ready("storage") if node.replica]
        if self._client is None:
            members = [StorageAddress(node.replica, node.id, node.address) for node in nodes]
            reactor, deadline = self._cluster.reactor, self._cluster.deadline
            self._client = StorageClient(reactor, members, deadline, on_gone=self._say_lost)
            self._client.start()
        return self._client

    def add(self, node: Node) -> None:
        """Use a storage node that is ready."""
        if self._client is not None:
            self._client.add(StorageAddress(node.replica, node.id, node.address))

    @property
    def after(self) -> Timestamp:
        """What a run that starts now depends on: all that was seen here."""
        return dict(self._client.after) if self._client is not None else {}

    def on_result(self, result: RunResult) -> None:
        """Drop what the result of a run reports as lost."""
        if self._client is not None:
            self._client.seen.on_lost(result.members)

    async def drop_lost(self) -> None:
        """Ask the storage for what is lost, unless the nodes are those that were asked last."""
        client = self._client
        if client is None or not client.after:
            return
        nodes = [(node, node.pid) for node in self._cluster.nodes.named() if node.replica]
        asked_of = nodes, dict(client.replicas.views)
        if asked_of == self._asked_of:
            return
        try:
            await client.drop_lost(self._lost_time)
            self._asked_of = asked_of
        except DidaError as problem:  # the result of a run reports it, too
            _log.info("the storage does not say what is lost: {problem}", problem=plain(problem))

    def _say_lost(self, lost: Timestamp) -> None:
        named = {str(node.replica): node.id for node in self._cluster.nodes.named() if node.replica}
        ids = dict.fromkeys(named.get(number := stream.partition(":")[0], number) for stream in sorted(lost))
        text = f"lost     updates of {', '.join(ids)} that no living storage node has: commands go on without them"
        self._output.say(self._output.page.paint.word(ODD, text))

    def close(self) -> None:
        """Close all connections."""
        if self._client is not None:
            self._client.stop()
