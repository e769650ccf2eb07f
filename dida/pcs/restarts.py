"""Restarts of the nodes of a PCS: when a node that has failed is started again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.logger import Logger

from dida.pcs.node_process import NodeProcess

FIRST_DELAY = 0.5
"""Delay of the first restart, in seconds; it doubles with each failure in a row."""
LONGEST_DELAY = 30.0
"""Longest delay of a restart, in seconds."""
STEADY = 60.0
"""Uptime after which a failure counts as the first one again, in seconds."""
IN_ORDER = ("exit status 0", "signal SIGTERM", "signal SIGINT")
"""Ends that are not failures: the node was shut down."""

_log = Logger()


class Restarts:
    """Plans restarts. `restart` starts the process again, or raises OSError; `show` prints a line of a node."""

    def __init__(
        self,
        reactor: Any,
        restart: Callable[[NodeProcess], None],
        show: Callable[[str, bytes], None],
        first_delay: float = FIRST_DELAY,
    ) -> None:
        self._reactor = reactor
        self._restart = restart
        self._show = show
        self._first_delay = first_delay

    def ended(self, node: NodeProcess) -> None:
        """Plan the restart of a node, unless it was shut down, a client asked for its end, or it has an owner."""
        entry = node.entry
        if not node.words or entry.asked or entry.owner or entry.ended in IN_ORDER:
            return
        if self._reactor.seconds() - node.since > STEADY:
            node.failures = 0
        delay = min(LONGEST_DELAY, self._first_delay * 2**node.failures)
        node.again = self._reactor.callLater(delay, self._start, node)
        text = f"{entry.id} has ended ({entry.ended}): it restarts in {delay:g} s"
        _log.info("{text}", text=text)
        self._show(entry.id, f"({text})".encode())

    def _start(self, node: NodeProcess) -> None:
        node.again = None
        try:
            self._restart(node)
        except OSError as problem:
            _log.error("cannot restart {id}: {problem}", id=node.entry.id, problem=problem.strerror)
            node.failures += 1
            self.ended(node)
