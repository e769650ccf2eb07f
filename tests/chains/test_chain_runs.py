"""The scheduler's table of runs."""

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from dida.chains.run_record import RunRecord, outcome, summary
from dida.chains.runs import MAX_PRINTED, SUSPECTS, Runs
from dida.chains.scheduling import LeastActive
from dida.chains.steps import Steps
from dida.errors import DidaError, Unavailable
from dida.wire.messages import FIRST, Epoch
from dida.wire.runs import DONE, FAILED

WORKERS = {"w1": ("localhost", 4001), "w2": ("localhost", 4002)}


def table(deadline: float = 10.0, keep: int = 100, **limits: int) -> Runs:
    runs = Runs(LeastActive(), "x", deadline, keep, **limits)
    for worker in WORKERS:
        runs.policy.on_worker(worker)
    return runs


def start(runs: Runs, now: float = 0.0, length: int = 3) -> RunRecord:
    return runs.on_run("13", ["A", "B", "C"][:length], {"s": 1}, WORKERS, now)


def active(runs: Runs) -> int:
    return sum(load.active for load in runs.policy.loads.values())


def test_a_run_from_start_to_end() -> None:
    """The route is assigned at once, each confirmation frees a worker, the end gives outputs and times."""
    runs = table()
    run = start(runs)
    assert run.id == "r1-x"
    assert [each.worker for each in run.chain] == ["w1", "w2", "w1"]
    assert active(runs) == 3
    runs.on_completed(run.id, 0, 1.0, 5.0)
    runs.on_completed(run.id, 0, 1.0, 5.0)
    assert active(runs) == 2
    chain = [replace(each, output=each.operator.lower(), ms=2.0) for each in run.chain]
    assert runs.on_ended(run.id, chain, {"s": 4}, 2.0) is run
    assert (run.state, run.output, run.ms, active(runs)) == (DONE, "c", 2000.0, 0)
    told = outcome(run)
    assert told["after"] == {"s": 4}
    step = told["steps"][1]  # type: ignore[index]
    assert (step["operator"], step["worker"], step["output"], step["ms"]) == ("B", "w2", "b", 2.0)
    assert step["why"] == "least-active: w2 0, w1 1"
    assert summary(run)["state"] == "done"


def test_what_operators_print_is_told() -> None:
    """With the step that printed it, also that which failed; of a run so much is kept, and it counts as memory."""
    runs = table()
    run = start(runs)
    runs.on_printed(run.id, 0, "first")
    runs.on_completed(run.id, 0, 1.0, 5.0)
    runs.on_printed(run.id, 1, "")
    runs.on_completed(run.id, 1, 1.0, 5.0)
    before = run.bytes
    runs.on_printed(run.id, 2, "x" * MAX_PRINTED)
    runs.on_printed(run.id, 7, "no such step")
    runs.on_failed(run.id, "why", 2.0, 2)
    told = outcome(run)
    assert [step.get("printed") for step in told["steps"]] == ["first", None]  # type: ignore[attr-defined]
    assert told["printed"] == "x" * (MAX_PRINTED - 5) + "… more than a run may print"
    assert run.bytes - before > MAX_PRINTED - 5
    runs.on_printed(run.id, 0, "too late")
    assert run.printed[0] == "first"


def test_what_was_lost_before_the_run_is_told() -> None:
    """Whoever started it from what is gone learns what to take out of its timestamp; not of what came later."""
    runs = table()
    run = runs.on_run("13", ("A",), {"1:1": 3, "2:1": 4}, WORKERS, 0.0)
    runs.on_failed(run.id, "lost-update", 1.0, 0, after={"2:1": 4}, lost={"1:1": 3, "3:1": 1})
    assert (outcome(run)["lost"], outcome(run)["after"]) == ({"1:1": 3}, {"2:1": 4})


