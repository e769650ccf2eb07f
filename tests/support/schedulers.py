"""A scheduler on real connections, with real workers and fake storage nodes, for tests in one process."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred, succeed

from dida import errors
from dida.addresses import Address, NodeAddress
from dida.chains.messages import SCHEDULER, WORKER, Execute, ListOperators, ReportTo
from dida.chains.runs import Runs
from dida.chains.scheduling import LeastActive
from dida.errors import DidaError
from dida.protocols.lines import Answer, NodeCommands
from dida.protocols.links import ReconnectingClient
from dida.scheduler.node import SchedulerNode
from dida.scheduler.workers import Timing
from dida.wire import grammar
from dida.wire.messages import NODE, Error, Ok, Ping, Reply, Request, SchedulerAt, vocabulary
from dida.worker.execution import Operators
from dida.worker.loading import OperatorFolder
from dida.worker.node import WorkerNode
from tests.support.fakes import FakeCluster, Port, refused, the_reactor
from tests.support.nodes import free_port

reactor = the_reactor()
STOCK = str(Path(__file__).parent.parent.parent / "operators")
# It takes long: what is tested.
NAP = """
import time

class NapOperator:
    def configure_storage(self, storage):
        pass

    def process_record(self, meta, input, previous_output):
        time.sleep(0.5)  # long enough to be met by what is tested
        return previous_output
"""
VERBS = vocabulary(*NODE, *SCHEDULER)


TIMING = Timing(registration=0.05)
"""Here nobody waits longer for workers that register themselves."""


class Silent(NodeCommands):
    """A worker that acknowledges requests and never executes them; `paused` it answers nothing at all."""

    vocabulary: Mapping[str, type[Request]] = vocabulary(*NODE, *WORKER)

    def __init__(self) -> None:
        self.paused = False
        self.requests: list[Execute] = []

    def cmd_ping(self, request: Ping) -> Answer:
        return None if self.paused else Ok()

    def cmd_report(self, request: ReportTo) -> Answer:
        return Ok()

    def cmd_scheduler(self, request: SchedulerAt) -> Answer:
        return Ok()

    def cmd_operators(self, request: ListOperators) -> Answer:
        return Error(errors.UNKNOWN_VERB, ("operators",))

    def cmd_execute(self, request: Execute) -> Answer:
        self.requests.append(request)
        return Ok()


class System:
    """A scheduler, workers with the stock operators, storage nodes."""

    def __init__(self, folder: Path) -> None:
        shutil.copytree(STOCK, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
        (folder / "nap.py").write_text(NAP)
        self.folder = str(folder)
        self.storage = FakeCluster(reactor, 2)
        self.nodes: list[Any] = []
        self.ports: dict[str, Port] = {}
        self._links: list[ReconnectingClient] = []

    def start(self, workers: int = 2, declared: tuple[NodeAddress, ...] = (), **options: Any) -> SchedulerNode:
        addresses = [self.worker(f"w{number + 1}") for number in range(workers)]
        runs = Runs(LeastActive(), options.pop("life", "test"), options.pop("deadline", 20.0), options.pop("keep", 100))
        here = options.pop("here", None) or refused()
        storage = options.pop("storage", self.storage.addresses)
        options.setdefault("timing", TIMING)
        scheduler = SchedulerNode(reactor, NodeAddress("sc1", here), runs, (*addresses, *declared), storage, **options)
        self.ports["sc1"] = Port(reactor, scheduler, here.port)
        scheduler.start()
        self.nodes.append(scheduler)
        self.link = ReconnectingClient(reactor, here.host, here.port)
        self._links.append(self.link)
        return scheduler

    async def start_again(self, **options: Any) -> SchedulerNode:
        """A scheduler in the place of the one that there is, which dies, with the same options as that."""
        first = self.scheduler
        self.nodes.remove(first)
        first.stop()
        await self.ports.pop("sc1").close()
        self.link.stop()
        return self.start(0, tuple(first.workers.declared), here=first.me.address, life="next", **options)

    def worker(self, id: str, port: int = 0, **options: Any) -> NodeAddress:
        operators = Operators(reactor, OperatorFolder(self.folder), 4, 5.0)
        me = Address("127.0.0.1", port or free_port())
        worker = WorkerNode(reactor, NodeAddress(id, me), operators, **options)
        return self.node(id, worker, me.port)

    def node(self, id: str, node: Any, port: int = 0) -> NodeAddress:
        self.ports[id] = Port(reactor, node, port)
        if isinstance(node, WorkerNode):
            node.start()
            self.nodes.append(node)
        return NodeAddress(id, self.ports[id].address)

    def ask(self, line: str, link: ReconnectingClient | None = None) -> Deferred[Reply]:
        """The scheduler's reply to a line, over a connection of the test's own."""
        try:
            request = grammar.decode(line.encode(), VERBS)[1]
        except DidaError as problem:
            return succeed(Error(problem.code, problem.words))
        return (link or self.link).ask(request, 15.0)

    async def run(self, line: str) -> Ok:
        """The result of a run."""
        return await self.run_line(f"run {line}")

    async def run_line(self, line: str) -> Ok:
        """The same, of a whole line."""
        reply = await self.ask(line)
        assert isinstance(reply, Ok), reply
        result = await self.ask(f"result {reply.words[0]}")
        assert isinstance(result, Ok), result
        return result

    @property
    def scheduler(self) -> SchedulerNode:
        """The scheduler that runs."""
        return next(node for node in self.nodes if isinstance(node, SchedulerNode))

    @property
    def workers(self) -> list[WorkerNode]:
        """The real ones."""
        return [node for node in self.nodes if isinstance(node, WorkerNode)]

    def link_to(self, id: str) -> ReconnectingClient:
        """A connection to a node."""
        address = self.ports[id].address
        self._links.append(ReconnectingClient(reactor, address.host, address.port))
        return self._links[-1]

    def close(self) -> None:
        for link in self._links:
            link.stop()
        for node in self.nodes:
            node.stop()
        for port in self.ports.values():
            port.close()
        self.storage.close()
