"""What storage nodes have taken with them: taken out of what the console has seen, and told once.

Runs start from what the console has seen. When that names updates that no living node has any more, all of them would
fail, for ever.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.logger import Logger

from dida.client.storage_client import StorageClient
from dida.errors import DidaError
from dida.puppetmaster.system import Cluster, plain
from dida.timestamps import Timestamp

LOST_TIME = 2.0
"""Seconds for the storage to say what is lost."""
_log = Logger()


class Losses:
    """What is lost of what one front end has seen; `say` is told of it."""

    def __init__(self, system: Cluster, say: Callable[[str], None]) -> None:
        self.system = system
        self._say = say
        self._asked_of: Any = None
        """The storage nodes and views when the storage was asked last."""

    async def drop(self, front_end: StorageClient | None) -> None:
        """Ask the storage for what is lost, when there are other nodes than when it was asked last."""
        if front_end is None or not front_end.after:
            return
        lives = [(node, node.pid) for node in self.system.named() if node.replica], dict(front_end.replicas.views)
        if lives == self._asked_of:
            return
        try:
            await front_end.drop_lost(LOST_TIME)
            self._asked_of = lives
        except DidaError as problem:  # the outcome of a run tells of it, too
            _log.info("the storage does not say what is lost: {problem}", problem=plain(problem))

    def tell(self, lost: Timestamp) -> None:
        """These entries were dropped."""
        named = {str(node.replica): node.id for node in self.system.named() if node.replica}
        ids = dict.fromkeys(named.get(number := stream.partition(":")[0], number) for stream in sorted(lost))
        self._say(f"lost     updates of {', '.join(ids)} that no living storage node has: commands go on without them")