def test_a_failed_run_frees_its_workers() -> None:
    """A failure frees what was never executed; what is told afterwards changes nothing."""
    runs = table()
    run = start(runs)
    runs.on_completed(run.id, 0, 1.0)
    assert runs.on_failed(run.id, "because", 2.0, 1) is run
    assert (run.state, run.reason, active(runs)) == (FAILED, "because", 0)
    assert outcome(run)["operator"] == "B"
    assert "lost" not in outcome(run)
    assert runs.on_failed(run.id, "again", 3.0) is None
    assert runs.on_ended(run.id, run.chain, {}, 3.0) is None
    runs.on_completed(run.id, 2, 3.0)
    assert (run.reason, active(runs), runs.failed, runs.done) == ("because", 0, 1, 0)


def test_a_run_has_a_deadline() -> None:
    """A run of which nothing is heard is failed at its deadline, naming the step that is missing."""
    runs = table(deadline=10)
    first, second = start(runs, 0.0), start(runs, 5.0)
    runs.on_completed(first.id, 0, 1.0)
    assert runs.tick(9.9) == []
    assert runs.tick(10.2) == [first]
    assert first.ms == 10_000.0, "it had ended then; who looks now and then hears of it a little later"
    assert first.reason == "B at position 1 on w2 was not confirmed within the run's 10 s"
    assert (second.state, runs.going_on) == ("going on", 1)


def test_a_lost_worker_is_replaced() -> None:
    """The current steps that were with a worker when it was lost go to another one, and are counted there."""
    runs = table()
    executing, gone_on, later = start(runs), start(runs), start(runs, 5.0)
    assert [run.chain[0].worker for run in (executing, gone_on, later)] == ["w1", "w2", "w1"]
    others = {"w2": WORKERS["w2"]}
    assert runs.lost({"w1": 2.0}, others, 2.5) == []
    assert runs.lost({"w1": 2.0}, others, 3.0) == [executing]
    assert runs.on_lost(executing, others, 3.0) is None
    step = executing.chain[0]
    assert (step.worker, step.port, step.attempt, executing.epoch) == ("w2", 4002, 2, Epoch(1, "x"))
    assert runs.unsent == [executing]
    request = runs.request(executing, "localhost:2000", (), 0, 3.0)
    assert (request.next, request.epoch, request.ask, request.left) == (0, Epoch(1, "x"), True, 7.0)
    assert runs.lost({"w1": 2.0}, WORKERS, 9.0) == []
    assert active(runs) == 9


def test_a_step_that_kills_its_workers() -> None:
    """A step with which one worker after the other is lost fails its run before all are dead."""
    runs = table()
    run = start(runs)
    for now in range(10):
        if runs.on_lost(run, WORKERS, float(now)) is run:
            break
    assert run.reason == (
        f"A at position 0 on {run.chain[0].worker} was lost:"
        " 5 workers died, or broke their connection, while they had it"
    )
    assert (run.chain[0].attempt, active(runs)) == (5, 0)


def test_a_worker_dies_before_it_has_handed_on() -> None:
    """When a worker dies right after its step was confirmed, the next step is sent by the scheduler, once."""
    runs = table()
    run = start(runs)
    runs.on_completed(run.id, 0, 1.0)
    assert runs.doubtful({"w1": 1.1}, 2.0) == []
    assert runs.doubtful({"w1": 1.1}, 2.1) == [run] == runs.unsent
    run.unsent = ""
    assert runs.doubtful({"w1": 1.1}, 3.0) == []
    assert runs.doubtful({"w1": 2.0}, 2.5) == []
    runs.on_completed(run.id, 1, 10.0, epoch=run.epoch)
    assert runs.doubtful({"w1": 0.5, "w2": 4.9}, 30.0) == []
    assert runs.doubtful({"w1": 5.1}, 30.0) == [run], "its own worker was lost, and what came before was told late"


def test_a_run_that_goes_back() -> None:
    """Lost updates make steps unconfirmed that were confirmed; in whatever order that is told, the counts are right."""
    for told in (["returned", "completed"], ["completed", "returned"]):
        runs = table()
        run = start(runs)
        for position in range(3):
            runs.on_completed(run.id, position, 1.0)
        for each in told:
            if each == "returned":
                runs.on_returned(run.id, 0, 1, 2.0)
            else:
                runs.on_completed(run.id, 0, 2.0, round=1)
        assert (sorted(run.confirmed), run.round, active(runs)) == ([0], 1, 2), told
        runs.on_completed(run.id, 1, 3.0)
        assert 1 not in run.confirmed, "a word from an earlier round"
        assert runs.on_failed(run.id, "late", 3.0, 1, attempt=1) is None
        with pytest.raises(DidaError, match="superseded"):
            runs.on_reassign(run.id, 1, (), WORKERS, 3.0)


