"""The scheduler's table of runs: what was started, which steps are confirmed, how each run ended.

Pure: `now` is in seconds. A run goes on until it is done, failed, cancelled or past its deadline, so every run ends.
When a worker is lost, another one executes its step again, with what the confirmations reported of the steps before it.
The counts of the policy follow: each unconfirmed step of a run that goes on counts at its worker, and nothing else
does; the first of them counts there as being executed. The newest `keep` runs are kept, fewer if they are large.

The module is long because all inputs change the same table and the counts of its policy; they must stay in step.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from itertools import dropwhile

from msgspec.structs import replace

from dida.chains.catalog import Catalog, Places
from dida.chains.messages import Execute
from dida.chains.records import Assignment, Meta, steps, versions_after
from dida.chains.run_ids import RunIds, computed
from dida.chains.run_record import DOUBT, GRACE, Carried, RunRecord
from dida.chains.scheduling import LeastActive
from dida.errors import NO_SUCH_RUN, SUPERSEDED, DidaError, Unavailable
from dida.wire.messages import FIRST, Epoch
from dida.wire.runs import DONE, FAILED, GOING_ON

MAX_BYTES = 2**28
"""Memory limit for the outcomes of ended runs, in bytes, however few they are."""
MAX_LOOKED = 10_000
"""The most runs that are looked at for one page of a list."""
SEAL = 1_000_000
"""How far above the known ones the epoch is that no other scheduler's can exceed."""
SUSPECTS = 10
"""The most steps lost with a worker for which each of them is suspected the first time."""
MAX_ATTEMPTS = 5
"""The most executions of one step that may end with the loss of its worker; after one more the run has failed."""
MAX_PRINTED = 256 * 1024
"""The most characters that are kept of what the operators of a run print."""


