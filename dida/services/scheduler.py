"""The scheduler as a service: `twistd -n dida-scheduler`."""

from __future__ import annotations

import secrets
import string
from typing import Any

from twisted.python import usage

from dida.addresses import NodeAddress, StorageAddress
from dida.chains.runs import Runs
from dida.chains.scheduling import POLICIES, LeastActive
from dida.scheduler.node import SchedulerNode
from dida.services.node import NodeOptions, NodeService, check_distinct, default_reactor, number, serve

LIFE = 6
"""Characters by which the run ids of one life of a scheduler differ from those of others: one of 62 ** 6."""


def policy_named(name: str) -> type[LeastActive]:
    """A policy, for the option."""
    if name not in POLICIES:
        raise ValueError(f"invalid policy {name!r}: choose {' or '.join(POLICIES)}")
    return POLICIES[name]


class Options(NodeOptions):
    """What `twistd dida-scheduler` takes."""

    command = "dida-scheduler"
    synopsis = "--id sc1 --url http://localhost:2000 [options]"
    optParameters = [
        ["policy", None, "least-active", f"which worker is next: {' or '.join(POLICIES)}"],
        [
            "run-deadline",
            None,
            120.0,
            "seconds after which a run counts as lost",
            number(0.1, 86_400, "seconds", float),
        ],
        ["keep-runs", None, 10_000, "runs whose outcome is kept", number(1, 10_000_000, "runs")],
        ["start-deadline", None, 30.0, "seconds that a worker is waited for", number(0, 86_400, "seconds", float)],
    ]

    def __init__(self) -> None:
        super().__init__()
        self.workers: list[NodeAddress] = []
        self.storage: list[StorageAddress] = []

    def opt_worker(self, text: str) -> None:
        """ID=URL of a worker; once per worker"""
        worker = NodeAddress.parse(text)
        for each in self.workers:
            if each.id == worker.id or each.address == worker.address:
                raise usage.UsageError(f"--worker {text}: {each} has that id or URL already")
        self.workers.append(worker)

    def opt_storage(self, text: str) -> None:
        """R=ID@URL of a storage node; once per node"""
        self.storage.append(StorageAddress.parse(text))

    def postOptions(self) -> None:
        super().postOptions()
        check_distinct(self.storage)
        try:
            self["policy"] = policy_named(self["policy"])
        except ValueError as problem:
            raise usage.UsageError(f"--policy: {problem}") from None


def makeService(options: Options, reactor: Any = None) -> NodeService:
    """The service that the options describe; its port is bound already."""
    reactor = default_reactor(reactor, options)
    runs = Runs(
        options["policy"](),
        suffix="".join(secrets.choice(string.ascii_letters + string.digits) for _ in range(LIFE)),
        deadline=float(options["run-deadline"]),
        keep=int(options["keep-runs"]),
    )
    node = SchedulerNode(
        reactor,
        NodeAddress(options["id"], options.address),
        runs,
        workers=options.workers,
        storage=options.storage,
        start_deadline=float(options["start-deadline"]),
        max_line=int(options["max-line"]),
        debug=bool(options["debug"]),
    )
    return serve(node, options, reactor)