def test_a_step_that_another_worker_was_to_hand_on() -> None:
    """Who asks for another worker may wait no more, or die: unless it says soon who has the step, that is sent."""
    for sure in (True, False):
        runs, reported = table(), table()
        for each in (runs, reported):
            run = start(each)
            request = attrs.evolve(each.request(run, "localhost:2000", (), 0, 1.0), next=1)
            new = each.on_reassign(run.id, 1, ("w2",), WORKERS, 1.0, epoch=Epoch(), sure=sure)
            assert run.epoch.number == (not sure)
            each.on_completed(run.id, 0, 1.1)
            assert sorted(run.confirmed) == [0], "a report of the step before counts"
            assert each.doubtful({}, 1.5) == []
            request = attrs.evolve(request.with_step(worker=new.worker, attempt=new.attempt), epoch=run.epoch)
            if each is reported:
                each.on_adopt(request, 1.9)
            else:
                each.on_adopt(request, 1.9, ago=1.5, late=1.5)  # it was so then
        assert [each.id for each in runs.doubtful({}, 2.1)] == [run.id]
        assert reported.doubtful({}, 9.0) == []


def test_a_worker_that_has_another_ones_step() -> None:
    """Who asked for another worker did not get the reply, and the first one has taken the step after all: as long as
    the scheduler looks for it elsewhere, that is not certain, and it is sent."""
    runs = table()
    run = start(runs)
    request = attrs.evolve(runs.request(run, "localhost:2000", (), 0, 1.0), next=1)
    assert runs.on_reassign(run.id, 1, ("w2",), WORKERS, 1.0, epoch=Epoch(), sure=True).worker == "w1"
    runs.on_completed(run.id, 0, 1.1)
    runs.on_adopt(request, 1.5)
    assert run.current is not None
    assert (request.assignment.worker, run.current.worker) == ("w2", "w1")
    assert [each.id for each in runs.doubtful({}, 2.1)] == [run.id]


def test_late_reports_do_not_overtake_a_new_execution() -> None:
    """Once it is sent, it executes the step itself that an older one reports late: it must not be sent twice."""
    runs = table()
    run = start(runs)
    runs.on_reassign(run.id, 1, ("w2",), WORKERS, 1.0, epoch=Epoch(), sure=False)
    assert runs.request(run, "localhost:2000", (), 0, 1.0).next == 0
    runs.on_completed(run.id, 0, 2.0)
    assert run.confirmed == {}


def test_no_step_is_sent_in_the_epoch_of_a_worker() -> None:
    """A worker that has begun an execution may have its steps: what is sent from here is another one."""
    runs = table()
    run = start(runs)
    runs.on_lost(run, WORKERS, 5.0)
    runs.on_returned(run.id, 0, 1, 5.0, Epoch(3, "w2.1"))
    assert (run.epoch, bool(run.unsent)) == (Epoch(3, "w2.1"), True)
    assert runs.request(run, "localhost:2000", (), 0, 5.0).epoch == Epoch(4, "x")
    assert runs.doubtful({}, 9.0) == [], "it was sent"


def test_a_step_that_a_worker_goes_back_to() -> None:
    """Who goes back may die before the request is handed on: then the step is sent from here."""
    runs = table()
    run = start(runs)
    for position in range(2):
        runs.on_completed(run.id, position, 1.0)
    runs.on_returned(run.id, 0, 1, 2.0, Epoch(1, "w3.1"))
    assert [each.id for each in runs.doubtful({}, 3.1)] == [run.id]


def test_two_executions_of_one_number() -> None:
    """A worker has gone back, and died; the scheduler hears of its death first, and of its new execution late.

    Each of the two may supersede the other, and nobody may have the one that is left: another one is begun.
    """
    runs = table()
    run = start(runs)
    runs.on_lost(run, WORKERS, 5.0)
    assert run.epoch == Epoch(1, "x")
    runs.request(run, "localhost:2000", (), 0, 5.0)
    run.unsent = ""
    runs.on_returned(run.id, 0, 1, 5.0, Epoch(1, "z.1"))
    assert (run.epoch, run.round, bool(run.unsent)) == (Epoch(2, "x"), 1, True)


