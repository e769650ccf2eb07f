"""What the scheduler counts at each worker, against workers that die, join and leave while words are lost."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

import attrs
import pytest
from attrs import define, field

from dida.chains.messages import Execute
from dida.chains.records import Assignment
from dida.chains.run_record import RunRecord
from dida.chains.runs import Runs
from dida.chains.scheduling import POLICIES
from dida.chains.steps import Steps
from dida.errors import DidaError
from dida.wire.messages import FIRST, Epoch
from dida.wire.runs import GOING_ON


@define(eq=False)
class Worker:
    """A worker without connections: what it has in hand, and what it still has to say."""

    id: str
    steps: Steps = field(factory=Steps)
    hand: list[Execute] = field(factory=list)
    leaving: bool = False
    alive: bool = True
    died: float = 0.0


class World:
    """A scheduler's table, workers, and words between them that arrive in any order, or die with who says them."""

    def __init__(self, seed: int) -> None:
        self.dice = Random(seed)
        self.now = 0.0
        self.runs = Runs(self.dice.choice(list(POLICIES.values()))(), "x", deadline=1e6)
        self.workers: dict[str, Worker] = {}
        self.lost_at: dict[str, float] = {}
        self.words: list[tuple[Worker | None, Callable[[], object]]] = []
        """Who says it, and what happens when it arrives."""
        self.deaths = 0
        self.begun: set[tuple[str, int, Epoch]] = set()
        """Steps that were begun as ones that nobody has begun before: their updates say so to the storage."""
        for number in range(3):
            self.join(f"w{number}")

    # --- workers --------------------------------------------------------------------------------

    @property
    def places(self) -> dict[str, tuple[str, int]]:
        return {id: (id, 1) for id, worker in self.workers.items() if worker.alive and not worker.leaving}

    @property
    def there(self) -> set[str]:
        return {id for id, worker in self.workers.items() if worker.alive}

    def join(self, id: str) -> None:
        self.workers[id] = Worker(id)
        self.runs.policy.on_worker(id)

    def die(self, worker: Worker, politely: bool = False) -> None:
        self.deaths += not politely
        worker.alive = False
        worker.died = self.now
        self.lost_at[worker.id] = self.now
        self.words = [word for word in self.words if word[0] is not worker or self.dice.random() < 0.4]

    def receive(self, request: Execute) -> bool:
        """Whether the worker of the request's next step has taken it."""
        worker = self.workers[request.assignment.worker]
        if not worker.alive or (worker.leaving and not worker.steps.covers(request)):
            return False
        if worker.steps.begin(request):
            worker.hand.append(request)
            step = (request.meta.run, request.next, request.epoch)
            assert step not in self.begun, f"{step}: begun twice in one epoch"
            self.begun.add(step)
        return True

    def finish(self, worker: Worker, request: Execute) -> None:
        """The operator has returned."""
        worker.hand.remove(request)
        worker.steps.end(request)
        done = request.with_step(worker=worker.id, output="o")
        run, position, round, epoch = done.meta.run, done.next, done.round, done.epoch
        if position + 1 == done.size:
            self.say(worker, lambda: self.runs.on_ended(run, done.chain, {}, self.now, epoch=epoch))
        else:
            told = done.assignment
            following = attrs.evolve(done, next=position + 1)
            if self.dice.random() < 0.5:
                self.say(worker, lambda: self.runs.on_completed(run, position, self.now, 1.0, told, round, epoch=epoch))
                self.say(worker, lambda: self.hand_on(worker, following))
            else:
                self.say(worker, lambda: self.choose(worker, following, told))

    def choose(self, worker: Worker, following: Execute, told: Assignment) -> None:
        """The worker has asked who is to execute the next step; it may not get the answer, and keeps to its plan."""
        id, position, round = following.meta.run, told.position, following.round
        new = self.runs.on_completed(id, position, self.now, 1.0, told, round, self.places, following.epoch)
        if self.dice.random() < 0.3:
            planned = following
            self.say(worker, lambda: self.runs.on_adopt(planned, self.now))
        elif new is not None:
            following = following.with_step(worker=new.worker, host=new.host, port=new.port)
        self.say(worker, lambda: self.hand_on(worker, following))

    def say(self, worker: Worker | None, word: Callable[[], object]) -> None:
        self.words.append((worker, word))

    def hand_on(self, worker: Worker, request: Execute, told: bool = False) -> None:
        if self.receive(request):
            if told or request.ask:
                self.say(worker, lambda: self.runs.on_adopt(request, self.now))
            return
        if not worker.alive:
            return
        try:
            avoid = (request.assignment.worker,)
            run, epoch, sure = request.meta.run, request.epoch, self.dice.random() < 0.5
            new = self.runs.on_reassign(
                run, request.next, avoid, self.places, self.now, request.round, epoch, sure=sure
            )
        except DidaError as problem:
            if problem.code == "unavailable":
                self.say(worker, lambda: self.hand_on(worker, request, told))
            return
        changes = {"worker": new.worker, "host": new.host, "port": new.port, "attempt": new.attempt}
        again = attrs.evolve(request.with_step(**changes), epoch=self.runs[run].epoch)
        self.say(worker, lambda: self.hand_on(worker, again, told=True))

    # --- the scheduler --------------------------------------------------------------------------

    def send(self, run: RunRecord) -> None:
        """As the scheduler sends the request of a run to the worker of its current step."""
        step = run.current
        if step is None or run.state != GOING_ON:
            return
        if self.receive(self.runs.request(run, "sc:1", (), 0, self.now)):
            run.unsent = ""
            run.progress = max(run.progress, self.now)
        else:
            run.unsent = "it did not take it"
            if self.places:
                self.runs.on_reassign(run.id, step.position, (step.worker,), self.places, self.now, run.round)

    def tick(self) -> None:
        self.now += 0.25
        late = [w for w in self.words if w[0] is not None and not w[0].alive and self.now > w[0].died + 4]
        for word in late:
            self.words.remove(word)
            word[1]()
        for run in self.runs.lost(self.lost_at, self.there, self.now):
            self.runs.on_lost(run, self.places, self.now)
        self.runs.doubtful(self.lost_at, self.now)
        for run in self.runs.unsent:
            self.send(run)
        for worker in list(self.workers.values()):
            if (
                worker.alive
                and worker.leaving
                and not worker.hand
                and not any(word[0] is worker for word in self.words)
            ):
                self.die(worker, politely=True)

    # --- what happens ---------------------------------------------------------------------------

    def turn(self) -> None:
        """Something happens."""
        what = self.dice.random()
        alive = [worker for worker in self.workers.values() if worker.alive]
        busy = [worker for worker in alive if worker.hand]
        if what < 0.15 and self.places:
            run = self.runs.on_run("i", ["A"] * self.dice.randint(1, 4), {}, self.places, self.now)
            self.say(None, lambda: self.send(run) if run.epoch == FIRST and not run.unsent else None)
        elif what < 0.45 and self.words:
            self.words.pop(self.dice.randrange(len(self.words)))[1]()
        elif what < 0.65 and busy:
            worker = self.dice.choice(busy)
            self.finish(worker, self.dice.choice(worker.hand))
        elif what < 0.70 and alive and self.deaths < 4:
            self.die(self.dice.choice(alive))
        elif what < 0.73 and len(alive) > 1:
            self.dice.choice(alive).leaving = True
        elif what < 0.80 and len(alive) < 5:
            id = f"w{self.dice.randrange(6)}"
            self.join(id if id not in self.there else f"n{len(self.workers)}")
        else:
            self.tick()

    def join_safely(self) -> None:
        if not self.places:
            self.join(f"n{len(self.workers)}")

    def settle(self) -> None:
        """All words arrive, and all that is overdue is looked at; operators go on."""
        for _ in range(60):
            self.join_safely()
            while self.words:
                self.words.pop(0)[1]()
            self.tick()
        assert not self.words
        assert not self.runs.unsent


