"""The proof of who is at the other end of a connection between storage nodes.

A storage node that connects to another one sends its URL and a random word (`peer URL WORD`). The other node connects
to that URL and asks whether the word is the node's (`vouch WORD`). So a line that a client types never counts as a
member's message, and no keys have to be distributed. It does not protect from those who can listen at a member's URL,
or read the traffic of the network.
"""

from __future__ import annotations

from collections.abc import Callable

from attrs import Factory, define
from twisted.internet.defer import Deferred, succeed
from twisted.python.failure import Failure

from dida.wire.messages import Ok, Reply


@define(eq=False)
class PeerIdentity:
    """The claimed identity of the other side of one connection."""

    url: str
    ask: Callable[[], Deferred[Reply]]
    """Ask the node at `url` to vouch."""
    refusal: str = ""
    """Why this node takes no messages of the other side, if it takes none."""
    proved: bool = False
    _waiting: list[Deferred[bool]] = Factory(list)

    def proof(self) -> Deferred[bool]:
        """Return True if it is the node at that URL, False if that node denies it or does not reply.

        Asks the node on each call until it has vouched, but never twice at a time.
        """
        if self.proved:
            return succeed(True)
        answer: Deferred[bool] = Deferred()
        self._waiting.append(answer)
        if len(self._waiting) == 1:
            self.ask().addBoth(self._answered)
        return answer

    def _answered(self, reply: Reply | Failure) -> None:
        self.proved = isinstance(reply, Ok)
        waiting, self._waiting = self._waiting, []
        for answer in waiting:
            answer.callback(self.proved)