def test_a_step_that_was_handed_on_to_a_worker_that_is_gone() -> None:
    """A new scheduler that only hears of it from the worker before sends it, unless its worker says in time: I have it.

    The worker may have died before the new scheduler began: then nothing is lost in its eyes.
    """
    runs, late, told = table(), Runs(LeastActive(), "y"), Runs(LeastActive(), "z")
    run = start(runs)
    runs.on_completed(run.id, 0, 1.0)
    request = runs.request(run, "localhost:2000", (), 0, 1.0)
    for other in (late, told):
        other.began = 4.9
        adopted = other.on_adopt(request, 5.0, ago=0.3, late=0.3)
        assert adopted is not None
        other.on_completed(run.id, 0, 5.0)
        assert other.doubtful({}, 5.5) == []
    told.on_adopt(request, 5.6, ago=3.0)
    assert [each.id for each in late.doubtful({}, 6.1)] == [run.id]
    assert late[run.id].unsent
    assert late.doubtful({}, 9.0) == told.doubtful({}, 9.0) == []
    told.on_completed(run.id, 1, 9.0, ago=0.9)
    assert told.doubtful({}, 10.1) == []
    late.on_completed(run.id, 1, 9.0, epoch=late[run.id].epoch, ago=1.1)
    assert [each.id for each in late.doubtful({}, 10.1)] == [run.id], "the third step is with nobody, perhaps"


def test_a_newer_execution_is_heard_of_late() -> None:
    """A new scheduler hears of an execution that has come far, then of one that supersedes it: the run is where that
    one is. If that was some time ago, its worker may be gone by now."""
    for late in (0.0, 0.3):
        runs = Runs(LeastActive(), "y")
        run = start(table())
        request = attrs.evolve(table().request(run, "localhost:2000", (), 0, 1.0), epoch=Epoch(1, "x"))
        runs.began = 4.9
        adopted = runs.on_adopt(request, 5.0)
        assert adopted is not None
        runs.on_completed(run.id, 0, 5.0, epoch=Epoch(1, "x"))
        newer = attrs.evolve(request, epoch=Epoch(2, "x")).with_step(worker="w2", attempt=1)
        runs.on_adopt(newer, 5.1, ago=late, late=late)
        assert adopted.current is not None
        assert (adopted.current.position, adopted.current.worker, adopted.epoch) == (0, "w2", Epoch(2, "x"))
        assert active(runs) == 3
        assert runs.on_ended(run.id, run.chain, {}, 5.2, epoch=Epoch(1, "x")) is None
        assert [each.id for each in runs.doubtful({}, 6.2)] == ([run.id] if late else [])
        if not late:
            assert runs.lost({"w2": 6.0}, ["w1"], 9.0) == [adopted]


def test_an_execution_that_is_not_known_here_supersedes_all() -> None:
    """A worker with an old execution hears of one that is newer than all that this scheduler knows: whoever has that
    may be gone, so another one is begun."""
    runs = Runs(LeastActive(), "y")
    request = table().request(start(table()), "localhost:2000", (), 0, 1.0)
    run = runs.on_adopt(request, 5.0)
    assert run is not None
    runs.on_completed(run.id, 0, 5.1, epoch=Epoch(1, "x"))
    runs.on_superseded(run.id, Epoch(2, "x"), 5.2)
    assert (run.epoch, bool(run.unsent)) == (Epoch(3, "y"), True)


def test_a_run_of_another_life() -> None:
    """A run that a worker tells of is adopted with what it has come to; one of this life that was dropped is not."""
    runs, other = table(), Runs(LeastActive(), "y")
    run = start(runs)
    runs.on_completed(run.id, 0, 1.0)
    request = runs.request(run, "localhost:2000", (), 0, 4.0)
    adopted = other.on_adopt(request, 100.0)
    assert adopted is not None
    assert adopted is other.on_adopt(request, 101.0)
    assert adopted.current is not None
    assert (adopted.id, adopted.current.position, adopted.ends, active(other)) == (run.id, 1, 106.0, 2)
    assert other.on_ended(run.id, run.chain, {}, 101.0) is adopted
    assert active(other) == 0
    assert table().on_adopt(request, 100.0) is None


