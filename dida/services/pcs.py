"""The Process Creation Service: starts nodes as processes on its machine, and watches them.

It starts storage nodes, workers and schedulers only, a bounded number of them. The output of a node goes to a file of
its own and, with the node's id in front, to the PCS's console; the newest lines are kept for `output`. A node is
`starting` until it reports on its port that it is ready. When the PCS ends, its nodes end, unless --keep is given. When
it is killed they go on, and the next PCS takes them over: a file has the table of running nodes, with the start time
of each process.

A node may have an owner, a puppetmaster, which sends `own` for as long as it lives. An owner without an `own` for a
while is gone, and its nodes are ended.
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from typing import Any

from twisted.internet.error import ReactorNotRunning
from twisted.internet.protocol import Protocol
from twisted.logger import Logger
from twisted.python import usage
from twisted.python.failure import Failure

from dida.addresses import Address, node_id
from dida.pcs.log_folder import LogFolder
from dida.pcs.node import PcsNode
from dida.pcs.processes import LineWriter
from dida.pcs.table import Processes
from dida.services.memory import half_of_memory, memory_size
from dida.services.node import NodeOptions, NodeService, coerced, default_reactor, fail, number, serve
from dida.wire.messages import DRAIN

_log = Logger()


class _Attached(Protocol):
    """Standard input of a PCS whose parent process holds the other end."""

    def __init__(self, reactor: Any) -> None:
        self.reactor = reactor

    def connectionLost(self, reason: Failure | None = None) -> None:
        with suppress(ReactorNotRunning):
            self.reactor.stop()


class Options(NodeOptions):
    command = "dida-pcs"
    synopsis = "[options]"
    longdesc = "The Process Creation Service: one per machine, starts nodes for the puppetmaster."
    optParameters = [
        ["id", None, "pcs", "id: any word", coerced(node_id)],
        ["url", None, Address("localhost", 10_000), "URL for other nodes: http://HOST:PORT", coerced(Address.parse)],
        ["logs", None, "logs", "folder of the nodes' output"],
        ["max-nodes", None, 64, "maximum number of running nodes", number(1, 10_000, "nodes")],
        ["operators", None, None, "operators folder of the workers (default: the workers' default)"],
        [
            "drain",
            None,
            None,
            f"time for nodes to finish their work at shutdown, in s (default {DRAIN:g})",
            number(0, 86_400, "seconds", float),
        ],
        [
            "restart",
            None,
            "never",
            "restart of nodes that fail: never, or on-failure (not those of a puppetmaster)",
        ],
        [
            "max-memory",
            None,
            None,
            "memory of all storage nodes together, in bytes, or as 512M or 2G; default: half of the memory",
            coerced(memory_size),
        ],
        ["serves", None, "", "name of the only puppetmaster that this PCS serves"],
    ]
    optFlags = [
        ["keep", None, "leave nodes running at the end"],
        ["quiet", None, "no output of nodes on the console, only in their files"],
        ["attached", None, "end with standard input, for a PCS that another program starts"],
    ]

    def postOptions(self) -> None:
        super().postOptions()
        if self["restart"] not in ("never", "on-failure"):
            raise usage.UsageError(f"--restart {self['restart']}: expected never or on-failure")


def makeService(options: Options, reactor: Any = None) -> NodeService:
    reactor = default_reactor(reactor, options)
    logs: str = options["logs"]
    try:
        os.makedirs(logs, exist_ok=True)
    except OSError as problem:
        fail(options.command, f"cannot make the folder of --logs {logs}: {os.strerror(problem.errno or 0).lower()}")
    if not os.access(logs, os.W_OK | os.X_OK):
        fail(options.command, f"cannot write into the folder of --logs {logs}: permission denied")
    operators = options["operators"]
    if operators is not None:
        if not os.path.isdir(operators):
            fail(options.command, f"--operators {operators}: no such folder")
        operators = os.path.abspath(operators)
    kept = os.path.join(os.path.abspath(logs), f"{options['id'].replace(os.sep, '_')}-{options.address.port}.nodes")
    processes = Processes(
        reactor,
        logs,
        int(options["max-nodes"]),
        bool(options["keep"]),
        operators,
        kept,
        max_memory=half_of_memory() if options["max-memory"] is None else options["max-memory"],
        drain=options["drain"],
        restart=options["restart"] == "on-failure",
        console=None if options["quiet"] else LineWriter(sys.stdout.buffer),
        folder=LogFolder(logs),
    )
    if options["attached"]:
        _attach(reactor)
    return serve(PcsNode(options["id"], processes, options["serves"], options.address), options, reactor)


def _attach(reactor: Any) -> None:
    from twisted.internet.stdio import StandardIO

    reactor.callWhenRunning(StandardIO, _Attached(reactor), reactor=reactor)
