"""What is set on every TCP connection, and what the kernel knows of its other end.

Lines are small, and are sent at once. A peer that vanished without a word, as with its machine or its network, is
found within `IDLE` + `PROBES` * `PROBE_INTERVAL` seconds, whether something is to be sent to it or not.
"""

from __future__ import annotations

import select
import socket
from typing import Any

IDLE = 30
"""Seconds of silence after which the kernel asks whether the other end is there."""
PROBE_INTERVAL = 10
"""Seconds between two such questions."""
PROBES = 3
"""Questions without an answer after which the connection is broken."""
_OPTIONS = {
    "TCP_KEEPIDLE": IDLE,
    "TCP_KEEPINTVL": PROBE_INTERVAL,
    "TCP_KEEPCNT": PROBES,
    "TCP_USER_TIMEOUT": 1000 * (IDLE + PROBES * PROBE_INTERVAL),
}
"""By the names that the platform may have; the last one, in milliseconds, is for what was sent and not confirmed."""
_SETTINGS = [
    *((socket.IPPROTO_TCP, getattr(socket, name), value) for name, value in _OPTIONS.items() if hasattr(socket, name)),
    (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
]


def tune(transport: Any) -> None:
    """Set all this on a transport, if it is a TCP connection."""
    if not hasattr(transport, "getHandle"):
        return
    handle = transport.getHandle()
    for setting in _SETTINGS:
        handle.setsockopt(*setting)


def has_ended(transport: Any) -> bool:
    """Whether the peer has closed its sending side, though there may be something to be read before that."""
    if not hasattr(transport, "getHandle") or not hasattr(select, "POLLRDHUP"):
        return False
    poll = select.poll()
    poll.register(transport.getHandle(), select.POLLRDHUP)
    return bool(poll.poll(0))