def test_a_longer_chain_of_a_run_that_is_known() -> None:
    """A request of a run that is known with fewer steps changes nothing."""
    runs, other = table(), table()
    run, longer = start(runs, length=1), start(other, length=2)
    request = other.request(longer, "sc:1", (), 0, 0.0)
    assert runs.on_adopt(attrs.evolve(request, next=1), 1.0) is run
    assert len(run.chain) == 1


def test_an_adopted_run_began_before() -> None:
    """The scheduler that takes a run over counts from its beginning, and keeps its deadline, by durations alone: its
    clock and that of the scheduler before it have nothing to do with each other."""
    runs, other = table(), Runs(LeastActive(), "y", 60.0)
    run = start(runs, 1000.0)
    request = runs.request(run, "localhost:2000", (), 0, 1001.0)
    adopted = other.on_adopt(request, 54.0, ago=3.0)
    assert adopted is not None
    assert (adopted.started, adopted.ends) == (50.0, 60.0)
    other.on_ended(run.id, run.chain, {}, 57.5)
    assert adopted.ms == 7500.0
    late = Runs(LeastActive(), "y", 10.0)
    told = late.on_adopt(request, 2000.0, ago=999.0)
    assert told is not None
    assert late.tick(2000.2) == [], "its outcome may be the next word"
    late.on_ended(run.id, run.chain, {}, 2000.5, ago=997.5)
    assert told.ms == 3000.0, "what it took, not when that was told"
    unsaid = Runs(LeastActive(), "z", 10.0).on_adopt(attrs.evolve(request, limit=0.0), 1006.0)
    assert unsaid is not None
    assert (unsaid.started, unsaid.ends) == (1005.0, 1015.0), "what its worker knows: it had 9 s left"


def test_a_run_that_ended_before_that_was_told() -> None:
    """An outcome counts from when it was, also for the scheduler that has started the run."""
    runs = table()
    run = start(runs, 1.0)
    runs.on_ended(run.id, run.chain, {}, 7.0, ago=4.0)
    assert run.ms == 2000.0
    failed = start(runs, 1.0)
    runs.on_failed(failed.id, "why", 7.0, ago=100.0)
    assert failed.ms == 0.0, "it can't have ended before it began"


def test_the_next_worker_is_chosen_when_its_turn_has_come() -> None:
    """A step that ends gives the next one to who is executing less than the worker of the plan, if it is asked."""
    runs = table()
    run, other = start(runs), start(runs)
    assert [each.worker for each in (*run.chain, *other.chain)] == ["w1", "w2", "w1", "w2", "w1", "w2"]
    step = runs.on_completed(run.id, 0, 1.0, workers=WORKERS)
    assert step is run.current
    assert step is not None
    assert (step.worker, step.host, step.port, step.attempt, step.position) == ("w1", "localhost", 4001, 1, 1)
    assert run.why[1] == "least-active: w1 0, w2 1; w2 was planned"
    assert runs.on_completed(run.id, 0, 1.0, workers=WORKERS) is None, "told twice, it is as it was chosen"
    assert {id: (load.active, load.executing) for id, load in runs.policy.loads.items()} == {"w1": (3, 1), "w2": (2, 1)}
    assert runs.on_completed(other.id, 0, 1.0) is None, "who has not asked has handed on by the plan"
    assert other.current is not None
    assert other.current.worker == "w1"


def test_a_step_that_was_confirmed_before_the_one_before_it() -> None:
    """When a step is executed again that a lost worker has gone on from, the scheduler sees to it that one goes on."""
    runs = table()
    run = start(runs)
    runs.on_completed(run.id, 1, 1.0)
    runs.on_completed(run.id, 0, 9.0)
    assert run.current is not None
    assert run.current.position == 2
    assert runs.doubtful({}, 10.0) == []
    assert runs.doubtful({"w2": 1.5}, 10.0) == runs.unsent == [run]


