"""The options of every TCP connection, and what the kernel knows of its other end.

Lines are small and are sent at once. A peer that vanishes with its machine or its network is detected within `IDLE` +
`PROBES` * `PROBE_INTERVAL` seconds, whether or not something is sent to it.
"""

from __future__ import annotations

import select
import socket
from typing import Any

IDLE = 30
"""Silence after which the kernel probes the other end, in seconds."""
PROBE_INTERVAL = 10
"""Interval between two probes, in seconds."""
PROBES = 3
"""Unanswered probes after which the connection is broken."""
_OPTIONS = {
    "TCP_KEEPIDLE": IDLE,
    "TCP_KEEPINTVL": PROBE_INTERVAL,
    "TCP_KEEPCNT": PROBES,
    "TCP_USER_TIMEOUT": 1000 * (IDLE + PROBES * PROBE_INTERVAL),
}
"""The options by the names that platforms may have; the last one, in milliseconds, limits unconfirmed bytes."""
_SETTINGS = [
    *((socket.IPPROTO_TCP, getattr(socket, name), value) for name, value in _OPTIONS.items() if hasattr(socket, name)),
    (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
]


def tune(transport: Any) -> None:
    """Set these options on a transport if it is a TCP connection."""
    if not hasattr(transport, "getHandle"):
        return
    handle = transport.getHandle()
    for setting in _SETTINGS:
        handle.setsockopt(*setting)


def has_ended(transport: Any) -> bool:
    """Return True if the peer has closed its sending side, though there may be bytes to read before that."""
    if not hasattr(transport, "getHandle") or not hasattr(select, "POLLRDHUP"):
        return False
    poll = select.poll()
    poll.register(transport.getHandle(), select.POLLRDHUP)
    return bool(poll.poll(0))
