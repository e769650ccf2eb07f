"""The worker as a service: `twistd -n dida-worker`."""

from __future__ import annotations

import os
from typing import Any

from dida.addresses import Address, NodeAddress
from dida.services.node import (
    NodeOptions,
    NodeService,
    default_reactor,
    drain_option,
    fail,
    milliseconds,
    number,
    serve,
)
from dida.services.stock import stock_folder
from dida.worker.execution import Operators
from dida.worker.loading import OperatorFolder
from dida.worker.node import WorkerNode
from dida.worker.printing import Streams


class Options(NodeOptions):
    """The options of a worker."""

    command = "dida-worker"
    synopsis = "--id w1 --url http://localhost:4001 [options]"
    optParameters = [
        ["gossip-delay", None, 0, "delay before a request is forwarded, in ms", milliseconds],
        ["operators", None, None, "folder of operator files (default: operators, here or as installed)"],
        ["operator-timeout", None, 30.0, "time-out for one operator, in s", number(0.001, 86_400, "seconds", float)],
        [
            "max-operators",
            None,
            10_000,
            "maximum number of operators at once; further ones go to other workers",
            number(1, 1_000_000, "operators"),
        ],
        drain_option("finish its work"),
        ["threads", None, 32, "threads for plain operators", number(1, 1000, "threads")],
    ]

    def __init__(self) -> None:
        super().__init__()
        self.schedulers: list[Address] = []

    def opt_scheduler(self, text: str) -> None:
        """URL of a scheduler to register at; repeatable"""
        self.schedulers.append(Address.parse(text))

    def postOptions(self) -> None:
        super().postOptions()
        if self["operators"] is None:
            self["operators"] = stock_folder("operators")
        self["operators"] = os.path.abspath(self["operators"])
        if not os.path.isdir(self["operators"]):
            fail(
                self.command, f"--operators {self['operators']}: no such folder: name the one with the operators' files"
            )


def makeService(options: Options, reactor: Any = None) -> NodeService:
    """The service that the options describe; its port is bound already."""
    reactor = default_reactor(reactor, options)
    operators = Operators(
        reactor,
        OperatorFolder(options["operators"]),
        threads=int(options["threads"]),
        timeout=float(options["operator-timeout"]),
    )
    node = WorkerNode(
        reactor,
        NodeAddress(options["id"], options.address),
        operators,
        gossip_delay=options["gossip-delay"] / 1000,
        max_line=int(options["max-line"]),
        debug=bool(options["debug"]),
        max_steps=int(options["max-operators"]),
        schedulers=options.schedulers,
        drain=float(options["drain"]),
        streams=Streams(),
        on_end=reactor.stop,
    )
    return serve(node, options, reactor)
