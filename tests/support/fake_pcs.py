"""A PCS in process: its nodes are rows of a table, which tests make ready, or end, as they like."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from attrs import evolve
from twisted.internet.defer import Deferred, fail, succeed

from dida.chains.messages import AddStorage, AddWorker
from dida.errors import BAD_REQUEST, NO_SUCH_NODE, TIMED_OUT, UNAVAILABLE, BadRequest, DidaError
from dida.pcs.messages import Elsewhere, NodeEntry, Start
from dida.protocols.lines import Answer, NodeCommands, ok
from dida.wire.messages import NODE, Error, ListRecords, Ok, Reply, Request, Status, vocabulary
from dida.wire.runs import Cancel, ListRuns, Result, Run


class FakeTable:
    """What `dida.pcs.node.Table` says. `ready_at_once`: a node that is started is ready."""

    def __init__(self) -> None:
        self.logs = "logs"
        self.operators: str | None = None
        self.rows: dict[str, NodeEntry] = {}
        self.started: list[Start] = []
        self.told: list[tuple[str, Request]] = []
        self.crashed: list[str] = []
        self.stopped: list[str | None] = []
        self.ready_at_once = True
        self.silent: set[str] = set()
        self.running = False
        """Nodes that answer nothing."""
        self.owners: list[str] = []
        self.known: dict[str, list[Elsewhere]] = {}
        self.on_crash: Callable[[str], None] = lambda id: None
        self._number = 1
        self._watchers: list[Deferred[int]] = []

    def start(self, request: Start) -> int:
        if request.id == "refused":
            raise BadRequest("no more nodes here")
        self.started.append(request)
        pid = 1000 + len(self.started)
        state = "ready" if self.ready_at_once else "starting"
        log = f"logs/{request.id}.log"
        self.set(NodeEntry(request.id, request.role, request.url, pid, state, log=log, replica=request.replica))
        return pid

    def set(self, row: NodeEntry) -> None:
        """Change a row, and tell who watches."""
        self.rows[row.id] = row
        self._number += 1
        self.tell()

    def change(self, id: str, **changes: Any) -> None:
        """Change parts of a row."""
        self.set(evolve(self.rows[id], **changes))

    def tell(self) -> None:
        """Answer who watches."""
        watchers, self._watchers = self._watchers, []
        for watcher in watchers:
            watcher.callback(self._number)

    def begin(self) -> None:
        self.running = True

    def end(self) -> Deferred[Any]:
        self.running = False
        return succeed(None)

    def entries(self) -> list[NodeEntry]:
        return list(self.rows.values())

    def watch(self, number: int | None, deadline: float) -> Deferred[int]:
        if number != self._number:
            return succeed(self._number)
        watcher: Deferred[int] = Deferred()
        self._watchers.append(watcher)
        return watcher

    def crash(self, id: str) -> Deferred[None]:
        if id not in self.rows:
            raise DidaError(NO_SUCH_NODE, id, "was never started here")
        self.crashed.append(id)
        self.on_crash(id)
        self.change(id, state="ended", ended="signal SIGKILL", asked=True)
        return succeed(None)

    def stop(self, id: str | None, within: float | None = None) -> Deferred[None]:
        self.stopped.append(id)
        return succeed(None)

    @property
    def elsewhere(self) -> list[Elsewhere]:
        return [node for nodes in self.known.values() for node in nodes]

    def pause(self, id: str) -> None:
        self.change(id, paused=True)

    def resume(self, id: str) -> None:
        self.change(id, paused=False)

    def own(self, owner: str, deadline: float) -> Deferred[None]:
        self.owners.append(owner)
        return Deferred()

    def know(self, owner: str, nodes: list[Elsewhere]) -> None:
        self.known[owner] = nodes

    def output(self, id: str, lines: int) -> list[str]:
        return [f"line {number}" for number in range(lines)]

    def ask(self, id: str, request: Request) -> Deferred[Reply]:
        self.told.append((id, request))
        if id in self.silent:
            return fail(DidaError(TIMED_OUT, "no reply in time"))
        if isinstance(request, Status):
            return succeed(
                ok(id=id, role=self.rows[id].role, ready=True, alive=["s1", "s2"], dead=["s3"], runs=0, reads=4)
            )
        if isinstance(request, ListRecords):
            page = {"13": [["2.1", "two"], ["1.1", "one"]], "9": [["1.2", "nine"]]}
            return succeed(
                ok(records={"13": page["13"]}, next="9") if request.from_ == "" else ok(records={"9": page["9"]})
            )
        return succeed(Ok())


class FakeScheduler(NodeCommands):
    """Runs end when the test says so; `log` is what came, in order."""

    vocabulary: Mapping[str, type[Request]] = vocabulary(*NODE, Run, Result, ListRuns, Cancel, AddWorker, AddStorage)

    def __init__(self) -> None:
        self.log: list[str] = []
        self.runs: list[Run] = []
        self.outcomes: dict[str, Reply] = {}
        self.end_at_once = True
        self.refusals = 0
        """Runs that are refused before the first one is started."""
        self.lost: list[Callable[[], object]] = []
        """What befalls the next answers to `run`, instead of being sent."""
        self._ids: dict[str, str] = {}
        self.most_at_once = self._at_once = 0
        self._waiting: dict[str, Deferred[Reply]] = {}

    def cmd_run(self, request: Run) -> Answer:
        if self.refusals:
            self.refusals -= 1
            return Error(UNAVAILABLE, ("no worker can be reached",))
        if request.id not in self._ids:
            self._at_once += 1
            self.most_at_once = max(self.most_at_once, self._at_once)
            self.runs.append(request)
            self.log.append(f"run {request.input}")
            self._ids[request.id or ""] = f"r{len(self.runs)}"
        elif not request.retry:
            return Error(BAD_REQUEST, (f"{request.id} was already announced",))
        if self.lost:
            self.lost.pop(0)()
            return None
        return ok(self._ids[request.id or ""])

    def cmd_runs(self, request: ListRuns) -> Answer:
        known = [
            {"run": f"r{number}", "state": "done", "input": run.input, "operators": run.operator, "ms": 12.3}
            for number, run in enumerate(self.runs, 1)
        ]
        return ok(runs=known[::-1])

    def cmd_result(self, request: Result) -> Answer:
        self.log.append(f"result {request.run}")
        self._at_once -= 1
        if request.run in self.outcomes:
            return self.outcomes[request.run]
        if self.end_at_once:
            steps = [{"operator": "AddOperator", "worker": "w1", "output": "2", "ms": 1.0}]
            return ok("done", "24", steps=steps, ms=12.3, after={})
        return self._waiting.setdefault(request.run, Deferred())

    def cmd_cancel(self, request: Cancel) -> Answer:
        self.log.append(f"cancel {request.run}")
        return ok("ended") if request.run not in self._waiting else Ok()

    def time_out(self, run: str) -> None:
        """The question stayed open for as long as it may; the answer comes to the next one."""
        self.end_at_once = True
        self.refusals = 0
        """Runs that are refused before the first one is started."""
        self.most_at_once = self._at_once = 0
        self._waiting.pop(run).callback(Error(TIMED_OUT, ("not ended yet",)))

    def cmd_worker(self, request: AddWorker) -> Answer:
        self.log.append(f"worker {request.id}")
        return Ok()

    def cmd_storage(self, request: AddStorage) -> Answer:
        self.log.append(f"storage {request.replica} {request.id}")
        return Ok()
