"""What the replica's state machines return: small frozen values that the service acts on, in order."""

from __future__ import annotations

from typing import Any

from attrs import frozen

from dida.wire.messages import Reply, Request

OTHER_VIEW = "other-view"
"""The error that tells a peer that it is in another view than this node; carries this node's view."""
CHANGING = "changing"
"""The error that tells a peer that the view is being changed: try again."""


@frozen
class Send:
    """Send `message` to the storage node at `url`; give its reply (or None) back to `on_answer`.

    With a `token` it is a client's request that is passed on: the reply goes to `on_forwarded`.
    """

    url: str
    peer: str
    message: Request
    timeout: float
    token: Any = None


@frozen
class Answer:
    """Answer the request that came under `token`."""

    token: Any
    reply: Reply


@frozen
class LogMessage:
    """Something that the people who run the node should find in its log."""

    text: str


@frozen
class FlushRequested:
    """Call `flush` when all else that has come in by now is taken: what is gathered for a peer goes in one message."""


@frozen
class Left:
    """This node has left in order, or as far as it could: end it when the answers before are on their way.

    `kept`: another member, that stays, has all that was here.
    """

    kept: bool
    text: str


Output = Send | Answer | LogMessage | FlushRequested | Left