def test_what_a_worker_may_have_died_of_is_executed_apart() -> None:
    """A step with which a worker was lost gets a process to itself; of many at once only those lost a second time."""
    runs = table()
    run = start(runs)

    def apart() -> bool:
        return runs.request(run, "localhost:2000", (), 0, 1.0).apart

    assert not apart()
    runs.on_lost(run, WORKERS, 2.0, others=SUSPECTS)
    assert not apart()
    runs.on_lost(run, WORKERS, 4.0, others=SUSPECTS)
    assert apart()
    runs.on_completed(run.id, 0, 5.0, epoch=run.epoch)
    assert not apart(), "the next step is not suspected"
    runs.on_lost(run, WORKERS, 6.0, others=SUSPECTS - 1)
    assert apart()


def test_a_plan_that_was_kept() -> None:
    """A worker whose question was answered too late says where it has handed on, and the counts follow."""
    runs = table()
    run, _ = start(runs), start(runs)
    planned = attrs.evolve(runs.request(run, "localhost:2000", (), 0, 0.0), next=1)
    assert runs.on_completed(run.id, 0, 1.0, workers=WORKERS) is not None
    runs.on_adopt(planned, 2.0)
    assert run.current is not None
    assert (run.current.worker, run.epoch) == ("w2", FIRST)
    assert {id: (load.active, load.executing) for id, load in runs.policy.loads.items()} == {"w1": (2, 0), "w2": (3, 2)}


def test_the_list_of_runs_is_short() -> None:
    """However long input and chain are, a run's line in the list is short; the outcome has all of it."""
    runs = table()
    run = runs.on_run("i" * 5000, ["A" * 150] * 30, {}, WORKERS, 0.0)
    listed = summary(run)
    assert listed["input"] == "i" * 79 + "…"
    assert (len(listed["operators"]), listed["size"], len(str(listed)) < 1200) == (10, 30, True)  # type: ignore[arg-type]
    assert outcome(run)["input"] == run.input
    assert runs["r1"] is run, "a run's number is enough, for one of this life"


def test_large_outcomes_are_kept_for_less_long() -> None:
    """The memory for outcomes is bounded, too: of large ones fewer are kept."""
    runs = table(max_bytes=50_000)
    for _ in range(20):
        run = start(runs, length=1)
        runs.on_ended(run.id, [replace(run.chain[0], output="o" * 10_000)], {}, 1.0)
    assert 3 <= len(list(runs.newest_first())) <= 5
    assert len(list(runs.newest_first())) + runs.dropped == 20


def test_a_step_that_went_elsewhere_unasked() -> None:
    """While the scheduler can't be asked a request may go to another worker: it counts there once that is told."""
    runs = table()
    run = start(runs)
    request = runs.request(run, "localhost:2000", (), 0, 1.0)
    moved = request.with_step(worker="w2", host="localhost", port=4002, attempt=2)
    moved = attrs.evolve(moved, epoch=Epoch(1, "w1"))
    for _ in range(2):
        assert runs.on_adopt(moved, 2.0) is run
        assert {id: load.active for id, load in runs.policy.loads.items()} == {"w1": 1, "w2": 2}
    assert run.current is not None
    assert (run.current.worker, run.epoch) == ("w2", Epoch(1, "w1"))


def test_only_the_newest_are_kept() -> None:
    """Of the runs that ended the newest are kept, the others counted; runs going on are never dropped."""
    runs = table(keep=3)
    going = start(runs)
    ended = [start(runs, length=1) for _ in range(2)]
    for run in ended:
        runs.on_failed(run.id, "x", 1.0)
    newest = start(runs)
    assert [run.id for run in runs.newest_first()] == [newest.id, ended[1].id, going.id]
    assert runs.dropped == 1
    with pytest.raises(DidaError, match="no-such-run"):
        runs[ended[0].id]
    start(runs)
    with pytest.raises(Unavailable, match="3 runs are going on"):
        start(runs)
    assert active(runs) == 9


EVENTS = st.tuples(st.sampled_from("rcdefblan"), st.integers(0, 9), st.integers(0, 2), st.integers(0, 2))


