"""The execution of a step by a worker of a simulation, and the handoff of its request.

The module is a little long because a step may end in many ways, and all of them are played.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import attrs
from attrs import define

from dida import errors
from dida.chains.journal import MAX_CALLS, Call, History, Hole, Kept, resume
from dida.chains.messages import Execute
from dida.chains.records import Assignment, Mark
from dida.chains.redo import MAX_ROUNDS, rewound, step_to_redo
from dida.chains.run_record import Carried, RunRecord
from dida.errors import DidaError
from dida.interfaces import Access
from dida.simulate.operators import CHANCE, PROGRAMS, RETRIES, Raised
from dida.timestamps import Timestamp, merged
from dida.versions import Version
from dida.wire.messages import Epoch, Error, Fence, Fenced, No, Ok, Read, Reply, Request, UpdateIf, Write

if TYPE_CHECKING:
    from dida.simulate.runs import Process, SimulatedRuns

AGAIN = 0.1
"""Pause before a message is sent again, in seconds."""


@define
class Done:
    """A call of an execution, with its result."""

    number: int
    verb: str
    key: str
    version: Version | None
    value: str | None
    """What it has read or found; None of an update."""
    free: bool = False
    """True if it may have been executed at any time: a read of a version that the run had seen before."""
    asked: str = ""
    """The new value, of an update."""


def result_of(done: Done) -> str:
    return f"{done.version} {done.value}"


def epoch_of(reply: Error) -> Epoch:
    number, by = reply.object["epoch"] if not isinstance(reply.object["epoch"], Epoch) else (0, "")
    epoch: Epoch = reply.object["epoch"] if isinstance(reply.object["epoch"], Epoch) else Epoch(number, by)
    return epoch


class Execution:
    """The execution of a step by a worker, and handing on."""

    def __init__(self, runs: SimulatedRuns, worker: Process, request: Execute, log: list[Done] | None = None) -> None:
        self.runs = runs
        self.worker = worker
        self.life = worker.life
        self.received = request
        self.request = attrs.evolve(request, meta=_copied(request))
        self.known: Mapping[int, Kept] = {}
        self.tries = 0
        self.until = -1
        """Number of the last update that is known: what was delivered after it must be asked for again."""
        self.log = list(log if log is not None else runs._logs.get((request.meta.run, request.epoch), []))
        self.log = [done for done in self.log if done.number < request.next * MAX_CALLS]

    def _alive(self) -> bool:
        return self.worker.alive and self.worker.life == self.life

    def _do(self, work: Callable[[], None]) -> None:
        self.worker.do(self.life, work)

    def _later(self, seconds: float, work: Callable[[], None]) -> None:
        self.runs.cluster.at(seconds, lambda: self._do(work))

    def _ask(
        self,
        shard: int,
        request: Callable[[], Request],
        then: Callable[[Reply], None],
        *codes: str,
        avoid: int = 0,
    ) -> None:
        self.runs._storage(
            shard,
            request,
            lambda reply: self._do(lambda: then(reply)),
            (errors.SUPERSEDED, errors.SESSION_EXPIRED, errors.LOST_UPDATE, errors.STORAGE_FULL, *codes),
            alive=self._alive,
            avoid=avoid,
        )

    # --- beginning ------------------------------------------------------------------------------

    def begin(self) -> None:
        if self.request.ask:
            self._fence()
        else:
            self._attempt(History(self.request))

    def _fence(self) -> None:
        run, epoch = self.request.meta.run, self.request.epoch
        self.runs.fence(Fence(run, epoch=epoch), self._fenced, self._ask)

    def _fenced(self, found: Error | list[Fenced]) -> None:
        if isinstance(found, Error):
            self._refused(found)
            return
        before = self.request
        try:
            self.request, self.known = resume(self.request, found)
        except Hole as problem:
            self._fail(str(problem))
            return
        if self.request.next != before.next:
            self._move(before)
            return
        self.log = self._log_of_journal(found)
        self.until = max((number for number, kept in self.known.items() if kept.entry[0] == "u"), default=-1)
        self._attempt(History(self.request, self.known))

    def _move(self, before: Execute) -> None:
        """Forward a request that goes on at another step than it was sent for, and tell the scheduler so."""
        runs, request = self.runs, attrs.evolve(self.request, ask=True)
        self._over()
        for position in range(before.next, request.next):
            skipped = attrs.evolve(request, next=position).with_step(worker=self.worker.name)
            following = attrs.evolve(skipped, next=position + 1)
            self._completed(following, Carried(request.number, request.bytes, request.kept))
            request = attrs.evolve(request, chain=following.chain)
        if request.next < before.next and request.round < MAX_ROUNDS:
            back = request = self._anew(attrs.evolve(request, round=request.round + 1))
            run, now = request.meta.run, runs.cluster
            self._tell(lambda: runs.table.on_returned(run, back.next, back.round, now.now, back.epoch))
        self._hand_on(request)

    def _completed(self, following: Execute, carried: Carried) -> None:
        """Report that the step before was executed."""
        runs, position = self.runs, following.next - 1
        step, run, at = following.chain[position], following.meta.run, runs.cluster.now

        def take() -> None:
            now, epoch = runs.cluster.now, following.epoch
            runs.table.on_completed(run, position, now, 1.0, step, following.round, None, epoch, carried, ago=now - at)

        runs._report(self.worker, following, take)

    def _log_of_journal(self, shards: list[Fenced]) -> list[Done]:
        """Return the calls of the steps before, as the journal has them: a lost write may have been made again."""
        found: dict[int, Done] = {}
        for _, log in sorted(self.runs._finished.get(self.request.meta.run, []), key=lambda each: each[0]):
            found.update((done.number, done) for done in log if done.number < self.request.next * MAX_CALLS)
        made = {each.journal.call: each.version for shard in shards for each in shard.updates}
        return [_as_made(found[number], made.get(number)) for number in sorted(found)]

    # --- one attempt ----------------------------------------------------------------------------

    def _attempt(self, history: History) -> None:
        self.history = history
        step = self.request.assignment
        self.versions: dict[str, Version] = dict(self.request.meta.versions)
        self.after: Timestamp = dict(self.request.meta.after)
        self.mine: list[Done] = []
        self.generator = PROGRAMS[step.operator](self.request.meta.run, self.request.previous_output)
        self._send(None)

    def _send(self, result: Any) -> None:
        try:
            call = self.generator.send(result)
        except StopIteration as end:
            self._ended(str(end.value))
            return
        except Raised as problem:
            self._raised(str(problem))
            return
        if call[0] == CHANCE:
            self._send(str(self.runs.rng.randrange(1000)))
            return
        verb, key, *rest = call
        self.value = rest[-1] if rest else ""
        try:
            made = self.history.call(verb, key, *rest)
        except DidaError as problem:
            self._fail(f"not deterministic: {problem}")
            return
        if made.entry is not None and not made.entry.lost:
            self._later(0.0005, lambda: self._from_journal(made))
        else:
            self._really(made, verb, key, rest)

    def _from_journal(self, call: Call) -> None:
        assert call.entry is not None
        entry = call.entry.entry
        if call.number > self.until:
            self.runs.wrong.append(
                f"{self.request.meta.run} call {call.number} got what was read after the last update"
            )
        self.history.replayed(call)
        kind = entry[0]
        if kind == "r":
            version = Version.parse(entry[3])
            self.versions.setdefault(call.key, version)
            self._deliver(call, version, entry[4], entry[4])
        elif kind == "n":
            if entry[3] is None:
                self._deliver(call, None, "none", "no record")
                return
            version = Version.parse(entry[3])
            self.versions[call.key] = version
            self._deliver(call, version, f"no {entry[4]}", f"no {entry[4]}")
        elif kind == "u":
            version = Version.parse(entry[4])
            self.versions[call.key] = version
            self._deliver(call, version, None, True)
        else:
            self._deliver(call, None, entry[4], None)

    def _deliver(self, call: Call, version: Version | None, value: str | None, result: Any, free: bool = False) -> None:
        self.mine.append(Done(call.number, call.verb, call.key, version, value, free, self.value))
        self._send(result)

    def _really(self, call: Call, verb: str, key: str, rest: list[str]) -> None:
        run, self.asked = self.request.meta.run, self.runs.cluster.now
        shard = self.runs.shard_of(key)
        if verb == "r":
            wanted = self.versions.get(key)
            self._ask(
                shard,
                lambda: Read(key, wanted, after=self.after),
                lambda reply: self._has_read(call, wanted, reply),
                errors.NO_SUCH_RECORD,
                errors.NO_SUCH_VERSION,
            )
            return
        id = f"{run}:{self.history.next_number()}"
        journal = self.history.journal(call, shard)
        if verb == "w":
            self._ask(
                shard,
                lambda: Write(key, rest[0], id=id, retry=False, journal=journal, after=self.after),
                lambda reply: self._has_updated(call, reply),
            )
        else:
            self._ask(
                shard,
                lambda: UpdateIf(key, rest[0], rest[1], id=id, retry=False, journal=journal, after=self.after),
                lambda reply: self._has_updated(call, reply),
            )

    def _executed(self, call: Call, version: Version | None, value: str | None) -> None:
        key = (self.request.meta.run, call.number, f"{version} {value}")
        self.runs.executed.setdefault(key, []).append((self.asked, self.runs.cluster.now))

    def _has_read(self, call: Call, wanted: Version | None, reply: Reply) -> None:
        if isinstance(reply, Error):
            if reply.code == errors.NO_SUCH_RECORD:
                self.history.failed(call, DidaError(reply.code))
                self._executed(call, None, reply.code)
                self._deliver(call, None, reply.code, None)
            elif reply.code == errors.NO_SUCH_VERSION:
                self._fail("discarded")
            else:
                self._refused(reply)
            return
        value, version = reply.words[0], Version.parse(reply.words[1])
        self.after = merged(self.after, reply.object["after"])
        if wanted is None:
            self.history.read(call, value, version)
        self.versions.setdefault(call.key, version)
        self._executed(call, version, value)
        self._deliver(call, version, value, value, free=wanted is not None)

    def _has_updated(self, call: Call, reply: Reply) -> None:
        if isinstance(reply, Error):
            if reply.code == errors.UNKNOWN_OUTCOME:
                self.history.unsure = True
                self._raised("unknown outcome")
            else:
                self._refused(reply)
            return
        self.after = merged(self.after, reply.object.get("after", {}))
        if isinstance(reply, Ok):
            version = Version.parse(reply.words[0])
            self.history.updated(call, version, self.runs.shard_of(call.key), len(self.runs.clusters))
            self.versions[call.key] = version
            self._executed(call, version, None)
            if call.entry is not None:
                self.runs.made_again.add((self.request.meta.run, call.number))
            self._deliver(call, version, None, True)
        elif isinstance(reply, No):
            if not reply.words:
                self.history.refused(call, None)
                self._executed(call, None, "none")
                self._deliver(call, None, "none", "no record")
                return
            version, value = Version.parse(reply.words[0]), reply.words[1]
            self.history.refused(call, (version, value))
            self.versions[call.key] = version
            self._executed(call, version, f"no {value}")
            self._deliver(call, version, f"no {value}", f"no {value}")

    # --- ends -----------------------------------------------------------------------------------

    def _refused(self, error: Error) -> None:
        if error.code == errors.SUPERSEDED:
            by, request = epoch_of(error), self.request
            self._over()
            self._tell(lambda: self.runs.table.on_superseded(request.meta.run, by, self.runs.cluster.now))
        elif error.code == errors.LOST_UPDATE:
            self._go_back(dict(error.object.get("lost", {})))
        elif error.code == errors.UNAVAILABLE:
            self._raised(error.code)
        else:
            self._fail(error.code)

    def _raised(self, what: str) -> None:
        step = self.request.assignment
        if self.tries >= RETRIES.get(step.operator, 0):
            self._fail(f"raised {what}")
            return
        self.tries += 1
        if self.history.unsure:
            number = self.history.number
            self.request = self._anew(attrs.evolve(self.request, number=number))
            self._fence()
            return
        meta = attrs.evolve(self.request.meta, after=self.after)
        self.request = attrs.evolve(self.request, meta=meta)
        updates = [done.number for done in self.mine if done.verb != "r" and done.value is None]
        self.until = max([self.until, *updates])
        self.history.begin()
        self._attempt(self.history)

    def _anew(self, request: Execute) -> Execute:
        return attrs.evolve(request, epoch=Epoch(request.epoch.number + 1, self.worker.incarnation), ask=True)

    def _go_back(self, lost: Timestamp) -> None:
        request = self.request
        position = step_to_redo(request, lost)
        if position is None or request.round >= MAX_ROUNDS:
            self._fail("lost")
            return
        self._over()
        back = self._anew(
            attrs.evolve(rewound(request, position, lost), round=request.round + 1, number=self.history.number)
        )
        self._tell(
            lambda: self.runs.table.on_returned(back.meta.run, position, back.round, self.runs.cluster.now, back.epoch)
        )
        self._hand_on(back)

    def _over(self) -> None:
        self.worker.steps.end(self.received)

    def _tell(self, take: Callable[[], object]) -> None:
        self.runs._report(self.worker, self.request, take)

    def _fail(self, why: str) -> None:
        request, mark, runs = self.request, self.history.mark if hasattr(self, "history") else Mark(), self.runs
        step = request.assignment
        self._over()

        def take(epoch: Epoch) -> RunRecord | None:
            now = runs.cluster.now
            return runs.table.on_failed(request.meta.run, why, now, step.position, epoch=epoch)

        self._tell(lambda: runs._outcome(request, mark, [], take))

    def _ended(self, output: str) -> None:
        try:
            mark = self.history.end(output)
        except DidaError as problem:
            self._fail(f"not deterministic: {problem}")
            return
        request, runs = self.request, self.runs
        log = [*self.log, *self.mine]
        meta = attrs.evolve(request.meta, versions=self.versions, after=self.after)
        done = attrs.evolve(request, meta=meta).with_step(
            output=output, mark=mark, after=dict(self.after), worker=self.worker.name, records=_records(self.mine)
        )
        run, position = done.meta.run, done.next
        runs._finished.setdefault(run, []).append((done.epoch, log))
        if position + 1 == done.size:
            self._secure(
                done, log, {d.version.replica: d.key for d in log if d.version is not None and d.value is None}
            )
            return
        self._over()
        carried = Carried(self.history.number, self.history.bytes, self.history.travelling())
        following = attrs.evolve(done, next=position + 1, ask=self.history.more, **carried._asdict())
        runs._logs[(run, done.epoch)] = log
        self._completed(following, carried)
        self._hand_on(following)

    def _secure(self, done: Execute, log: list[Done], written: dict[int, str]) -> None:
        """Copy what the run has written to a second storage node, then report its end."""
        if written and self.runs.plan.replicas > 1:
            replica, key = written.popitem()

            def read(reply: Reply) -> None:
                if isinstance(reply, Error) and reply.code == errors.LOST_UPDATE:
                    self._refused(reply)
                    return
                run = done.meta.run
                self.runs.secured.setdefault(run, set()).update(self.runs._updates_of(run))
                self._secure(done, log, written)

            ask = lambda: Read(key, latest=False, after=self.after)  # noqa: E731
            self._ask(self.runs.shard_of(key), ask, read, errors.NO_SUCH_RECORD, avoid=replica)
            return
        runs, chain = self.runs, done.chain
        self._over()

        def take(epoch: Epoch) -> RunRecord | None:
            return runs.table.on_ended(done.meta.run, chain, self.after, runs.cluster.now, epoch=epoch)

        self._tell(lambda: runs._outcome(done, chain[-1].mark, log, take))

    def _hand_on(self, request: Execute, sure: bool = True, told: bool = False) -> None:
        """Send the request to the worker of its next step; ask for another one if that does not take it.

        `told`: the scheduler was asked for a worker, and is to hear who has it.
        """
        runs, target = self.runs, self.runs.workers[request.assignment.worker]

        def taken() -> None:
            if told or request.ask:
                at = runs.cluster.now

                def adopt() -> None:
                    now = runs.cluster.now
                    runs.table.on_adopt(request, now, now - at, late=now - at)

                runs._report(self.worker, request, adopt)

        def failed(certain: bool) -> None:
            self._reassign(request, sure and certain)

        runs._send(self.worker, self.life, target, lambda: runs._receive(target, request), taken, failed)

    def _reassign(self, request: Execute, sure: bool) -> None:
        runs = self.runs
        answer: list[tuple[Assignment, Epoch]] = []
        elsewhere = [False]

        def ask() -> None:
            run, avoid = request.meta.run, (request.assignment.worker,)
            try:
                try:
                    runs.table[run]
                except DidaError:
                    runs.table.on_adopt(request, runs.cluster.now)
                step = runs.table.on_reassign(
                    run, request.next, avoid, runs._places(), runs.cluster.now, request.round, request.epoch, sure
                )
                answer[:] = [(step, runs.table[run].epoch)]
            except DidaError as problem:
                elsewhere[0] = problem.code != errors.UNAVAILABLE

        def answered() -> None:
            if answer:
                step, epoch = answer[0]
                again = request.with_step(worker=step.worker, host=step.host, port=step.port, attempt=step.attempt)
                fresh = epoch != request.epoch
                self._hand_on(attrs.evolve(again, epoch=epoch, ask=request.ask or fresh), sure or fresh, told=True)
            elif not elsewhere[0]:
                self._later(AGAIN, lambda: self._reassign(request, sure))

        runs._send(
            self.worker,
            self.life,
            runs.scheduler,
            ask,
            answered,
            lambda certain: self._later(AGAIN, lambda: self._hand_on(request, sure, told=True)),
        )


def _records(log: list[Done]) -> tuple[Access, ...]:
    """Return what a step has read and written, as its report has it."""
    how = {"w": "written", "c": "updated"}
    return tuple(
        Access(
            "read" if done.verb == "r" else how[done.verb] if done.value is None else "refused", done.key, done.version
        )
        for done in log
        if done.version is not None
    )


def _as_made(done: Done, version: Version | None) -> Done:
    """Return an update with its version: a lost write was made again, later than the calls that follow it."""
    if done.value is not None or version in (None, done.version):
        return done
    return attrs.evolve(done, version=version)


def _copied(request: Execute) -> Any:
    meta = request.meta
    return attrs.evolve(meta, versions=dict(meta.versions), after=dict(meta.after))
