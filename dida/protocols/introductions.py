"""Who speaks on a connection between storage nodes, proved before anything is taken from it.

A storage node that connects to another says its URL and its word, which is random (`peer URL WORD`). The other
asks at that URL, over a connection of its own, whether the word is the node's (`vouch WORD`). So what a client
types is never taken for a member's message, whatever it says, and there are no keys to be handed out. It is no
protection from those who can listen at a member's URL, or read what goes over the network.
"""

from __future__ import annotations

from collections.abc import Callable

from attrs import Factory, define
from twisted.internet.defer import Deferred, succeed
from twisted.python.failure import Failure

from dida.wire.messages import Ok, Reply


@define(eq=False)
class PeerIdentity:
    """What the other side of one connection has said of itself."""

    url: str
    ask: Callable[[], Deferred[Reply]]
    """Asks the node at `url` to vouch."""
    proved: bool = False
    _waiting: list[Deferred[bool]] = Factory(list)

    def proof(self) -> Deferred[bool]:
        """Whether it is the node at that URL; False, too, when that one can't be asked now. Asked again each time, but
        only once at a time, until it is proved."""
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