@given(st.lists(EVENTS, max_size=60))
def test_loads_are_right_whatever_happens(events: list[tuple[str, int, int, int]]) -> None:
    """In any order of confirmations, ends, losses and returns, the loads equal what is going on unconfirmed."""
    runs, other = table(keep=8), Runs(LeastActive(), "y", keep=8)
    started: list[RunRecord] = []
    for now, (event, which, position, round) in enumerate(events):
        at = float(now)
        try:
            if event == "r":
                started.append(start(runs, at))
            elif event == "l":
                lost = {("w1", "w2")[which % 2]: at}
                for run in runs.lost(lost, WORKERS, at + 2):
                    runs.on_lost(run, WORKERS if position else {}, at + 2)
                runs.doubtful(lost, at + 2)
            elif started:
                run = started[which % len(started)]
                if event in "cd":
                    runs.on_completed(run.id, position, at, round=round, workers=WORKERS if event == "d" else None)
                elif event == "b":
                    runs.on_returned(run.id, position, round, at)
                elif event == "n":
                    runs.on_reassign(run.id, position, ("w1", "w2")[:round], WORKERS, at, round)
                elif event == "e":
                    runs.on_ended(run.id, run.chain, {}, at)
                elif event == "a" and run.current is not None:
                    other.on_adopt(runs.request(run, "localhost:2000", (), 0, at), at)
                else:
                    runs.on_failed(run.id, "x", at, position, round=round, attempt=which)
        except DidaError:
            continue
        for each in (runs, other):
            going = [run for run in each.newest_first() if run.state == "going on"]
            for worker, load in each.policy.loads.items():
                assert load.active == sum(
                    step.worker == worker and step.position not in run.confirmed for run in going for step in run.chain
                )
                assert load.executing == sum(run.current is not None and run.current.worker == worker for run in going)


def test_the_id_of_a_client_travels() -> None:
    """What a worker tells of a run has its client's id, which counts when the run's own id is made of it."""
    runs, other = table(), Runs(LeastActive(), "y")
    run = runs.on_run("13", ["A", "B"], {}, WORKERS, 0.0, client_id="me:1", application="shop", again=True)
    request = runs.request(run, "localhost:2000", (), 0, 1.0)
    assert (request.epoch, request.began_in("x"), request.began_in("y")) == (Epoch(1, "x"), True, False)
    adopted = other.on_adopt(request, 1.0)
    assert adopted is not None
    assert other.ids.known("me:1", "13", ["A", "B"], "shop") == run.id == adopted.id
    assert other.request(adopted, "localhost:2000", (), 0, 1.0).began_in("x")
    forged = attrs.evolve(request, id="you:1")
    third = Runs(LeastActive(), "z")
    assert third.on_adopt(forged, 1.0) is not None
    assert third.ids.known("you:1", "13", ["A", "B"], "shop") is None


def test_a_dropped_run_stays_dropped() -> None:
    """A run of a client's id that is not kept any more is not adopted again by what a worker tells late."""
    runs = table(keep=1)
    run = runs.on_run("13", ["A"], {}, WORKERS, 0.0, client_id="me:1")
    request = attrs.evolve(runs.request(run, "localhost:2000", (), 0, 1.0), life="another")
    runs.on_ended(run.id, run.chain, {}, 1.0)
    start(runs)
    assert runs.ids.known("me:1", "13", ["A"], "") == run.id
    assert runs.on_adopt(request, 2.0) is None


def test_a_step_of_another_life() -> None:
    """A worker executes a step that another life of the scheduler begins anew, even one that it has in hand."""
    runs, steps = table(), Steps()
    run = runs.on_run("13", ["A"], {}, WORKERS, 0.0, client_id="me:1")
    first = runs.request(run, "localhost:2000", (), 0, 1.0)
    second = attrs.evolve(first, life="next", epoch=Epoch(1, "next"))
    assert steps.begin(first, 5.0)
    assert list(steps.requests("localhost:2000")) == [(first, 5.0)]
    assert not steps.begin(first)
    assert steps.begin(second), "the older execution is fenced"
    steps.end(first)
    steps.end(second)
    assert not steps.begin(second)
    assert (steps.in_hand, steps.duplicates) == (0, 2)
