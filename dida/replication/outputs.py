"""The outputs of the replica's state machines: small frozen values that the node acts on, in order."""

from __future__ import annotations

from typing import Any

from attrs import frozen

from dida.wire.messages import Reply, Request

OTHER_VIEW = "other-view"
"""Error code for a peer that is in another view than this node; the reply carries this node's view."""
CHANGING = "changing"
"""Error code for a peer while the view is being changed: it retries."""


@frozen
class Send:
    """Send `message` to the storage node at `url`; give its reply, or None after `timeout` seconds, to `on_answer`.

    With a `token` it is a client's request that is forwarded: the reply goes to `on_forwarded`.
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
    """Log something for the people who run the node."""

    text: str


@frozen
class FlushRequested:
    """Call `flush` after everything else that has arrived by now: messages gathered for a peer go out as one."""


@frozen
class Left:
    """This node has left, in order or as far as it could: end it when the replies before are on their way.

    `kept`: another member, which stays, has the whole state.
    """

    kept: bool
    text: str


Output = Send | Answer | LogMessage | FlushRequested | Left
