"""Runs in a simulation: chains over the simulated storage, with a scheduler and workers that die and pause.

The rules that keep the effects of a run to those of one execution are those of nodes: the scheduler's table of runs
(`dida.chains.runs`), the journal (`dida.chains.journal`), the steps of a worker (`dida.chains.steps`). What lies
between them, messages and operators, is played here: messages get lost, and are sent again; an operator is a generator
that yields its storage calls. In the end the updates of each run must be those of the execution whose outcome was
taken, and what that execution has read must lie between them.

With two shards each execution fences and writes both, which crash apart from each other.

The module is long because processes, messages and outcomes act on each other in the middle of everything.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from random import Random
from typing import Any

import attrs
from attrs import Factory, define

from dida import errors
from dida.chains.journal import borne_out
from dida.chains.messages import Execute
from dida.chains.records import Mark
from dida.chains.run_record import RunRecord
from dida.chains.runs import Runs
from dida.chains.scheduling import LeastActive
from dida.chains.steps import Steps
from dida.errors import DidaError
from dida.replication.store import Store
from dida.simulate.execution import AGAIN, Done, Execution, epoch_of, result_of
from dida.simulate.network import Cluster
from dida.simulate.node import Node
from dida.simulate.operators import CHANCE, INITIAL, PROGRAMS
from dida.simulate.plan import NEVER, Plan
from dida.wire import grammar
from dida.wire.messages import Epoch, Error, Fence, Fenced, Forget, Reply, Request, UpdateIf, Write
from dida.wire.runs import DONE, GOING_ON

WORKERS = 3
TRY = 1.0
"""Time-out for one attempt of a storage call, in seconds."""
PATIENCE = 6.0
"""Time after which a storage call fails, in seconds."""
LOSS = 0.5
"""Time after which the sender of a message that was lost gives up waiting, in seconds."""
RUN_DEADLINE = 60.0

# --- processes ----------------------------------------------------------------------------------


@define(eq=False)
class Process:
    """A worker or a scheduler: what it does happens while it is alive, and later if it is paused."""

    name: str
    life: int = 0
    alive: bool = True
    paused: bool = False
    backlog: deque[tuple[int, Callable[[], None]]] = Factory(deque)
    steps: Steps = Factory(Steps)

    @property
    def incarnation(self) -> str:
        return f"{self.name}.{self.life}"

    def do(self, life: int, work: Callable[[], None]) -> None:
        """Do something as the process of that life."""
        if not self.alive or life != self.life:
            return
        if self.paused:
            self.backlog.append((life, work))
        else:
            work()

    def resume(self) -> None:
        self.paused = False
        while self.backlog and not self.paused:
            self.do(*self.backlog.popleft())


@define(eq=False)
class Told:
    """The outcome of a run that was taken, and the execution that it is of."""

    state: str
    output: str
    log: list[Done]
    there: list[tuple[str, str]]
    """The updates of the run that the storage had then: key and version."""


class SimulatedRuns:
    """The scheduler, the workers and the runs of one simulation."""

    def __init__(self, clusters: Sequence[Cluster], plan: Plan, rng: Random, wrong: list[str]) -> None:
        self.clusters = clusters
        self.cluster = clusters[0]
        """Whose clock this is."""
        self.plan = plan
        self.rng = rng
        self.wrong = wrong
        self.calm = False
        self.workers = {f"w{n}": Process(f"w{n}") for n in range(1, WORKERS + 1)}
        self.scheduler = Process("sc")
        self.table = self._new_table()
        self.lost_at: dict[str, float] = {}
        self.told: dict[str, Told] = {}
        self.secured: dict[str, set[tuple[str, str]]] = {}
        """The updates of a run that were there when its writes were on two nodes: both may be lost after that."""
        self.made_again: set[tuple[str, int]] = set()
        """Runs and call numbers of lost writes that were made again, later than the calls that follow them."""
        self.started: dict[str, tuple[str, ...]] = {}
        self.executed: dict[tuple[str, int, str], list[tuple[float, float]]] = {}
        """Run, call number and result to the times between which the storage has executed it."""
        self.executions = 0
        self.pausing = plan.crash < NEVER or plan.pause < NEVER
        self._asks: dict[Any, Callable[[Reply], None]] = {}
        self._asked = 0
        self._logs: dict[tuple[str, Epoch], list[Done]] = {}
        self._finished: dict[str, list[tuple[Epoch, list[Done]]]] = {}

    # --- the course of it -----------------------------------------------------------------------

    def prepare(self) -> None:
        """Write the records that operators use."""

        def written(reply: Reply) -> None:
            self._unwritten -= 1

        initial = INITIAL if self._count else {}
        self._unwritten = len(initial)
        for key, value in initial.items():
            shard = self.shard_of(key)
            self._storage(shard, lambda k=key, v=value: Write(k, v, concern="all"), written)  # type: ignore[misc]

    @property
    def _count(self) -> int:
        """The number of runs: none where two sides may go on, or where there may be no room for their records."""
        return 0 if self.plan.forks or self.plan.max_memory else self.plan.runs

    @property
    def prepared(self) -> bool:
        return not self._unwritten

    def begin(self) -> None:
        """Start runs, and let processes die."""
        for number in range(self._count):
            self.cluster.at(self.rng.uniform(0, self.plan.faults * 0.8), lambda n=number: self._start(n))  # type: ignore[misc]
        for _ in range(2 * self._count):
            self.cluster.at(self.rng.uniform(0, self.plan.faults), self._meddle)
        self.cluster.at(0.25, self._tick)
        if self.pausing:
            self.cluster.at(self.rng.expovariate(1.5), self._strike)

    def settle(self) -> None:
        """Everything is well from now on."""
        self.calm = True
        for process in (*self.workers.values(), self.scheduler):
            if not process.alive:
                self._restart(process)
            if process.paused:
                process.resume()

    @property
    def answered(self) -> bool:
        return len(self.told) == len(self.started) and not self.table.going_on

    def _start(self, number: int) -> None:
        """A client starts a run; it asks again until the scheduler answers."""
        names = tuple(self.rng.choice(list(PROGRAMS)) for _ in range(self.rng.randint(1, 3)))
        if "looks" in names:
            names = (*(name for name in names if name != "acts"), "acts")
        id = f"c{number}"

        def ask() -> None:
            if not self._places():
                self.cluster.at(AGAIN, try_it)
                return
            if self.table.ids.known(id, "in", names, "") is None:
                again = self.scheduler.life > 0
                run = self.table.on_run("in", names, {}, self._places(), self.cluster.now, client_id=id, again=again)
                self.started[run.id] = names
                self.cluster.say(f"{run.id} STARTS {' '.join(names)}")
                self._dispatch(run)

        def try_it() -> None:
            if not self.scheduler.alive:
                self.cluster.at(AGAIN, try_it)
            else:
                self.scheduler.do(self.scheduler.life, ask)

        try_it()

    def _meddle(self) -> None:
        """Another client changes a record that operators use."""
        key = self.rng.choice(["a", "b", "c", "d", "missing"])
        value = f"other.{self.rng.random():.6f}"
        if not self.calm:
            self._storage(self.shard_of(key), lambda: Write(key, value), lambda reply: None)

    def _new_table(self) -> Runs:
        table = Runs(LeastActive(), self.scheduler.incarnation, deadline=RUN_DEADLINE)
        for id in self.workers:
            table.policy.on_worker(id)
        return table

    def _places(self) -> dict[str, tuple[str, int]]:
        return {id: (id, 1) for id, worker in self.workers.items() if worker.alive}

    # --- processes die --------------------------------------------------------------------------

    def _strike(self) -> None:
        """Kill or pause a worker, or the scheduler."""
        if self.calm:
            return
        process = self.scheduler if self.rng.random() < 0.2 else self.rng.choice(list(self.workers.values()))
        if process.alive and not process.paused:
            if self.rng.random() < 0.5:
                self.cluster.say(f"{process.name} PAUSES")
                process.paused = True
                self.cluster.at(self.rng.choice([0.1, 0.5, 2.0, 5.0]), lambda: self._resume(process))
            else:
                self._kill(process)
        self.cluster.at(self.rng.expovariate(1.5), self._strike)

    def _resume(self, process: Process) -> None:
        if process.paused:
            self.cluster.say(f"{process.name} GOES ON")
            process.resume()

    def _kill(self, process: Process) -> None:
        self.cluster.say(f"{process.name} DIES")
        process.alive = process.paused = False
        process.backlog.clear()
        if process is not self.scheduler:
            self.lost_at[process.name] = self.cluster.now
        self.cluster.at(self.rng.choice([0.05, 0.5, 2.0]), lambda: self._restart(process))

    def _restart(self, process: Process) -> None:
        if process.alive:
            return
        process.life += 1
        process.alive = True
        process.steps = Steps()
        self.cluster.say(f"{process.name} STARTS as {process.incarnation}")
        if process is self.scheduler:
            self.table = self._new_table()
            self.table.began = self.cluster.now
            self.lost_at = {}
            for worker in self.workers.values():
                self._adopt(worker)

    def _adopt(self, worker: Process) -> None:
        """A worker reports its steps in hand to a scheduler that has connected."""
        since = self.cluster.now
        for request, _ in list(worker.steps.requests("sc:1")):
            worker.do(worker.life, partial(self._report, worker, request, partial(self._take_adopted, request, since)))

    def _take_adopted(self, request: Execute, since: float) -> None:
        late = self.cluster.now - since
        self.table.on_adopt(request, self.cluster.now, late, late=late)

    # --- the scheduler --------------------------------------------------------------------------

    def _tick(self) -> None:
        def tick() -> None:
            now, table = self.cluster.now, self.table
            there = {id for id, worker in self.workers.items() if worker.alive}
            for run in table.tick(now):
                self._take(run, [])
            for run in table.lost(self.lost_at, there, now):
                failed = table.on_lost(run, self._places(), now)
                if failed is not None:
                    self._take(failed, [])
            table.doubtful(self.lost_at, now)
            for run in table.unsent:
                self._dispatch(run)

        self.scheduler.do(self.scheduler.life, tick)
        self.cluster.at(0.25, self._tick)

    def _dispatch(self, run: RunRecord) -> None:
        """Send the current step of a run to its worker."""
        step, table, life = run.current, self.table, self.scheduler.life
        if step is None or run.state != GOING_ON:
            return
        request = table.request(run, "sc:1", (), 0, self.cluster.now)
        run.unsent = ""

        def refused(sure: bool) -> None:
            if run.state != GOING_ON or run.epoch != request.epoch or run.current is not step:
                return
            run.unsent = "it did not take it"
            if self._places():
                table.on_reassign(
                    run.id, step.position, (step.worker,), self._places(), self.cluster.now, run.round, sure=sure
                )
            elif not sure:
                table.anew(run)

        def taken() -> None:
            run.progress = max(run.progress, self.cluster.now)

        worker = self.workers[step.worker]
        self._send(self.scheduler, life, worker, lambda: self._receive(worker, request), taken, refused)

    def _send(
        self,
        source: Process,
        life: int,
        target: Process,
        arrive: Callable[[], None],
        acknowledged: Callable[[], None],
        failed: Callable[[bool], None],
    ) -> None:
        """Send a message; `failed` is called with whether it certainly did not arrive."""
        rng, at = self.rng, self.cluster.at
        if not target.alive:
            at(0.002, lambda: source.do(life, lambda: failed(True)))
            return
        there = target.life
        fate = rng.random() if not self.calm else 1.0
        if fate < 0.03:  # it gets lost
            at(LOSS, lambda: source.do(life, lambda: failed(False)))
            return
        done = [False]

        def took() -> None:
            arrive()
            if fate >= 0.06:  # else the acknowledgement gets lost
                at(0.001, lambda: source.do(life, answer))

        def answer() -> None:
            if not done[0]:
                done[0] = True
                acknowledged()

        def late() -> None:
            if not done[0]:
                done[0] = True
                failed(False)

        at(0.001 + rng.random() * 0.003, lambda: target.do(there, took))
        at(LOSS + 0.5, lambda: source.do(life, late))

    def _report(
        self,
        worker: Process,
        request: Execute,
        take: Callable[[], object],
        after: Callable[[], None] | None = None,
        at: float | None = None,
    ) -> None:
        """Report to the scheduler until it acknowledges; a scheduler that does not know the run adopts it first."""
        life, since = worker.life, self.cluster.now if at is None else at

        def arrive() -> None:
            try:
                take()
            except DidaError as problem:
                if problem.code == errors.NO_SUCH_RUN:
                    now = self.cluster.now
                    self.table.on_adopt(request, now, now - since, late=now - since)
                    with suppress(DidaError):
                        take()

        def again(sure: bool) -> None:
            self.cluster.at(AGAIN, lambda: worker.do(life, lambda: self._report(worker, request, take, after, since)))

        self._send(worker, life, self.scheduler, arrive, after or (lambda: None), again)

    def _take(self, run: RunRecord | None, log: list[Done]) -> None:
        """Note the outcome that the scheduler has taken."""
        if run is None:
            return
        self.cluster.say(f"{run.id} {run.state.upper()} {run.output if run.state == DONE else run.reason}")
        if run.id in self.told and self.told[run.id].output != run.output:
            before = self.told[run.id]
            if before.state == DONE == run.state:
                self.wrong.append(f"{run.id} has two outputs: {before.output!r} and {run.output!r}")
        elif run.id not in self.told:
            self.told[run.id] = Told(
                run.state, run.output if run.state == DONE else run.reason, log, self._updates_of(run.id)
            )
            if run.updated:
                self._forget(run.id)

    def _updates_of(self, run: str) -> list[tuple[str, str]]:
        """Return the updates of a run that members of the newest views have, as key and version."""
        found = set()
        for cluster in self.clusters:
            view = cluster.newest_view()
            for node in cluster.nodes.values():
                member = view is not None and view.member(node.incarnation) is not None
                for each in node.replica.state.executed.updates_of(run, 0) if node.replica and member else ():
                    if each.journal.verb != "n":
                        found.add((each.key, str(each.version)))
        return sorted(found)

    def _forget(self, run: str) -> None:
        """Let the storage forget the updates of a run that has ended, as a scheduler does; it may get lost."""
        for cluster in self.clusters:
            for url in cluster.nodes:
                cluster.at(0.25, partial(cluster.ask, url, Forget((run,)), ("run", 0)))

    def shard_of(self, key: str) -> int:
        """Return the shard that holds a key."""
        return self.cluster.shards.of_key(key)

    def store_of(self, key: str) -> Store:
        """Return the records of a replica that has the key."""
        nodes = self.clusters[self.shard_of(key)].nodes.values()
        return next(node.replica.state.store for node in nodes if node.replica is not None)

    def fence(
        self,
        request: Fence,
        then: Callable[[Error | list[Fenced]], None],
        ask: Callable[[int, Callable[[], Request], Callable[[Reply], None]], None],
        found: tuple[Fenced, ...] = (),
    ) -> None:
        """Fence a run in all shards, one after the other; `ask(shard, request, then)` asks one."""

        def fenced(reply: Reply) -> None:
            if isinstance(reply, Error):
                then(reply)
                return
            known = (*found, grammar.structure(reply.object, Fenced))
            if len(known) == len(self.clusters):
                then(list(known))
            else:
                self.fence(request, then, ask, known)

        ask(len(found), lambda: request, fenced)

    def _outcome(
        self, request: Execute, mark: Mark, log: list[Done], take: Callable[[Epoch], RunRecord | None]
    ) -> None:
        """Take an outcome as a scheduler does."""
        run = self.table[request.meta.run]
        if run.sealed or run.state != GOING_ON or request.epoch < run.epoch:
            self._take(take(request.epoch), log)
            return
        epoch, table, life = self.table.seal(run), self.table, self.scheduler.life

        def known(found: Error | list[Fenced]) -> None:
            if run.sealed or run.state != GOING_ON or request.epoch < run.epoch:
                return
            if isinstance(found, Error):
                if found.code == errors.SUPERSEDED:
                    table.on_superseded(run.id, epoch_of(found), self.cluster.now)
                return
            good = borne_out(mark, found)
            table.on_sealed(run, epoch, self.cluster.now, good)
            if good:
                self._take(take(epoch), log)

        def ask(shard: int, request: Callable[[], Request], then: Callable[[Reply], None]) -> None:
            heard = lambda reply: self.scheduler.do(life, lambda: then(reply))  # noqa: E731
            self._storage(shard, request, heard, codes=(errors.SUPERSEDED, errors.SESSION_EXPIRED))

        self.fence(Fence(run.id, epoch=epoch), known, ask)

    # --- workers --------------------------------------------------------------------------------

    def _receive(self, worker: Process, request: Execute) -> None:
        if worker.steps.begin(request, self.cluster.now):
            self.executions += 1
            Execution(self, worker, request).begin()

    # --- the storage ----------------------------------------------------------------------------

    def _storage(
        self,
        shard: int,
        request: Callable[[], Request],
        then: Callable[[Reply], None],
        codes: tuple[str, ...] = (),
        uncertain: bool = False,
        began: float | None = None,
        alive: Callable[[], bool] = lambda: True,
        avoid: int = 0,
    ) -> None:
        """Ask storage nodes of a shard until one replies for good, or PATIENCE is over."""
        if not alive():
            return
        began = self.cluster.now if began is None else began
        if self.cluster.now - began > PATIENCE and not self.calm and codes:
            then(Error(errors.UNKNOWN_OUTCOME if uncertain else errors.UNAVAILABLE))
            return
        self._asked += 1
        token = ("run", self._asked)
        message = attrs.evolve(request(), deadline=TRY)
        if uncertain and isinstance(message, Write | UpdateIf) and message.id is not None:
            message = attrs.evolve(message, retry=True)

        def again(unsure: bool) -> None:
            if self._asks.pop(token, None) is not None:
                self.cluster.at(
                    AGAIN, lambda: self._storage(shard, request, then, codes, uncertain or unsure, began, alive, avoid)
                )

        def replied(reply: Reply) -> None:
            if isinstance(reply, Error) and reply.code not in codes:
                again(reply.code not in (errors.UNAVAILABLE, errors.NO_SUCH_RECORD))
            elif self._asks.pop(token, None) is not None:
                then(reply)

        self._asks[token] = replied
        cluster = self.clusters[shard]
        url = self.rng.choice([url for url, node in cluster.nodes.items() if node.number != avoid])
        self.cluster.at(0.001, lambda: cluster.ask(url, message, token))
        self.cluster.at(TRY + 0.3, lambda: again(True))

    def on_reply(self, token: Any, reply: Reply, node: Node) -> None:
        """Take the reply of a storage node."""
        take = self._asks.get(token)
        if take is not None:
            delay = 0.001 + self.rng.random() * 0.002
            if not self.calm and self.rng.random() < self.plan.stray:
                return  # it gets lost
            self.cluster.at(delay, lambda: take(reply))

    # --- the verdict ----------------------------------------------------------------------------

    def judge(self) -> list[str]:
        """Return what is wrong: the updates of a run are not those of the execution whose outcome was taken."""
        wrong = []
        for run, told in self.told.items():
            if told.state != DONE:
                # an update does not outlive what its run has read before it, unless in another shard
                discarded = told.output == "discarded" and self.plan.max_versions > 1000 and len(self.clusters) == 1
                stuck = "was not confirmed within" in told.output
                if stuck or discarded or ("deterministic" in told.output and CHANCE not in self.started[run]):
                    wrong.append(f"{run} {' '.join(self.started[run])} failed: {told.output}")
                continue
            made = sorted((d.key, str(d.version)) for d in told.log if d.verb in "wc" and d.value is None)
            later = self._stored(run, made)
            there = sorted({*told.there, *(self.secured.get(run, set()) & set(made))})
            if made != there or later:
                wrong.append(
                    f"{run} {' '.join(self.started[run])} has made {made}, there was {told.there}, then {later}"
                )
            elif (problem := self._not_in_order(run, told.log)) or (problem := self._not_as_asked(run, told.log)):
                wrong.append(f"{run} {' '.join(self.started[run])}: {problem}")
        sold = sum(
            told.output.startswith("sold ")
            for run, told in self.told.items()
            if told.state == DONE and self.started[run] == ("stock",)
        )
        if sold > int(INITIAL["stock"]):
            wrong.append(f"{sold} items sold of {INITIAL['stock']}")
        return wrong

    def _not_as_asked(self, run: str, log: list[Done]) -> str:
        """Return which update of an execution has written another value than it has asked for."""
        for done in log:
            entry = self.store_of(done.key).find(done.key, done.version) if done.version is not None else None
            # another life of a replica may give the version of an update that was lost again
            mine = entry is not None and entry.id is not None and entry.id.startswith(f"{run}:")
            if done.verb != "r" and done.value is None and entry is not None and mine and entry.value != done.asked:
                return f"call {done.number} wrote {entry.value} to {done.key}, and asked for {done.asked}"
        return ""

    def _stored(self, run: str, made: list[tuple[str, str]]) -> list[tuple[str, str]]:
        """Return the versions of a run in the store that its execution has not made."""
        entries = [(key, e) for key in INITIAL for e in self.store_of(key).versions(key)]
        mine = [(key, e) for key, e in entries if e.id is not None and e.id.startswith(f"{run}:")]
        return [(key, str(e.version)) for key, e in mine if (key, str(e.version)) not in made]

    def _not_in_order(self, run: str, log: list[Done]) -> str:
        """Return what cannot have happened in the order of the calls, each at a time when the storage executed it."""
        at = 0.0
        for done in log:
            known = self.executed.get((run, done.number, result_of(done)), [])
            if done.free or (run, done.number) in self.made_again or (not known and done.value is None):
                continue  # nobody received the reply to the update
            times = [max(at, begun) for begun, ended in known if ended >= at]
            if not times:
                what = f"call {done.number} {done.verb} {done.key} {result_of(done)}"
                return f"{what} was at {known}, and the one before it at {at}"
            at = min(times)
        return ""
