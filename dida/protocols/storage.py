"""The verbs of a storage node: what clients ask, and what storage nodes say to each other."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from dida.messages import NODE, Request, Slow, vocabulary
from dida.peer_messages import PEER, PeerMessage
from dida.protocols.lines import Answer, NodeCommands
from dida.replica import Replica


class StorageCommands(NodeCommands):
    """`ask` and `tell` take a request to the replica; each gives the reply, or a Deferred of it."""

    vocabulary: Mapping[str, type[Request]] = vocabulary(*NODE, Slow, *Replica.VERBS, *PEER)

    ask: Callable[[Request], Answer]
    """A client's request."""
    tell: Callable[[PeerMessage], Answer]
    """Another storage node's message."""

    def cmd_read(self, request: Request) -> Answer:
        return self.ask(request)

    cmd_write = cmd_updateif = cmd_list = cmd_versions = cmd_home = cmd_forget = cmd_watch = cmd_read

    def cmd_gossip(self, message: PeerMessage) -> Answer:
        return self.tell(message)

    cmd_fetch = cmd_lock = cmd_decide = cmd_expose = cmd_release = cmd_forward = cmd_gossip
    cmd_heartbeat = cmd_suspect = cmd_join = cmd_load = cmd_flush = cmd_level = cmd_install = cmd_gossip
