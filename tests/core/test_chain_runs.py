"""The scheduler's table of runs."""

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dida.errors import DidaError, Unavailable
from dida.runs import DONE, FAILED, RunRecord, Runs, outcome, summary
from dida.scheduling import LeastActive

WORKERS = {"w1": ("localhost", 4001), "w2": ("localhost", 4002)}


def table(deadline: float = 10.0, keep: int = 100) -> Runs:
    runs = Runs(LeastActive(), "x", deadline, keep)
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
    runs.on_completed(run.id, 0, 5.0, 1.0)
    runs.on_completed(run.id, 0, 5.0, 1.0)
    assert active(runs) == 2
    chain = [attrs.evolve(each, output=each.operator.lower(), ms=2.0) for each in run.chain]
    assert runs.on_ended(run.id, chain, {"s": 4}, 2.0) is run
    assert (run.state, run.output, run.ms, active(runs)) == (DONE, "c", 2000.0, 0)
    told = outcome(run)
    assert told["after"] == {"s": 4}
    assert told["steps"][1] == {"operator": "B", "worker": "w2", "output": "b", "ms": 2.0}  # type: ignore[index]
    assert summary(run)["state"] == "done"


def test_a_failed_run_frees_its_workers() -> None:
    """A failure frees what was never executed; what is told afterwards changes nothing."""
    runs = table()
    run = start(runs)
    runs.on_completed(run.id, 0, 1.0, 1.0)
    assert runs.on_failed(run.id, "because", 2.0, 1) is run
    assert (run.state, run.reason, active(runs)) == (FAILED, "because", 0)
    assert outcome(run)["operator"] == "B"
    assert runs.on_failed(run.id, "again", 3.0) is None
    assert runs.on_ended(run.id, run.chain, {}, 3.0) is None
    runs.on_completed(run.id, 2, 1.0, 3.0)
    assert (run.reason, active(runs), runs.failed, runs.done) == ("because", 0, 1, 0)


def test_a_run_has_a_deadline() -> None:
    """A run of which nothing is heard is failed at its deadline, naming the step that is missing."""
    runs = table(deadline=10)
    first, second = start(runs, 0.0), start(runs, 5.0)
    runs.on_completed(first.id, 0, 1.0, 1.0)
    assert runs.tick(9.9) == []
    assert runs.tick(10.0) == [first]
    assert first.reason == "B at position 1 on w2 was not confirmed within the run's 10 s"
    assert (second.state, runs.going_on) == ("going on", 1)


def test_a_lost_worker_fails_what_it_was_executing() -> None:
    """Only runs whose current step was with the worker when it died are failed."""
    runs = table()
    executing, gone_on, later = start(runs), start(runs), start(runs, 5.0)
    assert [run.chain[0].worker for run in (executing, gone_on, later)] == ["w1", "w2", "w1"]
    assert gone_on.chain[1].worker == "w1"
    assert runs.on_worker_lost("w2", 0.0, 1.0) == [gone_on]
    assert runs.on_worker_lost("w1", 2.0, 3.0) == [executing]
    assert executing.reason == "A at position 0 on w1 was lost: the worker died, or its connection broke"
    runs.on_completed(later.id, 0, 1.0, 6.0)
    assert runs.on_worker_lost("w1", 7.0, 8.0) == []


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


@given(st.lists(st.tuples(st.sampled_from("rcefl"), st.integers(0, 9), st.integers(0, 2)), max_size=60))
def test_loads_are_right_whatever_happens(events: list[tuple[str, int, int]]) -> None:
    """In any order of confirmations, ends, failures and losses, the loads equal what is going on unconfirmed."""
    runs = table(keep=8)
    started: list[RunRecord] = []
    for now, (event, which, position) in enumerate(events):
        if event == "r":
            try:
                started.append(start(runs, float(now)))
            except Unavailable:
                continue
        elif event == "l":
            runs.on_worker_lost(("w1", "w2")[which % 2], float(now), float(now))
        elif started:
            run = started[which % len(started)]
            try:
                if event == "c":
                    runs.on_completed(run.id, position, 1.0, float(now))
                elif event == "e":
                    runs.on_ended(run.id, run.chain, {}, float(now))
                else:
                    runs.on_failed(run.id, "x", float(now))
            except DidaError:
                continue
        going = [run for run in runs.newest_first() if run.state == "going on"]
        for worker, load in runs.policy.loads.items():
            assert load.active == sum(
                each.worker == worker and each.position not in run.confirmed for run in going for each in run.chain
            )
