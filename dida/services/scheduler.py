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
"""Length of the suffix of run ids that identifies one process of a scheduler, in characters: 62 ** 6 suffixes."""


_CHOICE = " or ".join(", ".join(POLICIES).rsplit(", ", 1))


def policy_named(name: str) -> type[LeastActive]:
    """Return the policy with that name."""
    if name not in POLICIES:
        raise ValueError(f"invalid policy {name!r}: choose {_CHOICE}")
    return POLICIES[name]


class Options(NodeOptions):
    """The options of a scheduler."""

    command = "dida-scheduler"
    synopsis = "--id sc1 --url http://localhost:2000 [options]"
    optParameters = [
        ["policy", None, "least-active", f"policy that chooses the next worker: {_CHOICE}"],
        [
            "run-deadline",
            None,
            120.0,
            "time-out for a run, in s",
            number(0.1, 86_400, "seconds", float),
        ],
        ["keep-runs", None, 10_000, "number of runs whose outcomes are kept", number(1, 10_000_000, "runs")],
        ["start-deadline", None, 30.0, "time-out for a worker to start, in s", number(0, 86_400, "seconds", float)],
    ]

    def __init__(self) -> None:
        super().__init__()
        self.workers: list[NodeAddress] = []
        self.storage: list[StorageAddress] = []

    def opt_worker(self, text: str) -> None:
        """ID=URL of a worker; repeatable"""
        worker = NodeAddress.parse(text)
        for each in self.workers:
            if each.id == worker.id or each.address == worker.address:
                raise usage.UsageError(f"--worker {text}: {each} has that id or URL already")
        self.workers.append(worker)

    def opt_storage(self, text: str) -> None:
        """R=ID@URL of a storage node; repeatable"""
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