@pytest.mark.parametrize("first", range(0, 200, 50))
def test_the_counts_are_the_truth_once_all_is_quiet(first: int) -> None:
    """Through deaths, joins, departures and lost words: what is counted is in hand there; in the end nothing."""
    for seed in range(first, first + 50):
        world = World(seed)
        for _ in range(150):
            world.turn()
        world.settle()
        held: dict[tuple[str, int], set[str]] = {}
        for worker in world.workers.values():
            for request in worker.hand if worker.alive else ():
                if request.epoch < world.runs[request.meta.run].epoch:
                    continue  # an older execution, which counts for nothing
                held.setdefault((request.meta.run, request.next), set()).add(worker.id)
        counts = dict.fromkeys(world.runs.policy.loads, 0)
        for run in world.runs.newest_first():
            for step in run.chain if run.state == GOING_ON else ():
                if step.position not in run.confirmed:
                    counts[step.worker] += 1
                    where = held.get((run.id, step.position))
                    assert where is None or step.worker in where, f"seed {seed}: {run.id} at {step.position}"
            if run.state == GOING_ON:
                assert run.current is not None
                before = max(0, run.current.position - 1)  # which may be executed again, and handed on then
                where = {id for position in (before, run.current.position) for id in held.get((run.id, position), ())}
                assert where, f"seed {seed}: nobody executes {run.id}"
        assert {id: load.active for id, load in world.runs.policy.loads.items()} == counts, f"seed {seed}"
        current = [run.current for run in world.runs.newest_first() if run.state == GOING_ON]
        executing = {id: sum(step is not None and step.worker == id for step in current) for id in counts}
        assert {id: load.executing for id, load in world.runs.policy.loads.items()} == executing, f"seed {seed}"
        while any(worker.hand for worker in world.workers.values() if worker.alive):
            for worker in list(world.workers.values()):
                while worker.alive and worker.hand:
                    world.finish(worker, worker.hand[0])
            world.settle()
        assert not world.runs.going_on, f"seed {seed}"
        assert all(load.active == load.executing == 0 for load in world.runs.policy.loads.values()), f"seed {seed}"