class Runs:
    """The table. `suffix` makes the run ids of this incarnation of the scheduler differ from those of others."""

    def __init__(
        self,
        policy: LeastActive,
        suffix: str,
        deadline: float = 120.0,
        keep: int = 10_000,
        max_bytes: int = MAX_BYTES,
        max_looked: int = MAX_LOOKED,
    ) -> None:
        self.policy = policy
        self.deadline = deadline
        self.keep = keep
        self.max_bytes = max_bytes
        self.max_looked = max_looked
        self.started = self.done = self.failed = self.dropped = 0
        self.adopted = 0
        """Runs of other incarnations of the scheduler."""
        self.reassigned = 0
        """Steps that were given to another worker."""
        self.began = float("-inf")
        """The time at which this incarnation of the scheduler began: losses before are not known here."""
        self.doubts: dict[str, tuple[int, float]] = {}
        """Runs to the position of the step of which no worker has reported yet that it has it, and since when: they
        were adopted, or a worker was to hand it on."""
        self.life = suffix
        self.ids = RunIds()
        self.catalog = Catalog()
        self._all: dict[str, RunRecord] = {}
        self._going_on: dict[str, RunRecord] = {}
        self._ended: dict[str, RunRecord] = {}
        self._bytes = 0
        """About the memory that the ended runs take."""

    def __getitem__(self, id: str) -> RunRecord:
        """Return the run; no-such-run if it is unknown or was dropped. `r7` is enough for a run of this incarnation."""
        run = self._all.get(id) or self._all.get(f"{id}-{self.life}") or self.ids.in_short(id)
        if run is None:
            raise DidaError(NO_SUCH_RUN, id)
        return run

    def newest_first(self) -> Iterator[RunRecord]:
        """Return all known runs, newest first."""
        return reversed(self._all.values())

    def page(
        self, wanted: Callable[[RunRecord], bool], limit: int, first: RunRecord | None = None
    ) -> tuple[list[RunRecord], RunRecord | None]:
        """Return the newest `limit` of the `wanted` runs, from `first` on, and the first run of the next page.

        It looks at no more than `max_looked` runs, so there may be fewer though there are more.
        """
        found: list[RunRecord] = []
        runs = self.newest_first()
        if first is not None:
            runs = dropwhile(lambda run: run is not first, runs)
        for looked, run in enumerate(runs):
            if looked == self.max_looked:
                return found, run
            if wanted(run):
                if len(found) == limit:
                    return found, run
                found.append(run)
        return found, None

    @property
    def going_on(self) -> int:
        """The number of runs that have not ended."""
        return len(self._going_on)

    # --- beginning ------------------------------------------------------------------------------

    def on_run(
        self,
        input: str,
        operators: Sequence[str],
        after: Mapping[str, int],
        workers: Places,
        now: float,
        client_id: str = "",
        application: str = "",
        again: bool = False,
    ) -> RunRecord:
        """Start a run and assign its whole route. `workers` are the reachable ones.

        A client's id must not be known (`RunIds.known`). `again`: another incarnation of the scheduler may have started
        it.
        """
        if len(self._all) >= self.keep and not self._ended:
            raise Unavailable(f"{self.keep} runs are going on already: try again later, or raise --keep-runs")
        why = {}
        chain: list[Assignment] = []
        for position, operator in enumerate(operators):
            due = position == 0
            able = self.catalog.able(operator, workers) or workers
            why[position] = self.policy.counts(able, due)
            worker = self.policy.on_assign(able, due, chain[-1].worker if chain else "")
            chain.append(Assignment(operator, position, worker, *workers[worker]))
        self.started += 1
        run = RunRecord(
            id=computed(client_id, input, operators, application) if client_id else f"r{self.started}-{self.life}",
            input=input,
            chain=chain,
            started=now,
            ends=now + self.deadline,
            progress=now,
            since=dict(after),
            after=dict(after),
            why=why,
            client_id=client_id,
            application=application,
            life=self.life,
        )
        if again:
            self.anew(run)
        run.sealed = not again
        self._keep(run)
        return run

    def on_adopt(self, request: Execute, now: float, ago: float = 0.0, late: float = 0.0) -> RunRecord | None:
        """Take note of a request that a worker had so many seconds ago; adopt its run if it is unknown here.

        `late`: time since a worker is known to have had the step; it may have died since, before this incarnation of
        the scheduler began.

        Return None for a run that this incarnation has started and dropped since.
        """
        id = request.meta.run
        if id in self._all:
            self._follow(self._all[id], request, self._is_fresh(late, now), now)
            return self._all[id]
        if request.began_in(self.life) or self.ids.forgotten(id) or (len(self._all) >= self.keep and not self._ended):
            return None
        self.adopted += 1
        operators = [step.operator for step in request.chain]
        named = request.id
        if named and computed(request.id, request.input, operators, request.application) != id:
            named = ""
        then = now - ago
        began = then - max(0.0, (request.limit or self.deadline) - request.left)
        run = RunRecord(
            id=id,
            input=request.input,
            chain=list(request.chain),
            started=began,
            ends=max(now + DOUBT, min(then + request.left, began + self.deadline)),
            progress=now,
            since=dict(request.since),
            after=dict(request.meta.after),
            round=request.round,
            epoch=request.epoch,
            client_id=named,
            application=request.application,
            life=request.life,
            adopted=True,
            confirmed=dict.fromkeys(range(request.next), request.round),
            carried={request.next - 1: Carried.by(request)},
        )
        for step in run.chain[request.next :]:
            self.policy.on_worker(step.worker)
            self.policy.on_move(step.worker)
        self._keep(run)
        if not self._is_fresh(late, now):
            self.doubts[id] = (request.next, now)
        return run

    def _follow(self, run: RunRecord, request: Execute, in_hand: bool, now: float) -> None:
        """Note that a step is with another worker than was planned here, chosen without this scheduler.

        A newer execution than those that are known here supersedes them: what they have done behind the step does not
        count. If the step is not `in_hand` for certain, its worker must say that it has it, or it is sent from here.
        """
        step = request.assignment
        if run.state != GOING_ON or request.epoch < run.epoch or step.position >= len(run.chain):
            return
        newer = request.epoch > run.epoch
        run.epoch = request.epoch
        if in_hand and step.worker == run.chain[step.position].worker:
            self._certain(run, step.position)
        if request.round < run.round:
            return
        if newer:
            self._open_again(run, step.position)
            if not in_hand:
                self.doubts[run.id] = (step.position, now)
        if request.round > run.round or step.position in run.confirmed:
            return
        old = run.chain[step.position]
        later = step.attempt > old.attempt or (step.attempt == old.attempt and step.worker != old.worker)
        if later or (newer and step.worker != old.worker):
            self.policy.on_worker(step.worker)
            self.policy.on_confirm(old.worker)
            self.policy.on_move(step.worker)
            run.chain[step.position] = replace(step, output="", records=())
            self._turn(run)
            run.why[step.position] = "by the route: the scheduler could not be reached"
            run.unsent = ""
            run.progress = now
            if in_hand:
                self._certain(run, step.position)

    def _is_fresh(self, late: float, now: float) -> bool:
        """Return True if what was so many seconds ago still holds, as far as no loss was noticed here since."""
        return late < GRACE and late <= now - self.began

    def _certain(self, run: RunRecord, position: int) -> None:
        """Note that the step at that position, and those before, are not lost on the way."""
        if self.doubts and position >= self.doubts.get(run.id, (0, 0.0))[0]:
            self.doubts.pop(run.id, None)

    def _keep(self, run: RunRecord) -> None:
        self._all[run.id] = self._going_on[run.id] = run
        self.ids.keep(run)
        self._turn(run)
        while self._ended and (len(self._all) > self.keep or self._bytes > self.max_bytes):
            oldest = self._ended.pop(next(iter(self._ended)))
            del self._all[oldest.id]
            self.ids.drop(oldest)
            self._bytes -= oldest.bytes
            self.dropped += 1

    # --- going on -------------------------------------------------------------------------------

    def request(self, run: RunRecord, scheduler: str, storage: tuple[str, ...], view: int, now: float) -> Execute:
        """Return the request with which the run goes on from its current step.

        From now on reports of older executions do not count: this one executes the steps that they may be about.
        """
        step = run.current
        assert step is not None
        run.follows = {}
        self._certain(run, step.position)
        if run.epoch > FIRST and run.epoch.by != self.life:  # who has begun that one may execute it still
            self.anew(run)
        chain = tuple(run.chain)
        before = chain[: step.position]
        after = before[-1].after if before else run.since
        carried = run.carried.get(step.position - 1, Carried())
        return Execute(
            meta=Meta(run.id, scheduler, storage, view, versions_after(before), dict(after)),
            input=run.input,
            next=step.position,
            size=len(chain),
            chain=chain,
            left=max(0.0, run.ends - now),
            limit=run.ends - run.started,
            since=run.since,
            round=run.round,
            epoch=run.epoch,
            ask=run.epoch > FIRST,
            number=carried.number,
            bytes=carried.bytes,
            kept=carried.kept,
            known=carried.known,
            apart=run.apart == step.position,
            life=run.life,
            id=run.client_id,
            application=run.application,
        )

    def on_completed(
        self,
        id: str,
        position: int,
        now: float,
        ms: float = 0.0,
        step: Assignment | None = None,
        round: int = 0,
        workers: Places | None = None,
        epoch: Epoch = FIRST,
        carried: Carried = Carried(),  # noqa: B008 - it is immutable
        ago: float = 0.0,
    ) -> Assignment | None:
        """Note that a worker has executed the operator at `position`. A late or repeated report changes nothing.

        `ago`: age of the report. If it is late, the worker of the next step may have died before this incarnation of
        the scheduler began.

        With `workers`, return the next step if another one of them than planned is to execute it.
        """
        run = self[id]
        late = epoch < run.epoch and position >= run.follows.get(epoch, -1)
        if run.state != GOING_ON or position >= len(run.chain) or round < run.round or late:
            return None
        older = epoch < run.epoch  # the run has been sent anew behind this step, or will be
        run.epoch = max(run.epoch, epoch)
        run.carried[position] = carried
        if position - 1 in run.carried:  # if the run goes back that far, it reads by versions
            run.carried[position - 1] = run.carried[position - 1]._replace(known=())
        if round > run.round:
            self._go_back(run, position, round)
        if position in run.confirmed:
            return None
        done = step if step is not None else replace(run.chain[position], ms=ms)
        self._confirm(run, position)
        run.chain[position] = done if done.position == position else replace(done, position=position)
        run.resent = 0.0
        if not older:
            self._certain(run, position)
            if run.adopted and not self._is_fresh(ago, now):
                self.doubts[id] = (position + 1, now)
        run.unsent = run.unsent if older else ""
        self.policy.on_turn(run.turn, "")
        run.turn = ""
        new = None
        due = run.current
        if due is None or due.position == position + 1:  # else it was handed on before, if at all
            run.progress = now
            new = self._chosen_anew(run, due, workers) if due is not None and workers and not older else None
        self._turn(run, new or due)
        return new

    def _chosen_anew(self, run: RunRecord, step: Assignment, workers: Places) -> Assignment | None:
        """Give the step whose turn has come to another worker; return None if it stays with the planned one."""
        able = self.catalog.able(step.operator, workers)
        worker = self.policy.on_due(step.worker, able, run.chain[step.position - 1].worker)
        if worker == step.worker:
            return None
        host, port = workers[worker]
        new = run.chain[step.position] = replace(step, worker=worker, host=host, port=port)
        run.why[step.position] = f"{self.policy.counts(able)}; {step.worker} was planned"
        return new

    def anew(self, run: RunRecord, above: Epoch = FIRST, position: int | None = None) -> None:
        """Let the run go on as a new execution from that position, or the current one.

        It supersedes all executions that are known here, and that of the epoch `above`. What those have done behind the
        position does not count.
        """
        if position is None:
            position = run.current.position if run.current is not None else len(run.chain)
        self._open_again(run, position)
        run.epoch = Epoch(max(run.epoch, above).number + 1, self.life)
        run.follows = {}

    def _open_again(self, run: RunRecord, position: int) -> None:
        """Take the steps from that position on as not executed."""
        for each in run.chain[position:]:
            if run.confirmed.pop(each.position, None) is not None:
                self.policy.on_move(each.worker)
        self._turn(run)

    def seal(self, run: RunRecord) -> Epoch:
        """Return an epoch above all that any scheduler or worker has given the run, to fence the storage to it."""
        return Epoch(run.epoch.number + SEAL, self.life)

    def on_sealed(self, run: RunRecord, epoch: Epoch, now: float, borne_out: bool) -> None:
        """Note that the storage is fenced to that epoch; let the run go on unless its outcome is `borne_out`."""
        run.epoch, run.sealed = epoch, True
        if not borne_out and run.state == GOING_ON:
            self.anew(run)
            run.progress = now
            run.unsent = "its outcome was that of an execution that was superseded"

    def on_superseded(self, id: str, by: Epoch, now: float) -> None:
        """Note that an execution was refused because of the epoch `by`; begin another if that is not known here."""
        run = self[id]
        if run.state == GOING_ON and run.epoch < by:
            self.anew(run, by)
            run.sealed = False
            run.progress = now
            run.unsent = "its execution was superseded by one that is not known here"

    def on_returned(self, id: str, position: int, round: int, now: float, epoch: Epoch = FIRST) -> None:
        """Go back to the step at `position`: updates were lost."""
        run = self[id]
        if run.state == GOING_ON and position < len(run.chain) and round >= run.round and epoch >= run.epoch:
            rival = run.epoch.number == epoch.number and run.epoch != epoch
            run.epoch = epoch
            self._go_back(run, position, round)
            run.progress = now
            self.doubts[id] = (position, now)
            if rival:  # it has superseded the execution that was begun here, and who had it may be gone by now
                self.anew(run)
                run.unsent = "two executions were begun"

    def on_reassign(
        self,
        id: str,
        position: int,
        avoid: Collection[str],
        workers: Places,
        now: float,
        round: int = 0,
        epoch: Epoch | None = None,
        sure: bool = False,
    ) -> Assignment:
        """Give a step to another worker, if possible none of `avoid`; Unavailable if there is none.

        `epoch` is that of the worker that asks, and that must say (`on_adopt`) when the other one has the step: it may
        not wait for the reply any more, or die (`doubts`). Unless it is `sure` that nobody has begun the step, the run
        goes on as a new execution.

        If all reachable workers lack its operator, the step stays where it is: its worker may come back.
        """
        run = self[id]
        done = position >= len(run.chain) or position in run.confirmed
        if epoch is not None and run.follows.get(epoch) == position and position not in run.confirmed:
            epoch, sure = run.epoch, True  # the reply to the same question before did not arrive
        old_epoch = epoch is not None and epoch < run.epoch
        if run.state != GOING_ON or round < run.round or (round == run.round and done) or old_epoch:
            raise DidaError(SUPERSEDED, f"run {id} has ended, or goes on elsewhere")
        if round > run.round:
            self._go_back(run, position, round)
        old = run.chain[position]
        able = self.catalog.able(old.operator, workers)
        candidates = {worker: place for worker, place in able.items() if worker not in avoid} or able
        if workers and not candidates:
            candidates = {old.worker: (old.host, old.port)}
        counts = self.policy.counts(candidates)
        worker = self.policy.on_assign(candidates)
        self.policy.on_confirm(old.worker)
        host, port = candidates[worker]
        new = replace(old, worker=worker, host=host, port=port, attempt=old.attempt + 1)
        run.chain[position] = new
        run.why[position] = f"{counts}; not {', '.join(sorted(set(avoid)))[:200]}" if avoid else counts
        run.epoch = max(run.epoch, epoch or FIRST)
        run.progress = now
        self.reassigned += 1
        self._turn(run)
        if epoch is not None:
            self.doubts[id] = (position, now)
        if not sure:
            continued = run.follows | {run.epoch: position} if epoch is not None else {}
            self.anew(run, position=position)
            run.follows = continued
        return new

    def lost(self, lost_at: Mapping[str, float], there: Collection[str], now: float) -> list[RunRecord]:
        """Return the runs whose current step was with a worker that was lost (`lost_at`) or is not `there`."""
        return [run for run in self._going_on.values() if run.is_lost(lost_at, there, now)]

    def doubtful(self, lost_at: Mapping[str, float], now: float) -> list[RunRecord]:
        """Return the runs whose current step nobody may have: the worker before was lost, maybe before it handed on.

        Or its own worker was lost, and the step before it was reported so shortly after that it may have been reported
        late. Or that report is all that is known of the run, and its worker has not reported that it has it (`doubts`).
        They must be sent (see `unsent`) to the worker of the step, which recognises a duplicate.
        """
        found = []
        for run in self._going_on.values():
            when = run.doubtful_since(lost_at)
            if when is not None and now >= when + GRACE:
                run.resent = when
                self.anew(run)
                run.unsent = "its worker, or the one before it, was lost"
                found.append(run)
        for id in [id for id, (_, since) in self.doubts.items() if now >= since + GRACE]:
            del self.doubts[id]
            if id in self._going_on and not (run := self._going_on[id]).unsent:
                self.anew(run)
                run.unsent = "nobody has reported that its worker has it"
                found.append(run)
        return found

    def on_lost(self, run: RunRecord, workers: Places, now: float, others: int = 0) -> RunRecord | None:
        """Give the lost current step to another worker. Return the run if it was lost too often and has failed.

        `others`: how many steps of other runs were lost with it.
        """
        step = run.current
        assert step is not None
        lost = run.lost[step.position] = run.lost.get(step.position, 0) + 1
        if lost >= MAX_ATTEMPTS:
            why = f"{_at(step)} was lost: {lost} workers died, or broke their connection, while they had it"
            return self.on_failed(run.id, why, now, step.position, round=run.round)
        if lost > 1 or others < SUSPECTS:
            run.apart = step.position
        if workers:
            self.on_reassign(run.id, step.position, (step.worker,), workers, now, run.round)
        else:
            self.anew(run)
        run.progress = now
        run.unsent = "its worker was lost"
        return None

    @property
    def unsent(self) -> list[RunRecord]:
        """The runs whose current step must be sent to its worker."""
        return [run for run in self._going_on.values() if run.unsent]

    # --- ending ---------------------------------------------------------------------------------

    def on_printed(self, id: str, position: int, text: str) -> None:
        """Keep what an operator has printed, up to a limit for each run."""
        run = self[id]
        if text and run.state == GOING_ON and position < len(run.chain):
            run.printed.pop(position, None)
            room = MAX_PRINTED - sum(map(len, run.printed.values()))
            run.printed[position] = text if len(text) <= room else f"{text[: max(0, room)]}… more than a run may print"

    def on_ended(
        self,
        id: str,
        chain: Collection[Assignment],
        after: Mapping[str, int],
        now: float,
        ago: float = 0.0,
        epoch: Epoch = FIRST,
    ) -> RunRecord | None:
        """End a run: the last operator was executed so many seconds ago.

        Return None if it had ended before, or goes on in a higher epoch.
        """
        run = self[id]
        if run.state != GOING_ON or epoch < run.epoch:
            return None
        for each in chain:
            if each.position < len(run.chain):
                self._confirm(run, each.position)
        run.steps = steps(chain, run.why, run.printed)
        run.after = dict(after)
        self.done += 1
        return self._end(run, DONE, now, ago)

    def on_failed(
        self,
        id: str,
        reason: str,
        now: float,
        position: int | None = None,
        chain: Collection[Assignment] = (),
        after: Mapping[str, int] | None = None,
        round: int = 0,
        attempt: int = 0,
        ago: float = 0.0,
        lost: Mapping[str, int] | None = None,
        epoch: Epoch | None = None,
    ) -> RunRecord | None:
        """Fail a run. Return None if it had ended before, or goes on elsewhere. `epoch`: of the worker that reports."""
        run = self[id]
        if run.state != GOING_ON or (epoch is not None and epoch < run.epoch):
            return None
        if attempt and position is not None and position < len(run.chain):
            newer = position in run.confirmed or attempt < run.chain[position].attempt
            if round < run.round or (round == run.round and newer):
                return None
        run.steps = steps(chain or [step for step in run.chain if step.position in run.confirmed], run.why, run.printed)
        run.reason = reason
        run.failed_at = position
        run.gone = {s: n for s, n in (lost or {}).items() if s in run.since}
        if after is not None:
            run.after = dict(after)
        self.failed += 1
        return self._end(run, FAILED, now, ago)

    def tick(self, now: float) -> list[RunRecord]:
        """Fail the runs that are past their deadline."""
        late = []
        for run in list(self._going_on.values()):
            if now < run.ends:
                continue
            step = run.current or run.chain[-1]
            limit = run.ends - run.started
            rest = f": {run.unsent}" if run.unsent else ""
            why = f"{_at(step)} was not confirmed within the run's {limit:g} s{rest}"
            ended = self.on_failed(run.id, why, run.ends, step.position)
            late += [ended] if ended else []
        return late

    # --- counting -------------------------------------------------------------------------------

    def _go_back(self, run: RunRecord, position: int, round: int) -> None:
        """Execute again, from `position` on, what was confirmed in an earlier round."""
        run.round = round
        for each in run.chain[position:]:
            if run.confirmed.get(each.position, round) < round:
                del run.confirmed[each.position]
                self.policy.on_move(each.worker)
        self._turn(run)

    def _confirm(self, run: RunRecord, position: int) -> None:
        if position not in run.confirmed:
            run.confirmed[position] = run.round
            self.policy.on_confirm(run.chain[position].worker)

    def _turn(self, run: RunRecord, step: Assignment | None = None) -> None:
        """Count the run's current step (or `step`) at its worker."""
        step = step or (run.current if run.state == GOING_ON else None)
        worker = step.worker if step is not None else ""
        if worker != run.turn:
            self.policy.on_turn(run.turn, worker)
            run.turn = worker

    def _end(self, run: RunRecord, state: str, now: float, ago: float) -> RunRecord:
        now = max(now - ago, run.started)
        for each in run.chain:
            if each.position not in run.confirmed:
                self.policy.on_confirm(each.worker)
        run.state = state
        run.carried.clear()
        self._turn(run)
        run.ms = round((now - run.started) * 1000, 3)
        del self._going_on[run.id]
        self._ended[run.id] = run
        self._bytes += run.bytes
        return run


def _at(step: Assignment) -> str:
    return f"{step.operator} at position {step.position} on {step.worker}"
